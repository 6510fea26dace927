"""The requests of many chunks that have no reply yet, and the saving of the replies that batches bring."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa

from uniner.errors import UserError
from uniner.runtime.gate import Gate
from uniner.runtime.rate_limits import Reservation
from uniner.teacher.batch.files import BatchAnswers
from uniner.teacher.completion import ChatRequest, Rejection, Teacher, TeacherReply, most_tokens
from uniner.teacher.reply_cache import CachedReply, ReplyCache, request_key, requests_digest

_READERS = 16


class OnlyKeptReplies:
    """The client of a pool whose requests batches have answered: it sends none."""

    def __init__(self, gate: Gate):
        """Take what every client takes."""

    async def ask(self, _request: ChatRequest) -> tuple[TeacherReply, Reservation] | Rejection:
        """Refuse.

        Raises:
            UserError: always, as the reply was kept when its batch ended.
        """
        raise UserError(
            "the reply cache has lost a reply since its batch ended; run the same command again, "
            "which asks for it in another batch"
        )

    async def close(self) -> None:
        """Do nothing."""


class TextChunks(Protocol):
    """Chunks with a column `text`, by key: a parent stage, or what makes a stage's own input."""

    def read_columns(self, key: str, names: Sequence[str]) -> pa.Table:
        """Return some columns of a chunk."""
        ...


class ChunkRequests(NamedTuple):
    """A chunk's requests, by key, that have no reply. all: with those that have one. digest: of them all."""

    chunk: str
    digest: str
    requests: dict[str, ChatRequest]
    all: dict[str, ChatRequest]


@dataclass(frozen=True, kw_only=True)
class PendingRequests:
    """The requests about the texts in a stage's chunks. Its methods block on storage."""

    teacher: Teacher
    parent: TextChunks
    cache: ReplyCache
    run: str

    def unanswered(self, chunks: Sequence[str], rejected: dict[str, Rejection]) -> Iterator[ChunkRequests]:
        """Yield each chunk's requests that have no reply and were not rejected."""
        for pending in self._without_reply(chunks):
            requests = {key: asked for key, asked in pending.requests.items() if key not in rejected}
            yield pending._replace(requests=requests)

    def save(self, chunks: Sequence[str], answers: BatchAnswers) -> float:
        """Save a batch's replies to the chunks' requests as an actor would. Returns the USD of the batch.

        That is the same however often the batch is saved. What may have been billed without a usage that
        makes sense counts at most.
        """
        usd = 0.0
        asked: set[str] = set()
        with ThreadPoolExecutor(_READERS) as pool:
            saves = []
            for pending in self._without_reply(chunks):
                replies = {
                    key: answers.replies[key].reply(most_tokens(request), 1)
                    for key, request in pending.all.items()
                    if key in answers.replies
                }
                # A passage in two chunks was asked once: in the second it counts as another run's.
                cached = [
                    CachedReply.of(key, replies[key], "" if key in asked else self.run)
                    for key in pending.requests
                    if key in replies
                ]
                if cached:
                    saves.append(pool.submit(self._save, pending.digest, cached))
                once = {key: request for key, request in pending.all.items() if key not in asked}
                usd += sum(self._usd(key, request, replies, answers) for key, request in once.items())
                asked |= once.keys()
            for save in saves:
                save.result()
        return usd

    def _usd(
        self, key: str, request: ChatRequest, replies: Mapping[str, TeacherReply], answers: BatchAnswers
    ) -> float:
        """Return what a request cost in a batch, at most where it may have been billed without a reply."""
        if key in replies:
            return self.teacher.usd(replies[key].tokens_in, replies[key].tokens_out)
        if key not in answers.billed:
            return 0.0
        most, completion = most_tokens(request), answers.billed[key]
        return self.teacher.usd(*((completion.tokens(most) if completion else None) or most))

    def _without_reply(self, chunks: Sequence[str]) -> Iterator[ChunkRequests]:
        """Yield each chunk's requests without a reply, reading few chunks ahead."""

        def read(chunk: str) -> ChunkRequests:
            texts = self.parent.read_columns(chunk, ["text"]).column("text").to_pylist()
            requests = {request_key(request): request for request in map(self.teacher.request, texts)}
            digest = requests_digest(requests)
            cached = self.cache.find(digest, requests)
            missing = {key: request for key, request in requests.items() if key not in cached}
            return ChunkRequests(chunk, digest, missing, requests)

        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(chunks), _READERS):
                yield from pool.map(read, chunks[start : start + _READERS])

    def _save(self, digest: str, replies: Sequence[CachedReply]) -> None:
        self.cache.save(digest, replies)
        self.cache.merge_parts(digest)
