"""The client and a server that fails as real ones do: no row is lost, and the limits hold by its own log."""

import asyncio
import json
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from aiohttp import web

from uniner.errors import UserError
from uniner.runtime.connection import user_error_in
from uniner.runtime.rate_limits import Meter, RateLimits
from uniner.teacher import openai_client
from uniner.teacher.prompts import JSON_SCHEMA, passage_in
from uniner.teacher.replay_server import ReplayServer

GOOD = '[("Ann", "person")]'
PRICES = {"usd_per_million_in": 1000.0, "usd_per_million_out": 2000.0}
GARBAGE = ["<html>Bad gateway</html>", '{"choices": []}', '{"choices": [{"mess', "", "[]", '{"error": null}']


class FailingServer(ReplayServer):
    """Fails some requests, drawn by a seed. Logs each one: arrival (seconds), passage and result."""

    def __init__(self, texts, shares, seed=1, retry_after="0.2"):
        super().__init__({text: f'[("{text}", "person")]' for text in texts})
        self.shares, self.random, self.retry_after = shares, random.Random(seed), retry_after
        self.log, self.closing = [], None

    def __exit__(self, *error):
        if self.closing:
            self._loop.call_soon_threadsafe(self.closing.set)
        super().__exit__(*error)

    async def _complete(self, request):
        if self.closing is None:
            self.closing = asyncio.Event()
        arrival = time.monotonic()
        passage = passage_in((await request.json())["messages"][-1]["content"])
        draw = self.random.random()
        result = "reply"
        for name, share in self.shares.items():
            if draw < share:
                result = name
                break
            draw -= share
        self.log.append((arrival, passage, result))
        if result == "slow_down":
            return web.json_response({}, status=429, headers={"Retry-After": self.retry_after})
        if result == "broken":
            return web.json_response({"error": {"message": "oh no"}}, status=500)
        if result == "hang":
            await self.closing.wait()
        if result == "garbage":
            return web.Response(text=self.random.choice(GARBAGE), content_type="application/json")
        if result == "close":
            request.transport.close()
        return await super()._complete(request)

    def results(self):
        return Counter(result for _, _, result in self.log)


def test_every_row_has_its_reply_and_the_limits_hold_though_the_server_fails(
    teacher_at, annotate, monkeypatch
):
    monkeypatch.setattr(openai_client, "_FIRST_BACKOFF_S", 0.1)  # else some rows wait for a minute
    texts = [f"Ann {n}" for n in range(240)]
    failures = {"slow_down": 0.2, "broken": 0.1, "hang": 0.05, "garbage": 0.05, "close": 0.02}
    with FailingServer(texts, failures, retry_after="0.02") as server:
        meter = Meter(RateLimits(requests_per_minute=2400))
        # Long enough for a loaded machine; the requests that hang wait together, in one chunk per actor.
        served = teacher_at(server, timeout_s=4.0)
        started = time.monotonic()
        rows, figures = annotate(served, texts, actors=3, chunk_rows=80, meter=meter)
    assert [row.text for row in rows] == texts
    assert {row.outcome for row in rows} == {"ok"}
    assert [row.entities[0].text for row in rows] == texts
    results = server.results()
    assert set(results) == {"reply", *failures}
    replies = Counter(passage for _, passage, result in server.log if result == "reply")
    assert replies == Counter(texts), "no passage is paid for twice"
    assert sum(figure["requests"] for figure in figures) == len(server.log)
    assert meter.state().retries == len(server.log) - len(texts)
    # A loaded machine sends late, then several together, but never a request before its turn.
    for number, arrival in enumerate(sorted(at for at, _, _ in server.log)):
        assert number <= 40 * (arrival - started)


def test_tokens_a_minute_hold_by_what_the_server_counts(teacher_at, annotate):
    texts = [f"Ann {n}" + " and" * (n % 40) for n in range(60)]
    with FailingServer(texts, {}) as server:
        rows, _ = annotate(teacher_at(server), texts, RateLimits(tokens_per_minute=60 * 400), actors=2)
    tokens = {row.text: row.tokens_in + row.tokens_out for row in rows}
    arrivals = sorted((at, tokens[passage]) for at, passage, _ in server.log)
    for start, _ in arrivals:  # and a second's worth: a wrong first estimate is made up for later
        assert sum(count for at, count in arrivals if start <= at < start + 4) <= (4 + 1) * 400
    assert arrivals[-1][0] - arrivals[0][0] <= 1.5 * sum(tokens.values()) / 400


