"""Batches at a server that speaks the Batch API, checks its files, and fails at times."""

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from aiohttp import web

from uniner import cli
from uniner.errors import Stopped, UserError
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.batch import client, runner
from uniner.teacher.batch.client import BatchClient
from uniner.teacher.batch.files import BatchFileLimits
from uniner.teacher.batch.pending_requests import PendingRequests
from uniner.teacher.batch.records import BatchRecords, rejections_in
from uniner.teacher.batch.runner import BatchRunner
from uniner.teacher.completion import most_tokens
from uniner.teacher.prompts import passage_in
from uniner.teacher.replay_server import ReplayServer
from uniner.teacher.reply_cache import ReplyCache

TEXTS = [f"Ann {n} met Bob in Bonn" + " again" * (n % 5) for n in range(40)]
REPLIES = {text: f'[("{text[:5]}", "person"), ("Bonn", "city")]' for text in TEXTS}
SLOW_DOWN = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}


class BatchApi(ReplayServer):
    """Answers a batch as it answers online. `script`: a passage's first answers (status, body).

    A batch advances a step at each status query, and is in progress for `looks` of them. `fates`: how batches
    end, in the order of their creation: completed; expired or cancelled halfway; silent (expired at once); or
    failed with an error. most: requests in a file. queue: requests in all batches in progress.
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
        app.router.add_get("/v1/files/{id}", self._disturbed(self._file))
        app.router.add_get("/v1/files/{id}/content", self._disturbed(self._content))
        app.router.add_post("/v1/batches", self._disturbed(self._create))
        app.router.add_get("/v1/batches", self._disturbed(self._list))
        app.router.add_get("/v1/batches/{id}", self._disturbed(self._look))
        return app

    def submitted(self):
        """How often each passage was in a batch that the server took."""
        accepted = [batch for batch in self.batches.values() if batch["errors"] is None]
        return Counter(passage_in(body["messages"][-1]["content"]) for batch in accepted
                       for body in self.bodies(batch["input_file_id"]).values())  # fmt: skip

    def bodies(self, file):
        return {row["custom_id"]: row["body"] for row in map(json.loads, self.files[file].splitlines())}

    def spent(self):
        lines = [json.loads(line) for batch in self.batches.values() if batch["output_file_id"]
                 for line in self.files[batch["output_file_id"]].splitlines()]  # fmt: skip
        usages = [line["response"]["body"].get("usage", {}) for line in lines]
        return (
            sum(batch.get("prompt_tokens", 0) + batch.get("completion_tokens", 0) for batch in usages) / 1e6
        )

    def _disturbed(self, handle):
        async def handler(request):
            self.log.append(f"{request.method} {request.path.split('/')[2]}")
            if self.log[-1] == "POST batches":
                await request.read()  # it may be handled after the answer
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

    async def _file(self, request):
        name = request.match_info["id"]
        if name not in self.files:
            return web.json_response({"error": {"message": "no such file"}}, status=404)
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
        waiting = sum(batch["request_counts"]["total"] for batch in self.batches.values()
                      if batch["status"] in ("validating", "in_progress"))  # fmt: skip
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
        batches = list(self.batches.values())[::-1]
        after = request.query.get("after")
        start = 1 + [batch["id"] for batch in batches].index(after) if after else 0
        page = batches[start : start + 2]  # pages are short, so that they must be turned
        return web.json_response({"object": "list", "data": page, "has_more": start + 2 < len(batches)})

    async def _look(self, request):
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        if batch["status"] == "validating":
            batch["status"] = "failed" if batch["errors"] else "in_progress"
        elif batch["status"] == "in_progress":
            self.looks[batch["id"]] += 1
            if self.looks[batch["id"]] >= self.looks[None]:
                self._finish(batch)
        return web.json_response(batch)

    def _finish(self, batch):
        bodies = list(self.bodies(batch["input_file_id"]).items())
        asked = bodies[: {"completed": len(bodies), "silent": 0}.get(batch["fate"], len(bodies) // 2)]
        output, error = [], []
        for key, body in asked:
            status, answer = self._answer(body)
            line = {"custom_id": key, "response": {"status_code": status, "body": answer}, "error": None}
            (output if status == 200 else error).append(line)
        why = {"code": "batch_expired", "message": "This request could not be executed in time."}
        error += [{"custom_id": key, "response": None, "error": why} for key, _ in bodies[len(asked) :]]
        for name, lines in (("output_file_id", output), ("error_file_id", error)):
            if lines:
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = "\n".join(map(json.dumps, lines)).encode() + b"\n"
        batch["request_counts"] |= {"completed": len(output), "failed": len(error)}
        batch["status"] = {"silent": "expired"}.get(batch["fate"], batch["fate"])


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch):
    monkeypatch.setattr(client, "_LATE_S", 1.0)


@pytest.fixture
def ask(teacher_at, write_passages, tmp_path):
    """Return a function that has passages answered in batches; the next call resumes."""

    async def answer(server, texts=TEXTS, rows=10, budget=None, limits=None, **changes):
        served = teacher_at(server, **{"timeout_s": 60.0, "retries": 1, **changes})
        teacher = served.teacher
        root = StageFolder(str(tmp_path))
        chunks = write_passages(root / "ingest", texts, rows)
        index = ReplyCache(root / "cache", teacher.request("")).read_index("run")
        cache = ReplyCache(root / "cache", teacher.request(""), index)
        pending = PendingRequests(teacher=teacher, parent=root / "ingest", cache=cache, run="run")
        batch_client = BatchClient("m", served.server)
        spent = teacher.usd(*index.paid)
        try:
            records = BatchRecords(root / "annotate")
            batches = BatchRunner(pending, batch_client, records, budget, spent, limits, poll_s=0)
            return await batches.answer(chunks)
        finally:
            await batch_client.aclose()

    def run(*words, **changes):
        return asyncio.run(answer(*words, **changes))

    run.answer = answer
    run.records = BatchRecords(StageFolder(str(tmp_path)) / "annotate")
    run.cache = StageFolder(str(tmp_path)) / "cache"
    return run


def error(status, message, **more):
    return status, {"error": {"message": message, "type": "some_error", **more}}


def test_a_run_in_batches_equals_the_run_online(ask, teacher_at, annotate):
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
        online, figures = annotate(teacher_at(server, retries=2), texts, chunk_rows=10)
        paid_online = sum(figure["cost_usd"] for figure in figures)
    with BatchApi(script, ["expired", "cancelled"]) as server:
        spent = ask(server, texts, limits=BatchFileLimits(requests=25))
        fields = ("text", "outcome", "reply", "entities", "tokens_in", "tokens_out", "cost_usd")
        rejected = rejections_in(ask.records.read())
        rows, figures = annotate(teacher_at(server), texts, chunk_rows=10, cache=ask.cache, rejected=rejected)
        assert server.asked == 0, "nothing is left to ask online"
    # Online, the reason of a failed passage also has the server's address.
    same = [{name: getattr(row, name) for name in fields} for row in rows if row.outcome != "failed"]
    assert same == [
        {name: getattr(row, name) for name in fields} for row in online if row.outcome != "failed"
    ]
    assert [row.outcome for row in rows] == [row.outcome for row in online]
    assert Counter(row.outcome for row in rows) == {"ok": 39, "rejected": 1, "filtered": 1, "failed": 1}
    assert "out of memory" in rows[4].reply
    submitted = server.submitted()
    assert (submitted[TEXTS[1]], submitted[TEXTS[3]], submitted[TEXTS[4]]) == (1, 2, 3)
    assert submitted[TEXTS[0]] == 1, "a passage that repeats in a file is asked once"
    cost, saved = (sum(figure[name] for figure in figures) for name in ("cost_usd", "saved_usd"))
    assert cost == pytest.approx(server.spent())
    # The errors of the server and the unreadable body may have been billed, each at most at its reservation.
    served = teacher_at(server).teacher
    billed = [TEXTS[3], *[TEXTS[4]] * 3, TEXTS[5]]
    assert spent - cost == pytest.approx(
        sum(served.usd(*most_tokens(served.request(text))) for text in billed)
    )
    assert spent == pytest.approx(sum(record.usd for record in ask.records.read()))
    assert cost + saved == pytest.approx(paid_online)


class Killed:
    """Cancels the client at the server's n-th request: before the server handles it, or before it answers."""

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
        return web.json_response({}, status=503)  # the client is gone


