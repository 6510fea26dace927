"""The meter of the whole cluster, as a Ray actor, and the driver's watch over it.

The driver tells the user what the meter hears from the actors, and winds down when a signal stops the run:
the meter grants nothing any more, and requests in flight have some seconds to come back and be kept.
"""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uniner.errors import Stopped
from uniner.runtime.connection import plain_error
from uniner.runtime.metrics import StageMetrics
from uniner.runtime.rate_limits import (
    AskMeter,
    Meter,
    MeterGrant,
    MeterReport,
    MeterState,
    RateLimits,
    Reservation,
)
from uniner.runtime.spending import SpendingFile
from uniner.runtime.wind_down import wind_down_first

log = logging.getLogger(__name__)

_LOOK_S = 0.2
_ANSWER_S = 1.0
# Pauses that are shorter are not worth a line.
_LONG_PAUSE_S = 10.0
# How long the actors' own end may take once no request is in flight, and the meter's after an error.
_END_S = 10.0


@dataclass(frozen=True, kw_only=True)
class MeterSettings:
    """What a cluster's meter grants, and how the run stops.

    name: of the work, and teacher: who is asked, for the log. metrics: where the meter's state is recorded.
    elsewhere_usd: what other stages spent of the same budget. spent_usd: what this one spent before. grace_s:
    seconds that requests in flight get at a signal; 0 stops at once.
    """

    metrics: StageMetrics
    name: str
    teacher: str
    limits: RateLimits
    spent_usd: float = 0.0
    elsewhere_usd: float = 0.0
    spending: SpendingFile | None = None
    grace_s: float = 0.0


class ClusterMeter:
    """A running meter. `ask` reaches it from any actor; the other methods are the driver's."""

    def __init__(self, settings: MeterSettings):
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Meter)
        self._meter = actor.remote(
            settings.limits,
            settings.spent_usd,
            elsewhere_usd=settings.elsewhere_usd,
            spending=settings.spending,
            grace_s=settings.grace_s,
        )
        self._settings = settings
        self._signal: int | None = None
        self._left = threading.Event()
        # The meter's process starts beside the actors', so it is not waited for.
        self._state = MeterState(in_flight=0, spent_usd=settings.spent_usd, pause_s=0.0, notices=())
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def ask(self) -> AskMeter:
        """Return the function by which actors ask the meter."""
        meter = self._meter

        async def ask(holder: str, report: MeterReport, reservations: list[Reservation]) -> MeterGrant:
            return await meter.ask.remote(holder, report, reservations)

        return ask

    def spent_usd(self) -> float:
        """Return what the stage has spent, with what requests in flight may cost."""
        return ray.get(self._meter.state.remote()).spent_usd

    def note(self) -> str:
        """Return a note for the progress line."""
        pause_s = self._state.pause_s
        return (
            f"waiting {pause_s:,.0f} s, as {self._settings.teacher} asks" if pause_s > _LONG_PAUSE_S else ""
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch the meter within the block, and have it write down at the end what was spent."""
        self._thread.start()
        grace, failed = self._settings.grace_s > 0, True
        try:
            with wind_down_first(self._note_signal) if grace else contextlib.nullcontext():
                yield
            failed = False
        finally:
            self._leave(failed)
        if self._signal is not None:  # the work ended while the run was winding down
            raise Stopped(self._reason())

    def _leave(self, failed: bool) -> None:
        """End the watch and the meter. failed: the stage has an error of its own, which the user hears of."""
        # The watch may raise the signal that it was asked for just now: this is the end that it wants.
        with contextlib.suppress(Stopped):
            self._left.set()
            self._thread.join()
        try:
            ended = self._meter.finish.remote(f"{self._settings.name}: has ended")
            ray.get(ended, timeout=_END_S if failed else None)
        except ray.exceptions.RayActorError:
            pass  # its node is gone: the allowance on storage counts as spent
        except Exception as error:
            if not failed:
                raise plain_error(error) from None
            log.warning(f"{self._settings.name}: the exact cost is not written down: {plain_error(error)}")
        finally:
            ray.kill(self._meter)

    def _note_signal(self, number: int) -> None:
        self._signal = number

    def _reason(self) -> str:
        return f"stopped by {signal.Signals(self._signal or signal.SIGTERM).name}"

    def _watch(self) -> None:
        paused = False
        while not self._left.wait(_LOOK_S):
            if self._signal is not None:
                self._wind_down()
                return
            if not self._look():
                continue
            long = self._state.pause_s > _LONG_PAUSE_S
            if long and not paused:
                until = time.strftime("%H:%M:%S", time.localtime(time.time() + self._state.pause_s))
                log.warning(
                    f"{self._settings.name}: {self._settings.teacher} asks to wait "
                    f"{self._state.pause_s:,.0f} s, until {until} (Retry-After); the requests go on by "
                    "themselves then"
                )
            paused = long

    def _look(self) -> bool:
        """Ask the meter for its state. Returns False without an answer: it waits for storage, or is gone. The
        actors' own calls then wait or fail too, and the driver hears of that."""
        try:
            self._state = ray.get(self._meter.state.remote(), timeout=_ANSWER_S)
        except ray.exceptions.RayError:
            return False
        self._settings.metrics.teacher(self._state, self._settings.limits.budget_usd)
        for notice in self._state.notices:
            log.warning(f"{self._settings.name}: {notice}")
        return True

    def _wind_down(self) -> None:
        """Let requests in flight come back, then stop the main thread if the actors' end has not."""
        self._meter.stop.remote(self._reason())
        deadline, said, idle = time.monotonic() + self._settings.grace_s, False, False
        while not idle and time.monotonic() < deadline:
            idle = self._look() and not self._state.in_flight
            if not idle and not said:
                said = True
                log.info(
                    f"{self._settings.name}: waiting up to {self._settings.grace_s:g} s for "
                    f"{self._state.in_flight:,} requests in flight; press Ctrl-C again to end now"
                )
            if not idle and self._left.wait(_LOOK_S):
                return
        if idle and self._left.wait(_END_S):
            return
        signal.pthread_kill(threading.main_thread().ident or 0, self._signal or signal.SIGTERM)


@contextlib.contextmanager
def cluster_meter(settings: MeterSettings) -> Iterator[ClusterMeter]:
    """Run a meter on the driver's node for the block."""
    meter = ClusterMeter(settings)
    with meter.running():
        yield meter
