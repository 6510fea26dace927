"""The estimate of what asking the teacher takes."""

import pytest

from uniner.runtime.rate_limits import RateLimits
from uniner.teacher.completion import Teacher
from uniner.teacher.estimate import (
    RequestEstimate,
    TeacherEstimate,
    estimate_batches,
    estimate_requests,
    estimate_seconds,
)
from uniner.teacher.prompts import published_prompt


def make_teacher(**changes):
    return Teacher(model="m", prompt=published_prompt("type"), **changes)


def text_of(teacher, requests, **changes):
    fields = {"total": 10, "done": 0, "sample": "Ann", "limits": RateLimits(), "in_flight": 64, **changes}
    return TeacherEstimate(teacher=teacher, requests=requests, **fields).text()


def test_an_estimate_scales_and_says_what_is_done_and_whether_the_budget_is_enough():
    teacher = make_teacher(usd_per_million_in=0.5, usd_per_million_out=1.5, max_reply_tokens=1000)
    prompt = sum(len(part["content"]) for part in teacher.request("")["messages"])
    requests = estimate_requests(teacher, ["a" * 1200] * 10)
    assert requests == RequestEstimate(10, 10 * (prompt + 1200) / 4, pytest.approx(1000))
    assert estimate_requests(make_teacher(max_reply_tokens=20), ["a" * 1200]).tokens_out == 20
    limits = RateLimits(budget_usd=2.0, tokens_per_minute=1_000_000)
    text = text_of(teacher, requests.scaled(400), total=6000, done=1000, limits=limits)
    usd = (400 * requests.tokens_in * 0.5 + 400 * 1000 * 1.5) / 1e6
    assert "4,000 to ask of 6,000 (1,000 done, 1,000 in the cache)" in text
    assert f"price     about {usd:,.2f} USD at 0.5 and 1.5 USD a million tokens" in text
    assert "budget    2.00 USD for the whole run: by this estimate it is enough" in text
    assert "will stop the run before its end" in text_of(
        teacher, requests.scaled(400), limits=RateLimits(budget_usd=0.5)
    )
    assert "price     about unknown" not in text_of(make_teacher(), requests)
    assert "set teacher.usd_per_million_in" in text_of(make_teacher(), requests)


@pytest.mark.parametrize(
    ("limits", "expected", "setting"),
    [
        (RateLimits(), 40, "teacher.in_flight and actors"),
        (RateLimits(requests_per_minute=120), 500, "teacher.requests_per_minute"),
        (RateLimits(requests_per_minute=120, tokens_per_minute=6000), 3000, "teacher.tokens_per_minute"),
    ],
)
def test_the_tightest_limit_decides_the_time(limits, expected, setting):
    requests = RequestEstimate(1000, 250_000, 50_000)
    assert estimate_seconds(requests, limits, in_flight=50) == (expected, setting)


def test_batches_are_counted_by_requests_and_by_bytes():
    teacher = make_teacher(max_reply_tokens=50)
    assert estimate_batches(teacher, RequestEstimate(120_000, 1e6, 1e6))[0] == 3
    assert estimate_batches(teacher, RequestEstimate(100_000, 90e6, 1e6))[0] == 4
    assert "all at once" not in text_of(teacher, RequestEstimate(10, 10, 10), batch=True)