@pytest.mark.parametrize("taken", [False, True], ids=["before", "after"])
def test_killed_at_any_request_nothing_is_submitted_twice(ask, taken, tmp_path):
    def kill(server, killed):
        async def run():
            killed.loop = asyncio.get_running_loop()
            killed.task = asyncio.create_task(
                ask.answer(server, texts, rows=4, limits=BatchFileLimits(requests=4))
            )
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
                break  # the run ended before that request
            seen.add(server.log[-1])
            server.disturb = lambda path, handle: handle()
            ask(server, texts, rows=4, limits=BatchFileLimits(requests=4))
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
        ask(server, limits=BatchFileLimits(requests=10))
        assert lost
        assert server.submitted() == Counter(TEXTS)


def test_a_batch_that_is_created_after_the_connection_was_lost_is_not_created_twice(ask):
    created, lost = threading.Event(), []

    async def late(path, handle):
        async def create():
            await asyncio.sleep(0.5)
            await handle()
            created.set()

        if path == "POST batches" and not lost:
            lost.append(asyncio.ensure_future(create()))
            return web.json_response({"error": {"message": "gateway time-out"}}, status=504)
        return await handle()

    with BatchApi() as server:
        server.disturb = late
        ask(server, limits=BatchFileLimits(requests=10))
        assert created.wait(10)
        assert server.submitted() == Counter(TEXTS)


