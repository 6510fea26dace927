"""The board that actors write the progress of their chunks to, for the driver to read.

An actor with chunks in work reports every few seconds, whatever it does: a thousand actors make 200 calls a
second. A report replaces the actor's earlier one, and rows are told by chunk: a chunk that another actor
begins anew does not count twice. What the driver has as a finished chunk is exact and not counted here.
"""

import contextlib
import functools
import time
import uuid
from collections.abc import Callable
from statistics import fmean
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uniner.runtime.metrics import StageMetrics
from uniner.runtime.work_count import ActorReport, Tell

# An actor that was not heard for this long is dead, or its event loop is blocked; a report comes every 5 s.
_SILENCE_S = 60.0
_ANSWER_S = 1.0


class ProgressBoard:
    """The board, as a Ray actor: the last report of each actor, by the work that it is part of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._reports: dict[str, dict[str, tuple[float, ActorReport]]] = {}

    def report(self, work: str, actor: str, report: ActorReport) -> None:
        """Replace an actor's report. An actor without chunks in work is forgotten."""
        reports = self._reports.setdefault(work, {})
        reports.pop(actor, None)  # so that the reports are in the order of their arrival
        if report.rows:
            reports[actor] = (self._clock(), report)

    def read(self, work: str) -> ActorReport:
        """Return the rows done of all chunks in work, and the mean of the waiting shares.

        Of a chunk that two actors report, the first of which has died, the last report counts.
        """
        silent = self._clock() - _SILENCE_S
        reports = [report for heard, report in self._reports.get(work, {}).values() if heard > silent]
        shares = [report.waiting_share for report in reports if report.waiting_share is not None]
        return ActorReport(
            rows={key: rows for report in reports for key, rows in report.rows.items()},
            waiting_share=fmean(shares) if shares else None,
        )

    def forget(self, work: str) -> None:
        """Drop all reports of work that has ended."""
        self._reports.pop(work, None)


class ChunksInWork:
    """The rows done of chunks that are not finished, as the driver knows them.

    read: returns what is on the board. A report that was sent before its chunk was finished may be read
    after it: for a minute, which is longer than any report is on its way, finished chunks are left out.
    """

    def __init__(self, read: Callable[[], ActorReport], clock: Callable[[], float] = time.monotonic):
        self._read, self._clock = read, clock
        self._finished: dict[str, float] = {}

    def finished(self, key: str) -> None:
        """Note that a chunk is finished: its rows are counted elsewhere."""
        self._finished[key] = self._clock()

    def look(self) -> tuple[int, float | None]:
        """Return the rows, and the share of the engines' room that is empty (None: unknown)."""
        report, old = self._read(), self._clock() - _SILENCE_S
        finished = list(self._finished.items())  # at once: the driver's main thread adds to it
        for key, moment in finished:
            if moment < old:
                del self._finished[key]
        known = {key for key, _ in finished}
        return sum(rows for key, rows in report.rows.items() if key not in known), report.waiting_share


class StageBoard:
    """A stage's part of the board: `tell` is for its actors, the rest for the driver."""

    def __init__(self, metrics: StageMetrics):
        here = ray.get_runtime_context()
        self._board = _start_board((here.get_node_id(), here.get_job_id()))
        self._work, self._metrics, self._last = uuid.uuid4().hex, metrics, ActorReport()
        self._chunks = ChunksInWork(self._ask)

    @property
    def tell(self) -> Tell:
        """Return the function by which actors reach the board."""
        board, work = self._board, self._work

        async def tell(actor: str, report: ActorReport) -> None:
            # A board that died starts again; without it only the progress line stands still.
            with contextlib.suppress(ray.exceptions.RayActorError):
                await board.report.remote(work, actor, report)

        return tell

    def finished(self, key: str) -> None:
        """Note that a chunk is finished."""
        self._chunks.finished(key)

    def rows(self) -> int:
        """Return the rows done of chunks in work, and record them as a metric."""
        rows, waiting_share = self._chunks.look()
        self._metrics.in_work(rows, waiting_share)
        return rows

    def close(self) -> None:
        """Forget the stage's reports."""
        self._board.forget.remote(self._work)
        self._metrics.in_work(0, None)

    def _ask(self) -> ActorReport:
        # Without an answer the board starts, or the cluster is gone, of which the driver's own calls hear.
        with contextlib.suppress(ray.exceptions.RayError):
            self._last = ray.get(self._board.read.remote(self._work), timeout=_ANSWER_S)
        return self._last


@functools.lru_cache(maxsize=1)
def _start_board(connection: tuple[str, str]) -> Any:
    """Start the board, once for all stages of a connection to Ray: the driver's node and its job."""
    here = NodeAffinitySchedulingStrategy(connection[0], soft=False)
    board: Any = ray.remote(num_cpus=0, max_restarts=-1)(ProgressBoard)
    return board.options(scheduling_strategy=here).remote()
