"""Work on a chunk in an actor: read it, have the worker work on it, write it. Does not import Ray.

The actor writes the chunk itself, so that a dying driver loses only the chunks in the actors' hands. With
writers as tasks of their own, 31 finished and paid chunks were once seen waiting for one.
"""

import asyncio
import contextlib
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from uniner.errors import UserError
from uniner.runtime.crash_log import POISON, CrashHistory, CrashLog
from uniner.runtime.work_count import ActorReport, Tell, WorkCount, waiting_share
from uniner.storage.manifest import Summary, few_examples, merge
from uniner.storage.stage_folder import Chunk, StageFolder

_TELL_S = 5.0
"""Seconds between two reports of an actor: a thousand actors make 200 a second."""


class Worker(Protocol):
    """Turns a chunk into a chunk with the same key; knows nothing of storage."""

    def __call__(self, chunk: Chunk) -> Awaitable[Chunk]:
        """Work on a chunk."""
        ...


class ChunkActor:
    """Holds a stage's worker: reads a chunk by key, times the work on it and writes the result.

    driver: the id of the driver's run, for the crash log. max_chunk_crashes: crashes on a chunk before its
    rows are tried one by one (see `crash_log`). The worker then has a method `set_aside(chunk, reason)`,
    which returns the output for rows that cannot be worked on. None: crashes are not logged. tell: hears
    every few seconds how far the chunks in work are.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        read: Callable[[str], Chunk],
        folder: StageFolder,
        driver: str = "",
        max_chunk_crashes: int | None = None,
        tell: Tell | None = None,
    ):
        self._worker: Any = make_worker()
        self._read, self._folder = read, folder
        self._driver, self._max_chunk_crashes = driver, max_chunk_crashes
        self._admission = _Admission()
        self._telling = _Telling(tell) if tell else None

    async def __call__(self, key: str) -> Summary:
        """Make the chunk of a key; returns its summary."""
        with self._telling.chunk(key) if self._telling else contextlib.nullcontext():
            return await self._make(key)

    async def _make(self, key: str) -> Summary:
        if self._max_chunk_crashes is None:
            return await self._write(key, self._work(await self._read_rows(key)))
        crash_log = CrashLog(self._folder, key)
        history = await asyncio.to_thread(crash_log.read, self._driver)
        exists = history is not None and await asyncio.to_thread(self._folder.has_chunk, key)
        if exists:
            # The actor died between writing the chunk and reporting it.
            await asyncio.to_thread(crash_log.remove)
            return await asyncio.to_thread(self._folder.read_summary, key)
        history = history or CrashHistory(driver=self._driver)
        if not history.blames_rows:
            await asyncio.to_thread(crash_log.remove)  # the same command with other settings starts afresh
            raise UserError(
                f"{self._folder.url}: the engine crashed on every row tried in chunk {key}, so no single row "
                "is the cause; see the actor's log, and where memory runs out lower max_num_seqs, "
                "max_num_batched_tokens or gpu_memory_utilization"
            )
        chunk = await self._read_rows(key)
        async with self._admission.alone() if history.crashes else self._admission.shared():
            # Logged only once the chunk is admitted: a waiting chunk crashes nobody.
            await asyncio.to_thread(crash_log.write, history)
            if history.crashes >= self._max_chunk_crashes:
                work = self._row_by_row(chunk, history, crash_log)
            else:
                work = self._all_rows(chunk, history)
            summary = await self._write(key, work)
            await asyncio.to_thread(crash_log.remove)
            return summary

    async def _read_rows(self, key: str) -> Chunk:
        return replace(await asyncio.to_thread(self._read, key), key=key)

    async def _work(self, chunk: Chunk) -> Chunk:
        """Have the worker work on rows of a chunk."""
        with self._telling.rows(chunk) if self._telling else contextlib.nullcontext():
            return await self._worker(chunk)

    async def _write(self, key: str, work: Awaitable[Chunk]) -> Summary:
        started = time.monotonic()
        done = replace(await work, key=key, seconds=time.monotonic() - started)
        return await asyncio.to_thread(self._folder.write_chunk, done)

    async def _all_rows(self, chunk: Chunk, history: CrashHistory) -> Chunk:
        """Work on all rows together, except those set aside."""
        if not history.poison:
            return await self._work(chunk)
        bounds = sorted({0, chunk.table.num_rows, *history.poison, *(row + 1 for row in history.poison)})
        return _concatenate(
            [await self._slice(chunk, history, start, end) for start, end in itertools.pairwise(bounds)]
        )

    async def _row_by_row(self, chunk: Chunk, history: CrashHistory, crash_log: CrashLog) -> Chunk:
        """Work on each row alone; log which before."""
        done = {row: await self._slice(chunk, history, row, row + 1) for row in history.poison}
        for row in history.order(chunk.table.num_rows):
            await asyncio.to_thread(crash_log.write, replace(history, row=row))
            done[row] = await self._slice(chunk, history, row, row + 1)
            history = replace(history, survived=True)
        return _concatenate([done[row] for row in sorted(done)])

    async def _slice(self, chunk: Chunk, history: CrashHistory, start: int, end: int) -> Chunk:
        rows = Chunk(chunk.key, chunk.table.slice(start, end - start))
        if start in history.poison:
            return self._worker.set_aside(rows, POISON)
        return await self._work(rows)


def _concatenate(chunks: Sequence[Chunk]) -> Chunk:
    return Chunk(
        chunks[0].key,
        pa.concat_tables(chunk.table for chunk in chunks),
        figures=merge(chunk.figures for chunk in chunks),
        rejects=[reject for chunk in chunks for reject in chunk.rejects],
        examples=few_examples(chunk.examples for chunk in chunks),
    )


class _Admission:
    """Admits chunks that may be worked on together, or one that must be alone."""

    def __init__(self) -> None:
        self._entrance, self._empty, self._inside = asyncio.Lock(), asyncio.Event(), 0
        self._empty.set()

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._entrance:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._entrance:  # held, so that nobody enters meanwhile
            await self._empty.wait()
            yield


class _Telling:
    """Counts how far the chunks in work are, and tells it every few seconds while there are some."""

    def __init__(self, tell: Tell):
        self._tell = tell
        self._actor, self._chunks = uuid.uuid4().hex, dict[str, list[WorkCount]]()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def chunk(self, key: str) -> Iterator[None]:
        """Count a chunk as in work within the block."""
        self._chunks[key] = []
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._tell_until_idle())
        try:
            yield
        finally:
            del self._chunks[key]

    def rows(self, chunk: Chunk) -> contextlib.AbstractContextManager[None]:
        """Count the work on rows of a chunk, or on all of them, within the block."""
        count = WorkCount(chunk.table.num_rows)
        self._chunks[chunk.key].append(count)
        return count.counting()

    async def _tell_until_idle(self) -> None:
        told = True
        while told or self._chunks:
            await asyncio.sleep(_TELL_S)
            rows = {key: sum(count.rows_done() for count in counts) for key, counts in self._chunks.items()}
            await self._tell(self._actor, ActorReport(rows=rows, waiting_share=waiting_share()))
            told = bool(rows)
        self._task = None
