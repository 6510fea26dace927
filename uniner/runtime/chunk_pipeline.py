"""Run a stage over its chunks on Ray Data: resume, progress, sums.

A dataset row is an item: the key of a chunk to make, or for ingest a part of a shard. A task makes and writes
an item's chunks; in stages with actors, an actor reads its own chunk by key, works on it and writes it. Each
chunk is one atomic put, its summary goes to the driver, and a chunk that exists is never made again.

A million chunks fit: items reach Ray Data in windows (`windows`), and the driver folds summaries as they
arrive and logs them (`summary_log`).
"""

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray
import ray.data

from uniner.errors import UserError
from uniner.progress import Progress, StageCost, figures_in_words
from uniner.records import FAILED
from uniner.runtime.chunk_actor import ChunkActor, Worker
from uniner.runtime.connection import plain_error
from uniner.runtime.crash_log import remove_crash_logs
from uniner.runtime.gpu import require_gpu
from uniner.runtime.metrics import StageMetrics
from uniner.runtime.placement import Request, placed
from uniner.runtime.progress_board import StageBoard
from uniner.runtime.windows import Items
from uniner.runtime.work_count import Tell
from uniner.storage.chunk_list import ChunkList
from uniner.storage.manifest import ChunkEntry, Counts, Identity, Manifest, StageTotals, Summary, differences
from uniner.storage.stage_folder import MANIFEST, Chunk, StageFolder
from uniner.storage.summary_log import SummaryLog

log = logging.getLogger(__name__)