def test_an_unconfirmed_batch_is_looked_for_only_where_it_was_submitted(ask):
    """The driver dies before it hears that the batch was created; the next one has another key or server."""

    async def unheard(path, handle):
        response = await handle()
        return (
            web.json_response({"error": {"message": "lost"}}, status=400)
            if path == "POST batches"
            else response
        )

    with BatchApi() as server:
        server.disturb = unheard
        with pytest.raises(UserError):
            ask(server, retries=0)
        (record,) = ask.records.read()
        ask.records.write(
            replace(record, ended=None)
        )  # a 400 says that none was created; a dead driver heard nothing
        server.disturb = lambda path, handle: handle()
        with BatchApi() as other:
            with pytest.raises(UserError, match="if you changed the server or the key, change it back"):
                ask(other)
            assert not other.batches
        ask(server)
        assert server.submitted() == Counter(TEXTS)


def test_the_client_waits_for_a_server_that_is_away_for_a_while(ask):
    async def away(path, handle):
        if len(server.log) in range(4, 6):
            return web.json_response({}, status=503)
        return await handle()

    with BatchApi() as server:
        server.disturb = away
        ask(server, retries=0)
        assert server.submitted() == Counter(TEXTS)


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        (BatchFileLimits(requests=40), [40]),
        (BatchFileLimits(requests=25), [20, 20]),
        (BatchFileLimits(requests=4), [4] * 10),
        (BatchFileLimits(bytes=9_000), None),
    ],
)
def test_files_are_cut_at_the_limits(ask, limits, sizes):
    with BatchApi(most=limits.requests) as server:
        ask(server, limits=limits)
        assert server.submitted() == Counter(TEXTS)
        inputs = [server.files[batch["input_file_id"]] for batch in server.batches.values()]
    assert all(len(data) <= limits.bytes for data in inputs)
    assert len(inputs) > 1 or sizes
    if sizes:
        assert sorted((data.count(b"\n") for data in inputs), reverse=True) == sizes


def test_where_the_accounts_queue_is_full_files_wait_or_shrink(ask):
    with BatchApi(queue=20, looks=12) as server:
        ask(server, rows=5, limits=BatchFileLimits(requests=10))
        assert server.submitted() == Counter(TEXTS)
        refused = [batch for batch in server.batches.values() if batch["errors"]]
        assert 0 < len(refused) <= 2, "a file waits for another to end"
        assert {batch["request_counts"]["total"] for batch in server.batches.values()} == {10}
    ask.cache.remove_all()
    with BatchApi(queue=12) as server:
        ask(server)
        assert server.submitted() == Counter(TEXTS)
        refused = [batch["request_counts"]["total"] for batch in server.batches.values() if batch["errors"]]
        assert refused[:2] == [40, 20]


def test_the_budget_holds_by_the_highest_price_of_requests(ask):
    settings = {"max_reply_tokens": 50, "usd_per_million_in": 1.0, "usd_per_million_out": 1.0}
    with BatchApi() as server:
        whole = ask(server, **settings)
        line = max(len(data) / data.count(b"\n") for data in server.files.values())
    ask.cache.remove_all()
    budget, at_most = whole / 2, []

    async def add_up(path, handle):
        response = await handle()
        if path == "POST batches":
            in_progress = [batch["input_file_id"] for batch in server.batches.values()
                         if batch["status"] in ("validating", "in_progress")]  # fmt: skip
            data = b"".join(server.files[file] for file in in_progress)
            at_most.append(server.spent() + (len(data) + 50 * data.count(b"\n")) / 1e6)
        return response

    with BatchApi(looks=3) as server:
        server.disturb = add_up
        for _ in range(2):  # the second time nothing is left, and nothing is spent
            with pytest.raises(Stopped, match=r"run\.budget_usd, which is .*: raise it"):
                ask(server, budget=budget, **settings)
            assert budget - 2 * (line + 50) / 1e6 <= server.spent() <= budget
        assert len(at_most) > 1, "the rest of the budget is used"
        assert max(at_most) <= budget
        assert ask(server, budget=whole * 8, **settings) == pytest.approx(whole)
        assert server.submitted() == Counter(TEXTS)


