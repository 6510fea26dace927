"""The annotator against a real HTTP server that fails as real servers do."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from uniner.annotate.annotator import Annotator
from uniner.errors import UserError
from uniner.records import PASSAGE, Annotation, Passage, from_table, to_table
from uniner.runtime.chunk_pipeline import user_error_in
from uniner.storage.stage_folder import Chunk
from uniner.teacher.openai_client import Teacher
from uniner.teacher.prompts import JSON_SCHEMA, passage_in, published
from uniner.teacher.replay_server import RecordedTeacher, load
from uniner.teacher.replies import Replies

GOOD = '[("Ann", "person")]'


class Server(ThreadingHTTPServer):
    """Answers by passage: a list of (status, body) tries; the last one is repeated."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked, self.lock = script, {}, threading.Lock()
        self.now, self.peak, self.bodies = 0, 0, []
        self.gate = threading.Event()
        self.gate.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        passage = passage_in(body["messages"][-1]["content"])
        server = self.server
        with server.lock:
            server.bodies.append(body)
            tries = server.script(passage)
            status, answer = tries[min(server.asked.get(passage, 0), len(tries) - 1)]
            server.asked[passage] = server.asked.get(passage, 0) + 1
            server.now += 1
            server.peak = max(server.peak, server.now)
        server.gate.wait(5)
        with server.lock:
            server.now -= 1
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
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def teacher(url, **changes):
    settings = {
        "model": "m", "base_url": url,
        "prompt": published("type"), "reply_format": "tuples", "temperature": 0.0, "max_reply_tokens": 50,
        "in_flight": 32, "timeout_s": 5.0, "retries": 4, "usd_per_million_in": 1000.0,
        "usd_per_million_out": 2000.0,
    }  # fmt: skip
    return Teacher(**{**settings, **changes})


def annotate(url, texts, **changes):
    passages = [
        Passage(
            passage_id=f"p{n}",
            doc_id=f"d{n}",
            passage_index=0,
            char_start=0,
            char_end=len(t),
            text=t,
            n_tokens=3,
            source="",
        )
        for n, t in enumerate(texts)
    ]

    async def work():
        annotator = Annotator(Replies(teacher(url, **changes), "key"))
        try:
            return await annotator(Chunk("k", to_table(passages, PASSAGE)))
        finally:
            await annotator.close()

    chunk = asyncio.run(work())
    return chunk, from_table(chunk.table, Annotation)


def test_every_passage_keeps_its_place_with_an_outcome(serve):
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
    chunk, rows = annotate(server.url, list(script))
    assert [row.text for row in rows] == list(script)
    assert [row.outcome for row in rows] == [
        "ok", "unparseable", "too_long", "cut", "refused", "filtered", "filtered", "rejected", "rejected",
        "ok", "ok", "ok", "ok",
    ]  # fmt: skip
    assert [len(row.entities) for row in rows] == [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert [row.attempts for row in rows] == [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 2, 2]
    assert rows[1].reply == "I see Ann."
    assert rows[0].cost_usd == pytest.approx(100 * 1000e-6 + 10 * 2000e-6)
    assert chunk.figures["cost_usd"] == pytest.approx(sum(row.cost_usd for row in rows))
    assert chunk.figures["requests"] == sum(server.asked[text] for text in script)


def test_requests_are_in_flight_together_up_to_the_limit(serve):
    server = serve(lambda _: [(200, completion(GOOD))])
    server.gate.clear()
    threading.Thread(target=lambda: (wait_for(lambda: server.now == 24), server.gate.set())).start()
    _, rows = annotate(server.url, [f"Ann {n}" for n in range(60)], in_flight=24)
    assert len(rows) == 60
    assert server.peak == 24


def test_a_json_schema_is_sent_where_it_is_asked_for(serve):
    reply = '{"entities": [{"entity": "Ann", "type": "person"}]}'
    server = serve(lambda _: [(200, completion(reply))])
    _, (row,) = annotate(server.url, ["Ann"], reply_format="json_schema")
    assert [(entity.text, entity.type) for entity in row.entities] == [("Ann", "person")]
    annotate(server.url, ["Ann"])
    assert [body.get("response_format") for body in server.bodies] == [JSON_SCHEMA, None]


def wait_for(condition):
    import time

    deadline = time.monotonic() + 4
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "refuses the key .*check OPENAI_API_KEY"),
        (402, "wants to be paid"),
        (404, "not found .*check annotate.model"),
        (400, "400"),  # not of the passage: a few words are refused in the same way
        (503, "503"),
    ],
)
def test_what_is_wrong_with_the_server_ends_the_stage_in_one_line(serve, status, message):
    server = serve(lambda _: [(status, {"error": {"message": "no\nway"}})])
    with pytest.raises(ExceptionGroup) as caught:
        annotate(server.url, ["Ann"], retries=1)
    error = user_error_in(caught.value)
    assert isinstance(error, UserError)
    with pytest.raises(UserError, match=f"teacher m at {server.url}.*{message}"):
        raise error
    assert "\n" not in str(error)


def test_an_unreachable_teacher_is_one_clear_line():
    with pytest.raises(ExceptionGroup) as caught:
        annotate("http://127.0.0.1:9/v1", ["Ann"], retries=0)
    assert "cannot be reached" in str(user_error_in(caught.value))
    assert "annotate.base_url" in str(user_error_in(caught.value))


def test_the_recorded_teacher_is_a_real_server(tmp_path):
    recording = tmp_path / "replies.jsonl"
    recording.write_text(json.dumps({"passage": "Ann", "reply": GOOD}) + "\n")
    with RecordedTeacher(load(str(recording))) as server:
        _, rows = annotate(server.base_url, ["Ann", "Bob"])
    assert [row.outcome for row in rows] == ["ok", "rejected"]
    assert rows[0].tokens_in > 0


def test_a_broken_recording_is_named(tmp_path):
    recording = tmp_path / "replies.jsonl"
    recording.write_text('{"passage": "Ann", "reply": "x"}\nnonsense\n')
    with pytest.raises(UserError, match=r"replies\.jsonl, line 2: is no object with passage and reply"):
        load(str(recording))
    with pytest.raises(UserError, match="no such file"):
        load(str(tmp_path / "absent.jsonl"))


def test_a_passage_that_kills_a_served_teacher_keeps_its_place_and_says_why():
    table = to_table(
        [
            Passage(
                passage_id="p",
                doc_id="d",
                passage_index=0,
                char_start=0,
                char_end=6,
                text="deadly",
                n_tokens=3,
                source="",
            )
        ],
        PASSAGE,
    )
    done = Annotator(Replies(teacher("http://nowhere"), "key")).set_aside(Chunk("k", table), "the reason")
    (row,) = from_table(done.table, Annotation)
    assert (row.text, row.outcome, row.reply, row.entities) == ("deadly", "poison", "the reason", ())
