"""python -m sparsity.cache list | verify | prune | clear: the cache between runs, in the user's cache folder."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ..record.console import console, say
from ..record.folders import cache_dir, damage
from ..user_error import UserError
from .entry import SUFFIX, Entry
from .keep import DENSE, STATISTICS, Cache, Item, remove

MODELS = "models"
KINDS = (DENSE, STATISTICS, MODELS)
ABANDONED = 3600  # seconds after which an unfinished file is certainly no longer written


@dataclass(frozen=True)
class Kept:
    """One item of the cache and its kind: "dense", "statistics" or "models"."""

    kind: str
    item: Item

    @property
    def files(self) -> list[Path]:
        """The tensor files of the item."""
        return sorted(self.item.path.glob(f"*{SUFFIX}")) if self.item.path.is_dir() else [self.item.path]

    @property
    def damage(self) -> list[str]:
        """One line for each damaged file of the item."""
        if self.kind == MODELS:
            found = damage(self.item.path)
            return [f"{self.item.path}: {found}"] if found else []
        wrong = []
        for path in self.files:
            with closing(Entry(path)) as entry:
                if entry.damage:
                    wrong.append(f"{path}: {entry.damage}")
        return wrong

    @property
    def what(self) -> str:
        """A description of the item, read from its files."""
        if self.kind == MODELS:
            return self.item.path.name
        for path in self.files:
            with closing(Entry(path)) as entry:
                if entry.damage is None:
                    return _evaluation(entry) if self.kind == DENSE else _walk(entry, len(self.files))
        return "damaged"


def _evaluation(entry: Entry) -> str:
    return str(entry.about.get("evaluator", "unknown"))


def _walk(entry: Entry, files: int) -> str:
    walk = entry.about["walk"]
    text = walk["text"].get("calibration") or walk["text"].get("name")
    sequences, seqlen = walk["shape"]
    return f"{walk['name']} on {sequences} x {seqlen} tokens of {text}, {files} files"


def kept(cache: Cache, kinds: Sequence[str]) -> Iterator[Kept]:
    """The items of these kinds."""
    for item in cache.items():
        kind = DENSE if item.path.parent.name == DENSE else STATISTICS
        if kind in kinds:
            yield Kept(kind, item)
    for folder in sorted((cache.folder / MODELS).glob("*")) if MODELS in kinds else ():
        if folder.is_dir():
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            yield Kept(MODELS, Item(folder, size, folder.stat().st_mtime))


def show(cache: Cache, kinds: Sequence[str]) -> int:
    """Print the items, the latest used first, and their total size. Returns the exit status 0."""
    view = Table("kind", "MiB", "last used", "what", box=None, padding=(0, 2, 0, 0))
    view.columns[1].justify = "right"
    found = list(kept(cache, kinds))
    for one in sorted(found, key=lambda one: one.item.used, reverse=True):
        used = datetime.fromtimestamp(one.item.used).strftime("%Y-%m-%d %H:%M")
        view.add_row(one.kind, f"{one.item.bytes / 2**20:,.1f}", used, Text(one.what))
    console.print(view)
    say(f"{cache.folder}: {sum(one.item.bytes for one in found) / 2**30:.2f} GiB")
    return 0


def verify(cache: Cache, kinds: Sequence[str]) -> int:
    """Read every file and print the damaged ones. Returns the exit status: 1 if there is one, otherwise 0."""
    found = list(kept(cache, kinds))
    wrong = [line for one in found for line in one.damage]
    for line in wrong:
        say(f"{line}. It will be computed again when it is needed")
    say(f"{len(found)} checked, {len(wrong)} files damaged")
    return 1 if wrong else 0


def prune(cache: Cache, gib: float | None, days: float | None) -> int:
    """Delete items that were not used for `days` days, then the least recently used ones until the cache has at most `gib` GiB.

    Unfinished files of killed processes are deleted too. None: no such limit. Returns the exit status 0.
    """
    before = cache.items()
    if days is not None:
        for item in before:
            if item.used < time.time() - days * 86_400:
                remove(item.path)
    if gib is not None:
        smaller = Cache(cache.folder, round(gib * 2**30))
        smaller.shrink()
    for left in (*(cache.folder / DENSE).glob(".*.????????"), *(cache.folder / STATISTICS).glob("*/.*.????????")):
        if left.stat().st_mtime < time.time() - ABANDONED:
            left.unlink(missing_ok=True)
    freed = sum(item.bytes for item in before) - sum(item.bytes for item in cache.items())
    say(f"{freed / 2**30:.2f} GiB freed")
    return 0


def clear(cache: Cache, kinds: Sequence[str]) -> int:
    """Delete everything of these kinds. Returns the exit status 0."""
    for kind in kinds:
        shutil.rmtree(cache.folder / kind, ignore_errors=True)
    say(f"{cache.folder}: {', '.join(kinds)} cleared")
    return 0


def main(words: Sequence[str], name: str = "python -m sparsity.cache") -> int:
    """The command, called `name` in its help. 0; 1 if something is damaged, or after a mistake."""
    parser = argparse.ArgumentParser(prog=name, description="What is kept between runs, in the user's cache folder.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, does in (
        ("list", "show what is in the cache, the latest used first"),
        ("verify", "read every file and compare it with its checksum"),
        ("clear", "delete everything"),
    ):
        command = commands.add_parser(name, help=does, description=does)
        command.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; default: all")
    does = "delete statistics and evaluations, least recently used first, and unfinished files of killed processes"
    command = commands.add_parser("prune", help=does, description=does)
    command.add_argument("--to", type=float, metavar="GIB", help="delete until the cache has at most this size")
    command.add_argument("--older", type=float, metavar="DAYS", help="delete what was not used for so many days")
    options = parser.parse_args(words)
    if unknown := set(getattr(options, "kinds", ())) - set(KINDS):
        parser.error(f"there is no {', '.join(sorted(unknown))}: expected {', '.join(KINDS)}")
    cache = Cache(cache_dir(), 0)
    try:
        if options.command == "prune":
            return prune(cache, options.to, options.older)
        return {"list": show, "verify": verify, "clear": clear}[options.command](cache, options.kinds or KINDS)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
