"""The command of the report: reads folders, writes a page, a Markdown table and a CSV, and prints a summary."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ..record.console import console, say
from ..record.store import RunStore
from ..user_error import UserError
from . import seeds
from .export import markdown, table_csv
from .gather import Group, gather
from .page import page
from .read import read

NAMES = ("report.html", "report.md", "report.csv")


def build(folders: Sequence[Path], into: Path, command: str = "python -m sparsity.report") -> list[Group]:
    """Write the three files into a folder and return the groups of runs. `command`: the command line, shown on the page.

    Raises `UserError` if there is no finished run, or the folder cannot be written.
    """
    runs, problems = read(folders)
    if not runs:
        places = ", ".join(map(str, folders))
        seen = "".join(f"\n{problem.where}: {problem.what}" for problem in problems)
        raise UserError(
            f"no result.json below {places}: expected a folder of finished runs, such as outputs/<name>{seen}"
        )
    groups = gather(runs)
    contents = (page(groups, problems, command), markdown(groups, problems), table_csv(groups))
    store = RunStore(into)  # writes under another name, and renames a complete file
    try:
        into.mkdir(parents=True, exist_ok=True)
        for name, content in zip(NAMES, contents, strict=True):
            store.text(name, content)
    except OSError as error:
        raise UserError(f"{into} cannot be written ({error.strerror}): choose another folder with --into") from error
    for problem in problems:
        say(f"{problem.where}: {problem.what}")
    return groups


def show(groups: Sequence[Group]) -> None:
    """Print a table of the compositions, the lowest perplexity first."""
    for group in groups:
        title = f"Protocol {group.name}" if len(groups) > 1 else None
        view = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
        view.add_column("perplexity", justify="right", no_wrap=True)
        view.add_column("sd", justify="right", no_wrap=True)
        view.add_column("seed", no_wrap=True)
        view.add_column("composition", overflow="fold")
        for summary in seeds.summarise(group):
            deviation = "" if summary.deviation is None else f"{summary.deviation:.2f}"
            # `Text`, so that a name in brackets is not read as markup
            view.add_row(f"{summary.mean:.2f}", deviation, ", ".join(summary.values), Text(summary.composition.label))
        console.print(view)


def main(words: Sequence[str], name: str = "python -m sparsity.report") -> int:
    """The command, called `name` in its help. 0; 1 after a mistake, which is then said in one message."""
    parser = argparse.ArgumentParser(prog=name, description="Compare finished runs: one page, a Markdown table, a CSV.")
    parser.add_argument("folders", nargs="+", type=Path, help="every run in and below them is read")
    parser.add_argument("--into", type=Path, help="where the files go (default: the first folder)")
    options = parser.parse_args(words)
    into = options.into or options.folders[0]
    try:
        show(build(options.folders, into, f"{parser.prog} {shlex.join(words)}"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    say(f"page: {into / NAMES[0]}")
    return 0
