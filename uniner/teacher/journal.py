"""Keeps a chunk's replies as they come: a crash in its middle loses no more than the last second's."""

import asyncio
import contextlib
from collections.abc import Callable

from uniner.teacher.reply_cache import Kept, ReplyCache

SAVE_SECONDS = 1.0


class Journal:
    """A chunk's replies on their way to the cache."""

    def __init__(self, cache: ReplyCache | None, digest: str):
        self._cache, self._digest = cache, digest
        self._unsaved: list[tuple[Kept, Callable[[], None]]] = []
        self._ended = asyncio.Event()

    def add(self, kept: Kept, saved: Callable[[], None]) -> None:
        """Take a reply; `saved` is called once it is safe (at once where there is no cache)."""
        if self._cache is None:
            saved()
        else:
            self._unsaved.append((kept, saved))

    def end(self) -> None:
        """Tell `save_on` that no more replies come."""
        self._ended.set()

    async def save_on(self) -> None:
        """Save every second what has come, until the end."""
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), SAVE_SECONDS)
            await self.save()

    async def save(self) -> None:
        """Save what has come."""
        unsaved, self._unsaved = self._unsaved, []
        if unsaved and self._cache:
            await asyncio.to_thread(self._cache.save, self._digest, [kept for kept, _ in unsaved])
        for _, saved in unsaved:
            saved()
