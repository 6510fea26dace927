"""The rate limits and the budget of all requests to a teacher.

One `Meter` serves the whole cluster. It decides when each request may be sent, so that requests and tokens
per minute, the budget and the pause after a 429 hold for any number of actors. Each actor has a `Gate`, which
asks the meter for all of its waiting requests in one call: calls to the meter do not grow with the requests.
"""

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from uniner.errors import Stopped

# The meter grants requests for the next second only, so that the grants of a dead actor expire soon.
_AHEAD_S = 1.0
# The meter paces requests at 95 % of the limits: some arrive at the server closer together than they were
# sent, and token counts are estimates.
_MARGIN = 0.95
_RETRY_S = 0.1


@dataclass(frozen=True, kw_only=True)
class RateLimits:
    """Limits for the whole cluster; None means no limit. Error messages name `budget_setting`."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    budget_usd: float | None = None
    budget_setting: str = "run.budget_usd"

    @property
    def unlimited(self) -> bool:
        """Tell whether there is no limit at all."""
        return self.requests_per_minute is self.tokens_per_minute is self.budget_usd is None


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A request's reservation: its estimated tokens (prompt and reply) and its highest price in USD."""

    tokens: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MeterReport:
    """An actor's report to the meter.

    held_usd: reserved for requests in flight. Since the last report: the USD spent, the tokens used beyond
    the reserved ones (negative: fewer), and the longest pause that the server asked for.
    """

    held_usd: float = 0.0
    spent_usd: float = 0.0
    tokens_over: float = 0.0
    pause_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MeterGrant:
    """The meter's answer to a list of reservations.

    delays: seconds until each of the first requests may be sent. retry_s: when to ask for the others.
    stop: the reason to stop, where the budget is spent and no request is in flight any more.
    """

    delays: list[float]
    retry_s: float = 0.0
    stop: str | None = None


AskMeter = Callable[[str, MeterReport, list[Reservation]], Awaitable[MeterGrant]]


