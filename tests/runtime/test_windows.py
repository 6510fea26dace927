"""Items are handed out no faster than they are done."""

import asyncio

import pytest

from uniner.runtime import windows


class LocalCounter:
    """Calls a counter as if it were an actor; what it waits for is seen."""

    def __init__(self, counter):
        self.counter, self.places = counter, []
        self.wait_for_turn = self

    def remote(self, place):
        self.places.append(place)


def test_an_item_waits_until_enough_before_it_are_done():
    async def scenario():
        counter = windows._Counter(ahead=1_000)
        await counter.wait_for_turn(999)
        waiting = asyncio.ensure_future(counter.wait_for_turn(1_100))
        for _ in range(10):
            await counter.add(10)
            await asyncio.sleep(0)
            assert not waiting.done()
        await counter.add(1)
        await asyncio.wait_for(waiting, 1)

    asyncio.run(scenario())


def test_the_items_of_a_window_are_yielded_in_order_each_after_its_turn(monkeypatch):
    monkeypatch.setattr(windows.ray, "get", lambda reference: None)
    counter = LocalCounter(None)
    row = {"items": windows.json.dumps(list(range(1_000, 1_250))), "start": 1_000}
    opened = windows._open_window(row, counter)
    assert next(opened) == {"item": "1000"} and counter.places == [1_000]
    assert [windows.json.loads(each["item"]) for each in opened] == list(range(1_001, 1_250))
    assert counter.places == [1_000, 1_100, 1_200]


def test_more_items_may_wait_than_are_counted_at_once():
    """Otherwise the last items before a word to the counter would wait for themselves."""
    assert windows.AHEAD > 2 * windows._STEP and windows.WINDOW % windows._STEP == 0


@pytest.mark.parametrize("items", [250, windows.WINDOW])
def test_done_items_are_told_by_the_hundred(items):
    told = []
    given = windows.Items(list(range(items)))
    given._counter = type("Counter", (), {"add": type("Add", (), {"remote": staticmethod(told.append)})})
    for _ in range(items):
        given.done()
    assert told == [100] * (items // 100)
