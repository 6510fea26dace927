"""A teacher behind the reply cache: each text is asked and paid for once.

Replies are saved every second while a chunk is in work, so that a crash loses no more than the last second's.
Where a request fails for good or the run stops, no more are sent, but those in flight come back and are kept.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol, TypeVar

from uniner.runtime.gate import Gate
from uniner.runtime.rate_limits import AskMeter, Meter, RateLimits, Reservation, local_meter
from uniner.runtime.work_count import expect_work, work_done
from uniner.teacher.completion import ChatRequest, Rejection, Teacher, TeacherReply
from uniner.teacher.reply_cache import CachedReply, ReplyCache, request_key, requests_digest

_SAVE_SECONDS = 1.0


class TeacherClient(Protocol):
    """A connection to a teacher: `OpenAIClient` or `VllmClient`."""

    async def ask(self, request: ChatRequest) -> tuple[TeacherReply, Reservation] | Rejection:
        """Return a reply with its reservation at the gate, for the caller to settle, or a rejection."""

    async def close(self) -> None:
        """Close the connections."""


class _HasText(Protocol):
    @property
    def text(self) -> str: ...


Row = TypeVar("Row", bound=_HasText)
Record = TypeVar("Record")
MakeClient = Callable[[Gate], TeacherClient]
"""Makes a client in the actor that uses it, behind the actor's gate."""


