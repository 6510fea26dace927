"""The meter and the gates: rates, pauses and the budget hold for the whole cluster."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniner.errors import Stopped
from uniner.runtime.gate import Gate
from uniner.runtime.rate_limits import Meter, MeterReport, RateLimits, Reservation, local_meter


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
            report = MeterReport(held_usd=math.fsum(mine), spent_usd=ended * share)
        else:
            report = MeterReport(held_usd=math.fsum(mine))
        grant = meter.ask(str(number % holders), report, [Reservation(usd=usd)])
        mine += [usd] * len(grant.delays)
        in_flight = math.fsum(map(math.fsum, held))
        assert spent + in_flight <= budget + 1e-9
        assert not (grant.stop and in_flight > 1e-6)
        assert grant.delays or grant.retry_s


def test_a_dead_actors_money_is_free_again():
    clock = Clock()
    meter = Meter(RateLimits(budget_usd=1.0), forget_s=30.0, clock=clock)
    assert meter.ask("dead", MeterReport(), [Reservation(usd=0.9)]).delays
    refused = meter.ask("alive", MeterReport(), [Reservation(usd=0.5)])
    assert (refused.delays, refused.stop) == ([], None)
    clock.now = 31.0
    assert meter.ask("alive", MeterReport(), [Reservation(usd=0.5)]).delays == [0.0]


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
