"""The teacher through the Batch API: a server that speaks it, checks it, and has bad days."""

import asyncio
import json
import os
import signal
import time
from collections import Counter

import pytest
from aiohttp import web

from uniner import cli
from uniner.errors import Stopped, UserError
from uniner.records import PASSAGE, Passage, to_table
from uniner.runtime.rate_limits import Limits
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.teacher.batch import submission
from uniner.teacher.batch.files import Room
from uniner.teacher.batch.pending_requests import Questions
from uniner.teacher.batch.records import Records, rejections
from uniner.teacher.batch.server import BatchServer
from uniner.teacher.batch.submission import Batches
from uniner.teacher.estimate import Work, batches, describe
from uniner.teacher.prompts import passage_in
from uniner.teacher.replay_server import RecordedTeacher
from uniner.teacher.reply_cache import ReplyCache

TEXTS = [f"Ann {n} met Bob in Bonn" + " again" * (n % 5) for n in range(40)]
REPLIES = {text: f'[("{text[:5]}", "person"), ("Bonn", "city")]' for text in TEXTS}
SLOW_DOWN = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}


class BatchApi(RecordedTeacher):
    """Answers a batch as it answers online; `script` tells of passages the tries (status, body) before that.

    A batch goes a step on whenever it is looked at, and is worked on for `looks`. `fates`: how batches end,
    in the order of their creation: completed; expired or cancelled halfway; silent (expired at once); or
    failed with an error. At most so many requests are in a file, and in all batches under way (`queue`).
    """

    def __init__(self, script=None, fates=(), most=50_000, queue=10**9, looks=1):
        super().__init__(REPLIES)
        self.script, self.fates, self.most = script or {}, list(fates), most
        self.queue, self.looks = queue, Counter({None: looks})
        self.tries, self.files, self.batches, self.log = Counter(), {}, {}, []
        self.disturb = lambda path, handle: handle()

    def _app(self):
        app = super()._app()
        app.router.add_post("/v1/files", self._disturbed(self._upload))
        app.router.add_get("/v1/files/{id}/content", self._disturbed(self._content))
        app.router.add_post("/v1/batches", self._disturbed(self._create))
        app.router.add_get("/v1/batches", self._disturbed(self._list))
        app.router.add_get("/v1/batches/{id}", self._disturbed(self._look))
        return app

    def submitted(self):
        """How often each passage was in a batch that the server took."""
        taken = [one for one in self.batches.values() if one["errors"] is None]
        return Counter(passage_in(body["messages"][-1]["content"]) for one in taken
                       for body in self.bodies(one["input_file_id"]).values())  # fmt: skip

    def bodies(self, file):
        return {row["custom_id"]: row["body"] for row in map(json.loads, self.files[file].splitlines())}

    def spent(self):
        lines = [json.loads(line) for one in self.batches.values() if one["output_file_id"]
                 for line in self.files[one["output_file_id"]].splitlines()]  # fmt: skip
        usages = [line["response"]["body"].get("usage", {}) for line in lines]
        return sum(one.get("prompt_tokens", 0) + one.get("completion_tokens", 0) for one in usages) / 1e6

    def _disturbed(self, handle):
        async def handler(request):
            self.log.append(f"{request.method} {request.path.split('/')[2]}")
            return await self.disturb(self.log[-1], lambda: handle(request))

        return handler

    async def _complete(self, request):
        self.asked += 1
        status, body = self._answer(await request.json())
        return web.json_response(body, status=status)

    def _answer(self, asked):
        passage = passage_in(asked["messages"][-1]["content"])
        tries = self.script.get(passage, [])
        self.tries[passage] += 1
        if self.tries[passage] <= len(tries):
            return tries[self.tries[passage] - 1]
        reply = REPLIES.get(passage, "[]")
        return 200, self._completion(asked["model"], asked["messages"][-1]["content"], reply)

    async def _upload(self, request):
        form = await request.post()
        if form["purpose"] != "batch" or not form["file"].filename.endswith(".jsonl"):
            return web.json_response({"error": {"message": "no batch file"}}, status=400)
        name = f"file-{len(self.files)}"
        self.files[name] = form["file"].file.read()
        return web.json_response({"id": name, "object": "file", "purpose": "batch"})

    async def _content(self, request):
        if request.match_info["id"] not in self.files:
            return web.json_response({"error": {"message": "no such file"}}, status=404)
        return web.Response(body=self.files[request.match_info["id"]])

    async def _create(self, request):
        asked = await request.json()
        file = asked["input_file_id"]
        requests = [json.loads(line) for line in self.files[file].splitlines()]
        for wrong in (
            (asked["endpoint"], asked["completion_window"]) != ("/v1/chat/completions", "24h"),
            {(row["method"], row["url"]) for row in requests} != {("POST", "/v1/chat/completions")},
            len({row["custom_id"] for row in requests}) != len(requests),
            len(requests) > self.most,
        ):
            if wrong:
                return web.json_response({"error": {"message": "no batch file"}}, status=400)
        waiting = sum(one["request_counts"]["total"] for one in self.batches.values()
                      if one["status"] in ("validating", "in_progress"))  # fmt: skip
        fate = self.fates.pop(0) if self.fates else "completed"
        fate = SLOW_DOWN if waiting + len(requests) > self.queue else fate
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name, "object": "batch", "status": "validating", "input_file_id": file, "fate": fate,
            "endpoint": asked["endpoint"], "completion_window": "24h", "created_at": int(time.time()),
            "metadata": asked["metadata"], "output_file_id": None, "error_file_id": "", "errors": None,
            "request_counts": {"total": len(requests), "completed": 0, "failed": 0},
        }  # fmt: skip
        if isinstance(fate, dict):
            self.batches[name]["errors"] = {"object": "list", "data": [fate]}
        return web.json_response(self.batches[name])

    async def _list(self, request):
        found = list(self.batches.values())[::-1]
        after = request.query.get("after")
        start = 1 + [one["id"] for one in found].index(after) if after else 0
        page = found[start : start + 2]  # pages are short, so that they must be turned
        return web.json_response({"object": "list", "data": page, "has_more": start + 2 < len(found)})

    async def _look(self, request):
        one = self.batches.get(request.match_info["id"])
        if one is None:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        if one["status"] == "validating":
            one["status"] = "failed" if one["errors"] else "in_progress"
        elif one["status"] == "in_progress":
            self.looks[one["id"]] += 1
            if self.looks[one["id"]] >= self.looks[None]:
                self._finish(one)
        return web.json_response(one)

    def _finish(self, one):
        bodies = list(self.bodies(one["input_file_id"]).items())
        asked = bodies[: {"completed": len(bodies), "silent": 0}.get(one["fate"], len(bodies) // 2)]
        output, error = [], []
        for key, body in asked:
            status, said = self._answer(body)
            line = {"custom_id": key, "response": {"status_code": status, "body": said}, "error": None}
            (output if status == 200 else error).append(line)
        why = {"code": "batch_expired", "message": "This request could not be executed in time."}
        error += [{"custom_id": key, "response": None, "error": why} for key, _ in bodies[len(asked) :]]
        for name, lines in (("output_file_id", output), ("error_file_id", error)):
            if lines:
                one[name] = f"file-{len(self.files)}"
                self.files[one[name]] = "\n".join(map(json.dumps, lines)).encode() + b"\n"
        one["request_counts"] |= {"completed": len(output), "failed": len(error)}
        one["status"] = {"silent": "expired"}.get(one["fate"], one["fate"])


def write_passages(folder, texts, rows=10):
    """Passages as ingest leaves them. Returns the chunks' keys."""
    summaries = []
    for start in range(0, len(texts), rows):
        some = enumerate(texts[start : start + rows], start)
        passages = [
            Passage(
                passage_id=f"p{n}",
                doc_id=f"d{n}",
                passage_index=0,
                char_start=0,
                char_end=len(text),
                text=text,
                n_tokens=9,
                source="",
            )
            for n, text in some
        ]
        summaries.append(folder.write_chunk(Chunk(f"{start:05d}", to_table(passages, PASSAGE))))
    folder.finish({"stage": "ingest", "config": {}, "parents": {}}, summaries)
    return [summary.key for summary in summaries]


@pytest.fixture
def ask(teacher, tmp_path):
    """Return a function that has passages answered in batches; again, it goes on where it was."""

    async def answer(server, texts=TEXTS, rows=10, budget=None, room=None, **changes):
        settings = teacher(server, **{"timeout_s": 60.0, "retries": 1, **changes})
        root = StageFolder(str(tmp_path))
        chunks = write_passages(root / "ingest", texts, rows)
        index = ReplyCache(root / "cache", settings.request("")).read_index("run")
        cache = ReplyCache(root / "cache", settings.request(""), index)
        questions = Questions(settings, root / "ingest", cache, "run")
        line = BatchServer(settings, "key")
        spent = settings.usd(*index.tokens_paid)
        try:
            asking = Batches(questions, line, Records(root / "annotate"), budget, spent, room, poll_s=0)
            return await asking.answer(chunks)
        finally:
            await line.aclose()

    def run(*words, **changes):
        return asyncio.run(answer(*words, **changes))

    run.answer = answer
    run.records = Records(StageFolder(str(tmp_path)) / "annotate")
    run.cache = StageFolder(str(tmp_path)) / "cache"
    return run


def error(status, message, **more):
    return status, {"error": {"message": message, "type": "some_error", **more}}


def test_a_run_in_batches_equals_the_run_online(ask, teacher, annotate):
    refused = [error(400, "too\nlong"), *[error(400, "asked again")] * 9]
    script = {
        TEXTS[1]: refused,
        TEXTS[2]: [error(400, "no", code="content_filter")] * 9,
        TEXTS[3]: [error(500, "oops")],
        TEXTS[4]: [error(500, "out of memory")] * 99,
        TEXTS[5]: [(200, {"nonsense": 1})],
        TEXTS[6]: [error(429, "slow down")],
    }
    texts = [*TEXTS[:15], TEXTS[0], TEXTS[7], *TEXTS[15:]]
    with BatchApi(script) as server:
        online, figures = annotate(teacher(server, retries=2), texts, chunk_rows=10)
        paid_online = sum(figure["cost_usd"] for figure in figures)
    with BatchApi(script, ["expired", "cancelled"]) as server:
        spent = ask(server, texts, room=Room(requests=25))
        fields = ("text", "outcome", "reply", "entities", "tokens_in", "tokens_out", "cost_usd")
        rejected = rejections(ask.records.read())
        rows, figures = annotate(teacher(server), texts, chunk_rows=10, cache=ask.cache, rejected=rejected)
        assert server.asked == 0, "nothing is left to ask online"
    # What the server said of a passage that failed comes with its address online.
    same = [{name: getattr(row, name) for name in fields} for row in rows if row.outcome != "failed"]
    assert same == [
        {name: getattr(row, name) for name in fields} for row in online if row.outcome != "failed"
    ]
    assert [row.outcome for row in rows] == [row.outcome for row in online]
    assert Counter(row.outcome for row in rows) == {"ok": 39, "rejected": 1, "filtered": 1, "failed": 1}
    assert "out of memory" in rows[4].reply
    tries = Counter(server.submitted())
    assert (tries[TEXTS[1]], tries[TEXTS[3]], tries[TEXTS[4]]) == (1, 2, 3)
    assert tries[TEXTS[0]] == 1, "a passage that comes twice in a file is asked once"
    cost, saved = (sum(figure[name] for figure in figures) for name in ("cost_usd", "saved_usd"))
    assert cost == pytest.approx(spent) == pytest.approx(server.spent())
    assert cost + saved == pytest.approx(paid_online)


class Killed:
    """Ends the client at the server's n-th request: before the server takes it, or before it answers."""

    def __init__(self, server, number, taken):
        self.left, self.taken, self.task, self.loop = number, taken, None, None
        server.disturb = self.disturb

    async def disturb(self, path, handle):
        self.left -= 1
        if self.left:
            return await handle()
        if self.taken:
            await handle()
        self.loop.call_soon_threadsafe(self.task.cancel)
        return web.json_response({}, status=503)  # to nobody: the client is gone


@pytest.mark.parametrize("taken", [False, True], ids=["before", "after"])
def test_killed_at_any_request_nothing_is_submitted_twice(ask, taken, tmp_path):
    def kill(server, killed):
        async def run():
            killed.loop = asyncio.get_running_loop()
            killed.task = asyncio.create_task(ask.answer(server, texts, rows=4, room=Room(requests=4)))
            await killed.task

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(run())

    seen, texts = set(), TEXTS[:8]
    for number in range(1, 100):
        with BatchApi() as server:
            killed = Killed(server, number, taken)
            try:
                kill(server, killed)
            except pytest.fail.Exception:
                break  # it came to its end before
            seen.add(server.log[-1])
            server.disturb = lambda path, handle: handle()
            ask(server, texts, rows=4, room=Room(requests=4))
            assert server.submitted() == Counter(texts), f"killed at {server.log[number - 1]}"
            assert {record.ended for record in ask.records.read()} <= {"completed", "never created"}
        for folder in ("annotate", "cache", "ingest"):
            StageFolder(f"{tmp_path}/{folder}").remove_all()
    assert seen == {"POST files", "POST batches", "GET batches", "GET files"}


def test_a_batch_whose_creation_was_not_confirmed_is_not_created_twice(ask):
    async def once(path, handle):
        response = await handle()
        if path == "POST batches" and len(server.batches) == 2 and "GET batches" not in lost:
            lost.append("GET batches")
            return web.json_response({"error": {"message": "lost"}}, status=502)
        return response

    lost = []
    with BatchApi() as server:
        server.disturb = once
        ask(server, room=Room(requests=10))
        assert lost
        assert server.submitted() == Counter(TEXTS)


def test_a_server_that_is_away_for_a_while_is_waited_for(ask):
    async def away(path, handle):
        if len(server.log) in range(4, 6):
            return web.json_response({}, status=503)
        return await handle()

    with BatchApi() as server:
        server.disturb = away
        ask(server, retries=0)
        assert server.submitted() == Counter(TEXTS)


@pytest.mark.parametrize(
    ("room", "sizes"),
    [
        (Room(requests=40), [40]),
        (Room(requests=25), [20, 20]),
        (Room(requests=4), [4] * 10),
        (Room(bytes=9_000), None),
    ],
)
def test_files_are_cut_at_the_limits(ask, room, sizes):
    with BatchApi(most=room.requests) as server:
        ask(server, room=room)
        assert server.submitted() == Counter(TEXTS)
        inputs = [server.files[one["input_file_id"]] for one in server.batches.values()]
    assert all(len(data) <= room.bytes for data in inputs)
    assert len(inputs) > 1 or sizes
    if sizes:
        assert sorted((data.count(b"\n") for data in inputs), reverse=True) == sizes


def test_where_the_accounts_queue_is_full_files_wait_or_become_smaller(ask):
    with BatchApi(queue=20, looks=12) as server:
        ask(server, rows=5, room=Room(requests=10))
        assert server.submitted() == Counter(TEXTS)
        refused = [one for one in server.batches.values() if one["errors"]]
        assert 0 < len(refused) <= 2, "a file waits for another to end"
        assert {one["request_counts"]["total"] for one in server.batches.values()} == {10}
    ask.cache.remove_all()
    with BatchApi(queue=12) as server:
        ask(server)
        assert server.submitted() == Counter(TEXTS)
        refused = [one["request_counts"]["total"] for one in server.batches.values() if one["errors"]]
        assert refused[:2] == [40, 20]


def test_the_budget_holds_by_what_requests_can_cost(ask):
    settings = {"max_reply_tokens": 50, "usd_per_million_in": 1.0, "usd_per_million_out": 1.0}
    with BatchApi() as server:
        whole = ask(server, **settings)
        line = max(len(data) / data.count(b"\n") for data in server.files.values())
    ask.cache.remove_all()
    budget, at_most = whole / 2, []

    async def add_up(path, handle):
        response = await handle()
        if path == "POST batches":
            under_way = [one["input_file_id"] for one in server.batches.values()
                         if one["status"] in ("validating", "in_progress")]  # fmt: skip
            data = b"".join(server.files[file] for file in under_way)
            at_most.append(server.spent() + (len(data) + 50 * data.count(b"\n")) / 1e6)
        return response

    with BatchApi(looks=3) as server:
        server.disturb = add_up
        for _ in range(2):  # the second time there is nothing left to spend, and nothing is
            with pytest.raises(Stopped, match=r"annotate\.budget_usd, which is .*: raise it"):
                ask(server, budget=budget, **settings)
            assert budget - 2 * (line + 50) / 1e6 <= server.spent() <= budget
        assert len(at_most) > 1, "what is left of the budget is used"
        assert max(at_most) <= budget
        assert ask(server, budget=whole * 8, **settings) == pytest.approx(whole)
        assert server.submitted() == Counter(TEXTS)


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        ("silent", "is expired and brought no reply"),
        ({"code": "no_model", "message": "no\nm", "line": 1}, r"is failed .*: no_model: no m \(line 1\)"),
    ],
)
def test_a_batch_that_brings_nothing_ends_the_run_in_one_line(ask, fate, message):
    with BatchApi(fates=[fate]) as server:
        with pytest.raises(UserError, match=f"batch batch_0 of 40 requests {message}") as caught:
            ask(server)
        assert "\n" not in str(caught.value)
        ask(server)
        assert server.asked == 0
        assert {record.ended for record in ask.records.read()} >= {"completed"}


