"""What is asked about the passages of many chunks: what lacks a reply, and keeping the replies that come."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from uniner.storage.folder import Folder
from uniner.teacher.completion import Rejection, Reply
from uniner.teacher.openai_client import Teacher
from uniner.teacher.reply_cache import Kept, ReplyCache, digest_of, key_of

_READERS = 16


@dataclass(frozen=True)
class Questions:
    """What is asked of the passages' chunks, and where replies are kept. Its calls block on storage."""

    teacher: Teacher
    parent: Folder
    cache: ReplyCache
    run: str

    def unanswered(
        self, chunks: Sequence[str], rejected: dict[str, Rejection]
    ) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
        """Yield each chunk's requests, by key, that have no reply and were not rejected."""
        for chunk, _, lacking in self._lacking(chunks):
            yield chunk, {key: request for key, request in lacking.items() if key not in rejected}

    def keep(self, chunks: Sequence[str], replies: dict[str, Reply]) -> float:
        """Keep the chunks' replies as a worker would. Returns the US dollars of those not kept before."""
        usd = 0.0
        paid: set[str] = set()
        with ThreadPoolExecutor(_READERS) as pool:
            saved = []
            for _, digest, lacking in self._lacking(chunks):
                new = {key: replies[key] for key in lacking if key in replies}
                # A passage of two chunks was asked once: the second finds it as if another run had paid.
                kept = [Kept.of(key, reply, "" if key in paid else self.run) for key, reply in new.items()]
                if kept:
                    saved.append(pool.submit(self._save, digest, kept))
                usd += sum(self.teacher.usd(one.tokens_in, one.tokens_out) for one in kept if one.run)
                paid |= new.keys()
            for one in saved:
                one.result()
        return usd

    def _lacking(self, chunks: Sequence[str]) -> Iterator[tuple[str, str, dict[str, dict[str, Any]]]]:
        """Yield each chunk, its digest and its requests without a reply; few chunks ahead."""

        def look(chunk: str) -> tuple[str, str, dict[str, dict[str, Any]]]:
            texts = self.parent.read_columns(chunk, ["text"]).column("text").to_pylist()
            requests = {key_of(request): request for request in map(self.teacher.request, texts)}
            digest = digest_of(requests)
            kept = self.cache.find(digest, requests)
            return chunk, digest, {key: asked for key, asked in requests.items() if key not in kept}

        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(chunks), _READERS):
                yield from pool.map(look, chunks[start : start + _READERS])

    def _save(self, digest: str, kept: Sequence[Kept]) -> None:
        self.cache.save(digest, kept)
        self.cache.fold(digest)
