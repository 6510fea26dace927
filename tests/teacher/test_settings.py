"""A teacher's config section: its key, its cache folder, and which settings decide its replies."""

import json
import urllib.request

import pytest
from pydantic import ValidationError

from uniner.config.teachers import BatchTeacher, OpenAITeacher, RecordingTeacher, VllmTeacher
from uniner.errors import UserError
from uniner.teacher.prompts import published_prompt
from uniner.teacher.request_form import RequestForm
from uniner.teacher.settings import (
    api_key,
    check_budget,
    check_teacher,
    make_server,
    make_teacher,
    replay,
    reply_cache_folder,
    teacher_identity,
)


def test_the_key_is_in_the_variable_that_the_section_names(monkeypatch):
    section = OpenAITeacher(api_key_env="TOGETHER_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "of another server")
    with pytest.raises(UserError, match="chat: the environment variable TOGETHER_KEY is not set"):
        check_teacher(section, "chat")
    monkeypatch.setenv("TOGETHER_KEY", "secret")
    check_teacher(section, "chat")
    assert make_server(section).api_key == "secret"
    assert "secret" not in repr(make_server(section))
    assert api_key(OpenAITeacher(base_url="http://127.0.0.1:9/v1", api_key_env="NONE")) == "none"


@pytest.mark.parametrize("key", ["sk-\u201cabc\u201d", "sk-abc\n", "sk abc", "\u0430bc"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=r"teacher: the key in .* OPENAI_API_KEY has a blank") as caught:
        check_teacher(OpenAITeacher())
    assert "abc" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_recording_is_asked_at_its_own_address_without_the_users_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = make_server(RecordingTeacher(path="x.jsonl"), recording_url="http://127.0.0.1:9/v1")
    assert (server.base_url, server.api_key) == ("http://127.0.0.1:9/v1", "recorded")


def test_a_recording_is_served_where_other_machines_reach_it(tmp_path, monkeypatch):
    """A cluster's head may run no actor: those of other machines ask."""
    recording = tmp_path / "replies.jsonl"
    recording.write_text('{"passage": "Ann", "reply": "[]"}\n')
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.2")
    for address, host in ((None, "127.0.0.1"), ("auto", "127.0.0.2")):
        if address:
            monkeypatch.setenv("RAY_ADDRESS", address)
        with replay(RecordingTeacher(path=str(recording))) as url:
            assert url.startswith(f"http://{host}:")
            stats = urllib.request.urlopen(f"{url.removesuffix('/v1')}/stats").read()
        assert json.loads(stats) == {"completions": 0}


@pytest.mark.parametrize("section", [OpenAITeacher(), BatchTeacher(), RecordingTeacher(path="x.jsonl")])
def test_a_budget_needs_prices(section):
    prices = {"usd_per_million_in": 1.0, "usd_per_million_out": 1.0}
    for missing, message in (
        (
            ["in", "out"],
            r"no price is set; set teacher\.usd_per_million_in=0\.15 and .*_out=0\.60, for example",
        ),
        (["in"], r"no price is set for prompts; set teacher\.usd_per_million_in=0\.15, for example"),
        (["out"], r"no price is set for replies; set teacher\.usd_per_million_out=0\.60, for example"),
    ):
        update = prices | {f"usd_per_million_{name}": 0.0 for name in missing}
        with pytest.raises(UserError, match=f"run\\.budget_usd: {message}"):
            check_budget(section.model_copy(update=update), 1.0, "run.budget_usd")
    check_budget(section, None, "run.budget_usd")
    check_budget(section.model_copy(update=prices), 1.0, "run.budget_usd")


def test_only_the_model_and_an_engines_number_format_decide_the_replies(tmp_path):
    online = OpenAITeacher(model="m", base_url="http://a", actors=3, usd_per_million_in=1.0)
    assert teacher_identity(online) == teacher_identity(BatchTeacher(model="m")) == {"model": "m"}
    more = {"reasoning_effort": "low"}
    assert teacher_identity(OpenAITeacher(model="m", extra_body=more)) == {"model": "m", "extra_body": more}
    engine = VllmTeacher(model="org/model", gpus=4, dtype="float16")
    assert teacher_identity(engine) == {"model": "org/model", "dtype": "float16", "max_prompt_tokens": 2048}


@pytest.mark.parametrize("name", ["messages", "model", "max_completion_tokens", "n", "stream", "temperature"])
def test_fields_that_the_request_has_already_are_refused(name):
    with pytest.raises(ValidationError, match=rf"{name} is not allowed here .*, such as {{reasoning_effort"):
        OpenAITeacher(extra_body={name: 1})


def test_a_teacher_has_its_server_and_its_form(monkeypatch):
    def teacher(section):
        return make_teacher(section, prompt=published_prompt("type"), temperature=0.0, max_reply_tokens=5)

    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert teacher(OpenAITeacher()).server == teacher(BatchTeacher()).server == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://proxy:1/v1/")
    assert teacher(OpenAITeacher()).server == "http://proxy:1/v1", "the client reads the variable too"
    for wrong in ("foo", "ftp://h/v1", "http://u:p@h/v1", "http://h/v1?api_key=x", "http:///v1"):
        with pytest.raises(ValueError, match=r'must be an address .*such as "http://127.0.0.1:8000/v1"'):
            OpenAITeacher(base_url=wrong)
    assert teacher(RecordingTeacher(path="x.jsonl")).server == ""
    assert make_server(OpenAITeacher(base_url="http://h/v1")).form == RequestForm()
    section = OpenAITeacher(
        base_url="http://h/v1", reply_limit_field="max_completion_tokens", send_temperature=False
    )
    assert make_server(section).form == RequestForm(limit="max_completion_tokens", temperature=False)


def test_paid_replies_are_cached_under_the_root_unless_a_folder_is_named(tmp_path):
    assert reply_cache_folder(OpenAITeacher(), str(tmp_path)).url == f"{tmp_path}/reply-cache"
    assert reply_cache_folder(OpenAITeacher(cache="s3://b/c"), str(tmp_path)).url == "s3://b/c"
    assert reply_cache_folder(RecordingTeacher(path="x.jsonl"), str(tmp_path)) is None
