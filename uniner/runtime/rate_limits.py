"""The rate limits and the budget of all requests to a teacher. Does not import Ray.

One `Meter` serves the whole cluster. It decides when each request may be sent, so that requests and tokens
per minute, the budget and the pause after a 429 hold for any number of actors. Each actor has a `Gate`, which
asks the meter for all of its waiting requests in one call: calls to the meter do not grow with the requests.

A request reserves the most that it can cost before it is sent. Spent and reserved money together never
exceed the budget. Money that a dead actor had reserved stays reserved: its requests may have been billed.
"""

import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from uniner.runtime.spending import SpendingFile

# The meter grants requests for the next second only, so that the grants of a dead actor expire soon.
_AHEAD_S = 1.0
# The meter paces requests at 95 % of the limits: some arrive at the server closer together than they were
# sent, and token counts are estimates.
_MARGIN = 0.95
_RETRY_S = 0.1
# A gate with requests reports every half second. One that is silent for this long is on a dead actor.
_SILENCE_S = 60.0
# The share of the budget (of what is spent, where there is none) by which the allowance on storage grows.
_STEP = 0.01


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
    """A request's reservation: its estimated tokens (prompt and reply), and the most USD that it can cost."""

    tokens: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MeterReport:
    """An actor's report to the meter.

    in_flight, held_usd: its requests in flight and what is reserved for them. failed: the error that ends the
    run, or "". Since the last report: the USD spent, the tokens used beyond the reserved ones (negative:
    fewer), the longest pause that the server asked for, tries after a request's first, and lines for the
    user.
    """

    in_flight: int = 0
    held_usd: float = 0.0
    spent_usd: float = 0.0
    tokens_over: float = 0.0
    pause_s: float = 0.0
    retries: int = 0
    notices: tuple[str, ...] = ()
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class MeterGrant:
    """The meter's answer to a list of reservations.

    delays: seconds until each of the first requests may be sent. retry_s: when to ask for the others. free:
    nothing is limited, so that the next requests need not wait for a grant. stop: the reason to stop, once no
    request is in flight any more. failed: an actor's error is the reason.
    """

    delays: list[float]
    retry_s: float = 0.0
    free: bool = False
    stop: str | None = None
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class MeterState:
    """The meter as the driver sees it: requests in flight and waiting to be granted, tries after a request's
    first, USD spent by the stage, seconds of pause left, and the lines for the user since the last look."""

    in_flight: int
    spent_usd: float
    pause_s: float
    notices: tuple[str, ...]
    waiting: int = 0
    retries: int = 0


AskMeter = Callable[[str, MeterReport, list[Reservation]], Awaitable[MeterGrant]]


@dataclass
class _Holder:
    """An actor's requests in flight, what is reserved for them, the time of its last report, and its requests
    that wait for a grant."""

    in_flight: int
    usd: float
    heard: float
    waiting: int = 0


