"""The budget is a ceiling by the server's own count, whatever the server sends and when the run resumes."""

import asyncio
import json

import pytest

from uniner.errors import Stopped, UserError
from uniner.runtime.rate_limits import Meter, RateLimits
from uniner.runtime.spending import SpendingFile
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import StageFolder
from uniner.teacher import cached_teacher, openai_client
from uniner.teacher.completion import TokenCounts, may_have_cost, most_tokens, sensible_usage

TEXTS = [f"Ann {n} met Bob in Bonn" + " again" * (n % 9) for n in range(60)]
REPLIES = {text: f'[("{text[:5]}", "person"), ("Bonn", "city")]' for text in TEXTS}
SERVED = {"max_reply_tokens": 20, "in_flight": 8, "retries": 1}
HUGE = 10**40


def usage(**counts):
    """Change a completion's usage; None removes it."""

    def change(completion):
        completion["usage"] |= counts

    return change


def without_usage(completion):
    del completion["usage"]


def contents(**message):
    def change(completion):
        completion["choices"][0]["message"] |= message

    return change


def finish(reason):
    def change(completion):
        completion["choices"][0]["finish_reason"] = reason

    return change


MANNERS = {
    "no usage": without_usage,
    "usage null": lambda completion: completion.update(usage=None),
    "prompt_tokens null": usage(prompt_tokens=None),
    "all null": usage(prompt_tokens=None, completion_tokens=None, total_tokens=None),
    "negative": usage(prompt_tokens=-1000, completion_tokens=-50),
    "zero": usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
    "beyond 64 bits": usage(prompt_tokens=HUGE, completion_tokens=HUGE, total_tokens=HUGE),
    "words": usage(prompt_tokens="100", completion_tokens="10"),
    "true": usage(prompt_tokens=True, completion_tokens=True),
    "fractions": usage(prompt_tokens=1.5, completion_tokens=0.5),
    "a list": lambda completion: completion.update(usage=[1, 2]),
    "no text": contents(content=""),
    "an error": finish("error"),
    "not a completion": lambda _: {"hello": "world"},
    "hang up": "hang_up",
    "bad gateway": 502,
    "error 500": 500,
    "late": "late",
}

