"""Hand very many items to Ray Data: in windows, which are opened no faster than the work goes on.

A row costs the driver a millisecond and 4 kB before the first one is worked on, so a row is a window of 1,000
items, and a task opens it: an item a row. Ray Data holds that task back only by the bytes of its rows, which
are next to nothing, so it would open all windows within the hour. Therefore it waits for the items that are
done.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

WINDOW = 1_000
AHEAD = 10_000
"""Items that wait for work at most, 4 kB of the driver each: more than a thousand actors have in hand."""
_STEP = 100
"""Items between two words with the counter."""


class _Counter:
    """The number of items done, as a Ray actor."""

    def __init__(self, ahead: int):
        self._ahead, self._done, self._changed = ahead, 0, asyncio.Condition()

    async def add(self, items: int) -> None:
        """Count items as done."""
        async with self._changed:
            self._done += items
            self._changed.notify_all()

    async def wait_for_turn(self, place: int) -> None:
        """Wait until an item, by its place among all, is not too far ahead."""
        async with self._changed:
            await self._changed.wait_for(lambda: place < self._done + self._ahead)


class Items:
    """JSON values as the rows `item` of a dataset. A context manager: within it, the dataset is worked on."""

    def __init__(self, items: Sequence[Any]):
        self._items, self._done, self._counter = items, 0, None

    def dataset(self) -> ray.data.Dataset:
        """Return the dataset, an item a row."""
        items = self._items
        if len(items) <= WINDOW:
            return _of_rows([{"item": json.dumps(item)} for item in items])
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(_Counter)
        self._counter = actor.remote(AHEAD)
        windows = [
            {"items": json.dumps(items[start : start + WINDOW]), "start": start}
            for start in range(0, len(items), WINDOW)
        ]
        # Without a CPU of its own it neither takes one from the work nor is fused with it: Ray fuses what
        # asks for the same.
        return _of_rows(windows).flat_map(
            _open_window, fn_kwargs={"counter": self._counter}, num_cpus=0, concurrency=1
        )

    def done(self) -> None:
        """Count an item as done; each gives at least one row."""
        self._done += 1
        if self._counter is not None and self._done % _STEP == 0:
            self._counter.add.remote(_STEP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._counter is not None:
            ray.kill(self._counter)


def _of_rows(rows: list[dict[str, Any]]) -> ray.data.Dataset:
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _open_window(row: dict[str, Any], counter: Any) -> Iterator[dict[str, Any]]:
    """Yield a window's items. If its process dies, Ray opens the window again and passes over what it had."""
    for place, item in enumerate(json.loads(row["items"]), row["start"]):
        if place % _STEP == 0:
            ray.get(counter.wait_for_turn.remote(place))
        yield {"item": json.dumps(item)}
