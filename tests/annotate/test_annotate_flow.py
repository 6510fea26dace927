"""A teacher that fails as real ones do on a bad day: no row is lost, and the limits hold by its own log."""

import asyncio
import random
import time
from collections import Counter, defaultdict

import pytest
from aiohttp import web

from uniner.runtime.rate_limits import Limits
from uniner.teacher.pools import chunks_in_hand
from uniner.teacher.prompts import passage_in
from uniner.teacher.replay_server import RecordedTeacher

GARBAGE = ["<html>Bad gateway</html>", '{"choices": []}', '{"choices": [{"mess', "", "[]", '{"error": null}']


class BadDay(RecordedTeacher):
    """Fails by a seeded draw a request; logs when each came (seconds), for what, and what it got."""

    def __init__(self, texts, shares, seed=1, retry_after="0.2"):
        super().__init__({text: f'[("{text}", "person")]' for text in texts})
        self.shares, self.random, self.retry_after = shares, random.Random(seed), retry_after
        self.log, self.over = [], None

    def __exit__(self, *error):
        if self.over:
            self._loop.call_soon_threadsafe(self.over.set)
        super().__exit__(*error)

    async def _complete(self, request):
        if self.over is None:
            self.over = asyncio.Event()
        came = time.monotonic()
        passage = passage_in((await request.json())["messages"][-1]["content"])
        draw = self.random.random()
        fate = "reply"
        for name, share in self.shares.items():
            if draw < share:
                fate = name
                break
            draw -= share
        self.log.append((came, passage, fate))
        if fate == "slow_down":
            return web.json_response({}, status=429, headers={"Retry-After": self.retry_after})
        if fate == "broken":
            return web.json_response({"error": {"message": "oh no"}}, status=500)
        if fate == "hang":
            await self.over.wait()
        if fate == "garbage":
            return web.Response(text=self.random.choice(GARBAGE), content_type="application/json")
        if fate == "close":
            request.transport.close()
        return await super()._complete(request)

    def fates(self):
        return Counter(fate for _, _, fate in self.log)


def test_on_a_bad_day_every_row_has_its_reply_and_the_limits_hold(teacher, annotate):
    texts = [f"Ann {n}" for n in range(240)]
    bad = {"slow_down": 0.2, "broken": 0.1, "hang": 0.05, "garbage": 0.05, "close": 0.02}
    with BadDay(texts, bad, retry_after="0.02") as server:
        limits = Limits(requests_per_minute=2400)
        rows, figures = annotate(teacher(server), texts, limits, actors=3)
    assert [row.text for row in rows] == texts
    assert {row.outcome for row in rows} == {"ok"}
    assert [row.entities[0].text for row in rows] == texts
    fates = server.fates()
    assert set(fates) == {"reply", *bad}
    replies = Counter(passage for _, passage, fate in server.log if fate == "reply")
    assert replies == Counter(texts), "no passage is paid for twice"
    assert sum(figure["requests"] for figure in figures) == len(server.log)
    came = sorted(at for at, _, _ in server.log)
    for start in came:  # two seconds' share of the limit, and a tenth for what meets on the way
        assert sum(start <= at < start + 2 for at in came) <= 88


def test_tokens_a_minute_hold_by_what_the_server_counts(teacher, annotate):
    texts = [f"Ann {n}" + " and" * (n % 40) for n in range(60)]
    with BadDay(texts, {}) as server:
        rows, _ = annotate(teacher(server), texts, Limits(tokens_per_minute=60 * 400), actors=2)
    tokens = {row.text: row.tokens_in + row.tokens_out for row in rows}
    came = sorted((at, tokens[passage]) for at, passage, _ in server.log)
    for start, _ in came:  # a second's worth beyond: what was thought wrong of the first is made up for later
        assert sum(count for at, count in came if start <= at < start + 4) <= (4 + 1) * 400
    assert came[-1][0] - came[0][0] <= 1.5 * sum(tokens.values()) / 400


def test_after_a_429_all_actors_cool_down_for_as_long_as_the_server_says(teacher, annotate):
    texts = [f"Ann {n}" for n in range(60)]
    with BadDay(texts, {"slow_down": 0.1}, retry_after="0.5") as server:
        rows, _ = annotate(
            teacher(server, in_flight=1), texts, Limits(requests_per_minute=12_000), actors=2, chunk_rows=30
        )
    assert {row.outcome for row in rows} == {"ok"}
    came = [at for at, _, _ in server.log]
    refused = [at for at, _, fate in server.log if fate == "slow_down"]
    assert len(refused) >= 3
    for start in refused:  # the other actor may have one request under way, and one just let go
        assert sum(start < at < start + 0.45 for at in came) <= 2


def test_one_passage_that_the_server_cannot_answer_is_a_row_that_failed(teacher, annotate):
    texts = [f"Ann {n}" for n in range(20)]

    class Poisoned(BadDay):
        async def _complete(self, request):
            response = await super()._complete(request)
            if self.log[-1][1] == "Ann 7":
                return web.json_response({"error": {"message": "out of memory"}}, status=500)
            return response

    for some in (texts, ["Ann 7"]):
        with Poisoned(texts, {}) as server:
            rows, _ = annotate(teacher(server, retries=2, in_flight=1), some)
        assert {row.text: row.outcome for row in rows if row.outcome != "ok"} == {"Ann 7": "failed"}
        failed = next(row for row in rows if row.outcome == "failed")
        assert "out of memory" in failed.reply
        assert failed.attempts == 3


def test_half_a_surrogate_pair_is_stored(teacher, annotate):
    with RecordedTeacher({"Ann": '[("Ann\ud800", "person")]'}) as server:
        rows, _ = annotate(teacher(server, retries=0), ["Ann"])
    assert [(row.outcome, row.entities[0].text) for row in rows] == [("ok", "Ann?")]


@pytest.mark.parametrize(("header", "seconds"), [("Retry-After-Ms", "300"), ("Retry-After", "0.3")])
def test_retry_after_is_read_in_each_unit(header, seconds, teacher, annotate):
    came = defaultdict(list)

    class Once(RecordedTeacher):
        async def _complete(self, request):
            came[header].append(time.monotonic())
            if len(came[header]) == 1:
                return web.json_response({}, status=429, headers={header: seconds})
            return await super()._complete(request)

    with Once({"Ann": "[]"}) as server:
        annotate(teacher(server), ["Ann"])
    first, second = came[header]
    assert second - first >= 0.3


def test_a_spent_quota_ends_the_stage_at_once(teacher, annotate):
    class Spent(RecordedTeacher):
        async def _complete(self, request):
            self.asked += 1
            error = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
            return web.json_response({"error": error}, status=429)

    with Spent({}) as server, pytest.raises(ExceptionGroup) as caught:
        annotate(teacher(server), ["Ann"])
    assert "exceeded your current quota" in str(caught.value.exceptions[0])
    assert server.asked == 1


@pytest.mark.parametrize(("rows", "in_flight", "expected"), [(128, 64, 2), (128, 128, 3), (16, 64, 9)])
def test_an_actor_has_enough_chunks_in_hand_for_its_requests_in_flight(rows, in_flight, expected):
    assert chunks_in_hand({"a": rows, "b": rows}, in_flight) == expected
