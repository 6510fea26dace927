"""What annotating costs: told before, never beyond the budget, and nothing is paid twice."""

import json

import pytest

from uniner import cli
from uniner.records import PASSAGE, Passage, to_table
from uniner.runtime.rate_limits import Limits
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.teacher.estimate import Work, describe, estimate, seconds
from uniner.teacher.prompts import passage_in
from uniner.teacher.replay_server import RecordedTeacher

ROWS, PER_CHUNK = 240, 12
TEXTS = [f"Ann {n} met Bob in Bonn" + " again" * (n % 9) for n in range(ROWS)]
PRICES = ["annotate.usd_per_million_in=500", "annotate.usd_per_million_out=1500"]


class Till(RecordedTeacher):
    """Counts, as a server does, what each passage is paid for."""

    def __init__(self):
        super().__init__({text: f'[("{text[:5]}", "person"), ("Bonn", "city")]' for text in TEXTS})
        self.paid = {}

    def _completion(self, model, prompt, reply):
        completion = super()._completion(model, prompt, reply)
        usage = completion["usage"]
        usd = (usage["prompt_tokens"] * 500 + usage["completion_tokens"] * 1500) / 1e6
        self.paid.setdefault(passage_in(prompt), []).append(usd)
        return completion

    def spent(self):
        return sum(map(sum, self.paid.values()))