# The server's sum and ours add the same bills in different orders.
ROUNDING = 1e-12


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(openai_client, "_FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(cached_teacher, "_SAVE_SECONDS", 0.05)


@pytest.mark.parametrize("manner", MANNERS)
def test_the_server_never_bills_more_than_the_budget(manner, billing_server, teacher_at, annotate, tmp_path):
    """Two drivers one after the other, of which the second goes on where the first was stopped."""
    late = {"timeout_s": 0.15} if manner == "late" else {}
    ledger, cache = SpendingFile(Folder(str(tmp_path / "stage"))), StageFolder(str(tmp_path / "cache"))
    with billing_server(REPLIES, MANNERS[manner], late_s=0.4) as server:
        served = teacher_at(server, **SERVED, **late)
        dearest = max(served.teacher.usd(*most_tokens(served.teacher.request(text))) for text in TEXTS)
        budget = 12 * dearest
        for _ in range(2):
            meter = Meter(RateLimits(budget_usd=budget), ledger.read(), spending=ledger)
            with pytest.RaisesGroup(pytest.RaisesExc((Stopped, UserError)), flatten_subgroups=True):
                annotate(served, TEXTS, cache=cache, meter=meter)
            meter.finish("ended")
        assert 0 < server.billed_usd() <= ledger.read() + ROUNDING <= budget + 2 * ROUNDING
        assert len(server.bills) >= 8, "the budget is used"


@pytest.mark.parametrize("manner", ["reply", 429, 400, 503])
def test_what_the_server_did_not_take_costs_nothing(manner, billing_server, teacher_at, annotate):
    with billing_server(REPLIES, manner) as server:
        served = teacher_at(server, **SERVED)
        meter = Meter(RateLimits())
        try:
            annotate(served, TEXTS[:4], meter=meter)
        except ExceptionGroup:
            assert manner != "reply"
    assert meter.state().spent_usd == pytest.approx(server.billed_usd() if manner == "reply" else 0.0)


def test_a_server_that_cannot_be_reached_costs_nothing(teacher_at, annotate):
    meter = Meter(RateLimits(budget_usd=1.0))
    for address in ("http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"):
        with pytest.raises(ExceptionGroup):
            annotate(teacher_at(address, retries=1), TEXTS[:4], meter=meter)
    assert meter.state().spent_usd == 0.0


def test_a_reply_without_usage_is_kept_at_the_most_that_it_can_cost(
    billing_server, teacher_at, annotate, tmp_path
):
    cache, meter = StageFolder(str(tmp_path)), Meter(RateLimits())
    with billing_server(REPLIES, without_usage) as server:
        served = teacher_at(server, **SERVED)
        rows, (figures,) = annotate(served, TEXTS[:10], cache=cache, meter=meter)
        again, _ = annotate(served, TEXTS[:10], cache=cache)
        assert server.asked == 10
    assert {row.outcome for row in rows} == {"ok"} and again == rows
    most = [most_tokens(served.teacher.request(row.text)) for row in rows]
    assert [(row.tokens_in, row.tokens_out) for row in rows] == most
    assert figures["cost_usd"] == pytest.approx(sum(served.teacher.usd(*counts) for counts in most))
    assert meter.state().spent_usd == pytest.approx(figures["cost_usd"]), "the records say the same"


def test_a_server_that_adds_to_prompts_and_thinks_beyond_the_limit_is_reserved_for(
    billing_server, teacher_at, annotate
):
    """By its usage each request costs far more than its bytes: only the first ones can come as a surprise."""
    bill = usage(prompt_tokens=5000, completion_tokens=20, total_tokens=6000)
    with billing_server(REPLIES, bill) as server:
        served = teacher_at(server, **SERVED | {"in_flight": 1})
        budget = 0.02  # 3 and a third requests
        meter = Meter(RateLimits(budget_usd=budget))
        with pytest.RaisesGroup(Stopped, flatten_subgroups=True):
            annotate(served, TEXTS, meter=meter)
    assert server.asked == 3
    assert meter.state().spent_usd == pytest.approx(3 * 6000 / 1e6)


def test_requests_in_flight_when_the_driver_dies_count_as_spent(
    billing_server, teacher_at, annotate, tmp_path
):
    """The driver ends without a word while requests are at the server; it never settles them."""
    ledger, cache = SpendingFile(Folder(str(tmp_path / "stage"))), StageFolder(str(tmp_path / "cache"))
    with billing_server(REPLIES, "hang") as server:
        served = teacher_at(server, **SERVED, timeout_s=60.0)
        budget = 20 * served.teacher.usd(*most_tokens(served.teacher.request(TEXTS[8])))
        meter = Meter(RateLimits(budget_usd=budget), spending=ledger)

        async def die():
            work = asyncio.create_task(_annotate_all(served, meter, cache))
            while len(server.bills) < 8:
                await asyncio.sleep(0.01)
            meter.ask = None  # what it would report from now on is lost
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

        asyncio.run(die())
        assert server.billed_usd() <= ledger.read() + ROUNDING
        assert json.loads((tmp_path / "stage/spending.json").read_text())["exact"] is False
        server.manner = "reply"
        meter = Meter(RateLimits(budget_usd=budget), ledger.read(), spending=ledger)
        with pytest.RaisesGroup(Stopped, flatten_subgroups=True):
            annotate(served, TEXTS, cache=cache, meter=meter)
        meter.finish("ended")
    assert server.billed_usd() <= ledger.read() + ROUNDING <= budget + 2 * ROUNDING


async def _annotate_all(served, meter, cache):
    from uniner.runtime.rate_limits import local_meter
    from uniner.teacher.cached_teacher import CachedTeacher
    from uniner.teacher.reply_cache import ReplyCache

    teacher = CachedTeacher(
        served.teacher,
        served.make_client,
        local_meter(meter),
        ReplyCache(cache, served.teacher.request("")),
        "run",
    )
    await teacher.ask(TEXTS)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 10}, (100, 10)),
        ({"prompt_tokens": 100.0, "completion_tokens": 10.0}, (100, 10)),
        ({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 150}, (100, 50)),
        ({"prompt_tokens": 100, "completion_tokens": None, "total_tokens": 150}, (100, 50)),
        ({"prompt_tokens": 100, "total_tokens": 150}, (100, 50)),
        ({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": -1}, (100, 10)),
        ({"prompt_tokens": 2500, "completion_tokens": 900}, (2500, 900)),
        ({"prompt_tokens": 100}, None),
        ({"prompt_tokens": 100, "completion_tokens": 0}, None),
        ({"prompt_tokens": 0, "completion_tokens": 10}, None),
        ({"completion_tokens": 10}, None),
        ({"prompt_tokens": 10**6, "completion_tokens": 10}, None),
        ({"prompt_tokens": 100, "completion_tokens": 10**6}, None),
        ({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": HUGE}, None),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, None),
        ({}, None),
        (None, None),
        ("free", None),
    ],
)
def test_only_a_usage_that_makes_sense_is_believed(sent, read):
    assert sensible_usage(sent, TokenCounts(1000, 50), has_text=True) == read


def test_no_tokenizer_makes_more_tokens_than_are_reserved(teacher_at, tokenizer):
    texts = ["Ann", "漢字かな", "🏳️‍🌈" * 50, "\x00\x01" * 40, '"' * 100, "a b" * 500, ""]
    for reply_format in ("tuples", "json_schema"):
        teacher = teacher_at("http://a", reply_format=reply_format).teacher
        for text in texts:
            request = teacher.request(text)
            rendered = "\n".join(f"<|{m['role']}|>{m['content']}" for m in request["messages"])
            most = most_tokens(request)
            assert most.tokens_in >= len(tokenizer(rendered).input_ids)
            assert most.tokens_in >= len(rendered.encode())
            assert most.tokens_out == request["max_tokens"]


def test_which_errors_may_have_been_billed():
    assert [status for status in (400, 401, 404, 408, 422, 429, 500, 502, 503, 504, 524, 529)
            if may_have_cost(status)] == [408, 500, 502, 504, 524]  # fmt: skip
