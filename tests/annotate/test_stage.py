"""The annotate stage: its estimate, its budget, its prompt; nothing is paid for twice."""

import json
from dataclasses import replace

import pytest

from uniner import cli
from uniner.annotate import stage
from uniner.config.loader import load
from uniner.errors import UserError
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.batch.records import BatchRecord, BatchRecords
from uniner.teacher.prompts import passage_in
from uniner.teacher.replay_server import ReplayServer

ROWS, PER_CHUNK = 240, 12
TEXTS = [f"Ann {n} met Bob in Bonn" + " again" * (n % 9) for n in range(ROWS)]
PRICES = ["teacher.usd_per_million_in=500", "teacher.usd_per_million_out=1500"]


class PaidServer(ReplayServer):
    """Adds up, as a server does, what each passage costs."""

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
def run(tmp_path, annotate_config, write_passages):
    """Return a function that runs annotate, with its options, on a complete ingest stage."""

    def annotate(name, *words):
        folder = StageFolder(f"{tmp_path}/runs/{name}/ingest")
        if folder.manifest() is None:
            write_passages(folder, TEXTS, PER_CHUNK)
        words = [str(annotate_config), f"run.name={name}", *PRICES, *words]
        return cli.app(["annotate", *words], standalone_mode=False)

    annotate.folder = lambda name: StageFolder(f"{tmp_path}/runs/{name}/annotate")
    return annotate


@pytest.mark.ray
def test_the_budget_stops_the_run_and_a_higher_one_goes_on(run, ray_session, tmp_path, capsys):
    with PaidServer() as whole:
        words = [f"teacher.base_url={whole.base_url}", f"teacher.cache={tmp_path}/cache-of-whole"]
        assert run("whole", *words) == 0
    price = whole.spent()
    budget = round(price * 0.4, 4)
    actors = 2
    with PaidServer() as server:
        words = [f"teacher.base_url={server.base_url}", f"teacher.actors={actors}"]
        for _ in range(2):  # the second time nothing is left, and nothing is spent
            assert run("stopped", *words, f"run.budget_usd={budget}") == 3
            message = f"run.budget_usd is {budget:g}: raise it; the same command goes on"
            assert message in capsys.readouterr().err
            assert run.folder("stopped").manifest() is None
            dearest_chunk = max(sum(usd for text in TEXTS[n : n + PER_CHUNK] for usd in whole.paid[text])
                                for n in range(0, ROWS, PER_CHUNK))  # fmt: skip
            assert server.spent() <= budget + actors * dearest_chunk, "the documented bound"
            assert 0.8 * budget <= server.spent() <= budget, "the estimates of requests are better than that"
        assert run("stopped", *words, f"run.budget_usd={price * 1.1:.4f}") == 0
        assert {text: len(paid) for text, paid in server.paid.items()} == dict.fromkeys(TEXTS, 1)
    stopped, undisturbed = run.folder("stopped"), run.folder("whole")
    assert stopped.read_rows().equals(undisturbed.read_rows())
    figures = stopped.require_manifest().figures
    assert figures["cost_usd"] == pytest.approx(price)
    assert figures["requests"] == ROWS
    assert 0 < figures["cache_hits"] < ROWS
    assert figures["cache_hits"] + figures["cache_misses"] == ROWS
    # Another run finds all replies in the cache, so no budget stops it and no server is asked.
    assert run("again", f"teacher.base_url={server.base_url}", "run.budget_usd=0") == 0
    figures = run.folder("again").require_manifest().figures
    assert (figures["cache_hits"], figures["requests"], figures["cost_usd"]) == (ROWS, 0, 0)
    assert figures["saved_usd"] == pytest.approx(price)