class Meter:
    """Grants requests, tokens and money, first come first served."""

    def __init__(
        self,
        limits: RateLimits,
        spent_usd: float = 0.0,
        forget_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`spent_usd` was spent before. A holder that is silent for `forget_s` seconds counts as dead."""
        self._limits, self._spent, self._forget_s, self._clock = limits, spent_usd, forget_s, clock
        self._held: dict[str, tuple[float, float]] = {}  # by holder: USD in flight, time of the last report
        self._next_request = self._next_token = self._paused = clock()

    def ask(self, holder: str, report: MeterReport, reservations: Sequence[Reservation]) -> MeterGrant:
        """Take an actor's report, and decide when its waiting requests may be sent."""
        now = self._clock()
        self._take(holder, report, now)
        delays: list[float] = []
        for reservation in reservations:
            if not self._affords(reservation):
                stop = None if delays else self._stop_reason(reservation)
                return MeterGrant(delays=delays, retry_s=_RETRY_S, stop=stop)
            at = max(now, self._next_request, self._next_token, self._paused)
            if at > now + _AHEAD_S:
                retry_s = min(1.0, max(_RETRY_S, at - now - _AHEAD_S / 2))
                return MeterGrant(delays=delays, retry_s=retry_s)
            delays.append(at - now)
            self._reserve(holder, reservation, at, now)
        return MeterGrant(delays=delays)

    def _take(self, holder: str, report: MeterReport, now: float) -> None:
        self._spent += report.spent_usd
        self._held[holder] = (report.held_usd, now)
        self._held = {name: held for name, held in self._held.items() if now - held[1] < self._forget_s}
        self._paused = max(self._paused, now + report.pause_s)
        if self._limits.tokens_per_minute:
            self._next_token += report.tokens_over * 60 / (self._limits.tokens_per_minute * _MARGIN)

    def _affords(self, reservation: Reservation) -> bool:
        budget = self._limits.budget_usd
        return budget is None or self._spent + self._in_flight_usd() + reservation.usd <= budget

    def _in_flight_usd(self) -> float:
        return sum(usd for usd, _ in self._held.values())

    def _stop_reason(self, reservation: Reservation) -> str | None:
        if self._in_flight_usd() > 1e-9:
            return None
        return (
            f"teacher: the next request may cost {reservation.usd:.2g} USD, {self._spent:.6g} USD are spent, "
            f"and {self._limits.budget_setting} is {self._limits.budget_usd:g}: raise it"
        )

    def _reserve(self, holder: str, reservation: Reservation, at: float, now: float) -> None:
        self._held[holder] = (self._held[holder][0] + reservation.usd, now)
        if self._limits.requests_per_minute:
            self._next_request = at + 60 / (self._limits.requests_per_minute * _MARGIN)
        if self._limits.tokens_per_minute:
            tokens = max(0.0, reservation.tokens) * 60 / (self._limits.tokens_per_minute * _MARGIN)
            self._next_token = max(at, self._next_token) + tokens


def local_meter(meter: Meter) -> AskMeter:
    """Return a function that asks a meter in this process."""

    async def ask(holder: str, report: MeterReport, reservations: list[Reservation]) -> MeterGrant:
        return meter.ask(holder, report, reservations)

    return ask


def cluster_meter(limits: RateLimits, spent_usd: float, forget_s: float) -> AskMeter:
    """Start a meter as a Ray actor on the driver's node. Return a function that asks it from any actor."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Meter)
    meter = actor.remote(limits, spent_usd, forget_s)

    async def ask(holder: str, report: MeterReport, reservations: list[Reservation]) -> MeterGrant:
        return await meter.ask.remote(holder, report, reservations)

    return ask


class Gate:
    """Lets an actor's requests through when the meter grants them."""

    def __init__(self, ask: AskMeter):
        self._ask, self._holder = ask, uuid.uuid4().hex
        self._waiting: deque[tuple[Reservation, asyncio.Future[float]]] = deque()
        self._held = self._spent = self._tokens_over = self._pause_s = 0.0
        self._paused_until = 0.0
        self._unreported = False
        self._asking: asyncio.Task[None] | None = None

    async def enter(self, reservation: Reservation) -> None:
        """Wait until a request may be sent. `settle` must follow.

        Raises:
            Stopped: where the budget is spent.
        """
        delay: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((reservation, delay))
        self._wake()
        try:
            await asyncio.sleep(await delay)
            while (left := self._paused_until - time.monotonic()) > 0:
                # The jitter spreads an actor's requests, which all wait for the same moment.
                await asyncio.sleep(left + random.uniform(0, min(left, 1.0)))
        except BaseException:
            if delay.done() and not delay.cancelled() and not delay.exception():
                self.settle(reservation)
            raise

    def settle(self, reservation: Reservation, tokens: float | None = None, usd: float = 0.0) -> None:
        """Free a reservation, and report the tokens (where the server counted them) and USD it took."""
        self._held -= reservation.usd
        self._spent += usd
        self._tokens_over += 0.0 if tokens is None else tokens - reservation.tokens
        self._unreported = True
        self._wake()

    def pause(self, seconds: float) -> None:
        """Send no request for some seconds: here at once, in other actors when the meter hears of it."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)
        self._pause_s = max(self._pause_s, seconds)
        self._unreported = True
        self._wake()

    def _wake(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask_until_quiet())

    async def _ask_until_quiet(self) -> None:
        try:
            while self._waiting or self._unreported:
                waiting = list(self._waiting)
                grant = await self._ask(self._holder, self._report(), [wanted for wanted, _ in waiting])
                for (reservation, delay), seconds in zip(waiting, grant.delays, strict=False):
                    self._waiting.popleft()
                    if delay.done():  # cancelled meanwhile: the meter must hear that nothing is held for it
                        self._unreported = True
                        continue
                    self._held += reservation.usd
                    delay.set_result(seconds)
                if grant.stop:
                    self._fail(Stopped(grant.stop))
                elif self._waiting and len(grant.delays) < len(waiting):
                    await asyncio.sleep(grant.retry_s)
        except Exception as error:  # the waiting requests must not wait for ever
            self._fail(error)

    def _report(self) -> MeterReport:
        report = MeterReport(
            held_usd=max(0.0, self._held),
            spent_usd=self._spent,
            tokens_over=self._tokens_over,
            pause_s=self._pause_s,
        )
        self._spent = self._tokens_over = self._pause_s = 0.0
        self._unreported = False
        return report

    def _fail(self, error: Exception) -> None:
        while self._waiting:
            _, delay = self._waiting.popleft()
            if not delay.done():
                delay.set_exception(error)
