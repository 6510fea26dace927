"""The meter and the gates: rates, pauses and the budget hold for the whole cluster."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniner.errors import Stopped, UserError
from uniner.runtime.gate import Gate
from uniner.runtime.rate_limits import Meter, MeterReport, RateLimits, Reservation, local_meter
from uniner.runtime.spending import SpendingFile
from uniner.storage.folder import Folder


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def send_times(meter, clock, reservations, holders=3):
    """When each request is sent, where the holders ask in turn for all they have left."""
    waiting = [list(reservations[number::holders]) for number in range(holders)]
    sent = []
    while any(waiting):
        retries = []
        for number, mine in enumerate(waiting):
            grant = meter.ask(str(number), MeterReport(), mine)
            sent += [
                (clock.now + delay, reservation)
                for delay, reservation in zip(grant.delays, mine, strict=False)
            ]
            del mine[: len(grant.delays)]
            retries.append(grant.retry_s)
        clock.now += min((seconds for seconds in retries if seconds), default=0.1)
    return sorted(sent, key=lambda request: request[0])


@settings(deadline=None)
@given(
    st.integers(1, 6000),
    st.integers(100, 100_000),
    st.lists(st.integers(1, 2000), min_size=1, max_size=60),
    st.integers(1, 8),
)
def test_no_minute_has_more_requests_or_tokens_than_the_limits(requests, tokens, sizes, holders):
    clock = Clock()
    meter = Meter(RateLimits(requests_per_minute=requests, tokens_per_minute=tokens), clock=clock)
    sent = send_times(meter, clock, [Reservation(tokens=size) for size in sizes], holders)
    assert len(sent) == len(sizes)
    for start, first in sent:
        minute = [reserved.tokens for at, reserved in sent if start <= at < start + 60]
        assert len(minute) <= max(1, requests)
        # A request is sent whole: the last one of the minute may exceed the limit.
        assert sum(minute) - minute[-1] <= tokens
        assert first.tokens <= 2000


def test_the_limits_are_used_up():
    clock = Clock()
    sent = send_times(Meter(RateLimits(requests_per_minute=600), clock=clock), clock, [Reservation()] * 700)
    assert sent[-1][0] == pytest.approx(70, rel=0.1)
    clock = Clock()
    sent = send_times(
        Meter(RateLimits(tokens_per_minute=60_000), clock=clock), clock, [Reservation(tokens=1000)] * 60
    )
    assert sent[-1][0] == pytest.approx(60, rel=0.1)


def test_unused_tokens_are_given_back_and_overspent_ones_delay_the_next_request():
    for over, seconds in ((-900, 1.0), (0, 10.0), (2000, 30.0)):
        clock = Clock()
        meter = Meter(RateLimits(tokens_per_minute=6000), clock=clock)
        meter.ask("a", MeterReport(), [Reservation(tokens=1000)])
        meter.ask("a", MeterReport(tokens_over=over), [])
        assert send_times(meter, clock, [Reservation(tokens=1)])[0][0] == pytest.approx(seconds, rel=0.1)


def test_a_pause_of_one_actor_pauses_all():
    clock = Clock()
    meter = Meter(RateLimits(), clock=clock)
    meter.ask("a", MeterReport(pause_s=5.0), [])
    assert send_times(meter, clock, [Reservation()] * 4)[0][0] == pytest.approx(5.0)


@settings(deadline=None)
@given(
    st.floats(0, 3),
    st.lists(st.tuples(st.floats(0.001, 0.5), st.floats(0, 1)), max_size=60),
    st.integers(1, 6),
)
def test_money_in_flight_and_spent_never_exceeds_the_budget(budget, requests, holders):
    """Requests end in any order and cost a share of their reservation."""
    meter = Meter(RateLimits(budget_usd=budget), clock=Clock())
    held = [[] for _ in range(holders)]
    spent = 0.0
    for number, (usd, share) in enumerate(requests):
        mine = held[number % holders]
        report = MeterReport()
        if len(mine) > 2:
            ended = mine.pop(0)
            spent += ended * share
            report = MeterReport(in_flight=len(mine), held_usd=math.fsum(mine), spent_usd=ended * share)
        else:
            report = MeterReport(in_flight=len(mine), held_usd=math.fsum(mine))
        grant = meter.ask(str(number % holders), report, [Reservation(usd=usd)])
        mine += [usd] * len(grant.delays)
        in_flight = math.fsum(map(math.fsum, held))
        assert spent + in_flight <= budget + 1e-9
        assert not (grant.stop and in_flight > 1e-6)
        assert grant.delays or grant.retry_s


def test_a_dead_actors_requests_count_as_spent():
    clock = Clock()
    meter = Meter(RateLimits(budget_usd=1.0), silence_s=30.0, clock=clock)
    assert meter.ask("dead", MeterReport(), [Reservation(usd=0.9)]).delays
    refused = meter.ask("alive", MeterReport(), [Reservation(usd=0.5)])
    assert (refused.delays, refused.stop) == ([], None), "its requests may come back"
    clock.now = 31.0
    refused = meter.ask("alive", MeterReport(), [Reservation(usd=0.5)])
    assert (refused.delays, "0.9 USD are spent" in refused.stop) == ([], True)
    # It was only slow: what it reports takes the place of what it had reserved.
    meter.ask("dead", MeterReport(spent_usd=0.2), [])
    assert meter.state().spent_usd == pytest.approx(0.2)


def test_once_the_budget_has_stopped_one_actor_no_other_sends_a_request():
    meter = Meter(RateLimits(budget_usd=1.0), spent_usd=0.9, clock=Clock())
    assert meter.ask("a", MeterReport(), [Reservation(usd=0.5)]).stop
    grant = meter.ask("b", MeterReport(), [Reservation(usd=0.05)])
    assert (grant.delays, "raise it" in grant.stop) == ([], True), "the run ends, and its reply would be lost"


def test_actors_do_not_count_as_dead_because_the_meter_waited_for_storage():
    clock = Clock()

    class SlowLedger:
        def write(self, usd, *, exact):
            clock.now += 200.0

    meter = Meter(RateLimits(budget_usd=1.0), spending=SlowLedger(), silence_s=60.0, clock=clock)
    assert meter.ask("a", MeterReport(), [Reservation(usd=0.5)]).delays
    assert meter.ask("b", MeterReport(), [Reservation(usd=0.4)]).delays
    refused = meter.ask("b", MeterReport(), [Reservation(usd=0.6)])
    assert (refused.delays, refused.stop) == ([], None), "a's request is in flight"


class Ledger:
    """Stands for spending.json: notes what is written."""

    def __init__(self):
        self.written = []

    def write(self, usd, *, exact):
        self.written.append((usd, exact))


@settings(deadline=None)
@given(
    st.floats(0.5, 3),
    st.floats(0, 0.4),
    st.lists(st.tuples(st.floats(0.001, 0.3), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_what_may_be_spent_is_written_before_it_is_granted_and_not_much_more(budget, elsewhere, requests):
    ledger = Ledger()
    meter = Meter(RateLimits(budget_usd=budget), elsewhere_usd=elsewhere, spending=ledger, clock=Clock())
    mine, spent = [], 0.0
    for usd, share in requests:
        ended = mine.pop(0) if len(mine) > 3 else 0.0
        spent += ended * share
        report = MeterReport(in_flight=len(mine), held_usd=math.fsum(mine), spent_usd=ended * share)
        mine += [usd] * len(meter.ask("a", report, [Reservation(usd=usd)]).delays)
        at_most, written = spent + math.fsum(mine), [usd for usd, _ in ledger.written]
        assert not at_most or written[-1] >= at_most - 1e-9, "a driver that dies now leaves it behind"
        assert elsewhere + max(written, default=0) <= budget + 1e-9
    assert len(ledger.written) <= len(requests)
    assert meter.finish("ended") == pytest.approx(spent + math.fsum(mine))
    if mine:
        assert ledger.written[-1] == (pytest.approx(spent + math.fsum(mine)), True)


def test_what_may_be_spent_is_written_in_steps_of_a_hundredth_of_the_budget():
    ledger = Ledger()
    meter = Meter(RateLimits(budget_usd=100.0), spending=ledger, clock=Clock())
    for _ in range(1000):  # 0.01 USD each, of which 0.005 are used
        meter.ask("a", MeterReport(), [Reservation(usd=0.01)])
        meter.ask("a", MeterReport(spent_usd=0.005), [])
    assert 4 <= len(ledger.written) <= 7
    assert meter.state().spent_usd == pytest.approx(5.0)
    assert ledger.written[-1][0] - 5.0 <= 1.0 + 0.02


def test_a_stop_ends_waiting_requests_once_those_in_flight_are_back():
    async def work():
        meter = Meter(RateLimits())
        gates = [Gate(local_meter(meter)) for _ in range(2)]
        await gates[0].enter(Reservation(usd=0.1))
        meter.stop("stopped by SIGTERM")
        gates[0].settle(Reservation(), usd=0.0)
        await gates[0].enter(Reservation(usd=0.1))  # let through freely: the gate has not heard of it yet
        late = asyncio.create_task(gates[1].enter(Reservation()))
        _, waiting = await asyncio.wait([late], timeout=0.4)
        assert waiting, "a request is in flight"
        assert meter.state().in_flight == 1
        gates[0].settle(Reservation(usd=0.1), usd=0.1)
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            await asyncio.wait_for(late, 5)
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            await asyncio.wait_for(gates[0].enter(Reservation()), 5)
        with pytest.raises(Stopped):
            await gates[0].sleep(3600)
        return meter.state().spent_usd

    assert asyncio.run(work()) == pytest.approx(0.1)


def test_requests_pass_without_a_grant_where_nothing_is_limited_and_the_meter_hears_of_them():
    asked = []

    async def work():
        meter = Meter(RateLimits())

        async def ask(*call):
            asked.append(call)
            return meter.ask(*call)

        gate = Gate(ask)
        for _ in range(200):
            await gate.enter(Reservation(usd=0.01))
            gate.settle(Reservation(usd=0.01), usd=0.005)
        assert len(asked) < 5
        gate.say("a line")
        gate.say("a line")
        await gate.flush()
        return meter.state()

    state = asyncio.run(work())
    assert (state.in_flight, state.notices) == (0, ("a line",))
    assert state.spent_usd == pytest.approx(1.0)


def test_what_was_spent_is_read_back_and_a_broken_file_is_named(tmp_path):
    file, path = SpendingFile(Folder(str(tmp_path))), tmp_path / "spending.json"
    assert file.read() == 0.0
    file.write(1.25, exact=False)
    assert file.read() == 1.25
    written = path.read_text()
    for broken in ('{"spent_usd": ', "[]", written.replace("1.25", "0.25"), written.replace("1.25", "NaN")):
        path.write_text(broken)
        with pytest.raises(UserError, match=r"spending\.json: is damaged: .*; delete it"):
            file.read()


def test_all_waiting_requests_stop_once_the_budget_is_spent_and_nothing_is_in_flight():
    async def work():
        meter = Meter(RateLimits(budget_usd=1.0))
        gates = [Gate(local_meter(meter)) for _ in range(2)]
        await gates[0].enter(Reservation(usd=0.6))
        waiting = [asyncio.create_task(gate.enter(Reservation(usd=0.6))) for gate in gates for _ in range(3)]
        _, late = await asyncio.wait(waiting, timeout=0.4)
        assert len(late) == 6, "money is in flight: no request is let through and none is stopped"
        gates[0].settle(Reservation(usd=0.6), usd=0.5)
        return await asyncio.gather(*waiting, return_exceptions=True)

    ended = asyncio.run(work())
    assert all(isinstance(error, Stopped) for error in ended)
    assert "0.5 USD are spent" in str(ended[0])
    assert "run.budget_usd is 1: raise it" in str(ended[0])


def test_a_gate_asks_once_for_all_waiting_requests():
    asked = []

    async def work():
        meter = Meter(RateLimits(requests_per_minute=60_000))
        answer = local_meter(meter)

        async def ask(holder, report, wants):
            asked.append(len(wants))
            return await answer(holder, report, wants)

        gate = Gate(ask)
        await asyncio.gather(*(gate.enter(Reservation()) for _ in range(300)))

    asyncio.run(work())
    assert sum(asked) >= 300
    assert len(asked) < 10


def test_a_cancelled_request_holds_no_money():
    async def work():
        meter = Meter(RateLimits(budget_usd=1.0))
        gate = Gate(local_meter(meter))
        gate.pause(3600)
        cancelled = asyncio.create_task(gate.enter(Reservation(usd=0.9)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cancelled, 0.2)
        await asyncio.wait_for(Gate(local_meter(Meter(RateLimits()))).enter(Reservation()), 1)
        return meter.ask("another", MeterReport(), [Reservation(usd=0.9)])

    assert asyncio.run(work()).stop is None


def test_waiting_requests_fail_where_the_meter_is_lost():
    async def work():
        async def ask(*_):
            raise ConnectionError("the meter is gone")

        await asyncio.wait_for(Gate(ask).enter(Reservation()), 5)

    with pytest.raises(ConnectionError, match="the meter is gone"):
        asyncio.run(work())


def test_the_driver_sees_the_requests_that_wait_and_the_tries_after_the_first():
    clock = Clock()
    meter = Meter(RateLimits(requests_per_minute=60), clock=clock, silence_s=60)
    grant = meter.ask("a", MeterReport(retries=2), [Reservation()] * 10)
    meter.ask("b", MeterReport(retries=1), [Reservation()] * 3)
    assert 1 <= len(grant.delays) <= 2
    assert (meter.state().waiting, meter.state().retries) == (13 - len(grant.delays), 3)
    clock.now += 30
    meter.ask("b", MeterReport(), [])
    assert meter.state().waiting == 10 - len(grant.delays)
    clock.now += 40
    assert (meter.state().waiting, meter.state().retries) == (0, 3), "actor a is dead"
