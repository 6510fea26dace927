"""The meter and the gates: rates, pauses and money hold for the whole cluster."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniner.errors import Stopped
from uniner.runtime.rate_limits import Gate, Limits, Meter, Report, Want, local


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def times(meter, clock, wants, holders=3, seconds=None):
    """When each request goes, the holders asking in turn for all they have until everything has gone."""
    waiting = [list(wants[number::holders]) for number in range(holders)]
    gone = []
    while any(waiting) and (seconds is None or clock.now < seconds):
        agains = []
        for number, mine in enumerate(waiting):
            grant = meter.ask(str(number), Report(), mine)
            gone += [(clock.now + delay, want) for delay, want in zip(grant.delays, mine, strict=False)]
            del mine[: len(grant.delays)]
            agains.append(grant.again_s)
        clock.now += min((again for again in agains if again), default=0.1)
    return sorted(gone, key=lambda one: one[0])


@settings(deadline=None)
@given(
    st.integers(1, 6000),
    st.integers(100, 100_000),
    st.lists(st.integers(1, 2000), min_size=1, max_size=60),
    st.integers(1, 8),
)
def test_no_minute_has_more_requests_or_tokens_than_the_limits(requests, tokens, sizes, holders):
    clock = Clock()
    meter = Meter(Limits(requests, tokens), clock=clock)
    gone = times(meter, clock, [Want(size) for size in sizes], holders)
    assert len(gone) == len(sizes)
    for start, first in gone:
        minute = [want.tokens for at, want in gone if start <= at < start + 60]
        assert len(minute) <= max(1, requests)
        # A request goes whole: the minute's last may reach beyond it.
        assert sum(minute) - minute[-1] <= tokens
        assert first.tokens <= 2000


def test_the_limits_are_used():
    clock = Clock()
    gone = times(Meter(Limits(600), clock=clock), clock, [Want()] * 700)
    assert gone[-1][0] == pytest.approx(70, rel=0.1)
    clock = Clock()
    gone = times(Meter(Limits(None, 60_000), clock=clock), clock, [Want(1000)] * 60)
    assert gone[-1][0] == pytest.approx(60, rel=0.1)


def test_tokens_that_were_not_used_are_given_back_and_others_made_up_for():
    for over, seconds in ((-900, 1.0), (0, 10.0), (2000, 30.0)):
        clock = Clock()
        meter = Meter(Limits(None, 6000), clock=clock)
        meter.ask("a", Report(), [Want(1000)])
        meter.ask("a", Report(tokens_over=over), [])
        assert times(meter, clock, [Want(1)])[0][0] == pytest.approx(seconds, rel=0.1)


def test_a_pause_of_one_is_a_pause_of_all():
    clock = Clock()
    meter = Meter(Limits(), clock=clock)
    meter.ask("a", Report(pause_s=5.0), [])
    assert times(meter, clock, [Want()] * 4)[0][0] == pytest.approx(5.0)


@settings(deadline=None)
@given(
    st.floats(0, 3),
    st.lists(st.tuples(st.floats(0.001, 0.5), st.floats(0, 1)), max_size=60),
    st.integers(1, 6),
)
def test_money_under_way_and_spent_is_never_more_than_the_budget(budget, requests, holders):
    """Requests end in any order and take a share of what was held for them."""
    meter = Meter(Limits(budget_usd=budget), clock=Clock())
    held = [[] for _ in range(holders)]
    spent = 0.0
    for number, (usd, share) in enumerate(requests):
        mine = held[number % holders]
        report = Report()
        if len(mine) > 2:
            ended = mine.pop(0)
            spent += ended * share
            report = Report(math.fsum(mine), ended * share)
        else:
            report = Report(math.fsum(mine))
        grant = meter.ask(str(number % holders), report, [Want(usd=usd)])
        mine += [usd] * len(grant.delays)
        under_way = math.fsum(map(math.fsum, held))
        assert spent + under_way <= budget + 1e-9
        assert not (grant.stop and under_way > 1e-6)
        assert grant.delays or grant.again_s


def test_a_dead_actors_money_is_free_again():
    clock = Clock()
    meter = Meter(Limits(budget_usd=1.0), forget_s=30.0, clock=clock)
    assert meter.ask("dead", Report(), [Want(usd=0.9)]).delays
    refused = meter.ask("alive", Report(), [Want(usd=0.5)])
    assert (refused.delays, refused.stop) == ([], None)
    clock.now = 31.0
    assert meter.ask("alive", Report(), [Want(usd=0.5)]).delays == [0.0]


def test_gates_stop_all_who_wait_once_the_budget_is_spent_and_nothing_is_under_way():
    async def work():
        meter = Meter(Limits(budget_usd=1.0))
        gates = [Gate(local(meter)) for _ in range(2)]
        await gates[0].enter(Want(usd=0.6))
        waiting = [asyncio.create_task(gate.enter(Want(usd=0.6))) for gate in gates for _ in range(3)]
        _, late = await asyncio.wait(waiting, timeout=0.4)
        assert len(late) == 6, "money is under way: nobody is let in and nobody is stopped"
        gates[0].leave(Want(usd=0.6), usd=0.5)
        return await asyncio.gather(*waiting, return_exceptions=True)

    ended = asyncio.run(work())
    assert all(isinstance(error, Stopped) for error in ended)
    assert "0.5 USD are spent" in str(ended[0])
    assert "annotate.budget_usd is 1: raise it" in str(ended[0])


def test_a_gate_asks_once_for_all_who_wait():
    asked = []

    async def work():
        meter = Meter(Limits(requests_per_minute=60_000))
        answer = local(meter)

        async def ask(holder, report, wants):
            asked.append(len(wants))
            return await answer(holder, report, wants)

        gate = Gate(ask)
        await asyncio.gather(*(gate.enter(Want()) for _ in range(300)))

    asyncio.run(work())
    assert sum(asked) >= 300
    assert len(asked) < 10


def test_who_gives_up_waiting_holds_nothing():
    async def work():
        meter = Meter(Limits(budget_usd=1.0))
        gate = Gate(local(meter))
        gate.cool(3600)
        given_up = asyncio.create_task(gate.enter(Want(usd=0.9)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(given_up, 0.2)
        await asyncio.wait_for(Gate(local(Meter(Limits()))).enter(Want()), 1)
        return meter.ask("another", Report(), [Want(usd=0.9)])

    assert asyncio.run(work()).stop is None


def test_where_the_meter_is_lost_those_who_wait_hear_of_it():
    async def work():
        async def ask(*_):
            raise ConnectionError("the meter is gone")

        await asyncio.wait_for(Gate(ask).enter(Want()), 5)

    with pytest.raises(ConnectionError, match="the meter is gone"):
        asyncio.run(work())