def test_after_a_429_all_actors_pause_for_as_long_as_the_server_says(teacher_at, annotate):
    texts = [f"Ann {n}" for n in range(60)]
    with FailingServer(texts, {"slow_down": 0.1}, retry_after="0.5") as server:
        rows, _ = annotate(
            teacher_at(server, in_flight=1),
            texts,
            RateLimits(requests_per_minute=12_000),
            actors=2,
            chunk_rows=30,
        )
    assert {row.outcome for row in rows} == {"ok"}
    arrivals = [at for at, _, _ in server.log]
    refused = [at for at, _, result in server.log if result == "slow_down"]
    assert len(refused) >= 3
    for start in refused:  # the other actor may have one request in flight, and one just let through
        assert sum(start < at < start + 0.45 for at in arrivals) <= 2


def test_a_passage_that_the_server_cannot_answer_is_a_failed_row(teacher_at, annotate):
    texts = [f"Ann {n}" for n in range(20)]

    class OutOfMemory(FailingServer):
        async def _complete(self, request):
            response = await super()._complete(request)
            if self.log[-1][1] == "Ann 7":
                return web.json_response({"error": {"message": "out of memory"}}, status=500)
            return response

    for some in (texts, ["Ann 7"]):
        with OutOfMemory(texts, {}) as server:
            rows, _ = annotate(teacher_at(server, retries=2, in_flight=1), some)
        assert {row.text: row.outcome for row in rows if row.outcome != "ok"} == {"Ann 7": "failed"}
        failed = next(row for row in rows if row.outcome == "failed")
        assert "out of memory" in failed.reply
        assert failed.attempts == 3


def test_half_a_surrogate_pair_is_replaced(teacher_at, annotate):
    with ReplayServer({"Ann": '[("Ann\ud800", "person")]'}) as server:
        rows, _ = annotate(teacher_at(server, retries=0), ["Ann"])
    assert [(row.outcome, row.entities[0].text) for row in rows] == [("ok", "Ann?")]


@pytest.mark.parametrize(("header", "seconds"), [("Retry-After-Ms", "300"), ("Retry-After", "0.3")])
def test_retry_after_is_read_in_each_unit(header, seconds, teacher_at, annotate):
    arrivals = []

    class Once(ReplayServer):
        async def _complete(self, request):
            arrivals.append(time.monotonic())
            if len(arrivals) == 1:
                return web.json_response({}, status=429, headers={header: seconds})
            return await super()._complete(request)

    with Once({"Ann": "[]"}) as server:
        annotate(teacher_at(server), ["Ann"])
    first, second = arrivals
    assert second - first >= 0.3


def test_a_spent_quota_ends_the_stage_at_once(teacher_at, annotate):
    class NoQuota(ReplayServer):
        async def _complete(self, request):
            self.asked += 1
            error = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
            return web.json_response({"error": error}, status=429)

    with NoQuota({}) as server, pytest.raises(ExceptionGroup) as caught:
        annotate(teacher_at(server), ["Ann"])
    assert "exceeded your current quota" in str(caught.value.exceptions[0])
    assert server.asked == 1


