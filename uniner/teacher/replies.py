"""The teacher's replies to a chunk's texts, each asked for once, kept and paid for."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from uniner.inference.engine import Engine
from uniner.runtime.rate_limits import Ask, Gate, Limits, Meter, local
from uniner.teacher.completion import Rejection
from uniner.teacher.journal import Journal
from uniner.teacher.openai_client import Line, Teacher
from uniner.teacher.reply_cache import Kept, ReplyCache, digest_of, key_of
from uniner.teacher.vllm_client import ServedLine


class Replies:
    """The teacher's replies to texts, each asked for and paid for once."""

    def __init__(
        self,
        teacher: Teacher,
        api_key: str | None = None,
        ask: Ask | None = None,
        cache: ReplyCache | None = None,
        run: str = "",
        engine: Engine | None = None,
        rejected: Mapping[str, Rejection] | None = None,
    ):
        """`ask` reaches the meter of the whole cluster; without it there are no limits. `run` is the id under
        which replies are paid for; without a cache none is kept. `engine` serves the teacher; without it a
        server is asked, by the key. What is `rejected`, by the request's key, is not asked again."""
        self._rejected = rejected or {}
        self.teacher, self._cache, self._run = teacher, cache, run
        self._gate = Gate(ask or local(Meter(Limits())))
        self._line: Line | ServedLine = (
            ServedLine(teacher, engine, self._gate) if engine else Line(teacher, api_key, self._gate)
        )

    async def to(self, texts: Sequence[str]) -> tuple[list[Kept | Rejection], dict[str, float]]:
        """Return a chunk's replies, one for one of its texts, and what they took."""
        asked = [self.teacher.request(text) for text in texts]
        keys = [key_of(request) for request in asked]
        requests = dict(zip(keys, asked, strict=True))  # a passage that comes twice is asked about once
        digest = digest_of(requests)
        kept = await asyncio.to_thread(self._cache.find, digest, requests) if self._cache else {}
        answers: dict[str, Kept | Rejection] = {
            **{key: self._rejected[key] for key in requests if key in self._rejected},
            **kept,
        }
        missing = {key: request for key, request in requests.items() if key not in answers}
        answers |= await self._ask_all(digest, missing)
        figures = {**self._paid(answers), "cache_hits": len(kept), "cache_misses": len(missing)}
        return [answers[key] for key in keys], figures

    async def close(self) -> None:
        """Let the connections to the teacher go; an actor's end with its process."""
        if isinstance(self._line, Line):
            await self._line.close()

    async def _ask_all(
        self, digest: str, requests: Mapping[str, dict[str, Any]]
    ) -> dict[str, Kept | Rejection]:
        if not requests:
            return {}
        journal = Journal(self._cache, digest)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(journal.save_on())
                tasks = {
                    key: group.create_task(self._ask(journal, key, request))
                    for key, request in requests.items()
                }
                await asyncio.wait(tasks.values())
                journal.end()
        finally:
            await journal.save()  # where a request failed, the others' replies are paid for too
        if self._cache:
            await asyncio.to_thread(self._cache.fold, digest)
        return {key: task.result() for key, task in tasks.items()}

    async def _ask(self, journal: Journal, key: str, request: dict[str, Any]) -> Kept | Rejection:
        answer = await self._line.ask(request)
        if isinstance(answer, Rejection):
            return answer
        reply, want = answer
        kept = Kept.of(key, reply, self._run)
        usd = self.teacher.usd(reply.tokens_in, reply.tokens_out)
        # Money counts as under way until its reply is safe: when the budget stops the run, nothing is lost.
        journal.add(kept, lambda: self._gate.leave(want, reply.tokens_in + reply.tokens_out, usd))
        return kept

    def _paid(self, answers: Mapping[str, Kept | Rejection]) -> dict[str, float]:
        """Add up what this run paid for, now or before it was stopped; and what other runs paid for it."""
        kept = [answer for answer in answers.values() if isinstance(answer, Kept)]
        paid = [answer for answer in kept if answer.run == self._run]
        others = [answer for answer in kept if answer.run != self._run]
        rejected = [answer for answer in answers.values() if isinstance(answer, Rejection)]
        return {
            "requests": sum(kept.attempts for kept in paid) + sum(one.attempts for one in rejected),
            "tokens_in": sum(kept.tokens_in for kept in paid),
            "tokens_out": sum(kept.tokens_out for kept in paid),
            "cost_usd": sum(self.teacher.usd(kept.tokens_in, kept.tokens_out) for kept in paid),
            "saved_usd": sum(self.teacher.usd(kept.tokens_in, kept.tokens_out) for kept in others),
        }
