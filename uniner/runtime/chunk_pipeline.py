"""Run a stage's work over chunks on Ray Data: resume, progress, counts.

Every stage is the same pipeline: items (what to read: a parent's chunk, a shard) -> read (CPU tasks, an item
to one or more chunks) -> work (the stage's actor pool, asynchronous; optional) -> write (one atomic put a
chunk, by whoever made it) -> summaries to the driver. A dataset row is a whole chunk, its table as Arrow IPC
bytes, so that no chunk is split or mixed and Arrow infers nothing. Chunks that stand are never done again.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data

from uniner.errors import Stopped, UserError
from uniner.progress import Progress, StageCost, say
from uniner.runtime.chunk_actor import Actor, Worker
from uniner.runtime.connection import exception_in, user_error_in
from uniner.runtime.crash_log import forget_tries
from uniner.storage.filesystem import explained
from uniner.storage.stage_folder import PLAN, Chunk, Folder, Summary, merge

Read = Callable[[Any], Iterable[Chunk]]


@dataclass(frozen=True)
class Pool:
    """An actor pool: how to make a worker, how many at most, what each needs, chunks each has in hand.

    poison_tries: deaths of an actor with a chunk in hand until its rows are tried one by one; None: never.
    least: how many at least, as far as there are chunks.
    runtime_env: the actors' environment as Ray takes it, where it is not the job's.
    """

    make: Callable[[], Worker]
    actors: int = 1
    cpus: float = 1
    gpus: float = 0
    chunks_in_flight: int = 2
    poison_tries: int | None = None
    least: int = 1
    runtime_env: dict[str, Any] | None = None


def chunks_of(parent: Folder) -> dict[str, int]:
    """Return the keys and rows of a finished parent's chunks."""
    return {chunk["key"]: chunk["rows"] for chunk in parent.require_manifest()["chunks"]}