class ScriptedServer(ThreadingHTTPServer):
    """`script` returns a passage's answers (status, body), one per attempt; the last one is repeated."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked, self.lock = script, {}, threading.Lock()
        self.in_flight, self.peak, self.bodies = 0, 0, []
        self.gate = threading.Event()
        self.gate.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        passage = passage_in(body["messages"][-1]["content"])
        server = self.server
        with server.lock:
            server.bodies.append(body)
            answers = server.script(passage)
            status, answer = answers[min(server.asked.get(passage, 0), len(answers) - 1)]
            server.asked[passage] = server.asked.get(passage, 0) + 1
            server.in_flight += 1
            server.peak = max(server.peak, server.in_flight)
        server.gate.wait(30)
        with server.lock:
            server.in_flight -= 1
        if status == "close":
            self.close_connection = True
            return
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0.05")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def completion(reply, finish="stop", refusal=None):
    message = {"role": "assistant", "content": reply, "refusal": refusal}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


@pytest.fixture
def serve():
    servers = []

    def start(script):
        servers.append(ScriptedServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_every_passage_has_an_outcome(serve, teacher_at, annotate):
    error = {"error": {"message": "too long", "type": "invalid_request_error"}}
    script = {
        "Ann good": [(200, completion(GOOD))],
        "Ann prose": [(200, completion("I see Ann."))],
        "Ann and Bob, too long": [(200, completion('[("Ann", "person"), ("Bob", "per', "length"))],
        "Ann and Bob, cut": [(200, completion('[("Ann", "person"), ("Bob", "per'))],
        "Ann refused": [(200, completion("", refusal="I will not"))],
        "Ann filtered": [(200, completion("", "content_filter"))],
        "Ann filtered before": [(400, {"error": {"message": "no", "code": "content_filter"}})],
        "Ann rejected": [(400, error)],
        "Ann too large": [(413, error)],
        "Ann empty": [(200, completion("[]"))],
        "Ann slow down": [(429, error), (429, error), (200, completion(GOOD))],
        "Ann broken server": [(500, error), (200, completion(GOOD))],
        "Ann hung up": [("close", None), (200, completion(GOOD))],
    }
    server = serve(lambda passage: script.get(passage, [(200, completion("Yes"))]))
    rows, (figures,) = annotate(teacher_at(server, timeout_s=30.0, retries=4, **PRICES), list(script))
    assert [row.text for row in rows] == list(script)
    assert [row.outcome for row in rows] == [
        "ok", "unparseable", "too_long", "cut", "refused", "filtered", "filtered", "rejected", "rejected",
        "ok", "ok", "ok", "ok",
    ]  # fmt: skip
    assert [len(row.entities) for row in rows] == [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert [row.attempts for row in rows] == [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 2, 2]
    assert rows[1].reply == "I see Ann."
    assert rows[0].cost_usd == pytest.approx(100 * 1000e-6 + 10 * 2000e-6)
    assert figures["cost_usd"] == pytest.approx(sum(row.cost_usd for row in rows))
    assert figures["requests"] == sum(server.asked[text] for text in script)


def test_requests_are_in_flight_together_up_to_the_limit(serve, teacher_at, annotate, wait_until):
    server = serve(lambda _: [(200, completion(GOOD))])
    server.gate.clear()
    threading.Thread(
        target=lambda: (wait_until(lambda: server.in_flight == 24, 30), server.gate.set())
    ).start()
    rows, _ = annotate(teacher_at(server, in_flight=24), [f"Ann {n}" for n in range(60)], chunk_rows=60)
    assert len(rows) == 60
    assert server.peak == 24


def test_the_json_schema_is_sent_where_the_reply_format_needs_it(serve, teacher_at, annotate):
    reply = '{"entities": [{"entity": "Ann", "type": "person"}]}'
    server = serve(lambda _: [(200, completion(reply))])
    (row,), _ = annotate(teacher_at(server, reply_format="json_schema"), ["Ann"])
    assert [(entity.text, entity.type) for entity in row.entities] == [("Ann", "person")]
    annotate(teacher_at(server), ["Ann"])
    assert [body.get("response_format") for body in server.bodies] == [JSON_SCHEMA, None]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "refuses the key .*check OPENAI_API_KEY"),
        (402, "requires payment"),
        (404, "not found .*check teacher.model"),
        (400, "400"),  # not about the passage: the probe is rejected too
        (503, "503"),
    ],
)
def test_an_error_of_the_server_ends_the_stage_in_one_line(serve, teacher_at, annotate, status, message):
    server = serve(lambda _: [(status, {"error": {"message": "no\nway"}})])
    with pytest.raises(ExceptionGroup) as caught:
        annotate(teacher_at(server, retries=1), ["Ann"])
    error = user_error_in(caught.value)
    assert isinstance(error, UserError)
    with pytest.raises(UserError, match=f"teacher m at {server.base_url}.*{message}"):
        raise error
    assert "\n" not in str(error)


def test_a_refused_key_is_named_by_its_variable(serve, teacher_at, annotate):
    server = serve(lambda _: [(401, {"error": {"message": "no"}})])
    with pytest.raises(ExceptionGroup) as caught:
        annotate(teacher_at(server, retries=1, api_key_env="TOGETHER_KEY"), ["Ann"])
    assert "check TOGETHER_KEY" in str(user_error_in(caught.value))


def test_an_unreachable_server_is_one_clear_line(teacher_at, annotate):
    with pytest.raises(ExceptionGroup) as caught:
        annotate(teacher_at("http://127.0.0.1:9/v1", retries=0), ["Ann"])
    assert "cannot be reached" in str(user_error_in(caught.value))
    assert "teacher.base_url" in str(user_error_in(caught.value))