RETRYING = ("generate", "annotate", "describe", "evaluate")
"""The stages with the option --retry-failed."""
_TASK = Request(cpus=1)
_ADVICE = (
    "lower cpus or gpus in the section of the engine or teacher, such as engine.cpus=4 or engine.gpus=0 (to "
    "run it on CPUs), or give the cluster a node type with room"
)
ReadChunk = Callable[[str], Chunk]
"""Makes or reads the chunk of a key."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """An actor pool.

    make_worker: makes an actor's worker. actors: most at once; min_actors: least, as far as there are chunks.
    cpus, gpus: of each actor. chunks_in_flight: chunks an actor works on at once. max_chunk_crashes: crashes
    of actors on a chunk before its rows are tried one by one; None: crashes are not logged. runtime_env: the
    actors' own, as Ray takes it. note: returns a note for the progress line. totals: returns the stage's
    figures from the sums of its chunks' figures.
    """

    make_worker: Callable[[], Worker]
    actors: int = 1
    min_actors: int = 1
    cpus: float = 1
    gpus: float = 0
    chunks_in_flight: int = 2
    max_chunk_crashes: int | None = None
    runtime_env: dict[str, Any] | None = None
    note: Callable[[], str] | None = None
    totals: Callable[[Counts], Counts] | None = None


def run_stage(
    folder: StageFolder,
    identity: Identity,
    sources: Sequence[ChunkEntry],
    *,
    read: ReadChunk,
    pool: Pool | None = None,
    unit: str = "passages",
    max_bad_share: float = 1.0,
    results: Callable[[StageTotals], Mapping[str, Any]] | None = None,
    name: str | None = None,
) -> Manifest:
    """Make a chunk of each source that has none yet, then write the manifest. Returns the manifest.

    sources: the chunks to make, by key, with the rows and bytes of their input. read: makes a source's chunk;
    with a pool it reads the input, on which the pool's worker works. results: called with the sums once all
    chunks exist; its values go into the manifest. name: of the work, for the log; by default the folder's.
    """
    started = time.monotonic()
    name = name or folder.name
    begun = folder.read_identity()
    if begun is None or differences(begun, identity):
        remove_crash_logs(folder)  # crashes under other settings say nothing about these
    manifest = folder.begin(identity)
    if manifest:
        return log_complete(name, manifest, unit, folder)
    totals = _make_missing(folder, ChunkList.of(sources), read, pool, name, unit)
    if pool and pool.max_chunk_crashes:
        remove_crash_logs(folder)
    require_few_bad(name, totals.outcomes, max_bad_share, folder)
    more = results(totals) if results else None
    manifest = Manifest.of(identity, totals, time.monotonic() - started, results=more)
    if pool and pool.totals:
        manifest = replace(manifest, figures=pool.totals(manifest.figures))
    return log_done(name, folder.write_manifest(manifest), unit, folder)


def _make_missing(
    folder: StageFolder, sources: ChunkList, read: ReadChunk, pool: Pool | None, name: str, unit: str
) -> StageTotals:
    """Make the sources' missing chunks, with a progress line. Returns the sums over all chunks.

    A chunk of an earlier driver that has failed rows is made anew: the reason may have passed. Those of a
    stage that was complete before its input grew are not.
    """
    complete_before, rows_wanted = _complete_before(folder), sources.total_rows
    totals, summary_log = StageTotals(), SummaryLog(folder)
    metrics = StageMetrics.of(folder, name)
    cost = StageCost(rows_wanted, pool.gpus / pool.chunks_in_flight if pool else 0)
    board = StageBoard(metrics) if pool else None
    with (
        contextlib.closing(board) if board else contextlib.nullcontext(),
        Progress(
            name, rows_wanted, unit, more=pool.note if pool else None, in_work=board.rows if board else None
        ) as progress,
    ):
        for summary in folder.summaries(sources, relog=summary_log):
            if not summary.outcomes.get(FAILED) or summary.key in complete_before:
                totals.add(summary)
                cost.add(summary.rows, summary.seconds, summary.figures, earlier=True)
        progress.skip(totals.rows)
        metrics.progress(totals.rows, rows_wanted)
        # The largest first, so that the end, when actors run out of work one by one, is short.
        keys = sources.without(totals.chunks()).largest_first().keys.to_pylist()
        if pool and board:
            made = work_on_chunks(folder, keys, read, pool, board.tell, name)
        else:
            made = make_chunks(folder, keys, _single(read))
        for summary in made:
            if board:
                board.finished(summary.key)
            totals.add(summary)
            summary_log.add(summary)
            metrics.finished(summary)
            metrics.progress(totals.rows, rows_wanted)
            cost.add(summary.rows, summary.seconds, summary.figures)
            progress.add(summary.rows, note=cost.note())
    if missing := sources.without(totals.chunks()):
        raise RuntimeError(
            f"{folder.url}: Ray ended without {len(missing):,} chunks, such as {missing[0].key}"
        )
    return totals


def _single(read: ReadChunk) -> Callable[[str], Iterable[Chunk]]:
    def make(key: str) -> Iterator[Chunk]:
        yield read(key)

    return make


def reopen_failed(folder: StageFolder, identity: Identity) -> None:
    """Make a complete stage with failed rows incomplete, so that it asks about them again."""
    folder.begin(identity)
    manifest = folder.manifest()
    failed = manifest.outcomes.get(FAILED, 0) if manifest else 0
    if failed:
        log.info(f"{folder.name}: asks again about {failed:,} failed rows")
        folder.remove([MANIFEST])


def chunks_with_failures(folder: StageFolder) -> set[str]:
    """Return the keys of chunks with failed rows."""
    return {summary.key for summary in folder.summaries() if summary.outcomes.get(FAILED)}


def chunks_to_make_anew(folder: StageFolder) -> set[str]:
    """Return the keys of chunks with failed rows that the stage, not complete, makes anew.

    Where its input has grown, the chunks that were complete before stay.
    """
    return chunks_with_failures(folder) - _complete_before(folder)


def _complete_before(folder: StageFolder) -> set[str]:
    """Return the chunks of the manifest that a stage had before its input grew."""
    manifest = folder.manifest()
    return set(manifest.chunks.keys.to_pylist()) if manifest else set()


def log_complete(name: str, manifest: Manifest, unit: str, folder: StageFolder) -> Manifest:
    """Log that a stage is already complete. Returns the manifest."""
    more = _failures(name, manifest)
    log.info(f"{name}: already done, {manifest.rows:,} {unit}{more}; output in {folder.url}")
    return manifest


def log_done(name: str, manifest: Manifest, unit: str, folder: StageFolder) -> Manifest:
    """Log what a stage made, what it cost, and where it is. Returns the manifest."""
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in manifest.outcomes.items())
    listed = f" ({outcomes})" if outcomes else ""
    made = f"{manifest.rows:,} {unit}{listed} in {manifest.seconds:,.0f} s"
    parts = "; ".join([made, *figures_in_words(manifest.figures)])
    log.info(f"{name}: {parts}{_failures(name, manifest)}; output in {folder.url}")
    return manifest


def _failures(name: str, manifest: Manifest) -> str:
    failed = manifest.outcomes.get(FAILED, 0)
    stage = name.split(" ", 1)[0]  # evaluate's systems are named after it
    if not failed or stage not in RETRYING:
        return ""
    return (
        f"; {failed:,} failed for a reason that may pass, and uniner {stage} CONFIG --retry-failed asks again"
    )


def require_few_bad(name: str, outcomes: Mapping[str, int], limit: float, folder: StageFolder) -> None:
    """Fail the stage where more than `limit` of its rows have an outcome other than ok.

    The chunks stay: with a higher limit the same command only writes the manifest.
    """
    total = sum(outcomes.values())
    bad = total - outcomes.get("ok", 0)
    if total and bad / total > limit:
        counts = sorted(outcomes.items())
        listed = ", ".join(f"{count:,} {outcome}" for outcome, count in counts if outcome != "ok")
        raise UserError(
            f"{name}: {bad / total:.1%} of {total:,} rows are bad ({listed}), the limit is {limit:.1%}; look "
            f"at the column outcome in {folder.url}, or raise max_bad_share"
        )


def make_chunks(
    folder: StageFolder, items: Sequence[Any], make: Callable[[Any], Iterable[Chunk]]
) -> Iterator[Summary]:
    """Make and write the chunks of items (JSON values), at least one each, in tasks; yield their summaries.

    Raises:
        UserError, Stopped: the first that a task raised.
    """

    def make_and_write(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for chunk in make(json.loads(row["item"])):
            yield _summary_row(folder.write_chunk(chunk))

    if items:
        given = Items(items)
        dataset = _dataset(given, _TASK).flat_map(make_and_write, num_cpus=_TASK.cpus)
        for row in _rows(folder.name, _TASK, given, dataset):
            yield Summary(**json.loads(row["summary"]))


def work_on_chunks(
    folder: StageFolder,
    keys: Sequence[str],
    read: ReadChunk,
    pool: Pool,
    tell: Tell | None = None,
    name: str | None = None,
) -> Iterator[Summary]:
    """Read, work on and write the chunks of keys in an actor pool; yield each chunk's summary.

    tell: hears from the actors how far the chunks in work are. name: of the work, for the log; by default the
    folder's.

    Raises:
        UserError, Stopped: the first that an actor raised.
    """
    if not keys:
        return
    actors, request, items = min(pool.actors, len(keys)), Request(pool.cpus, pool.gpus), Items(keys)
    dataset = _dataset(items, request).map(
        _RayChunkActor,
        fn_constructor_kwargs={
            "make_worker": pool.make_worker,
            "read": read,
            "folder": folder,
            "driver": uuid.uuid4().hex,
            "max_chunk_crashes": pool.max_chunk_crashes,
            "tell": tell,
            "on_gpu": pool.gpus > 0,
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
    for row in _rows(name or folder.name, request, items, dataset):
        yield Summary(**json.loads(row["summary"]))


def gather(items: Sequence[Any], function: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield a function's result for each item, both JSON values, in any order.

    Raises:
        UserError, Stopped: the first that a task raised.
    """

    def apply(row: dict[str, Any]) -> dict[str, Any]:
        return {"result": json.dumps(function(json.loads(row["item"])))}

    if items:
        given = Items(items)
        dataset = _dataset(given, _TASK).map(apply, num_cpus=_TASK.cpus)
        for row in _rows("Ray", _TASK, given, dataset):
            yield json.loads(row["result"])


