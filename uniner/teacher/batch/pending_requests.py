"""The requests of many chunks that have no reply yet, and the saving of the replies that batches bring."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from uniner.storage.stage_folder import StageFolder
from uniner.teacher.completion import ChatRequest, Rejection, Teacher, TeacherReply
from uniner.teacher.reply_cache import CachedReply, ReplyCache, request_key, requests_digest

_READERS = 16


class ChunkRequests(NamedTuple):
    """A chunk's requests, by key, that have no reply. digest: of all the chunk's requests."""

    chunk: str
    digest: str
    requests: dict[str, ChatRequest]


@dataclass(frozen=True, kw_only=True)
class PendingRequests:
    """The requests about the passages in a parent stage's chunks. Its methods block on storage."""

    teacher: Teacher
    parent: StageFolder
    cache: ReplyCache
    run: str

    def unanswered(self, chunks: Sequence[str], rejected: dict[str, Rejection]) -> Iterator[ChunkRequests]:
        """Yield each chunk's requests that have no reply and were not rejected."""
        for pending in self._without_reply(chunks):
            requests = {key: asked for key, asked in pending.requests.items() if key not in rejected}
            yield pending._replace(requests=requests)

    def save(self, chunks: Sequence[str], replies: dict[str, TeacherReply]) -> float:
        """Save the chunks' replies as an actor would. Returns the USD of those that were not in the cache."""
        usd = 0.0
        paid: set[str] = set()
        with ThreadPoolExecutor(_READERS) as pool:
            saves = []
            for pending in self._without_reply(chunks):
                new = {key: replies[key] for key in pending.requests if key in replies}
                # A passage in two chunks was asked once: in the second it counts as another run's.
                cached = [
                    CachedReply.of(key, reply, "" if key in paid else self.run) for key, reply in new.items()
                ]
                if cached:
                    saves.append(pool.submit(self._save, pending.digest, cached))
                usd += sum(
                    self.teacher.usd(reply.tokens_in, reply.tokens_out) for reply in cached if reply.run
                )
                paid |= new.keys()
            for save in saves:
                save.result()
        return usd

    def _without_reply(self, chunks: Sequence[str]) -> Iterator[ChunkRequests]:
        """Yield each chunk's requests without a reply, reading few chunks ahead."""

        def read(chunk: str) -> ChunkRequests:
            texts = self.parent.read_columns(chunk, ["text"]).column("text").to_pylist()
            requests = {request_key(request): request for request in map(self.teacher.request, texts)}
            digest = requests_digest(requests)
            cached = self.cache.find(digest, requests)
            missing = {key: request for key, request in requests.items() if key not in cached}
            return ChunkRequests(chunk, digest, missing)

        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(chunks), _READERS):
                yield from pool.map(read, chunks[start : start + _READERS])

    def _save(self, digest: str, replies: Sequence[CachedReply]) -> None:
        self.cache.save(digest, replies)
        self.cache.merge_parts(digest)