class CachedTeacher:
    """Answers a chunk's texts, from the cache or by the teacher."""

    def __init__(
        self,
        teacher: Teacher,
        make_client: MakeClient,
        ask_meter: AskMeter | None = None,
        cache: ReplyCache | None = None,
        run: str = "",
        rejected: Mapping[str, Rejection] | None = None,
    ):
        """`ask_meter` reaches the cluster's meter; None: no limits. `run` is the id of the run that pays.

        rejected: requests, by key, that are not sent again.
        """
        self.teacher, self._cache, self._run, self._rejected = teacher, cache, run, rejected or {}
        self._gate = Gate(ask_meter or local_meter(Meter(RateLimits())))
        self._client = make_client(self._gate)
        if cache:
            cache.warn = self._gate.say

    async def close(self) -> None:
        """Close the connections to the teacher. An actor's end with its process."""
        await self._client.close()

    async def ask_about(
        self, rows: Sequence[Row], record_of: Callable[[Row, CachedReply | Rejection], Record]
    ) -> tuple[list[Record], dict[str, float]]:
        """Ask about each row's text. Returns a record of each row and its answer, and the chunk's figures."""
        answers, figures = await self.ask([row.text for row in rows])

        def records() -> list[Record]:
            return [record_of(row, answer) for row, answer in zip(rows, answers, strict=True)]

        # In a thread, as a long reply would keep all other requests of this actor waiting.
        return await asyncio.to_thread(records), figures

    def fields_of(self, answer: CachedReply | Rejection) -> dict[str, Any]:
        """Return what every record says of an answer: the reply, or why there is none, tokens and cost."""
        if isinstance(answer, Rejection):
            reply, tokens_in, tokens_out = answer.reason, 0, 0
        else:
            reply, tokens_in, tokens_out = answer.text, answer.tokens_in, answer.tokens_out
        return {
            "reply": reply,
            "model": self.teacher.model,
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "cost_usd": self.teacher.usd(tokens_in, tokens_out),
            "attempts": answer.attempts,
        }

    async def ask(self, texts: Sequence[str]) -> tuple[list[CachedReply | Rejection], dict[str, float]]:
        """Return the answers to a chunk's texts, one for each text in order, and the chunk's figures."""
        all_requests = [self.teacher.request(text) for text in texts]
        keys = [request_key(request) for request in all_requests]
        requests = dict(zip(keys, all_requests, strict=True))  # a repeated text is asked once
        digest = requests_digest(requests)
        cached = await asyncio.to_thread(self._cache.find, digest, requests) if self._cache else {}
        answers: dict[str, CachedReply | Rejection] = {
            **{key: self._rejected[key] for key in requests if key in self._rejected},
            **cached,
        }
        missing = {key: request for key, request in requests.items() if key not in answers}
        expect_work(len(requests))
        work_done(len(answers))
        answers |= await self._ask_all(digest, missing)
        figures = {**self._costs(answers), "cache_hits": len(cached), "cache_misses": len(missing)}
        return [answers[key] for key in keys], figures

    async def _ask_all(
        self, digest: str, requests: Mapping[str, ChatRequest]
    ) -> dict[str, CachedReply | Rejection]:
        if not requests:
            return {}
        saver = _ReplySaver(self._cache, digest)
        try:
            async with asyncio.TaskGroup() as group:
                saving = group.create_task(saver.save_until_end(on_error=self._gate.end))
                tasks = {
                    key: group.create_task(self._ask_one(saver, key, request))
                    for key, request in requests.items()
                }
                answers = dict(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))
                saver.end()
                await saving
        finally:
            try:
                await saver.save()  # replies that are left where saving failed
            finally:
                await self._gate.flush()
        for answer in answers.values():
            if isinstance(answer, Exception):
                await self._gate.wait_for_others()
                raise ExceptionGroup("requests to the teacher failed", [answer])
        if self._cache:
            await asyncio.to_thread(self._cache.merge_parts, digest)
        return {key: answer for key, answer in answers.items() if not isinstance(answer, Exception)}

    async def _ask_one(
        self, saver: "_ReplySaver", key: str, request: ChatRequest
    ) -> CachedReply | Rejection | Exception:
        """Return the answer to a request, or the error that ends the work."""
        try:
            answer = await self._client.ask(request)
        except Exception as error:
            self._gate.end(error)  # the requests in flight come back, and no other is sent
            return error
        work_done()
        if isinstance(answer, Rejection):
            return answer
        reply, reservation = answer
        cached = CachedReply.of(key, reply, self._run)
        usd = self.teacher.usd(reply.tokens_in, reply.tokens_out)
        # The money counts as in flight until the reply is saved: when the budget stops the run, nothing is
        # lost.
        saver.add(cached, lambda: self._gate.settle(reservation, reply.tokens_in + reply.tokens_out, usd))
        return cached

    def _costs(self, answers: Mapping[str, CachedReply | Rejection]) -> dict[str, float]:
        """Add up what this run paid, also before it was stopped, and what other runs' replies saved it."""
        replies = [answer for answer in answers.values() if isinstance(answer, CachedReply)]
        paid = [reply for reply in replies if reply.run == self._run]
        rejections = [answer for answer in answers.values() if isinstance(answer, Rejection)]
        return {
            "requests": sum(answer.attempts for answer in chain[CachedReply | Rejection](paid, rejections)),
            "tokens_in": sum(reply.tokens_in for reply in paid),
            "tokens_out": sum(reply.tokens_out for reply in paid),
            "cost_usd": self._usd(paid),
            "saved_usd": self._usd(reply for reply in replies if reply.run != self._run),
        }

    def _usd(self, replies: Iterable[CachedReply]) -> float:
        return sum(self.teacher.usd(reply.tokens_in, reply.tokens_out) for reply in replies)


class _ReplySaver:
    """Saves a chunk's replies to the cache as they arrive. A reply is kept here until it is written."""

    def __init__(self, cache: ReplyCache | None, digest: str):
        self._cache, self._digest = cache, digest
        self._unsaved: list[tuple[CachedReply, Callable[[], None]]] = []
        self._ended = asyncio.Event()

    def add(self, reply: CachedReply, on_saved: Callable[[], None]) -> None:
        """Take a reply. `on_saved` is called once it is safe, or at once where there is no cache."""
        if self._cache is None:
            on_saved()
        else:
            self._unsaved.append((reply, on_saved))

    def end(self) -> None:
        self._ended.set()

    async def save_until_end(self, on_error: Callable[[Exception], None]) -> None:
        """Save every second. Where storage fails, no more requests should be sent: their replies are lost."""
        try:
            while not self._ended.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), _SAVE_SECONDS)
                await self.save()
        except Exception as error:
            on_error(error)

    async def save(self) -> None:
        unsaved = list(self._unsaved)
        if unsaved and self._cache:
            await asyncio.to_thread(self._cache.save, self._digest, [reply for reply, _ in unsaved])
        del self._unsaved[: len(unsaved)]
        for _, on_saved in unsaved:
            on_saved()
