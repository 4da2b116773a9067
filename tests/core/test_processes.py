"""Several processes give the same pruned model as one: text and rows are divided, and nothing is lost between them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from typing import Any

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from commands import ROOT
from exchange import exchange
from problems import GRAM, NORM, problem
from together import together
from torch import Tensor
from torch.testing import assert_close

from sparsity.core import Folded, Site, Stats, UserError
from sparsity.correctors import Optimal
from sparsity.engine import plan, prune
from sparsity.groupings import Documents, Topics
from sparsity.methods import ADMM, SparseGPT, Wanda
from sparsity.models import Decoder
from sparsity.patterns import NofM, Unstructured
from sparsity.processes import ALONE, Alone, Processes, part
from sparsity.statistics import GroupedActivity
from sparsity.stream import BlockStream, merged

CPU = torch.device("cpu")
HALF = Unstructured(0.5)
OPTIMAL = Optimal(10, 0.01, None, "float64", "all", 1.0, "l2")


MODEL = zoo.build(CONFIGS["llama"](), torch.float64)  # here, since threads share the random state that it is drawn from


def llama() -> Decoder:
    return Decoder(copy.deepcopy(MODEL))


def stream(
    processes: Processes, sequences: int = 5, batch_size: int = 2, decoder: Decoder | None = None, **options: Any
) -> BlockStream:
    options = {"propagate": "pruned", "device": CPU} | options
    return BlockStream(decoder or llama(), zoo.ids(sequences), batch_size=batch_size, processes=processes, **options)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 8, 100])
def test_parts_are_all_there_is_in_order_and_as_large_as_one_another(count, size):
    parts = [range(count)[part(count, rank, size)] for rank in range(size)]
    assert [i for each in parts for i in each] == [*range(count)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_real_processes_exchange_what_the_threads_here_do(tmp_path):
    line = [sys.executable, str(ROOT / "tests" / "help" / "exchange.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [*line, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True, env=environment
        )
        for rank in range(2)
    ]
    found = [json.loads(process.communicate(timeout=60)[0]) for process in started]
    assert found == json.loads(json.dumps(together(2, exchange)))
    words, agreed, each, joined, first, merged, difference = found[0]
    assert found[1] == found[0]
    assert words == ["", 'ü "and" more']
    assert agreed == {"first": True, "said": [0, None, 'ü "and" more']}
    assert len(each) == 4 + 3 + 3 + 3
    assert joined[0] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert first == [[0, 0], [0, 0]]
    assert merged == [[[0.5, 0.5, 1.5, 1.5], 7], [[1.0], 7]]
    assert difference == [-1.0, -1.0]


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sequences,batch_size", [(5, 2), (5, 1), (2, 2)]
)  # three batches, five, one for three processes
def test_every_batch_is_one_processs_and_all_fold_the_whole_text(sequences, batch_size):
    grouped = GroupedActivity(Topics(3, 4, 0))

    def fold(processes: Processes) -> tuple[list[Tensor], dict[Any, Any]]:
        s = stream(processes, sequences, batch_size)
        block = s.blocks[0]
        sites = {site.leaf: site for site in block.linears}
        taps = [GRAM, NORM, type(GRAM)(grouped)]
        stats = s.observe(block, dict.fromkeys(sites.values(), taps))
        shared = {id(stats[sites[leaf]].folded[GRAM]) for leaf in ("q_proj", "k_proj", "v_proj")}
        assert len(shared) == 1  # as in one process
        return [*s.hidden], {(leaf, tap): stats[site][tap] for leaf, site in sites.items() for tap in taps}

    [(hidden, known)] = together(1, fold)
    found = together(3, fold)
    dealt = [batch_BTI for mine, _ in found for batch_BTI in mine]
    assert all(torch.equal(a, b) for a, b in zip(dealt, hidden, strict=True))
    for _, states in found:
        for key, state in states.items():
            for mine, first, one in zip(state, found[0][1][key], known[key], strict=True):
                assert_close(mine, one)
                assert_close(mine, first, rtol=0, atol=0)


def test_an_expert_that_one_process_never_reached_has_the_others_state():
    """And readers part company that shared a state in one process only."""
    a, b, c, d = sites = [Site(0, name, "mlp") for name in "abcd"]
    own = [{a: 1.0, b: 1.0}, {a: 2.0, b: 3.0, c: 4.0}]  # what each folded, equal numbers in a process: one state

    def work(processes: Processes) -> dict[Any, Any]:
        states = {
            x: Folded(NORM.statistic.zero(torch.full((1, 1, 1), x))._replace(tokens=1)) for x in (1.0, 2.0, 3.0, 4.0)
        }
        for x, folded in states.items():
            folded.state.total_I.fill_(x)
        mine = {(site, NORM): states[x] for site, x in own[processes.rank].items()}
        return merged(processes, [(site, NORM) for site in sites], mine)

    for found in together(2, work):
        totals = {site: (folded.state.total_I.item(), folded.state.tokens) for (site, _), folded in found.items()}
        assert totals == {a: (3.0, 2), b: (4.0, 2), c: (4.0, 1)}
        assert (d, NORM) not in found


def test_documents_are_numbered_over_the_whole_text():
    tap = type(NORM)(GroupedActivity(Documents()))

    def fold(processes: Processes) -> Tensor:
        s = stream(processes, batch_size=1)
        stats = s.observe(s.blocks[0], {site: (tap,) for site in s.blocks[0].linears})
        return next(iter(stats.values()))[tap].mean_RJ

    [one], two = together(1, fold), together(2, fold)
    assert len(one) == 5
    for mine in two:
        assert_close(mine, one)


@pytest.mark.parametrize("target", [None, "dense"])
def test_what_is_carried_is_all_of_it_and_each_takes_its_own_back(target):
    def walk(processes: Processes) -> tuple[list[Tensor], list[Tensor]]:
        s = stream(processes, batch_size=1, target=target)
        for block in s.blocks[:2]:
            s.observe(block, {})
            s.advance(block)
        carried = [state_BTI.clone() for state_BTI in s.carried()]
        mine = [*s.hidden, *s._dense]
        other = stream(processes, batch_size=1, target=target)
        other.carry(carried)
        assert all(torch.equal(a, b) for a, b in zip([*other.hidden, *other._dense], mine, strict=True))
        return carried, mine

    [(one, _)] = together(1, walk)
    assert len(one) == 5 * (2 if target else 1)
    for carried, _ in together(2, walk):
        assert all(torch.equal(a, b) for a, b in zip(carried, one, strict=True))


def test_one_that_fails_is_heard_and_no_other_waits_for_it():
    def work(processes: Processes) -> None:
        s = stream(processes)
        if processes.rank == 1:
            s.hidden[0][:] = torch.nan
        s.observe(s.blocks[0], {site: (GRAM,) for site in s.blocks[0].linears})

    with pytest.raises(UserError, match="holds NaN"):
        together(2, work)


# --- the rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("pattern", [HALF, NofM(2, 4)], ids=str)
@pytest.mark.parametrize(
    "method",
    [
        Wanda("row"),
        SparseGPT("layer", 0.01, 8),
        SparseGPT("row", 0.01, 128),
        ADMM("layer", 20, 5, 5, "surgeon", 0.01, 1.5),
    ],
    ids=str,
)
def test_a_walk_of_several_ends_in_one_model(method, pattern, size):
    def walk(processes: Processes) -> list[Tensor]:
        decoder = llama()
        for _ in prune(stream(processes, decoder=decoder), plan(decoder, method, pattern, OPTIMAL)):
            pass
        return [decoder.layer(site).weight_OI for site in decoder.sites]

    [one], several = together(1, walk), together(size, walk)
    for mine in several:
        for weight_OI, first_OI, expected_OI in zip(mine, several[0], one, strict=True):
            assert torch.equal(weight_OI, first_OI)  # to the last bit
            assert torch.equal(weight_OI == 0, expected_OI == 0)
            assert_close(weight_OI, expected_OI, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 7])  # fewer than there are processes, too
def test_every_process_computes_its_rows_and_has_all(rows):
    whole_OI = torch.arange(3.0 * rows).view(rows, 3)
    seen: list[int] = []

    def double(panel_PI: Tensor, row_P: Tensor) -> tuple[Tensor, Tensor]:
        seen.extend(row_P.tolist())
        assert len(panel_PI) <= 2
        return 2 * panel_PI, panel_PI.sum(1)

    def work(processes: Processes) -> tuple[Tensor, ...]:
        stats = Stats(Site(0, "a", "mlp"), processes=processes)
        return stats.by_rows(double, 2, whole_OI, torch.arange(rows))

    for twice_OI, sum_O in together(3, work):
        assert torch.equal(twice_OI, 2 * whole_OI)
        assert torch.equal(sum_O, whole_OI.sum(1))
    assert sorted(seen) == [*range(rows)]


@pytest.mark.parametrize("scope,pattern", [("layer", HALF), ("row", HALF), ("layer", NofM(1, 2))])
def test_what_is_kept_of_a_part_is_what_is_kept_of_the_whole(scope, pattern):
    score_OI = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))

    def work(processes: Processes) -> Tensor:
        stats = Stats(Site(0, "a", "mlp"), processes=processes)
        mine = processes.part(5)
        return stats.keep(pattern, score_OI[mine], scope, 5)

    assert torch.equal(torch.cat(together(2, work)), pattern.keep(score_OI, scope))


def test_one_process_exchanges_nothing():
    p = problem()
    alone = Alone()
    x_OI = p.layer.weight_OI
    assert alone.words("a") == ["a"]
    assert alone.agreed(x_OI) is x_OI
    assert alone.joined(x_OI, len(x_OI)) is alone.first(x_OI) is x_OI
    assert [*alone.each([x_OI])] == [x_OI]
    assert p.stats().processes is ALONE