def test_a_batchs_replies_without_usage_count_at_most(ask, teacher_at):
    replies = {text: REPLIES[text] for text in TEXTS[:4]}

    class NoUsage(BatchApi):
        def _completion(self, model, prompt, reply):
            return {**super()._completion(model, prompt, reply), "usage": {"prompt_tokens": None}}

    with NoUsage() as server:
        spent = ask(server, TEXTS[:4])
        teacher = teacher_at(server).teacher
        most = {text: most_tokens(teacher.request(text)) for text in replies}
        assert spent == pytest.approx(sum(teacher.usd(*counts) for counts in most.values()))
        assert ReplyCache(ask.cache, teacher.request("")).read_index("run").paid == tuple(
            map(sum, zip(*most.values(), strict=True))
        )
        assert ask(server, TEXTS[:4]) == pytest.approx(spent), "a resumed run knows it"
        assert len(server.batches) == 1


def test_an_error_or_nothing_in_a_batch_is_asked_again_and_never_kept(ask):
    nothing = (200, {"choices": [{"message": {"content": ""}, "finish_reason": "error"}]})
    with BatchApi({TEXTS[0]: [nothing] * 2, TEXTS[1]: [nothing] * 9}) as server:
        ask(server, TEXTS[:4])
        assert server.submitted() == Counter({TEXTS[0]: 3, TEXTS[1]: 3, TEXTS[2]: 1, TEXTS[3]: 1})
        (failed,) = rejections_in(ask.records.read()).values()
        assert (failed.outcome, "finish_reason error" in failed.reason) == ("failed", True)
        ask.records.forget_errors()
        assert rejections_in(ask.records.read()) == {}
        ask(server, TEXTS[:4])
        assert server.submitted()[TEXTS[1]] == 6


def test_a_model_that_refuses_max_tokens_teaches_in_batches(ask):
    class Reasoning(BatchApi):
        def _answer(self, asked):
            for name in ("max_tokens", "temperature"):
                if name in asked:
                    return error(400, f"'{name}' is not supported with this model.", param=name)
            return super()._answer(asked)

    with Reasoning() as server:
        ask(server)
        assert server.submitted() == Counter(dict.fromkeys(TEXTS, 3)), "one refused batch for each parameter"
        assert rejections_in(ask.records.read()) == {}


def test_batches_in_progress_when_the_form_changes_are_asked_again_in_the_new_form(ask):
    class Reasoning(BatchApi):
        def _answer(self, asked):
            if "max_tokens" in asked:
                return error(400, "'max_tokens' is not supported with this model.", param="max_tokens")
            return super()._answer(asked)

    with Reasoning(looks=4) as server:
        ask(server, limits=BatchFileLimits(requests=10))
        assert sum("max_tokens" in next(iter(server.bodies(batch["input_file_id"]).values()))
                   for batch in server.batches.values()) > 1, "several were in progress"  # fmt: skip
        assert rejections_in(ask.records.read()) == {}
        assert server.asked == 0


def test_a_batch_whose_replies_have_no_file_yet_is_not_asked_again(ask):
    class Late(BatchApi):
        def _finish(self, batch):
            super()._finish(batch)
            self.late = batch["output_file_id"]
            batch["output_file_id"] = None

    with Late() as server:
        with pytest.raises(UserError, match="with 40 requests answered, but the server names no file"):
            ask(server)
        server.batches["batch_0"]["output_file_id"] = server.late
        ask(server)
        assert server.submitted() == Counter(TEXTS)


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        ("silent", "is expired and brought no reply"),
        ({"code": "no_model", "message": "no\nm", "line": 1}, r"is failed .*: no_model: no m \(line 1\)"),
    ],
)
def test_a_batch_without_any_reply_ends_the_run_in_one_line(ask, fate, message):
    with BatchApi(fates=[fate]) as server:
        with pytest.raises(UserError, match=f"batch batch_0 of 40 requests {message}") as caught:
            ask(server)
        assert "\n" not in str(caught.value)
        ask(server)
        assert server.asked == 0
        assert {record.ended for record in ask.records.read()} >= {"completed"}


