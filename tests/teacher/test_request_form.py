"""Models that refuse max_tokens or a temperature can teach, online and in batches."""

import pytest
from aiohttp import web

from uniner.runtime.rate_limits import Meter, RateLimits
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.prompts import passage_in
from uniner.teacher.replay_server import ReplayServer
from uniner.teacher.request_form import RequestForm

TEXTS = [f"Ann {n} met Bob." for n in range(20)]
REPLIES = {text: f'[("{text[:6]}", "person")]' for text in TEXTS}
LIMIT = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead."
)
TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0 with this model. "
    "Only the default (1) value is supported."
)


class ReasoningServer(ReplayServer):
    """Takes max_completion_tokens and no temperature, as OpenAI's reasoning models do."""

    def __init__(self, refused=("max_tokens", "temperature"), named=True):
        super().__init__(REPLIES)
        self.refused, self.named, self.bodies = refused, named, []

    async def _complete(self, request):
        body = await request.json()
        for name in self.refused:
            if name in body:
                error = {"message": TEMPERATURE if name == "temperature" else LIMIT}
                if self.named:
                    error |= {"type": "invalid_request_error", "param": name, "code": "unsupported_parameter"}
                return web.json_response({"error": error}, status=400)
        self.bodies.append(body)
        return await super()._complete(request)


@pytest.mark.parametrize("named", [True, False], ids=["named", "in words"])
def test_the_form_that_a_model_takes_is_found_once_and_said(named, teacher_at, annotate, tmp_path):
    cache, meter = StageFolder(str(tmp_path)), Meter(RateLimits())
    with ReasoningServer(named=named) as server:
        rows, _ = annotate(teacher_at(server), TEXTS, cache=cache, meter=meter)
        assert server.asked == len(TEXTS), "a refusal of the form is no try of the passage"
    assert {row.outcome for row in rows} == {"ok"}
    assert {row.attempts for row in rows} == {1}
    assert all(body["max_completion_tokens"] == 50 and "temperature" not in body for body in server.bodies)
    said = " ".join(meter.state().notices)
    assert "takes no max_tokens; max_completion_tokens is sent" in said
    assert "takes no temperature" in said
    # The key is that of the request as it was meant: another server's replies are found.
    with ReplayServer({}) as server:
        assert annotate(teacher_at(server), TEXTS, cache=cache)[0] == rows
        assert server.asked == 0


def test_the_form_is_a_setting(teacher_at, annotate):
    form = RequestForm(limit="max_completion_tokens", temperature=False)
    with ReasoningServer() as server:
        annotate(teacher_at(server, form=form), TEXTS[:3])
        assert len(server.bodies) == 3
    with ReasoningServer(refused=("max_completion_tokens",)) as server:
        annotate(teacher_at(server, form=form), TEXTS[:3])
        assert [body["max_tokens"] for body in server.bodies] == [50] * 3


def test_a_server_that_takes_neither_form_rejects_the_request(teacher_at, annotate):
    with (
        ReasoningServer(refused=("max_tokens", "max_completion_tokens")) as server,
        pytest.raises(ExceptionGroup) as caught,
    ):
        annotate(teacher_at(server), TEXTS[:3])
    assert "not supported with this model" in str(caught.value.exceptions[0])


@pytest.mark.parametrize(
    ("status", "parameter", "message"),
    [
        (
            400,
            "max_tokens",
            "max_tokens is too large: 5000. This model supports at most 4096 completion tokens.",
        ),
        (400, None, "'max_tokens' or 'max_completion_tokens' is too large: 1024. The limit is 512 tokens."),
        (400, "response_format", "'response_format' of type 'json_schema' is not supported with this model."),
        (400, "messages", "Unsupported value: 'system' is not supported."),
        (429, "max_tokens", LIMIT),
        (400, None, "The prompt is too long."),
    ],
)
def test_other_errors_change_no_form(status, parameter, message):
    assert RequestForm().after(status, parameter, message) is None


@pytest.mark.parametrize(
    "message",
    [
        LIMIT,
        "Unrecognized request argument supplied: max_tokens",
        "Unknown parameter: 'max_tokens'.",
        "body.max_tokens: Extra inputs are not permitted",
        "max_tokens is deprecated in favor of max_completion_tokens",
    ],
)
def test_a_refusal_is_known_by_its_words(message):
    assert RequestForm().after(400, None, message) == RequestForm(limit="max_completion_tokens")


def test_a_form_changes_nothing_else():
    request = {"model": "m", "messages": [], "temperature": 0.0, "max_tokens": 5, "reasoning_effort": "low"}
    assert RequestForm().body(request) is request
    changed = RequestForm(limit="max_completion_tokens", temperature=False).body(request)
    assert changed == {"model": "m", "messages": [], "max_completion_tokens": 5, "reasoning_effort": "low"}
    assert "max_tokens" in request


def test_more_fields_are_sent_and_are_part_of_the_key(teacher_at, annotate, tmp_path):
    cache = StageFolder(str(tmp_path))
    more = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}
    with ReasoningServer(refused=()) as server:
        annotate(teacher_at(server), TEXTS, cache=cache)
        annotate(teacher_at(server, extra_body=more), TEXTS, cache=cache)
        annotate(teacher_at(server, extra_body=more), TEXTS, cache=cache)
        annotate(teacher_at(server), TEXTS, cache=cache)
        assert server.asked == 2 * len(TEXTS)
    assert all(more.items() <= body.items() for body in server.bodies[len(TEXTS) :])
    assert passage_in(server.bodies[0]["messages"][-1]["content"]) in TEXTS
