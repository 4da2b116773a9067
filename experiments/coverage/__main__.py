"""python -m experiments.coverage [--repeats 2000]: how often the intervals of sparsity/comparison contain the true value.

Prints three Markdown tables, for windows, accuracies and seeds, in per cent of the simulated comparisons.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from experiments.coverage.cells import Distribution, Series, accuracies, seeds, windows

EFFECT = 0.03  # nats per token, that is 3 % of perplexity
DEPENDENCES = {
    "independent": Series(),
    "rho 0.3": Series(0.3),
    "rho 0.5": Series(0.5),
    "rho 0.3, slow": Series(0.3, decay=0.7),
}
SHAPES: tuple[Distribution, ...] = ("normal", "skewed", "heavy")
CELLS = [
    *((name, series, effect) for name, series in DEPENDENCES.items() for effect in (0.0, EFFECT)),
    ("rho 0.3", DEPENDENCES["rho 0.3"], 0.1),
    *(
        (f"{name}, {shape}", replace(DEPENDENCES[name], distribution=shape), 0.0)
        for shape in SHAPES[1:]
        for name in ("independent", "rho 0.3", "rho 0.5")
    ),
]


def percent(share: float) -> str:
    """A share in per cent, with one digit."""
    return f"{100 * share:.1f}"


def window_rows(repeats: int) -> Iterator[Iterable[str]]:
    """The rows of the table about windows."""
    yield "windows", "differences", "effect", "covers", "t covers", "length / t", "names a winner", "wrongly"
    for count in (24, 200):
        for index, (name, series, effect) in enumerate(CELLS):
            found, t = windows(series, count, effect, repeats, seed=index)
            shares = percent(found.covers), percent(t.covers), f"{found.length / t.length:.2f}"
            yield str(count), name, f"{effect:g}", *shares, percent(found.named), percent(found.wrongly)


def accuracy_rows(repeats: int) -> Iterator[Iterable[str]]:
    """The rows of the table about accuracies."""
    yield "documents", "b gains", "b loses", "covers", "names a winner", "wrongly"
    for count in (50, 200, 2000):
        for index, (gain, loss) in enumerate(((0.05, 0.05), (0.2, 0.2), (0.1, 0.05), (0.2, 0.1))):
            found = accuracies(count, gain, loss, repeats, seed=index)
            shares = percent(found.covers), percent(found.named), percent(found.wrongly)
            yield str(count), percent(gain), percent(loss), *shares


def seed_rows(repeats: int) -> Iterator[Iterable[str]]:
    """The rows of the table about seeds."""
    yield "seeds", "values", "covers", "names a winner, wrongly"
    for count in (2, 3, 5):
        for index, shape in enumerate(SHAPES):
            found = seeds(count, shape, repeats, seed=index)
            yield str(count), shape, percent(found.covers), percent(found.wrongly)


def show(rows: Iterator[Iterable[str]]) -> None:
    """Print a table in Markdown, each line as soon as it is known."""
    head = list(next(rows))
    for cells in chain((head, ["---"] * len(head)), rows):
        print(f"| {' | '.join(cells)} |", flush=True)
    print()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m experiments.coverage", description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000, help="number of simulated comparisons in each row")
    repeats = parser.parse_args().repeats
    for rows in (window_rows(repeats), accuracy_rows(repeats), seed_rows(repeats)):
        show(rows)


if __name__ == "__main__":
    main()
