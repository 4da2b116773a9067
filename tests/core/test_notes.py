"""A computation that was interrupted resumes at its newest note, and ends as if it had not been, to the last bit."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from sparsity import tuning
from sparsity.notes import Note, part_by_part
from sparsity.tuning import Tuning


@dataclass
class Memory:
    """Notes that outlive whoever wrote them."""

    notes: list[Note] = field(default_factory=list)

    def read(self):
        return [*self.notes]

    def add(self, about, tensors):
        self.notes.append(Note(dict(about), {name: tensor.clone() for name, tensor in tensors.items()}))

    def replace(self, about, tensors):
        self.notes.clear()
        self.add(about, tensors)


class Interrupted(Exception):
    pass


def squares(parts):
    return (torch.tensor([part**2]) for part in parts)


def test_parts_without_notes_are_computed_in_their_order():
    assert [int(x) for x in part_by_part(Memory(), range(5), squares)] == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("stop", range(6))
@pytest.mark.parametrize("every", [0.0, 1e9])
def test_finished_parts_are_not_computed_again(stop, every):
    memory, asked = Memory(), []

    def stopping(parts):
        for part in parts:
            if part == stop:
                raise Interrupted
            yield torch.tensor([part**2])

    def counted(parts):
        asked.extend(parts)
        return squares(parts)

    found = []
    try:
        for result in part_by_part(memory, range(6), stopping, every):
            found.append(int(result))
    except Interrupted:
        assert found == [part**2 for part in range(stop)]
    assert [int(x) for x in part_by_part(memory, range(6), counted, every)] == [0, 1, 4, 9, 16, 25]
    assert asked == [*range(stop if every == 0 else 0, 6)]


TUNING = Tuning(epochs=3, lr=0.1, held_out=0.25, patience=3, seed=0)
TARGETS = torch.linspace(-1, 1, 8 * 5).view(8, 5)


def tuned(memory, stop=None):
    """A descent towards eight targets in turn, and the batches whose slopes were taken. `stop`: the step that is interrupted."""
    weight, unreached, steps = torch.zeros(5), torch.ones(2), []

    def slope(batch):
        if len(steps) == stop:
            raise Interrupted
        steps.append(batch)
        weight.grad = 2 * (weight - TARGETS[batch])
        unreached.grad = None

    def cost(batches):
        return (weight - TARGETS[list(batches)]).square().sum().item()

    try:
        return TUNING.tune("error", [weight, unreached], slope, cost, 8, notes=memory), weight, steps
    except Interrupted:
        return None, weight, steps


@pytest.mark.parametrize("stop", [0, 1, 5, 6, 7, 11, 12, 17])
@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_descent_resumes_to_the_same_bits(monkeypatch, stop, every):
    monkeypatch.setattr(tuning, "EVERY", every)
    whole, expected, order = tuned(Memory())
    memory = Memory()
    none, _, before = tuned(memory, stop)
    assert none is None
    found, weight, after = tuned(memory)
    assert torch.equal(weight, expected)
    assert found == whole
    noted = stop if every == 0 else stop // 6 * 6  # of six batches an epoch, if only its end is noted
    assert before == order[:stop]
    assert after == order[noted:]


def test_a_note_holds_the_epoch_that_was_best(monkeypatch):
    monkeypatch.setattr(tuning, "EVERY", 0.0)
    costs = iter([3.0, 5.0, 1.0, 4.0, 6.0, 7.0, 8.0])  # of the sample, then the start and each epoch
    memory, weight, steps = Memory(), torch.zeros(1), []

    def slope(batch):
        steps.append(batch)
        if len(steps) == 14:  # in the third epoch
            raise Interrupted
        weight.grad = torch.ones(1)

    with pytest.raises(Interrupted):
        TUNING.tune("error", [weight], slope, lambda batches: next(costs), 8, notes=memory)
    [note] = memory.notes
    assert (note.about["before"], note.about["costs"], note.about["kept"]) == (3.0, [5.0, 1.0, 4.0], 1)
    assert note.tensors["0.best"].item() > note.tensors["0.weight"].item()
