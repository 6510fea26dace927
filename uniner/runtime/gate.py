"""An actor's gate: it lets requests through when the cluster's meter grants them."""

import asyncio
import contextlib
import random
import time
import uuid
from collections import deque

from uniner.errors import Stopped, UserError
from uniner.runtime.rate_limits import AskMeter, MeterGrant, MeterReport, Reservation

# A gate with requests in flight reports at least this often, and hears then that the run stops.
_HEARTBEAT_S = 0.5
# For how long after a report requests may pass without a grant, where nothing is limited.
_FREE_S = 2 * _HEARTBEAT_S


class Gate:
    """Lets an actor's requests through when the meter grants them, and reports what they cost.

    Each request calls `enter`, and `settle` once it is known what it cost. A gate that has ended, because the
    run stops or has failed, lets nothing through any more. Where it failed the other actors' gates end too,
    once no request is in flight anywhere: Ray ends all actors at the first error, and the replies to requests
    in flight would be paid for and lost.
    """

    def __init__(self, ask: AskMeter):
        self._ask, self._holder = ask, uuid.uuid4().hex
        self._waiting: deque[tuple[Reservation, asyncio.Future[float]]] = deque()
        self._in_flight = 0
        self._held = self._spent = self._tokens_over = self._pause_s = 0.0
        self._retries = 0
        self._notices: list[str] = []
        self._paused_until = self._free_until = 0.0
        self._unreported = False
        self._reporting: asyncio.Task[None] | None = None
        self._asking, self._woken, self._ended = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        self._error: Exception | None = None
        self._failed, self._all_stopped = "", False

    async def enter(self, reservation: Reservation) -> None:
        """Wait until a request may be sent. `settle` must follow.

        Raises:
            Stopped: where the budget is spent or the run stops; else the error that ended the gate.
        """
        while True:
            await self._be_granted(reservation)
            left = self._paused_until - time.monotonic()
            if left <= 0:
                return
            self.settle(reservation, tokens=0)  # nothing is reserved for a request that waits out a pause
            # The jitter spreads an actor's requests, which all wait for the same moment.
            await self.sleep(left + random.uniform(0, min(left, 1.0)))

    async def _be_granted(self, reservation: Reservation) -> None:
        if self._error:
            raise self._error
        if time.monotonic() < self._free_until and not self._waiting:
            self._let_through(reservation)
            self._wake()
            return
        delay: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((reservation, delay))
        self._woken.set()
        self._wake()
        try:
            seconds = await delay
            if seconds > 0:
                await self.sleep(seconds)
        except BaseException:
            if delay.done() and not delay.cancelled() and not delay.exception():
                self.settle(reservation, tokens=0)
            raise

    def settle(self, reservation: Reservation, tokens: float | None = None, usd: float = 0.0) -> None:
        """Free a reservation, and report the tokens (where the server counted them) and USD it took."""
        self._in_flight -= 1
        self._held = self._held - reservation.usd if self._in_flight else 0.0
        self._spent += usd
        self._tokens_over += 0.0 if tokens is None else tokens - reservation.tokens
        self._unreported = True
        self._wake()

    def retried(self) -> None:
        """Count a try of a request after its first."""
        self._retries += 1

    def pause(self, seconds: float) -> None:
        """Send no request for some seconds: here at once, in other actors when the meter hears of it."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)
        self._pause_s = max(self._pause_s, seconds)
        self._unreported = True
        self._woken.set()
        self._wake()

    def say(self, notice: str) -> None:
        """Have the driver tell the user a line, once for all actors."""
        self._notices.append(notice)
        self._unreported = True
        self._wake()

    def end(self, error: Exception) -> None:
        """Let nothing through any more: what waits or enters raises the error."""
        if self._error is None and isinstance(error, UserError) and not self._all_stopped:
            self._failed, self._unreported = str(error), True
        self._error = self._error or error
        self._ended.set()
        while self._waiting:
            _, delay = self._waiting.popleft()
            if not delay.done():
                delay.set_exception(self._error)

    async def sleep(self, seconds: float) -> None:
        """Sleep between two tries of a request; the end of the gate ends it.

        Raises:
            Exception: the error that ended the gate.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        if self._error:
            raise self._error

    async def flush(self) -> None:
        """Report now what the meter has not heard yet."""
        while self._unreported:
            await self._exchange()

    async def wait_for_others(self) -> None:
        """After an error, wait until no request is in flight in any actor, at most for the meter's grace."""
        while self._failed and not self._all_stopped:
            await asyncio.sleep(await self._exchange())

    def _let_through(self, reservation: Reservation) -> None:
        self._in_flight += 1
        self._held += reservation.usd
        self._unreported = True

    def _wake(self) -> None:
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.get_running_loop().create_task(self._report_until_quiet())

    async def _report_until_quiet(self) -> None:
        try:
            while self._waiting or self._unreported or self._in_flight:
                if not self._waiting:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._woken.wait(), _HEARTBEAT_S)
                self._woken.clear()
                retry_s = await self._exchange()
                if self._waiting and retry_s:
                    await asyncio.sleep(retry_s)
        except Exception as error:  # the waiting requests must not wait for ever
            self.end(error)

    async def _exchange(self) -> float:
        """Report to the meter and let through what it grants. Returns the seconds until it may grant more."""
        async with self._asking:
            waiting = list(self._waiting)
            grant = await self._ask(self._holder, self._report(), [wanted for wanted, _ in waiting])
            self._let_granted_through(grant, waiting)
            if grant.stop:
                self._all_stopped = True
                self.end(UserError(grant.stop) if grant.failed else Stopped(grant.stop))
            self._free_until = time.monotonic() + _FREE_S if grant.free else 0.0
            return grant.retry_s if len(grant.delays) < len(waiting) or self._failed else 0.0

    def _let_granted_through(
        self, grant: MeterGrant, waiting: list[tuple[Reservation, asyncio.Future[float]]]
    ) -> None:
        for (reservation, delay), seconds in zip(waiting, grant.delays, strict=False):
            if self._waiting and self._waiting[0][1] is delay:
                self._waiting.popleft()
            if delay.done():  # cancelled meanwhile: the meter must hear that nothing is held for it
                self._unreported = True
                continue
            self._let_through(reservation)
            delay.set_result(seconds)

    def _report(self) -> MeterReport:
        report = MeterReport(
            in_flight=self._in_flight,
            held_usd=max(0.0, self._held),
            spent_usd=self._spent,
            tokens_over=self._tokens_over,
            pause_s=self._pause_s,
            retries=self._retries,
            notices=tuple(self._notices),
            failed=self._failed,
        )
        self._spent = self._tokens_over = self._pause_s = 0.0
        self._retries = 0
        self._notices.clear()
        self._unreported = False
        return report