class Meter:
    """Grants requests, tokens and money, first come first served."""

    def __init__(
        self,
        limits: RateLimits,
        spent_usd: float = 0.0,
        *,
        elsewhere_usd: float = 0.0,
        spending: SpendingFile | None = None,
        silence_s: float = _SILENCE_S,
        grace_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ):
        """spent_usd: what the stage spent before, elsewhere_usd: what others spent of the same budget.

        spending: where the stage's spending is written down. silence_s: after it a holder counts as dead.
        grace_s: for how long an actor's error waits for the requests in flight of the others.
        """
        self._limits, self._spent, self._elsewhere = limits, spent_usd, elsewhere_usd
        self._spending, self._allowance = spending, spent_usd
        self._silence_s, self._grace_s, self._clock = silence_s, grace_s, clock
        self._holders: dict[str, _Holder] = {}
        self._next_request = self._next_token = self._paused = clock()
        self._stopping: str | None = None
        self._failed, self._failed_at = False, 0.0
        self._notices: dict[str, None] = {}
        self._noticed: set[str] = set()
        self._retries = 0

    def ask(self, holder: str, report: MeterReport, reservations: Sequence[Reservation]) -> MeterGrant:
        """Take an actor's report, and decide when its waiting requests may be sent."""
        now = self._clock()
        self._take(holder, report, now)
        grant = self._grant(holder, reservations, now)
        self._holders[holder].waiting = len(reservations) - len(grant.delays)
        self._write_allowance()  # before anything granted here can be sent
        return grant

    def _grant(self, holder: str, reservations: Sequence[Reservation], now: float) -> MeterGrant:
        if self._stopping is not None:
            waits = not self._failed or now < self._failed_at + self._grace_s
            stop = None if waits and self._in_flight(now) else self._stopping
            return MeterGrant(delays=[], retry_s=_RETRY_S, stop=stop, failed=self._failed)
        delays: list[float] = []
        for reservation in reservations:
            if not self._affords(reservation):
                stop = None if delays else self._reason_to_stop(reservation, now)
                # The run ends now: another actor's smaller request would be paid for, and its reply lost.
                self._stopping = stop
                return MeterGrant(delays=delays, retry_s=_RETRY_S, stop=stop)
            at = max(now, self._next_request, self._next_token, self._paused)
            if at > now + _AHEAD_S:
                retry_s = min(1.0, max(_RETRY_S, at - now - _AHEAD_S / 2))
                return MeterGrant(delays=delays, retry_s=retry_s)
            delays.append(at - now)
            self._reserve(holder, reservation, at)
        return MeterGrant(delays=delays, free=self._limits.unlimited and self._paused <= now)

    def stop(self, reason: str) -> None:
        """Grant nothing any more. Waiting requests end with the reason once none is in flight."""
        self._stopping = reason

    def state(self) -> MeterState:
        """Return the state for the driver. A notice is returned once."""
        now = self._clock()
        notices = tuple(self._notices)
        self._notices.clear()
        return MeterState(
            in_flight=self._in_flight(now),
            spent_usd=self._committed(),
            pause_s=max(0.0, self._paused - now),
            notices=notices,
            waiting=sum(holder.waiting for holder in self._heard_lately(now)),
            retries=self._retries,
        )

    def finish(self, reason: str) -> float:
        """Write down and return what the stage has spent. Requests still in flight count as spent."""
        self._stopping = reason
        usd = self._committed()
        if self._spending and (usd or self._allowance):
            self._spending.write(usd, exact=True)
        return usd

    def _take(self, name: str, report: MeterReport, now: float) -> None:
        self._spent += report.spent_usd
        self._retries += report.retries
        self._holders[name] = _Holder(report.in_flight, report.held_usd, now)
        self._paused = max(self._paused, now + report.pause_s)
        if report.failed and self._stopping is None:
            self._stopping, self._failed, self._failed_at = report.failed, True, now
        if self._limits.tokens_per_minute:
            self._next_token += report.tokens_over * 60 / (self._limits.tokens_per_minute * _MARGIN)
        new = [notice for notice in report.notices if notice not in self._noticed]
        self._notices |= dict.fromkeys(new)
        self._noticed.update(new)

    def _committed(self) -> float:
        """Return what the stage spent and what is reserved, by dead actors too."""
        return self._spent + sum(holder.usd for holder in self._holders.values())

    def _affords(self, reservation: Reservation) -> bool:
        budget = self._limits.budget_usd
        return budget is None or self._elsewhere + self._committed() + reservation.usd <= budget

    def _in_flight(self, now: float) -> int:
        return sum(holder.in_flight for holder in self._heard_lately(now))

    def _heard_lately(self, now: float) -> Iterator[_Holder]:
        return (holder for holder in self._holders.values() if now - holder.heard < self._silence_s)

    def _reason_to_stop(self, reservation: Reservation, now: float) -> str | None:
        if self._in_flight(now):
            return None
        spent = self._elsewhere + self._committed()
        return (
            f"teacher: the next request may cost {reservation.usd:.2g} USD, {spent:.6g} USD are spent, "
            f"and {self._limits.budget_setting} is {self._limits.budget_usd:g}: raise it"
        )

    def _reserve(self, name: str, reservation: Reservation, at: float) -> None:
        holder = self._holders[name]
        holder.in_flight += 1
        holder.usd += reservation.usd
        if self._limits.requests_per_minute:
            self._next_request = at + 60 / (self._limits.requests_per_minute * _MARGIN)
        if self._limits.tokens_per_minute:
            tokens = max(0.0, reservation.tokens) * 60 / (self._limits.tokens_per_minute * _MARGIN)
            self._next_token = max(at, self._next_token) + tokens

    def _write_allowance(self) -> None:
        """Raise the allowance on storage by a step where the requests in flight may exceed it."""
        committed = self._committed()
        if self._spending is None or committed <= self._allowance:
            return
        budget = self._limits.budget_usd
        step = max(_STEP * (committed if budget is None else budget), committed - self._spent)
        allowance = committed + step
        if budget is not None:
            allowance = max(committed, min(allowance, budget - self._elsewhere))
        started = self._clock()
        self._spending.write(allowance, exact=False)
        self._allowance = allowance
        # Storage in trouble may hold this up for minutes, in which no actor can be heard.
        for holder in self._holders.values():
            holder.heard += self._clock() - started


def local_meter(meter: Meter) -> AskMeter:
    """Return a function that asks a meter in this process."""

    async def ask(holder: str, report: MeterReport, reservations: list[Reservation]) -> MeterGrant:
        return meter.ask(holder, report, reservations)

    return ask