def test_a_server_that_answers_nothing_does_not_fail_passages(ask):
    with BatchApi({text: [error(500, "down")] * 99 for text in TEXTS}) as server:
        for _ in range(4):
            with pytest.raises(UserError, match=r"brought no reply: Error code: 500 .*down"):
                ask(server)
    assert rejections_in(ask.records.read()) == {}


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("POST files", 404, r"no Batch API; set teacher\.kind=openai"),
        ("POST files", 401, "refuses the key .*check OPENAI_API_KEY"),
        ("POST batches", 400, "teacher m at .*billing"),
        ("GET batches", 404, r"batch_0 or its files do not exist there .*delete .*00001-[0-9a-f]{12}\.json"),
        ("GET files", 404, r"batch batch_0 or its files do not exist there"),
    ],
)
def test_an_error_of_the_server_is_one_line(ask, path, status, message):
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
        ask.records.require_none_in_progress()  # none was created
    if path == "GET files":
        with pytest.raises(UserError, match=r"batch_0 is in progress and paid for; set teacher\.kind=batch"):
            ask.records.require_none_in_progress()


def test_two_drivers_at_once_keep_a_record_of_each_batch(ask):
    """The lease keeps them apart; where it could not, no batch that is paid for is forgotten."""

    async def both(server):
        await asyncio.gather(ask.answer(server), ask.answer(server))

    with BatchApi() as server:
        asyncio.run(both(server))
        records = ask.records.read()
        assert [record.batch for record in records if record.batch] and len(records) == len(server.batches)
        assert {record.batch for record in records} == server.batches.keys()


def test_a_batch_recorded_by_an_earlier_version_is_fetched(ask, tmp_path):
    async def refuse(path, handle):
        return web.json_response({}, status=404) if path == "GET batches" else await handle()

    with BatchApi() as server:
        server.disturb = refuse
        with pytest.raises(UserError, match="do not exist there"):
            ask(server)
        (record,) = ask.records.read()
        folder = tmp_path / "annotate/batches"
        old = json.loads((folder / record.name).read_text())
        del old["suffix"], old["form"], old["sha256"]
        (folder / record.name).unlink()
        (folder / f"{record.number:05d}.json").write_text(json.dumps(old))
        server.disturb = lambda path, handle: handle()
        ask(server)
        assert len(server.batches) == 1
        assert [path.name for path in folder.iterdir()] == ["00001.json"]


def test_an_unreadable_answer_is_named(ask):
    async def garble(path, handle):
        return web.Response(body=b'{"custom_id": "a"}\n{"custom') if path == "GET files" else await handle()

    with BatchApi() as server:
        server.disturb = garble
        with pytest.raises(
            UserError, match=r"batch batch_0, file file-1, line 2: is not an answer of the Batch API"
        ):
            ask(server)
        server.disturb = lambda path, handle: handle()
        ask(server)
        assert server.submitted() == Counter(TEXTS)


@pytest.fixture
def run(tmp_path, base, write_passages, monkeypatch):
    """Return a function that runs annotate in batches, with its options, on a complete ingest stage."""
    monkeypatch.setattr(runner, "POLL_S", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "a"\n[student]\nbase = "{base}"\n[ingest]\nshards = ["x"]\n'
        '[teacher]\nkind = "batch"\nusd_per_million_in = 500\nusd_per_million_out = 1500\n'
    )
    write_passages(StageFolder(f"{tmp_path}/runs/a/ingest"), TEXTS, 10)

    def annotate(*words):
        return cli.app(["annotate", str(config), *words], standalone_mode=False)

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
        url = f"teacher.base_url={server.base_url}"
        server.disturb = terminate
        assert run(url) == 3, "a stop leaves the batch at the server"
        assert run(url, "teacher.kind=openai") == 2
        assert "is in progress and paid for; set teacher.kind=batch" in capsys.readouterr().err
        server.looks[None] = 1
        assert run(url) == 0
        assert server.submitted() == Counter(TEXTS)
        assert server.asked == 0
    manifest = run.folder.require_manifest()
    assert manifest.outcomes == {"ok": 39, "rejected": 1}
    assert manifest.figures["cache_hits"] == 39
    assert manifest.figures["cost_usd"] > 0
    assert run("teacher.base_url=http://127.0.0.1:9/v1") == 0, "a complete stage asks nothing"


def test_the_estimate_and_a_recording_in_batches(run, capsys, monkeypatch):
    monkeypatch.setattr("uniner.runtime.connection.connected", None)
    assert run("--estimate", "teacher.base_url=http://127.0.0.1:9/v1") == 0
    text = capsys.readouterr().out
    assert "time      up to 24 h a batch (teacher.kind = batch)" in text
    assert "batches   1, all at once with a budget of about" in text
    assert run("teacher.path=x.jsonl") == 2
    message = "unknown setting teacher.path: only teacher.kind = 'recording' has it"
    assert message in capsys.readouterr().err, "only a server has a Batch API"