def test_a_server_that_answers_nothing_is_no_passage_that_failed(ask):
    with BatchApi({text: [error(500, "down")] * 99 for text in TEXTS}) as server:
        for _ in range(4):
            with pytest.raises(UserError, match=r"brought no reply: Error code: 500 .*down"):
                ask(server)
    assert rejections(ask.records.read()) == {}


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("POST files", 404, r"no Batch API; set annotate\.batch=false"),
        ("POST files", 401, "refuses the key .*check OPENAI_API_KEY"),
        ("POST batches", 400, "teacher m at .*billing"),
        ("GET batches", 404, r"batch batch_0 or its files are not there .*delete .*00001\.json"),
        ("GET files", 404, r"batch batch_0 or its files are not there"),
    ],
)
def test_what_is_wrong_with_the_server_is_one_line(ask, path, status, message):
    async def refuse(asked, handle):
        if asked == path:
            return web.json_response({"error": {"message": "billing"}}, status=status)
        return await handle()

    with BatchApi() as server:
        server.disturb = refuse
        with pytest.raises(UserError, match=message) as caught:
            ask(server)
    assert "\n" not in str(caught.value)
    if path == "POST batches":
        ask.records.require_none_under_way()  # there is none
    if path == "GET files":
        with pytest.raises(UserError, match=r"batch_0 is under way and paid for; go on with annotate\.batch"):
            ask.records.require_none_under_way()


