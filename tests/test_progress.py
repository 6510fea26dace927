"""The progress line: rate without an earlier run's rows; tokens, GPU-hours and money."""

from uniner.progress import Progress, StageCost, figures_in_words


def test_the_cost_so_far_and_of_all_rows():
    cost = StageCost(total=400, gpus=2 / 4)  # two GPUs an actor, four chunks at once
    assert cost.note() == ""
    cost.add(100, 7200.0, {"prompt_tokens": 1e9, "cost_usd": 1.5}, earlier=True)
    assert cost.note() == "1.0 of about 4.0 GPU-hours, 1.50 USD of about 6.00"
    cost.add(100, 7200.0, {"prompt_tokens": 900.0, "answer_tokens": 100.0})
    tokens, rest = cost.note().split(" tokens/s, ")
    assert int(tokens.replace(",", "")) > 1000, "tokens of this run, over its time so far"
    assert rest == "2.0 of about 4.0 GPU-hours, 1.50 USD of about 3.00"


def test_no_gpu_hours_on_cpu():
    cost = StageCost(total=10)
    cost.add(5, 60.0, {})
    assert cost.note() == ""


def test_skipped_rows_do_not_count_for_the_rate():
    with Progress("tag", 100, "rows") as progress:
        progress._start -= 10
        progress.skip(90)
        progress.add(5)
        line = progress.line()
    assert line.startswith("tag: 95/100 rows,  2.0") and "00:10 left" in line


def test_what_was_left_out_kept_before_and_paid_is_said_in_words():
    assert figures_in_words({"documents": 5, "rejected_too_long": 0}) == []
    ingested = {"dropped_too_short": 3, "dropped_duplicate": 2, "rejected_not_json": 1200}
    assert figures_in_words(ingested) == [
        "dropped 5 (3 too short, 2 duplicate)",
        "rejected 1,200 (1,200 not json)",
    ]
    asked = {"cache_hits": 30, "cache_misses": 70, "cost_usd": 1.25, "saved_usd": 0.5}
    assert figures_in_words(asked) == [
        "30 of 100 replies from the cache",
        "cost 1.25 USD; 0.5 USD saved by the cache",
    ]
    lost = {**asked, "saved_usd": 0, "unanswered_usd": 0.25}
    assert figures_in_words(lost)[-1] == "cost 1.25 USD, of which 0.25 USD for requests without a reply"
