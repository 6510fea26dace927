"""Count how much of a chunk is done while a worker works on it, and report it. Does not import Ray.

A worker says how many units of work it expects, such as questions, and when each is done. The units need not
be rows: the share that is done stands for as many of the chunk's rows.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ActorReport:
    """What an actor does at the moment.

    rows: done of the chunks in its hands, by key. waiting_share: see `EngineRoom`, since the last report;
    None without an engine.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    waiting_share: float | None = None


Tell = Callable[[str, ActorReport], Awaitable[None]]
"""Tells an actor's report, by a name of the actor's own, to whom it concerns."""


class EngineRoom:
    """How much of an engine's room for questions is empty, while it waits for more.

    places: questions that the engine decodes together. A process has one engine at most.
    """

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic):
        self._places, self._clock = places, clock
        self._questions, self._empty, self._began = 0, 0.0, clock()
        self._changed = self._began

    def enter(self) -> None:
        """Count a question as sent to the engine."""
        self._add(1)

    def leave(self) -> None:
        """Count a question as answered."""
        self._add(-1)

    def waiting_share(self) -> float:
        """Return the mean share of empty places since the last call: 0 was full, 1 had nothing to do."""
        self._add(0)
        now = self._changed
        share = self._empty / (now - self._began) if now > self._began else 0.0
        self._empty, self._began = 0.0, now
        return share

    def _add(self, questions: int) -> None:
        now = self._clock()
        self._empty += (now - self._changed) * max(0.0, 1 - self._questions / self._places)
        self._changed = now
        self._questions += questions


class WorkCount:
    """The work on some rows: units that are expected, and units that are done."""

    def __init__(self, rows: int):
        self._rows, self._expected, self._done, self._ended = rows, 0, 0, False

    def expect(self, units: int) -> None:
        """Count units that are to be done."""
        self._expected += units

    def done(self, units: int) -> None:
        """Count units as done."""
        self._done += units

    def rows_done(self) -> int:
        """Return how many rows are as good as done."""
        if self._ended:
            return self._rows
        return int(self._rows * min(1.0, self._done / self._expected)) if self._expected else 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count here what the block, its tasks and its threads do. All rows are done at its end."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
        self._ended = True


_current: ContextVar[WorkCount | None] = ContextVar("work count", default=None)


def expect_work(units: int) -> None:
    """Say how many units of work come; of several calls for the same rows, all count."""
    if count := _current.get():
        count.expect(units)


def work_done(units: int = 1) -> None:
    """Say that units of work are done. Without a count, as in a test of a worker, nothing happens."""
    if count := _current.get():
        count.done(units)


_engine_room: list[EngineRoom] = []


def report_room(room: EngineRoom) -> None:
    """Have the reports of this process tell how much of its engine's room is empty."""
    _engine_room[:] = [room]


def waiting_share() -> float | None:
    """Return the waiting share of this process's engine; None without one."""
    return _engine_room[0].waiting_share() if _engine_room else None
