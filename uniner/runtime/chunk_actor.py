"""What an actor does with a chunk: have its worker work on it and write what comes of it. No Ray.

It writes itself, so that a driver that dies loses no more than the chunks in an actor's hands: through tasks
of their own, 31 finished chunks were seen to wait for a writer, all paid for.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from uniner.errors import UserError
from uniner.runtime.crash_log import POISON, Record, Tries
from uniner.storage.stage_folder import Chunk, Folder, Summary, merge


class Worker(Protocol):
    """What an actor holds: turns a chunk into a chunk and knows nothing of storage."""

    def __call__(self, chunk: Chunk) -> Awaitable[Chunk]:
        """Work on a chunk; the key stays."""
        ...


class Actor:
    """Holds a stage's worker, times its work and writes what comes of it.

    driver: who runs it, for the record of tries. poison_tries: after so many deaths a chunk is tried row by
    row (see `uniner.runtime.crash_log`); its worker then has a method `set_aside(chunk, reason)`, which returns what
    becomes of rows that nobody can work on. Without it nothing is recorded, and any worker will do.
    """

    def __init__(
        self, make: Callable[[], Worker], folder: Folder, driver: str = "", poison_tries: int | None = None
    ):
        self._worker: Any = make()
        self._folder, self._driver, self._poison_tries = folder, driver, poison_tries
        self._turns = _Turns()

    async def __call__(self, chunk: Chunk) -> Summary:
        """Work on a chunk, and write it."""
        if self._poison_tries is None:
            return await self._write(chunk.key, self._worker(chunk))
        record = Record(self._folder, chunk.key)
        found = await asyncio.to_thread(record.read, self._driver)
        stands = found is not None and await asyncio.to_thread(self._folder.has_chunk, chunk.key)
        if stands:  # its actor died before it could tell
            await asyncio.to_thread(record.end)
            return await asyncio.to_thread(self._folder.read_summary, chunk.key)
        tries = found or Tries(self._driver)
        if not tries.blames_the_rows:
            await asyncio.to_thread(record.end)  # the same command, with other settings, tries anew
            raise UserError(
                f"{self._folder.url}: the engine dies of each row of chunk {chunk.key}, so it is not the "
                "rows; the actors' log says why; where memory runs out, lower max_num_seqs, "
                "max_num_batched_tokens or gpu_memory_utilization"
            )
        async with self._turns.alone() if tries.deaths else self._turns.together():
            # Recorded when its turn has come, not before: a chunk that waits kills nobody.
            await asyncio.to_thread(record.write, tries)
            one_by_one = tries.deaths >= self._poison_tries
            work = self._row_by_row(chunk, tries, record) if one_by_one else self._together(chunk, tries)
            summary = await self._write(chunk.key, work)
            await asyncio.to_thread(record.end)
            return summary

    async def _write(self, key: str, work: Awaitable[Chunk]) -> Summary:
        started = time.monotonic()
        done = replace(await work, key=key, seconds=time.monotonic() - started)
        return await asyncio.to_thread(self._folder.write_chunk, done)

    async def _together(self, chunk: Chunk, tries: Tries) -> Chunk:
        """Work on all rows but those that are set aside."""
        if not tries.poison:
            return await self._worker(chunk)
        ends = sorted({0, chunk.table.num_rows, *tries.poison, *(row + 1 for row in tries.poison)})
        pieces = [(start, end) for start, end in itertools.pairwise(ends)]
        return _joined([await self._piece(chunk, tries, start, end) for start, end in pieces])

    async def _row_by_row(self, chunk: Chunk, tries: Tries, record: Record) -> Chunk:
        """Work on each row alone, and record which before."""
        done = {row: await self._piece(chunk, tries, row, row + 1) for row in tries.poison}
        for row in tries.order(chunk.table.num_rows):
            await asyncio.to_thread(record.write, replace(tries, row=row))
            done[row] = await self._piece(chunk, tries, row, row + 1)
            tries = replace(tries, survived=True)
        return _joined([done[row] for row in sorted(done)])

    async def _piece(self, chunk: Chunk, tries: Tries, start: int, end: int) -> Chunk:
        piece = Chunk(chunk.key, chunk.table.slice(start, end - start))
        if start in tries.poison:
            return self._worker.set_aside(piece, POISON)
        return await self._worker(piece)


def _joined(pieces: list[Chunk]) -> Chunk:
    return Chunk(
        pieces[0].key,
        pa.concat_tables(piece.table for piece in pieces),
        figures=merge(piece.figures for piece in pieces),
        rejects=[reject for piece in pieces for reject in piece.rejects],
    )


class _Turns:
    """Chunks that may be in hand together, and such as must be by themselves."""

    def __init__(self) -> None:
        self._door, self._nobody, self._inside = asyncio.Lock(), asyncio.Event(), 0
        self._nobody.set()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._door:
            self._inside += 1
            self._nobody.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._nobody.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._door:  # until it is left nobody else comes in
            await self._nobody.wait()
            yield