def test_an_answer_that_is_none_is_named(ask):
    async def garble(path, handle):
        return web.Response(body=b'{"custom_id": "a"}\n{"custom') if path == "GET files" else await handle()

    with BatchApi() as server:
        server.disturb = garble
        with pytest.raises(UserError, match=r"batch batch_0, file file-1, line 2: is no answer of a batch"):
            ask(server)
        server.disturb = lambda path, handle: handle()
        ask(server)
        assert server.submitted() == Counter(TEXTS)


@pytest.fixture
def run(tmp_path, base, monkeypatch):
    """Return a function that runs the annotate job in batches on passages as ingest leaves them."""
    monkeypatch.setattr(submission, "POLL_S", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "a"\n[student]\nbase = "{base}"\n[ingest]\nshards = ["x"]\n'
        "[annotate]\nbatch = true\nusd_per_million_in = 500\nusd_per_million_out = 1500\n"
    )
    write_passages(StageFolder(f"{tmp_path}/runs/a/ingest"), TEXTS)

    def annotate(*words):
        return cli.run(["annotate"], [str(config), *words])

    annotate.folder = StageFolder(f"{tmp_path}/runs/a/annotate")
    return annotate


@pytest.mark.ray
def test_the_stage_in_batches(run, ray_session, capsys):
    stopped = []

    async def terminate(path, handle):
        response = await handle()
        if path == "GET batches" and not stopped:
            stopped.append(path)
            os.kill(os.getpid(), signal.SIGTERM)
        return response

    with BatchApi({TEXTS[1]: [error(400, "no")] * 9}, looks=10**9) as server:
        url = f"annotate.base_url={server.base_url}"
        server.disturb = terminate
        assert run(url) == 3, "a stop leaves the batch at the server"
        assert run(url, "annotate.batch=false") == 2
        assert "is under way and paid for; go on with annotate.batch=true" in capsys.readouterr().err
        server.looks[None] = 1
        assert run(url) == 0
        assert server.submitted() == Counter(TEXTS)
        assert server.asked == 0
    manifest = run.folder.require_manifest()
    assert manifest["outcomes"] == {"ok": 39, "rejected": 1}
    assert manifest["figures"]["cache_hits"] == 39
    assert manifest["figures"]["cost_usd"] > 0
    assert run("annotate.base_url=http://127.0.0.1:9/v1") == 0, "done is done"


def test_a_plan_and_a_recording_in_batches(run, capsys, monkeypatch, teacher):
    monkeypatch.setattr("uniner.runtime.connection.connected", None)
    assert run("annotate.plan=true", "annotate.base_url=http://127.0.0.1:9/v1") == 0
    told = capsys.readouterr().out
    assert "time      up to 24 h a batch (annotate.batch)" in told
    assert "batches   1, all at once with a budget of about" in told
    assert run("annotate.recording=x.jsonl") == 2
    assert "annotate.batch: only a server has a Batch API" in capsys.readouterr().err
    assert batches(teacher("http://x"), Work(120_000, 1e6, 1e6))[0] == 3
    assert batches(teacher("http://x"), Work(100_000, 90e6, 1e6))[0] == 4
    assert "all at once" not in describe(
        teacher("http://x", usd_per_million_in=0.0, usd_per_million_out=0.0),
        Limits(), 64, Work(10, 10, 10), 10, 0, "Ann", batch=True,
    )  # fmt: skip
