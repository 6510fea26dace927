"""Measure what a very large number of chunks costs the driver.

python -m benchmarks.scheduling many [chunks ...]    by default 10000 100000 1000000
MINUTES=5                                            of work at most for each number, in the environment

Ray, the two actors and the chunk files are real; the work is none, so that all time is the driver's, Ray's
and the disk's. Each number of chunks has a stage of its own that is begun anew, and one that is half done:
its chunks and logs are written beforehand. Both are stopped after some minutes where the work takes longer;
the rate is that of these minutes and says so. It prints for both

    first      seconds from the start of the stage, Ray being up, to the first chunk that it makes
    rate       chunks a second from the first chunk on
    driver     this process's largest resident memory, shared pages included

and for the half-done stage what its resume reads: the list of its files and its logs.
"""

import contextlib
import gc
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import ray

from uniner.runtime import chunk_pipeline, connection
from uniner.storage.chunk_list import ChunkEntry, ChunkList
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.storage.summary_log import SummaryLog

NUMBERS = (10_000, 100_000, 1_000_000)
_IDENTITY = Identity(stage="bench", settings={})
_ROWS = 2
_ACTORS, _IN_FLIGHT = 2, 16
_WRITERS = 2


class _TimeIsUp(Exception):
    """The minutes of a measurement are over."""


class _Clock:
    """Notes when chunks arrive at the driver, as the stage's note for the progress line."""

    def __init__(self, seconds: float):
        self._seconds, self.arrivals, self.first, self.last = seconds, 0, 0.0, 0.0

    def note(self) -> str:
        """Count a chunk. The thread of the progress line calls it too, now and then."""
        if threading.current_thread() is not threading.main_thread():
            return ""
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.arrivals += 1
        if self.last - self.first > self._seconds:
            raise _TimeIsUp
        return ""


class _Nothing:
    """A worker without work."""

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Return the chunk."""
        return Chunk(chunk.key, chunk.table, figures={"tokens": 1.0})


def read(key: str) -> Chunk:
    """Make the chunk of a key."""
    return Chunk(key, pa.table({"text": ["a passage"] * _ROWS, "outcome": ["ok"] * _ROWS}))


def _keys(chunks: int) -> list[str]:
    return [f"{number // 1000:05d}-{number % 1000:07d}" for number in range(chunks)]


def _sources(chunks: int) -> ChunkList:
    return ChunkList.of(ChunkEntry(key=key, rows=_ROWS, bytes=1, digest="0" * 32) for key in _keys(chunks))


def _write_half(url: str, chunks: int) -> None:
    """Write every second chunk and its logs as a driver and its actors do, without waiting for the disk."""
    with multiprocessing.get_context("spawn").Pool(_WRITERS) as pool:
        places = [(url, chunks, writer) for writer in range(_WRITERS)]
        pool.starmap(_write_share, places)


def _write_share(url: str, chunks: int, writer: int) -> None:
    os.fsync = lambda _: None  # type: ignore[assignment]  # of this process alone
    folder = StageFolder(url)
    log = SummaryLog(folder)
    for key in _keys(chunks)[2 * writer :: 2 * _WRITERS]:
        log.add(folder.write_chunk(read(key)))


def _measure(folder: StageFolder, chunks: int, seconds: float, done_before: int) -> Iterator[str]:
    """Run the stage for some seconds at most. Yields the figures in words."""
    sources, clock = _sources(chunks), _Clock(seconds)
    pool = chunk_pipeline.Pool(
        make_worker=_Nothing, actors=_ACTORS, chunks_in_flight=_IN_FLIGHT, note=clock.note
    )
    manifest: Manifest | None = None
    with connection.connected():
        started = time.monotonic()
        with contextlib.suppress(_TimeIsUp):
            manifest = chunk_pipeline.run_stage(folder, _IDENTITY, sources, read=read, pool=pool)
    ended = time.monotonic()
    yield f"first   {clock.first - started:7.1f} s"
    rate = (clock.arrivals - 1) / (clock.last - clock.first)
    yield f"rate    {rate:7.0f} chunks/s over {clock.last - clock.first:,.0f} s, {clock.arrivals:,} chunks"
    if manifest:
        assert manifest.rows == chunks * _ROWS and len(manifest.chunks) == chunks
        seconds = ended - started
        yield f"done    {seconds:7.1f} s in all, {ended - clock.last:.1f} s of them for the manifest"
    else:
        minutes = (chunks - done_before - clock.arrivals) / rate / 60
        yield f"rest    {minutes:7.0f} min at this rate (stopped, extrapolated)"
    yield f"driver  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6:7.0f} MB at most"


def _in_a_process(chunks: int, seconds: float, half_done: bool) -> None:
    """Measure one stage and print the figures. A process of its own, whose memory is that of the stage."""
    with tempfile.TemporaryDirectory(prefix="many-chunks-") as root:
        folder = StageFolder(root) / "stage"
        if half_done:
            started = time.monotonic()
            folder.begin(_IDENTITY)
            _write_half(folder.url, chunks)
            print(
                f"{chunks:,} chunks, half done (written in {time.monotonic() - started:,.0f} s)", flush=True
            )
        else:
            print(f"{chunks:,} chunks, begun anew", flush=True)
        ray.init(
            address="local",
            num_cpus=_ACTORS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        for line in _measure(folder, chunks, seconds, chunks // 2 if half_done else 0):
            print(line, flush=True)
        gc.collect()  # a stage that was stopped ends its executor
        for thread in threading.enumerate():
            if thread.name.startswith("StreamingExecutor"):
                thread.join()
        ray.shutdown()
        if half_done:
            started = time.monotonic()
            rows = sum(summary.rows for summary in folder.summaries())
            took = time.monotonic() - started
            logs = len((folder / "summaries").sizes())
            print(f"reading {took:7.1f} s for the list of files and {logs:,} logs, {rows:,} rows", flush=True)


def measure(numbers: list[int]) -> None:
    """Measure each number of chunks, begun anew and half done."""
    seconds = 60 * float(os.environ.get("MINUTES", "5"))
    for chunks in numbers or NUMBERS:
        for half_done in (False, True):
            process = multiprocessing.get_context("spawn").Process(
                target=_in_a_process, args=(chunks, seconds, half_done)
            )
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(process.exitcode)