@pytest.mark.ray
def test_of_a_corpus_that_grew_only_what_is_new_is_asked(
    run, ray_session, tmp_path, passage_chunks, complete_stage, grow_stage
):
    ingest = StageFolder(f"{tmp_path}/runs/grown/ingest")
    first, second, third = passage_chunks(TEXTS[:36], 12)
    complete_stage(ingest, [first, second])
    with PaidServer() as server:
        words = [f"teacher.base_url={server.base_url}", "teacher.actors=1"]
        assert run("grown", *words) == 0
        before = run.folder("grown").require_manifest()
        grow_stage(ingest, [third])
        assert run("grown", *words) == 0
        assert {text: len(paid) for text, paid in server.paid.items()} == dict.fromkeys(TEXTS[:36], 1)
    manifest = run.folder("grown").require_manifest()
    assert (manifest.rows, manifest.grown_from) == (36, (before.digest,))
    assert manifest.figures["cost_usd"] == pytest.approx(server.spent())


def test_the_estimate_is_printed_before_ray_starts_and_spends_nothing(run, capsys, monkeypatch):
    monkeypatch.setattr("uniner.runtime.connection.connected", None)
    with PaidServer() as server:
        url = f"teacher.base_url={server.base_url}"
        assert run("planned", url, "--estimate", "teacher.requests_per_minute=60") == 0
        assert server.asked == 0
    text = capsys.readouterr().out
    assert "240 to ask of 240 (0 done, 0 in the cache)" in text
    assert "4 min or more (teacher.requests_per_minute decides)" in text
    assert "user: Given a passage, your task is to extract all entities" in text
    assert text.rstrip().endswith(f"Passage: {TEXTS[0]}")
    assert run.folder("planned").tree() == []


def test_a_budget_without_prices_is_refused(tmp_path, base, capsys):
    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nname = "a"\nbudget_usd = 1\n[student]\nbase = {json.dumps(str(base))}\n'
        '[ingest]\nshards = ["x"]\n[teacher]\nbase_url = "http://127.0.0.1:9/v1"\n'
    )
    assert cli.run(["annotate"], [str(config), f"run.root={tmp_path}/runs"]) == 2
    assert "run.budget_usd: no price is set" in capsys.readouterr().err


def test_another_prompt_is_refused_before_ray_starts(tmp_path, base, stage_context, passage_chunks, capsys):
    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "a"\n[student]\nbase = "{base}"\n[ingest]\nshards = ["x"]\n'
    )
    prompt, words = tmp_path / "prompt.txt", [str(config), "teacher.base_url=http://127.0.0.1:9/v1"]
    own = [*words, f"annotate.prompt={prompt}"]
    assert cli.run(["annotate"], own) == 2
    assert "prompt.txt: no such file" in capsys.readouterr().err
    prompt.write_text("Who is in {passage}?")
    context = stage_context(stage, load(own))
    context.folder.begin(stage._identity(context, parents={}))
    context.folder.write_chunk(*passage_chunks(["Ann."]))
    stage.check(context)
    prompt.write_text("Who was in {passage}?")
    for changed in (own, words):
        assert cli.run(["annotate"], changed) == 2
        assert "annotate.prompt was" in capsys.readouterr().err


def test_other_settings_are_refused_while_a_batch_is_in_progress(
    run, stage_context, tmp_path, monkeypatch, capsys
):
    """No chunk exists yet, but the batch is paid for: with other settings its replies would be lost."""
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    words = [str(tmp_path / "config.toml"), *PRICES, "teacher.kind=batch"]
    context = stage_context(stage, load(words))
    context.folder.begin(stage._identity(context, parents={"ingest": "of the passages"}))
    record = BatchRecord(number=1, chunks=["a"], requests=2, usd_at_most=0.5, file="file-0")
    BatchRecords(context.folder).write(record)
    stage.check(context)
    assert cli.run(["annotate"], [*words, "annotate.temperature=0.5"]) == 2
    assert (
        "the batch is paid for and was submitted with other settings: annotate.temperature was 0.0, now 0.5"
        in (capsys.readouterr().err)
    )
    with pytest.raises(UserError, match="the output of ingest was 'of the passages'"):
        stage.require_batches_of(context.folder, stage._identity(context, parents={"ingest": "others"}))
    BatchRecords(context.folder).write(replace(record, ended="completed"))
    stage.check(stage_context(stage, load([*words, "annotate.temperature=0.5"])))
