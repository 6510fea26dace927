"""How fast, and for how much money, the teacher may be asked.

One `Meter` serves the whole cluster: it says when each request may go, so that requests and tokens a minute,
the budget and a pause after a 429 hold whatever the number of actors. Each actor has a `Gate` that asks the
meter for all of its waiting requests at once: calls to the meter do not grow with the requests.
"""

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from uniner.errors import Stopped

# The meter gives out places in the next second only: what an actor that dies has taken is soon over.
_AHEAD_S = 1.0
# Requests meet on their way to the server, and what a request takes is only thought before: a little less
# than the limit is never more than it.
_MARGIN = 0.95
_AGAIN_S = 0.1


@dataclass(frozen=True)
class Limits:
    """Limits of the whole cluster; None is no limit. section: of their settings."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    budget_usd: float | None = None
    section: str = "annotate"


@dataclass(frozen=True)
class Want:
    """What a request is thought to take: tokens (prompt and reply), and US dollars at the most."""

    tokens: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True)
class Report:
    """What an actor tells the meter: the dollars it holds for requests under way, and since its last report
    the dollars it spent, the tokens beyond what it wanted (or, negative, short of it), and a pause."""

    held_usd: float = 0.0
    spent_usd: float = 0.0
    tokens_over: float = 0.0
    pause_s: float = 0.0


@dataclass(frozen=True)
class Grant:
    """The meter's answer: for the first requests seconds until each may go; when to ask again for the rest;
    or that the budget is spent and nothing is under way any more."""

    delays: list[float]
    again_s: float = 0.0
    stop: str | None = None


class Meter:
    """Gives out requests, tokens and money. No request waits for one that came later."""

    def __init__(
        self,
        limits: Limits,
        spent_usd: float = 0.0,
        forget_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`spent_usd` is what the run spent before; a holder silent for `forget_s` is taken for dead."""
        self._limits, self._spent, self._forget_s, self._clock = limits, spent_usd, forget_s, clock
        self._held: dict[str, tuple[float, float]] = {}
        self._next_request = self._next_token = self._paused = clock()

    def ask(self, holder: str, report: Report, wants: Sequence[Want]) -> Grant:
        """Take an actor's report, and say when its waiting requests may go."""
        now = self._clock()
        self._take(holder, report, now)
        delays: list[float] = []
        for want in wants:
            if not self._affords(want):
                return Grant(delays, _AGAIN_S, None if delays else self._stop(want))
            at = max(now, self._next_request, self._next_token, self._paused)
            if at > now + _AHEAD_S:
                return Grant(delays, min(1.0, max(_AGAIN_S, at - now - _AHEAD_S / 2)))
            delays.append(at - now)
            self._give(holder, want, at, now)
        return Grant(delays)

    def _take(self, holder: str, report: Report, now: float) -> None:
        self._spent += report.spent_usd
        self._held[holder] = (report.held_usd, now)
        alive = {name: held for name, held in self._held.items() if now - held[1] < self._forget_s}
        self._held = alive
        self._paused = max(self._paused, now + report.pause_s)
        if self._limits.tokens_per_minute:
            self._next_token += report.tokens_over * 60 / (self._limits.tokens_per_minute * _MARGIN)

    def _affords(self, want: Want) -> bool:
        budget = self._limits.budget_usd
        return budget is None or self._spent + self._under_way() + want.usd <= budget

    def _under_way(self) -> float:
        return sum(held for held, _ in self._held.values())

    def _stop(self, want: Want) -> str | None:
        if self._under_way() > 1e-9:
            return None
        return (
            f"teacher: {self._spent:.6g} USD are spent, the next request may take {want.usd:.2g} and "
            f"{self._limits.section}.budget_usd is {self._limits.budget_usd:g}: raise it"
        )

    def _give(self, holder: str, want: Want, at: float, now: float) -> None:
        self._held[holder] = (self._held[holder][0] + want.usd, now)
        if self._limits.requests_per_minute:
            self._next_request = at + 60 / (self._limits.requests_per_minute * _MARGIN)
        if self._limits.tokens_per_minute:
            tokens = max(0.0, want.tokens) * 60 / (self._limits.tokens_per_minute * _MARGIN)
            self._next_token = max(at, self._next_token) + tokens


Ask = Callable[[str, Report, list[Want]], Awaitable[Grant]]


def local(meter: Meter) -> Ask:
    """Return the way to ask a meter of the same process."""

    async def ask(holder: str, report: Report, wants: list[Want]) -> Grant:
        return meter.ask(holder, report, wants)

    return ask


class Gate:
    """An actor's way through the meter."""

    def __init__(self, ask: Ask):
        self._ask, self._holder = ask, uuid.uuid4().hex
        self._waiting: deque[tuple[Want, asyncio.Future[float]]] = deque()
        self._held = self._spent = self._tokens_over = self._pause_s = 0.0
        self._cool_until = 0.0
        self._untold = False
        self._asking: asyncio.Task[None] | None = None

    async def enter(self, want: Want) -> None:
        """Wait until a request may go; `leave` must follow.

        Raises:
            Stopped: where the budget is spent.
        """
        place: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((want, place))
        self._tell()
        try:
            await asyncio.sleep(await place)
            while (left := self._cool_until - time.monotonic()) > 0:
                # Spread out: all of an actor's requests cool down together.
                await asyncio.sleep(left + random.uniform(0, min(left, 1.0)))
        except BaseException:
            if place.done() and not place.cancelled() and not place.exception():
                self.leave(want)
            raise

    def leave(self, want: Want, tokens: float | None = None, usd: float = 0.0) -> None:
        """Tell what a request took: tokens where the server said them, and US dollars."""
        self._held -= want.usd
        self._spent += usd
        self._tokens_over += 0.0 if tokens is None else tokens - want.tokens
        self._untold = True
        self._tell()

    def cool(self, seconds: float) -> None:
        """Let no request go for so long: here at once, elsewhere once the meter knows."""
        self._cool_until = max(self._cool_until, time.monotonic() + seconds)
        self._pause_s = max(self._pause_s, seconds)
        self._untold = True
        self._tell()

    def _tell(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask_on())

    async def _ask_on(self) -> None:
        try:
            while self._waiting or self._untold:
                wanted = list(self._waiting)
                grant = await self._ask(self._holder, self._report(), [want for want, _ in wanted])
                for (want, place), delay in zip(wanted, grant.delays, strict=False):
                    self._waiting.popleft()
                    if place.done():  # given up meanwhile: the meter must hear that nothing is held for it
                        self._untold = True
                        continue
                    self._held += want.usd
                    place.set_result(delay)
                if grant.stop:
                    self._fail(Stopped(grant.stop))
                elif self._waiting and len(grant.delays) < len(wanted):
                    await asyncio.sleep(grant.again_s)
        except Exception as error:  # those who wait have to hear of it
            self._fail(error)

    def _report(self) -> Report:
        report = Report(max(0.0, self._held), self._spent, self._tokens_over, self._pause_s)
        self._spent = self._tokens_over = self._pause_s = 0.0
        self._untold = False
        return report

    def _fail(self, error: Exception) -> None:
        while self._waiting:
            _, place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)