@pytest.fixture
def run(tmp_path, base):
    """Return a function that runs annotate on the passages, which stand as ingest leaves them."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "a"\n[student]\nbase = "{base}"\n[ingest]\nshards = ["x"]\n'
        "[annotate]\nin_flight = 6\nmax_reply_tokens = 30\n"
    )

    def annotate(name, *words):
        folder = StageFolder(f"{tmp_path}/runs/{name}/ingest")
        if folder.manifest() is None:
            summaries = []
            for start in range(0, ROWS, PER_CHUNK):
                some = enumerate(TEXTS[start : start + PER_CHUNK], start)
                rows = [
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
                summaries.append(folder.write_chunk(Chunk(f"{start:05d}", to_table(rows, PASSAGE))))
            folder.finish({"stage": "ingest", "config": {}, "parents": {}}, summaries)
        return cli.run(["annotate"], [str(config), f"run.name={name}", *PRICES, *words])

    annotate.folder = lambda name: StageFolder(f"{tmp_path}/runs/{name}/annotate")
    return annotate


@pytest.mark.ray
def test_the_budget_stops_the_run_and_a_higher_one_goes_on(run, ray_session, tmp_path, capsys):
    with Till() as whole:
        words = [f"annotate.base_url={whole.base_url}", f"annotate.cache={tmp_path}/cache-of-whole"]
        assert run("whole", *words) == 0
    price = whole.spent()
    budget = round(price * 0.4, 4)
    actors = 2
    with Till() as till:
        words = [f"annotate.base_url={till.base_url}", f"annotate.actors={actors}"]
        for _ in range(2):  # the second time there is nothing left to spend, and nothing is
            assert run("stopped", *words, f"annotate.budget_usd={budget}") == 3
            said = capsys.readouterr().err
            assert f"annotate.budget_usd is {budget:g}: raise it; the same command goes on" in said
            assert run.folder("stopped").manifest() is None
            dearest_chunk = max(sum(usd for text in TEXTS[n : n + PER_CHUNK] for usd in whole.paid[text])
                                for n in range(0, ROWS, PER_CHUNK))  # fmt: skip
            assert till.spent() <= budget + actors * dearest_chunk, "the bound that is promised"
            assert 0.8 * budget <= till.spent() <= budget, "the estimates of one request are better than that"
        assert run("stopped", *words, f"annotate.budget_usd={price * 1.1:.4f}") == 0
        assert {text: len(paid) for text, paid in till.paid.items()} == dict.fromkeys(TEXTS, 1)
    stopped, undisturbed = run.folder("stopped"), run.folder("whole")
    assert stopped.read_rows().equals(undisturbed.read_rows())
    figures = stopped.require_manifest()["figures"]
    assert figures["cost_usd"] == pytest.approx(price)
    assert figures["requests"] == ROWS
    assert 0 < figures["cache_hits"] < ROWS
    assert figures["cache_hits"] + figures["cache_misses"] == ROWS
    # Another run of the cluster: all of it is in the cache, so no budget stops it and no server is asked.
    assert run("again", "annotate.base_url=http://127.0.0.1:9/v1", "annotate.budget_usd=0") == 0
    figures = run.folder("again").require_manifest()["figures"]
    assert (figures["cache_hits"], figures["requests"], figures["cost_usd"]) == (ROWS, 0, 0)
    assert figures["saved_usd"] == pytest.approx(price)


def test_the_plan_is_told_before_ray_starts_and_nothing_is_spent(run, capsys, monkeypatch):
    monkeypatch.setattr("uniner.runtime.connection.connected", None)
    with Till() as till:
        url = f"annotate.base_url={till.base_url}"
        assert run("planned", url, "annotate.plan=true", "annotate.requests_per_minute=60") == 0
        assert till.asked == 0
    told = capsys.readouterr().out
    assert "240 to ask of 240 (0 done, 0 in the cache)" in told
    assert "4 min or more (annotate.requests_per_minute decides)" in told
    assert "user: Given a passage, your task is to extract all entities" in told
    assert told.rstrip().endswith(f"Passage: {TEXTS[0]}")
    assert run.folder("planned").tree() == []


def test_a_plan_scales_and_says_what_is_done_and_what_the_budget_means(teacher):
    settings = teacher("http://x", usd_per_million_in=0.5, usd_per_million_out=1.5, max_reply_tokens=1000)
    prompt = sum(len(part["content"]) for part in settings.request("")["messages"])
    work = estimate(settings, ["a" * 1200] * 10)
    assert work == Work(10, 10 * (prompt + 1200) / 4, pytest.approx(1000))
    assert estimate(teacher("http://x", max_reply_tokens=20), ["a" * 1200]).tokens_out == 20
    limits = Limits(budget_usd=2.0, tokens_per_minute=1_000_000)
    told = describe(settings, limits, 64, work.scaled(400), 6000, 1000, "Ann")
    usd = (400 * work.tokens_in * 0.5 + 400 * 1000 * 1.5) / 1e6
    assert "4,000 to ask of 6,000 (1,000 done, 1,000 in the cache)" in told
    assert f"price     about {usd:,.2f} USD at 0.5 and 1.5 USD a million tokens" in told
    assert "budget    2.00 USD for the whole run: by this plan it is enough" in told
    assert "will stop the run on its way" in describe(
        settings, Limits(budget_usd=0.5), 64, work.scaled(400), 6000, 1000, "Ann"
    )
    free = teacher("http://x", usd_per_million_in=0.0, usd_per_million_out=0.0)
    assert "price     about unknown" not in describe(free, Limits(), 64, work, 10, 0, "Ann")
    assert "set annotate.usd_per_million_in" in describe(free, Limits(), 64, work, 10, 0, "Ann")


@pytest.mark.parametrize(
    ("limits", "expected", "decides"),
    [
        (Limits(), 40, "annotate.in_flight and actors"),
        (Limits(requests_per_minute=120), 500, "annotate.requests_per_minute"),
        (Limits(requests_per_minute=120, tokens_per_minute=6000), 3000, "annotate.tokens_per_minute"),
    ],
)
def test_the_tightest_limit_decides_the_time(limits, expected, decides):
    assert seconds(Work(1000, 250_000, 50_000), limits, in_flight=50) == (expected, decides)


def test_a_budget_without_prices_is_refused(tmp_path, base, capsys):
    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nname = "a"\n[student]\nbase = {json.dumps(str(base))}\n[ingest]\nshards = ["x"]\n'
        '[annotate]\nbase_url = "http://127.0.0.1:9/v1"\nbudget_usd = 1\n'
    )
    assert cli.run(["annotate"], [str(config), f"run.root={tmp_path}/runs"]) == 2
    assert "annotate.budget_usd: no price is set" in capsys.readouterr().err
