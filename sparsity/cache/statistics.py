"""Cached statistics: calibrate once, prune many times.

A walk has a folder, named by the hash of all that determines a bit of its statistics. In it lies a file for each block and set of
taps; layers that saw the same tensors share a state there, as they do while it is folded. One process walks at a time, the others
wait for it: the lock is the operating system's, so that of a process that died is free. Of the processes of one run the first
one has the files. All take the same way: the others walk where there is a walk, and receive the states.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import Folded, Site, Stats, Tap
from ..models.blocks import Block
from ..models.decoder import Decoder
from ..processes import ALONE, Processes
from ..record.digest import content_hash
from ..record.folders import held
from ..stream import BlockStream, Needs, Passage, Stream, collect, merged
from .entry import Entry, content_of, entries
from .keep import STATISTICS, Cache, writable

Place = tuple[Entry, int]  # a file, and the number of the state in it


class Recalled:
    """A stream that reads its statistics from cache files and runs no block."""

    def __init__(
        self,
        decoder: Decoder,
        device: torch.device,
        places: Mapping[str, Place],
        forwards: int,
        processes: Processes = ALONE,
    ):
        self.blocks = decoder.blocks
        self.device = device
        self.seconds = 0.0
        self.forwards = forwards  # blocks run, times batches, by the walk that collected missing statistics
        self._places = places
        self._processes = processes

    def observe(self, block: Block, needs: Needs) -> dict[Site, Stats]:
        start = time.perf_counter()
        readers = [(site, tap) for site, taps in needs.items() for tap in taps]
        wanted = {} if self._processes.rank else {reader: self._places[name(*reader)] for reader in readers}
        states: dict[Place, Folded] = {}
        read: dict[Entry, Mapping[str, Tensor]] = {}
        for (_, tap), (entry, number) in wanted.items():
            if entry not in read:
                read[entry] = entry.tensors()
            if (entry, number) not in states:
                parts = entry.about["states"][number]
                states[entry, number] = Folded(from_tensors(tap, parts, number, read[entry], self.device))
        found = merged(self._processes, readers, {reader: states[place] for reader, place in wanted.items()})
        self.seconds += time.perf_counter() - start
        shared = {site: {tap: found[site, tap] for tap in taps} for site, taps in needs.items()}
        return {site: Stats(site, folded, processes=self._processes) for site, folded in shared.items()}

    def carried(self) -> Iterator[Tensor]:
        return iter(())

    def carry(self, states: Iterable[Tensor]) -> None:
        """Does nothing: this stream has no hidden states."""

    def passage(self, block: Block) -> Passage:
        raise ValueError(f"{block.name}: nothing goes through it: expected a stream with the calibration text")

    def advance(self, block: Block) -> None:
        """Does nothing: the statistics of later blocks are in files."""


@contextmanager
def recalled(
    cache: Cache,
    about: Mapping[str, Any],
    labels: Mapping[str, Any],
    decoder: Decoder,
    needs: Needs,
    shared: Callable[[], Needs],
    device: torch.device,
    walker: Callable[[], BlockStream],
    processes: Processes = ALONE,
) -> Iterator[Stream | None]:
    """A context with a stream that reads the statistics in `needs` from the cache; missing ones are collected first.

    `about`: all that determines a bit of the statistics; `labels`: names, for people; `walker` makes the stream that folds;
    `shared`: `needs`, and what later runs will need: if there must be a walk, it collects that too.
    """
    names, forwards = names_of(needs), 0
    with ExitStack() as stack:
        files: _Files = _Kept(cache, about, labels, stack) if processes.rank == 0 else _Files()
        with files.completing(names) as incomplete:
            if processes.agreed(incomplete):
                wanted = shared()
                wanted = lacking(wanted, processes.agreed([*files.find(names_of(wanted))]))
                count = len({site.block for site, taps in wanted.items() if taps})
                stream = walker()
                for block, stats in collect(stream, wanted):
                    if not processes.agreed(files.keep(block, stats, count)):
                        break
                forwards = stream.forwards
        whole = processes.agreed(names <= files.places.keys())
        yield Recalled(decoder, device, files.places, forwards, processes) if whole else None


class _Files:
    """The files of the statistics for all processes but the first, which have no files."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}

    @contextmanager
    def completing(self, names: Set[str]) -> Iterator[bool]:
        """A context: True if some of these states must be collected. While it is open, no other run collects them."""
        yield False

    def find(self, names: Set[str]) -> Collection[str]:
        """The names of all states that are known, these included where their files are found."""
        return self.places

    def keep(self, block: Block, stats: Mapping[Site, Stats], count: int) -> bool:
        """Write a block's states, one of `count` blocks that are of use together. False if they could not be kept."""
        return False


