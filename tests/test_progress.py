"""What the progress line says of tokens, GPU-hours and money."""

from uniner.progress import Progress, Spent


def test_what_was_spent_and_what_all_rows_will_take():
    spent = Spent(total=400, gpus=2 / 4)  # two GPUs an actor, four chunks at once
    assert spent.note() == ""
    spent.add(100, 7200.0, {"prompt_tokens": 1e9, "cost_usd": 1.5}, now=False)
    assert spent.note() == "1.0 of about 4.0 GPU-hours, 1.50 USD of about 6.00"
    spent.add(100, 7200.0, {"prompt_tokens": 900.0, "answer_tokens": 100.0})
    tokens, rest = spent.note().split(" tokens/s, ")
    assert int(tokens.replace(",", "")) > 1000, "tokens of this run, over its time so far"
    assert rest == "2.0 of about 4.0 GPU-hours, 1.50 USD of about 3.00"


def test_on_cpu_no_gpu_hours_are_told():
    spent = Spent(total=10)
    spent.add(5, 60.0, {})
    assert spent.note() == ""


def test_what_an_earlier_run_did_tells_nothing_of_the_rate():
    with Progress("tag", 100, "rows") as progress:
        progress._start -= 10
        progress.stood(90)
        progress.add(5)
        line = progress.line()
    assert line.startswith("tag: 95/100 rows,  2.00s/ rows") and "00:10 left" in line
