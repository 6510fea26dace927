"""Run a stage over its chunks on Ray Data: resume, progress, sums.

A dataset row is an item: the key of a chunk to make, or for ingest a part of a shard. A task makes and writes
an item's chunks; in stages with actors, an actor reads its own chunk by key, works on it and writes it. Each
chunk is one atomic put, its summary goes to the driver, and a chunk that exists is never made again.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray.data

from uniner.errors import UserError
    made = f"{manifest.rows:,} {unit}{listed} in {manifest.seconds:,.0f} s"
    said = "; ".join([made, *figures_in_words(manifest.figures)])
    log.info(f"{name}: {said}{_failures(name, manifest)}; output in {folder.url}")
    return manifest


def _failures(name: str, manifest: Manifest) -> str:
    failed = manifest.outcomes.get(FAILED, 0)
    if not failed or name not in RETRYING:
        return ""
    return (
        f"; {failed:,} failed for a reason that may pass, and uniner {name} CONFIG --retry-failed asks again"
    )


def require_few_bad(name: str, summaries: Sequence[Summary], limit: float, folder: StageFolder) -> None:
    """Fail the stage where more than `limit` of its rows have an outcome other than ok.

    The chunks stay: with a higher limit the same command only writes the manifest.
    """
    outcomes = merge(summary.outcomes for summary in summaries)
    total = sum(outcomes.values())
    bad = total - outcomes.get("ok", 0)
    if total and bad / total > limit:
        listed = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items() if outcome != "ok")
        raise UserError(
            f"{name}: {bad / total:.1%} of {total:,} rows are bad ({listed}), the limit is {limit:.1%}; look "
            f"at the column outcome in {folder.url}, or raise max_bad_share"
        )


def make_chunks(
    folder: StageFolder, items: Sequence[Any], make: Callable[[Any], Iterable[Chunk]]
) -> Iterator[Summary]:
    """Make and write the chunks of items (JSON values) in tasks; yield each chunk's summary.

    Raises:
        UserError, Stopped: the first that a task raised.
    """

    def make_and_write(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for chunk in make(json.loads(row["item"])):
            yield _summary_row(folder.write_chunk(chunk))

    if items:
        for row in _rows(_dataset(items).flat_map(make_and_write, num_cpus=1)):
            yield Summary(**json.loads(row["summary"]))


def work_on_chunks(
    folder: StageFolder, keys: Sequence[str], read: ReadChunk, pool: Pool
) -> Iterator[Summary]:
    """Read, work on and write the chunks of keys in an actor pool; yield each chunk's summary.

    Raises:
        UserError, Stopped: the first that an actor raised.
    """
    if not keys:
        return
    actors = min(pool.actors, len(keys))
    dataset = _dataset(keys).map(
        _RayChunkActor,
        fn_constructor_kwargs={
            "make_worker": pool.make_worker,
            "read": read,
            "folder": folder,
            "driver": uuid.uuid4().hex,
            "max_chunk_crashes": pool.max_chunk_crashes,
        },
        compute=ray.data.ActorPoolStrategy(
            min_size=min(pool.min_actors, actors),
            max_size=actors,
            max_tasks_in_flight_per_actor=pool.chunks_in_flight * 2,
            max_concurrent_calls_per_actor=pool.chunks_in_flight,
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        **({"runtime_env": pool.runtime_env} if pool.runtime_env else {}),
    )
    for row in _rows(dataset):
        yield Summary(**json.loads(row["summary"]))


def gather(items: Sequence[Any], function: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield a function's result for each item, both JSON values, in any order.

    Raises:
        UserError, Stopped: the first that a task raised.
    """

    def apply(row: dict[str, Any]) -> dict[str, Any]:
        return {"result": json.dumps(function(json.loads(row["item"])))}

    if items:
        for row in _rows(_dataset(items).map(apply, num_cpus=1)):
            yield json.loads(row["result"])


class _RayChunkActor:
    """The chunk actor as Ray Data calls it: a row with a key in, a row with a summary out."""

    def __init__(self, **arguments: Any):
        self._actor = ChunkActor(**arguments)

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return _summary_row(await self._actor(json.loads(row["item"])))


def _summary_row(summary: Summary) -> dict[str, Any]:
    return {"summary": json.dumps(asdict(summary))}


def _dataset(items: Sequence[Any]) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # each row is a block of its own and moves on as soon as it is made
    context.raise_original_map_exception = True  # a UserError reaches the driver as one
    context.execution_no_progress_timeout_s = 7200  # a cluster may wait that long for its GPUs
    rows = [{"item": json.dumps(item)} for item in items]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    try:
        yield from dataset.iter_rows()
    except Exception as error:
        raise plain_error(error) from None
