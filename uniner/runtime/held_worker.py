"""A worker that stays loaded between calls, for texts from Python, in this process. Does not import Ray."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from uniner.runtime.chunk_actor import Worker
from uniner.storage.stage_folder import Chunk


def uses_ray() -> bool:
    """Tell whether this process is connected to Ray, or RAY_ADDRESS names a cluster."""
    loaded = sys.modules.get("ray")  # who is connected has imported it
    return bool(os.environ.get("RAY_ADDRESS")) or (loaded is not None and loaded.is_initialized())


class HeldWorker(Protocol):
    """Works on chunks as often as it is asked, until it is closed."""

    def work(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Work on chunks, and return them in order."""
        ...

    def close(self) -> None:
        """End the worker, and free its memory."""
        ...


class WorkerHere:
    """A worker in a thread of this process with an event loop of its own: a notebook's own loop runs."""

    def __init__(self, make: Callable[[], Worker]):
        self._thread = ThreadPoolExecutor(1, "uniner-worker")
        self._worker: Worker | None = self._thread.submit(make).result()

    def work(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Work on chunks, and return them in order."""
        return self._thread.submit(asyncio.run, self._work(chunks)).result()

    async def _work(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        assert self._worker, "it is not closed"
        return [await self._worker(chunk) for chunk in chunks]

    def close(self) -> None:
        """End the thread, and let go of the worker."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._worker = None