def run_stage(
    name: str,
    folder: Folder,
    plan: dict[str, Any],
    parent: Folder | None,
    *,
    read: Read | None = None,
    pool: Pool | None = None,
    unit: str = "passages",
    max_bad_share: float = 1.0,
    others: Mapping[str, int] | None = None,
    close: Callable[[Sequence[Summary]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Run a stage whose chunks are its parent's, one for one, and write its manifest. Returns the manifest.

    `read` makes a chunk of its parent's key (by default it is the parent's chunk), `pool` works on it.
    others: keys and rows of chunks that `read` makes of something else. close: called once all chunks stand;
    what it returns goes into the manifest too.
    """
    started = time.monotonic()
    if folder.begin(plan):
        return already_done(name, folder, unit)
    if read is None:
        assert parent, "chunks that have no parent must be read from elsewhere"
        read = read_chunk_of(parent)
    listed = parent.require_manifest()["chunks"] if parent else []
    chunks = {chunk["key"]: chunk["rows"] for chunk in listed} | dict(others or {})
    standing = folder.chunk_keys() & chunks.keys()
    summaries = folder.read_summaries(standing)
    # The largest first: what is left for the end, when actors run out of work one by one, is short.
    sizes = chunks if others else {chunk["key"]: chunk["bytes"] for chunk in listed}
    todo = sorted(chunks.keys() - standing, key=lambda key: (-sizes[key], key))
    cost = StageCost(sum(chunks.values()), pool.gpus / pool.chunks_in_flight if pool else 0)
    with Progress(name, sum(chunks.values()), unit) as progress:
        for summary in summaries:
            cost.add(summary.rows, summary.seconds, summary.figures, earlier=True)
        progress.skip(sum(summary.rows for summary in summaries))
        for summary in stream(folder, todo, read, pool):
            summaries.append(summary)
            cost.add(summary.rows, summary.seconds, summary.figures)
            progress.add(summary.rows, note=cost.note())
    if pool and pool.poison_tries:
        forget_tries(folder)
    require_good(name, summaries, max_bad_share, folder)
    more = close(summaries) if close else {}
    manifest = folder.finish(plan, summaries, seconds=_seconds(started), **more)
    return say_done(name, manifest, unit)


def check_plan(folder: Folder, plan: dict[str, Any]) -> None:
    """Compare a stage's plan with the one it was begun with, if it was; parents that come to be are left out.

    Raises:
        UserError: naming the settings that differ.
    """
    with explained(folder.url):
        standing = folder.read_json(PLAN)
    if standing is not None:
        folder.require_same({**standing, "parents": None}, {**plan, "parents": None})


def already_done(name: str, folder: Folder, unit: str) -> dict[str, Any]:
    """Say that there is nothing to do. Returns the manifest."""
    manifest = folder.require_manifest()
    say(f"{name}: already done, {manifest['rows']:,} {unit}")
    return manifest


def say_done(name: str, manifest: dict[str, Any], unit: str) -> dict[str, Any]:
    """Say what a stage made. Returns the manifest."""
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in manifest["outcomes"].items())
    listed = f" ({outcomes})" if outcomes else ""
    say(f"{name}: {manifest['rows']:,} {unit}{listed} in {manifest['seconds']:,.0f} s")
    return manifest


def require_good(name: str, summaries: Sequence[Summary], limit: float, folder: Folder) -> None:
    """Fail the stage where more than `limit` of its rows have an outcome other than ok.

    The chunks stay: with a higher limit the same command only writes the manifest.
    """
    outcomes = merge(summary.outcomes for summary in summaries)
    total, bad = sum(outcomes.values()), sum(outcomes.values()) - outcomes.get("ok", 0)
    if total and bad / total > limit:
        listed = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items() if outcome != "ok")
        raise UserError(
            f"{name}: {bad / total:.1%} of {total:,} rows are bad ({listed}), the limit is {limit:.1%}; "
            f"look at the outcomes in {folder.url}, or raise max_bad_share"
        )


def stream(folder: Folder, items: Sequence[Any], read: Read, pool: Pool | None = None) -> Iterator[Summary]:
    """Read, work on and write the chunks of `items`; yield each chunk's summary once it stands.

    Raises:
        UserError, Stopped: the first that a task or an actor raised.
    """
    if not items:
        return
    if pool:
        actors = min(pool.actors, len(items))
        # A chunk is read in well under a second and worked on for a minute: a reader feeds many actors, and
        # each is a process. What they reserve differs from the actors', else Ray Data would fuse the two.
        dataset = _items(items).flat_map(
            _Reader(read), num_cpus=0.5, concurrency=min(len(items), max(2, actors // 4))
        )
        dataset = dataset.map(
            _Actor,
            fn_constructor_kwargs={
                "make": pool.make,
                "folder": folder,
                "driver": uuid.uuid4().hex,
                "poison_tries": pool.poison_tries,
            },
            compute=ray.data.ActorPoolStrategy(
                min_size=min(pool.least, actors),
                max_size=actors,
                max_tasks_in_flight_per_actor=pool.chunks_in_flight * 2,
                max_concurrent_calls_per_actor=pool.chunks_in_flight,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            **({"runtime_env": pool.runtime_env} if pool.runtime_env else {}),
        )
    else:
        dataset = _items(items).flat_map(_ReaderAndWriter(read, folder), num_cpus=1)
    for row in _rows(dataset):
        yield Summary(**json.loads(row["summary"]))


def gather(items: Sequence[Any], function: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield what a function makes of each item, both plain JSON values, in any order.

    Raises:
        UserError: the first that a task raised.
    """

    def apply(row: dict[str, Any]) -> dict[str, Any]:
        return {"result": json.dumps(function(json.loads(row["item"])))}

    if items:
        for row in _rows(_items(items).map(apply, num_cpus=1)):
            yield json.loads(row["result"])


def _items(items: Sequence[Any]) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # every chunk is a block of its own: it moves on as soon as it is made
    context.raise_original_map_exception = True  # a UserError stays one on its way to the driver
    context.execution_no_progress_timeout_s = 7200  # a cluster may wait that long for its GPUs
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised; jobs print one line of them
    rows = [{"item": json.dumps(item)} for item in items]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    try:
        yield from dataset.iter_rows()
    except Exception as error:
        raise exception_in(error, Stopped) or user_error_in(error) or error from None


def read_chunk_of(parent: Folder) -> Read:
    """Return what reads a parent's chunk by its key."""

    def read(key: str) -> Iterator[Chunk]:
        yield Chunk(key, parent.read_chunk(key))

    return read


class _Reader:
    """Reads an item's chunks; a generator, so that chunks move on while a long item is still being read."""

    def __init__(self, read: Read):
        self._read = read

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for chunk in self._read(json.loads(row["item"])):
            yield _to_row(chunk)


class _ReaderAndWriter:
    """Reads an item's chunks and writes each as it comes."""

    def __init__(self, read: Read, folder: Folder):
        self._read, self._folder = read, folder

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for chunk in self._read(json.loads(row["item"])):
            yield _told(self._folder.write_chunk(chunk))


class _Actor:
    """The actor as Ray Data calls it: a row in, the summary of the chunk that it wrote out."""

    def __init__(self, make: Callable[[], Worker], folder: Folder, driver: str, poison_tries: int | None):
        self._actor = Actor(make, folder, driver, poison_tries)

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return _told(await self._actor(_from_row(row)))


def _told(summary: Summary) -> dict[str, Any]:
    return {"summary": json.dumps(asdict(summary))}


def _to_row(chunk: Chunk) -> dict[str, Any]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, chunk.table.schema) as writer:
        writer.write_table(chunk.table)
    about = {name: getattr(chunk, name) for name in ("seconds", "figures", "position", "rejects")}
    return {"key": chunk.key, "table": sink.getvalue().to_pybytes(), "about": json.dumps(about)}


def _from_row(row: dict[str, Any]) -> Chunk:
    return Chunk(row["key"], pa.ipc.open_stream(row["table"]).read_all(), **json.loads(row["about"]))


def _seconds(started: float) -> float:
    return round(time.monotonic() - started, 1)
