"""All trackers of one run. A tracker that fails is reported once and dropped; it cannot end a run or change its result.

`with Watch(trackers) as watch` marks every tracked run as failed if the block raises an error, also after Ctrl-C.
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
    """The trackers of one run, and their sessions."""

    def __init__(self, trackers: Mapping[str, Tracker]):
        self._trackers = trackers
        self._sessions: dict[str, Session] = {}

    def start(self, about: About) -> None:
        """Start a session with every tracker."""
        for name, tracker in self._trackers.items():
            if (session := self._guarded(name, partial(tracker.start, about))) is not None:
                self._sessions[name] = session

    def layer(self, row: Mapping[str, Any]) -> None:
        """Pass the numbers of one layer to every session. `row`: its row of layers.csv."""
        numbers = layer_numbers(row)
        self._each(lambda session: session.layer(numbers))

    def finish(self, outcome: Callable[[], Outcome]) -> None:
        """End every session with the outcome of the run. `outcome` is called once, and only if there is a session."""
        if self._sessions:
            found = self._guarded(", ".join(self._sessions), outcome)
            if found is not None:
                self._each(lambda session: session.finish(found), last=True)

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
            console.say(f"tracker={name} failed ({type(error).__name__}: {error}): the run continues without it")
            return None