class _Kept(_Files):
    """The files of the statistics as the first process has them. They stay open until the stack ends."""

    def __init__(self, cache: Cache, about: Mapping[str, Any], labels: Mapping[str, Any], stack: ExitStack):
        super().__init__()
        self._cache, self._stack = cache, stack
        self._folder = cache.folder / STATISTICS / content_hash(about)[:32]
        self._walk = {**labels, **about}

    @contextmanager
    def completing(self, names: Set[str]) -> Iterator[bool]:
        self.find(names)
        if names <= self.places.keys() or not writable(self._folder.parent):
            yield False
            return
        with held(self._folder.with_suffix(".lock"), "collecting these statistics"):
            # another process may have collected them meanwhile; and a file may lack a name because it is damaged
            self.places |= known(self._folder, names - self.places.keys(), self._stack, every=True)
            yield not names <= self.places.keys()

    def find(self, names: Set[str]) -> Collection[str]:
        self.places |= known(self._folder, names - self.places.keys(), self._stack)
        return self.places

    def keep(self, block: Block, stats: Mapping[Site, Stats], count: int) -> bool:
        key, content = filed(block, stats, self._walk)
        path = self._cache.write(self._folder, key, content, expected=count * len(content))
        if path is not None:
            self.places |= located(self._stack.enter_context(closing(Entry(path))))
        return path is not None


def lacking(needs: Needs, places: Collection[str]) -> Needs:
    """The part of `needs` that is not in the cache. `places`: the names of the states that are."""
    return {site: [tap for tap in taps if name(site, tap) not in places] for site, taps in needs.items()}


def known(folder: Path, names: Set[str], stack: ExitStack, every: bool = False) -> dict[str, Place]:
    """The places of the states with these names. Their files stay open until the stack ends, so they can be read if deleted.

    Only files that hold one of these states are verified; with `every`, all files of the folder are.
    """
    places: dict[str, Place] = {}
    for entry in entries(folder, wanted=lambda about: every or not names.isdisjoint(about.get("names", ()))):
        found = {name: place for name, place in located(entry).items() if name in names}
        if found:
            stack.enter_context(closing(entry))
            entry.touch()
            places |= found
        else:
            entry.close()
    return places


def located(entry: Entry) -> dict[str, Place]:
    """The places of all states in a file, by name."""
    return {name: (entry, number) for name, number in entry.about["names"].items()}


def filed(block: Block, stats: Mapping[Site, Stats], walk: Mapping[str, Any]) -> tuple[str, bytes]:
    """The key and the content of a block's file. A state that several layers share is stored once."""
    numbers: dict[int, int] = {}
    states: list[Any] = []
    names: dict[str, int] = {}
    for site, its in stats.items():
        for tap, folded in its.folded.items():
            if id(folded) not in numbers:
                numbers[id(folded)] = len(states)
                states.append(folded.state)
            names[name(site, tap)] = numbers[id(folded)]
    tensors, layout = as_tensors(states)
    content = content_of(tensors, {"names": names, "states": layout, "walk": walk})
    return f"{block.index:03d}-{content_hash(sorted(names))[:8]}", content


def names_of(needs: Needs) -> set[str]:
    """The names of all states in `needs`."""
    return {name(site, tap) for site, taps in needs.items() for tap in taps}


def name(site: Site, tap: Tap[Any]) -> str:
    """The name of a state: the module and side whose activations it folds, and the statistic."""
    source, side = tap.source(site)
    return f"{source} {side} {type(tap.statistic).__module__}.{tap.statistic!r}"


def as_tensors(states: Collection[Any]) -> tuple[dict[str, Tensor], list[list[Any]]]:
    """The tensors of all states, named "<state>.<part>", and the list of each state's parts: numbers, or None for a tensor."""
    tensors: dict[str, Tensor] = {}
    layout: list[list[Any]] = []
    for number, state in enumerate(states):
        parts = state if isinstance(state, tuple) else (state,)
        tensors |= {
            f"{number}.{i}": part.cpu().contiguous() for i, part in enumerate(parts) if isinstance(part, Tensor)
        }
        layout.append([None if isinstance(part, Tensor) else part for part in parts])
    return tensors, json.loads(json.dumps(layout, allow_nan=False))


def from_tensors(
    tap: Tap[Any], parts: Collection[Any], number: int, tensors: Mapping[str, Tensor], device: torch.device
) -> Any:
    """The state of a tap from the results of `as_tensors`: a tensor or a named tuple, whichever its statistic uses."""
    values = [tensors[f"{number}.{i}"].to(device) if part is None else part for i, part in enumerate(parts)]
    like = tap.statistic.zero(torch.empty(1, 1, 1, device="meta"), 1)
    return type(like)(*values) if isinstance(like, tuple) else values[0]
