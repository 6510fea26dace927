"""Shared by the teacher's tests: a teacher behind a server, and actors that annotate texts with it."""

import asyncio
from dataclasses import dataclass, fields
from functools import partial

import pytest
from aiohttp import web

from uniner.annotate.annotator import Annotator
from uniner.records import Annotation, from_table
from uniner.runtime.rate_limits import Meter, RateLimits, local_meter
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Teacher
from uniner.teacher.openai_client import OpenAIClient, OpenAIServer
from uniner.teacher.prompts import passage_in, published_prompt
from uniner.teacher.replay_server import ReplayServer
from uniner.teacher.reply_cache import ReplyCache

TEACHER = {
    "model": "m", "prompt": published_prompt("type"), "reply_format": "tuples", "temperature": 0.0,
    "max_reply_tokens": 50, "usd_per_million_in": 1.0, "usd_per_million_out": 1.0,
}  # fmt: skip
SERVER = {"api_key": "key", "in_flight": 32, "timeout_s": 30.0, "retries": 12}


class BillingServer(ReplayServer):
    """Bills each request that it works on, whether or not the client hears of it: a token is a word.

    manner: what it does after the work. `reply`; `hang_up`; `late` by late_s seconds; `hang` for ever; a
    status, such as 502; or a function that changes the completion, or returns other content.
    """

    def __init__(self, replies, manner="reply", late_s=0.0):
        super().__init__(replies)
        self.manner, self.late_s, self.bills = manner, late_s, []
        self._closing = asyncio.Event()

    def __exit__(self, *error):
        self._loop.call_soon_threadsafe(self._closing.set)
        super().__exit__(*error)

    def billed_usd(self, usd_in=1.0, usd_out=1.0):
        return sum(tokens_in * usd_in + tokens_out * usd_out for _, tokens_in, tokens_out in self.bills) / 1e6

    async def _complete(self, request):
        self.asked += 1
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        passage = passage_in(prompt)
        completion = self._completion(body["model"], prompt, self._replies.get(passage, "[]"))
        usage = completion["usage"]
        self.bills.append((passage, usage["prompt_tokens"], usage["completion_tokens"]))
        if self.manner == "hang_up":
            request.transport.close()
        if self.manner == "hang":
            await self._closing.wait()
        if self.manner == "late":
            await asyncio.sleep(self.late_s)
        if isinstance(self.manner, int):
            return web.json_response({"error": {"message": "oh no"}}, status=self.manner)
        if callable(self.manner):
            completion = self.manner(completion) or completion
        return web.json_response(completion)


@pytest.fixture(scope="session")
def billing_server():
    return BillingServer


@dataclass(frozen=True)
class ServedTeacher:
    teacher: Teacher
    server: OpenAIServer

    def make_client(self, gate):
        return OpenAIClient(self.teacher, self.server, gate)


@pytest.fixture
def teacher_at():
    """Return a function that makes a teacher behind a server or its address; changes go to either."""

    def make(server, **changes):
        names = {field.name for field in fields(Teacher)}
        of_teacher = {name: value for name, value in changes.items() if name in names}
        of_server = {name: value for name, value in changes.items() if name not in names}
        base_url = getattr(server, "base_url", server)
        return ServedTeacher(
            Teacher(**{**TEACHER, **of_teacher}), OpenAIServer(base_url=base_url, **{**SERVER, **of_server})
        )

    return make


@pytest.fixture
def annotate(passage_chunks):
    """Return a function that annotates texts as a cluster would: actors that share a meter and a cache."""

    def run(
        served, texts, limits=None, actors=1, chunk_rows=50, cache=None, run="run", rejected=None, meter=None
    ):
        """Return the rows, in order, and each chunk's figures."""

        async def annotate_chunks(worker, chunks):
            return [await worker(chunk) for chunk in chunks]

        async def annotate_all():
            scope = served.teacher.request("")
            index = ReplyCache(cache, scope).read_index(run) if cache else None
            ask_meter = local_meter(meter or Meter(limits or RateLimits()))

            def worker():
                reply_cache = cache and ReplyCache(cache, scope, index)
                make = partial(CachedTeacher, served.teacher, served.make_client)
                return Annotator(make(ask_meter, reply_cache, run, rejected))

            workers = [worker() for _ in range(actors)]
            chunks = passage_chunks(texts, chunk_rows)
            try:
                done = await asyncio.gather(
                    *(annotate_chunks(w, chunks[n::actors]) for n, w in enumerate(workers))
                )
            finally:
                await asyncio.gather(*(worker.close() for worker in workers))
            return sorted((chunk for some in done for chunk in some), key=lambda chunk: chunk.key)

        done = asyncio.run(annotate_all())
        return [row for c in done for row in from_table(c.table, Annotation)], [c.figures for c in done]

    return run
