"""A teacher's key and model by one request: a real HTTP server that keeps a bill."""

import pytest
from aiohttp import web

from uniner.config.teachers import OpenAITeacher, RecordingTeacher
from uniner.preflight.results import Check, results_of
from uniner.preflight.teacher import TeacherBudget, check_recording, check_server
from uniner.runtime.spending import SpendingFile
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.prompts import PROBE
from uniner.teacher.replay_server import ReplayServer

PRICES = {"usd_per_million_in": 1000.0, "usd_per_million_out": 4000.0}


class Server(ReplayServer):
    """Counts what it bills, and refuses as told: a status, or by a function of the request's body."""

    def __init__(self, refuse=None):
        super().__init__({})
        self.refuse, self.bodies, self.keys = refuse, [], []

    async def _complete(self, request):
        body = await request.json()
        status = self.refuse(body) if callable(self.refuse) else self.refuse
        self.keys.append(request.headers["Authorization"])
        if status:
            code, message = (status, "no") if isinstance(status, int) else status
            return web.json_response({"error": {"message": message}}, status=code)
        self.bodies.append(body)
        return web.json_response(self._completion(body["model"], body["messages"][0]["content"], "Yes"))


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Return a function that checks a server and returns the only result."""
    monkeypatch.setenv("TEACHER_KEY", "key-1")

    def ask(server, budget_usd=None, **settings):
        section = OpenAITeacher(
            model="m", base_url=server.base_url, api_key_env="TEACHER_KEY", **{**PRICES, **settings}
        )
        run = StageFolder(str(tmp_path / "r"))
        budget = TeacherBudget(
            usd=budget_usd, setting="run.budget_usd", stages=(run / "annotate", run / "generate")
        )
        (result,) = results_of(Check("teacher", lambda: check_server(section, "teacher", budget)))
        return result

    return ask


def spending(tmp_path, stage="annotate"):
    return SpendingFile(StageFolder(str(tmp_path / "r" / stage)))


def test_one_request_of_one_token_is_sent_and_its_price_told(ask, tmp_path):
    with Server() as server:
        result = ask(server)
    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": PROBE}] and body["max_tokens"] == 1
    assert server.keys == ["Bearer key-1"]
    assert result.level == "ok" and f"m at {server.base_url} answers" in result.found
    assert "took 4 + 1 tokens, cost 0.008 USD" in result.found
    assert not (tmp_path / "r").exists(), "without a budget nothing is written"


def test_without_prices_the_line_says_so(ask):
    with Server() as server:
        result = ask(server, usd_per_million_in=0, usd_per_million_out=0)
    assert result.level == "ok" and "no price is set" in result.found


def test_a_budget_counts_the_request(ask, tmp_path):
    spending(tmp_path).write(0.5, exact=True)
    spending(tmp_path, "generate").write(0.25, exact=True)
    with Server() as server:
        assert ask(server, budget_usd=2.0).level == "ok"
    assert spending(tmp_path).read() == pytest.approx(0.508)
    assert spending(tmp_path, "generate").read() == 0.25


def test_a_request_that_could_exceed_the_budget_is_not_sent(ask, tmp_path):
    spending(tmp_path).write(0.5, exact=True)
    spending(tmp_path, "generate").write(0.25, exact=True)
    with Server() as server:
        result = ask(server, budget_usd=0.76)
    assert server.keys == []
    assert result.level == "warning" and "is not asked" in result.found and "0.75 are spent" in result.found
    assert spending(tmp_path).read() == 0.5


def test_a_refused_request_costs_nothing_and_a_lost_one_its_most(ask, tmp_path):
    with Server(refuse=401) as server:
        assert ask(server, budget_usd=2.0).level == "error"
    assert spending(tmp_path).read() == 0
    with Server(refuse=502) as server:
        assert ask(server, budget_usd=2.0).level == "error"
    assert 0.1 < spending(tmp_path).read() < 0.5


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "refuses the key (Error code: 401"),
        (404, "check teacher.model and base_url"),
        (429, "Error code: 429"),
        (500, "Error code: 500"),
    ],
)
def test_what_the_server_refuses_is_one_line_after_one_request(ask, status, text):
    with Server(refuse=status) as server:
        result = ask(server)
    assert result.level == "error" and text in result.found and "\n" not in result.found
    assert len(server.keys) == 1
    assert "key-1" not in result.found


def test_a_server_that_wants_another_form_of_the_request_gets_it(ask):
    def refuse(body):
        return (400, "Unsupported parameter: 'max_tokens'") if "max_tokens" in body else None

    with Server(refuse) as server:
        result = ask(server)
    assert result.level == "ok"
    assert server.bodies[0]["max_completion_tokens"] == 1


@pytest.mark.parametrize(
    ("message", "level"),
    [
        ("Could not finish the message because max_tokens or model output limit was reached.", "ok"),
        ("max_completion_tokens must be at least 16", "ok"),
        ("Unknown field: thinking", "error"),
    ],
)
def test_a_model_that_needs_more_than_a_token_is_there(ask, message, level):
    with Server(refuse=(400, message)) as server:
        result = ask(server)
    assert result.level == level and message in result.found


def test_a_missing_key_and_a_budget_without_prices_send_nothing(ask, monkeypatch):
    with Server() as server:
        assert "no price is set" in ask(server, budget_usd=1, usd_per_million_in=0).found
        monkeypatch.delenv("TEACHER_KEY")
        section = OpenAITeacher(model="m", api_key_env="TEACHER_KEY")
        budget = TeacherBudget(usd=None, setting="run.budget_usd", stages=())
        (result,) = results_of(Check("teacher", lambda: check_server(section, "teacher", budget)))
    assert result.level == "error" and "TEACHER_KEY is not set" in result.found
    assert server.keys == []


def test_a_server_that_is_not_there_is_an_error(ask):
    with Server() as server:
        pass
    result = ask(server)
    assert result.level == "error" and "cannot be reached" in result.found


def test_a_recording_is_read_and_nothing_asked(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text('{"passage": "a", "reply": "[]"}\n')
    (result,) = check_recording(RecordingTeacher(kind="recording", path=str(path)))
    assert result.level == "ok" and "1 recorded replies; nothing is asked" in result.found
