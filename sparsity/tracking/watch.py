"""All trackers of one run. A tracker that fails is named once and left out: it never ends a run, nor changes what it finds.

`with Watch(trackers) as watch` ends every tracked run as failed if the block raises, be it Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from ..record import console
from .protocol import About, Outcome, Session, Tracker
from .told import layer_numbers


class Watch:
    def __init__(self, trackers: Mapping[str, Tracker]):
        self._trackers = trackers
        self._sessions: dict[str, Session] = {}

    def start(self, about: About) -> None:
        for name, tracker in self._trackers.items():
            if (session := self._guarded(name, partial(tracker.start, about))) is not None:
                self._sessions[name] = session

    def layer(self, row: Mapping[str, Any]) -> None:
        numbers = layer_numbers(row)
        self._each(lambda session: session.layer(numbers))

    def finish(self, outcome: Callable[[], Outcome]) -> None:
        """`outcome` is asked once, if anybody listens."""
        if self._sessions:
            told = self._guarded(", ".join(self._sessions), outcome)
            if told is not None:
                self._each(lambda session: session.finish(told), last=True)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._each(lambda session: session.fail(f"{type(error).__name__}: {error}"), last=True)

    def _each(self, tell: Callable[[Session], None], last: bool = False) -> None:
        for name, session in list(self._sessions.items()):
            if last:
                del self._sessions[name]
            self._guarded(name, partial(tell, session))

    def _guarded(self, name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            self._sessions.pop(name, None)
            console.say(f"tracker={name} failed ({type(error).__name__}: {error}): the run goes on without it")
            return None
