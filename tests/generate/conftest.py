"""Shared by the generate stage's tests: a server that writes passages, and briefs."""

import re
from collections import Counter

import pytest
from aiohttp import web

from uniner.generate.briefs import ASPECTS, Briefs
from uniner.teacher.replay_server import ReplayServer

DOMAINS = {"contract law": 30, "beekeeping": 25}


class WritingServer(ReplayServer):
    """Writes a passage by its brief. `replies`: others, (finish reason, text) by (domain, number).

    After `free` requests the key is refused. `briefs` counts the answered ones.
    """

    def __init__(self, replies=None, free=10**9):
        super().__init__({})
        self.replies, self.free, self.briefs, self.bodies = replies or {}, free, Counter(), []

    async def _complete(self, request):
        self.asked += 1
        if self.asked > self.free:
            return web.json_response({"error": {"message": "no"}}, status=401)
        body = await request.json()
        self.bodies.append(body)
        prompt = body["messages"][-1]["content"]
        brief = prompt[prompt.index("Domain: ") :]
        self.briefs[brief] += 1
        domain = re.search("Domain: (.*)", brief)[1]
        number = int(re.search("Brief number: (.*)", brief)[1])
        written = f"  In {domain}, Ann Smith met {number} people of Acme in Bonn on that day.\n"
        finish, text = self.replies.get((domain, number), ("stop", written))
        if finish == "rejected":
            return web.json_response({"error": {"message": text}}, status=400)
        completion = self._completion(body["model"], prompt, text)
        completion["choices"][0]["finish_reason"] = finish
        return web.json_response(completion)


@pytest.fixture(scope="session")
def writing_server():
    return WritingServer


@pytest.fixture(scope="session")
def make_briefs():
    """Return a function that makes the briefs of two domains, with changes."""

    def make(**changes):
        fields = {"domains": DOMAINS, "seed": 0, "words": 100, "aspects": ASPECTS, "chunk_passages": 8}
        return Briefs(**{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def texts_of():
    """Return a function that returns all briefs' texts, each with its source."""
    return lambda briefs: {brief.text: brief.source for key in briefs.chunks() for brief in briefs.of(key)}