class _RayChunkActor:
    """The chunk actor as Ray Data calls it: a row with a key in, a row with a summary out."""

    def __init__(self, on_gpu: bool, **arguments: Any):
        if on_gpu:
            require_gpu()
        self._actor = ChunkActor(**arguments)

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return _summary_row(await self._actor(json.loads(row["item"])))


def _summary_row(summary: Summary) -> dict[str, Any]:
    return {"summary": json.dumps(asdict(summary))}


def _dataset(items: Items, request: Request) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.execution_options.label_selector = request.selector() or None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None  # else each chunk has a thread that looks at its memory
    context.target_max_block_size = 1  # each row is a block of its own and moves on as soon as it is made
    context._max_num_blocks_in_streaming_gen_buffer = 128  # by default a window gives 2 items every 0.1 s
    context.raise_original_map_exception = True  # a UserError reaches the driver as one
    context.execution_no_progress_timeout_s = 7200  # a cluster may wait that long for its GPUs
    return items.dataset()


def _rows(name: str, request: Request, items: Items, dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    try:
        with items, placed(name, request, advice=_ADVICE) as waiting:
            for row in _pulled(dataset):
                waiting.moved()
                items.done()
                yield row
    except Exception as error:
        raise plain_error(error) from None


def _pulled(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Yield a dataset's rows as they are made.

    Each is a block of its own. `iter_rows` would fetch and batch blocks in threads, at the driver's cost.
    """
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.blocks:
            yield from ray.get(block.ref).to_pylist()
