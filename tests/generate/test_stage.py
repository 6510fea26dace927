"""The generate stage: its passages go through ingest, and its estimate and errors come before Ray starts."""

from collections import Counter

import pytest

from uniner import cli
from uniner.annotate import stage as annotate
from uniner.config.loader import load
from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.generate import stage as generate
from uniner.ingest import stage as ingest
from uniner.storage.manifest import Summary
from uniner.storage.stage_folder import StageFolder
from uniner.teacher import stage_pool


@pytest.fixture
def config(tmp_path, base, write_shard):
    rows = [{"text": f"Bob {n} lives in Rome.", "name": f"bob-{n}"} for n in range(40)]
    path = tmp_path / "config.toml"
    path.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "a"\n[student]\nbase = "{base}"\n'
        '[generate]\ndomains = {"contract law" = 30, beekeeping = 25}\nchunk_passages = 25\n'
        "max_reply_tokens = 40\n"  # a request holds little of the budget
        f'[ingest]\nshards = ["{write_shard(tmp_path / "0.jsonl.zst", rows)}"]\nid_field = "name"\n'
        "sample = 0.5\ndedupe = true\nmax_reject_share = 0.05\n"
        "[teacher]\nin_flight = 4\nusd_per_million_in = 500\nusd_per_million_out = 1500\n"
    )
    return path


@pytest.mark.ray
def test_generated_passages_go_through_ingest_like_all_others(
    config, tmp_path, stage_context, ray_session, capsys, monkeypatch, make_briefs, texts_of, writing_server
):
    replies = {
        ("contract law", 3): ("length", "It breaks off"),
        ("beekeeping", 5): ("stop", "The same hive. "),
        ("beekeeping", 6): ("stop", " The same hive."),
        ("beekeeping", 7): ("stop", "One bad\x00character."),
    }
    folder = StageFolder(str(tmp_path / "runs/a/generate"))
    with writing_server(replies) as server:
        words = [str(config), f"teacher.base_url={server.base_url}"]
        assert cli.run(["generate", "ingest"], [*words, "run.budget_usd=2.5"]) == 3
        assert "run.budget_usd is 2.5: raise it" in capsys.readouterr().err
        assert 0 < server.asked < 55
        assert folder.manifest() is None
        for _ in range(2):  # the second time there is nothing to do
            assert cli.run(["generate", "ingest"], words) == 0
            assert server.briefs == Counter(dict.fromkeys(texts_of(make_briefs(words=150)), 1)), (
                "no passage is paid for twice"
            )
        assert {body["temperature"] for body in server.bodies} == {1.0}
    manifest = folder.require_manifest()
    assert manifest.results["domains"] == {
        "beekeeping": {"ok": 25},
        "contract law": {"ok": 29, "too_long": 1},
    }
    assert manifest.figures["requests"] == 55
    assert manifest.figures["cost_usd"] > 2.5
    # The budget is the whole run's: annotate has what generate left of it.
    spent = []

    def note(*_, elsewhere_usd, **__):
        spent.append(elsewhere_usd)
        raise UserError("noted")

    monkeypatch.setattr(stage_pool, "teacher_pool", note)
    with pytest.raises(UserError, match="noted"):
        annotate.run(stage_context(annotate, load(words)))
    assert spent == [pytest.approx(manifest.figures["cost_usd"])]
    passages = StageFolder(str(tmp_path / "runs/a/ingest"))
    written = {row["doc_id"]: row for row in folder.read_rows().to_pylist() if row["outcome"] == "ok"}
    rows = passages.read_rows().to_pylist()
    sources = Counter(row["source"] for row in rows)
    assert 5 < sources.pop("") < 35, "only shards are sampled: all paid passages are taken"
    assert sources == {"generated:contract law": 29, "generated:beekeeping": 25 - 2}
    ingested = {row["doc_id"]: (row["text"], row["source"]) for row in rows if row["source"]}
    assert all((written[name]["text"], written[name]["source"]) == row for name, row in ingested.items())
    figures = passages.require_manifest().figures
    assert (figures["dropped_duplicate"], figures["rejected_nul_character"]) == (1, 1)
    assert figures["lines"] == 40 + 54
    # Another number of passages is refused before anything is spent: ingest has read this one.
    assert cli.run(["ingest"], [*words, "generate.domains.beekeeping=26"]) == 2
    assert "generate.domains.beekeeping was 25, now 26" in capsys.readouterr().err
    assert cli.run(["generate"], [*words, "run.name=none", "generate.domains={}"]) == 0
    assert "generate: skipped, generate.domains names no domain" in capsys.readouterr().err


def test_the_estimate_and_errors_are_printed_before_ray_starts(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("uniner.runtime.connection.connected", None)
    (tmp_path / "own.txt").write_text("System: You write.\n\nWrite in Latin.\n\n{brief}\n")
    (tmp_path / "wrong.txt").write_text("Write in Latin.\n")
    words = [str(config), "teacher.base_url=http://127.0.0.1:9/v1"]
    own = f"generate.prompt={tmp_path}/own.txt"
    assert cli.app(["generate", *words, own, "--estimate"], standalone_mode=False) == 0
    text = capsys.readouterr().out
    assert "55 to ask of 55 (0 done, 0 in the cache)" in text
    assert "and 2,200 out" in text  # 55 passages of 150 words, but of at most 40 tokens
    assert "  system: You write.\n  user: Write in Latin.\n\nDomain: beekeeping\n" in text
    assert StageFolder(str(tmp_path / "runs")).tree() == []
    recording = ["teacher.kind=recording", "teacher.path=x.jsonl", "teacher.base_url=default"]
    for name, wrong, message in (
        ("generate", [f"generate.prompt={tmp_path}/wrong.txt"], "has no {brief}"),
        ("generate", recording, "a recording has no passages to give"),
        ("generate", ["generate.domains.bees=0"], "generate.domains.bees = 0"),
        ("generate", ["generate.aspects={Tone = []}"], "generate.aspects.Tone = []"),
        ("ingest", ["generate.domains={}"], "ingest.shards is empty; name files"),
    ):
        assert cli.run([name], [*words, "ingest.shards=[]", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_domain_without_passages_fails_the_stage(make_briefs):
    briefs = make_briefs(domains={"a": 8, "b": 90})
    summaries = [Summary(key, rows, 0, 0.0, {"ok": rows}) for key, rows in briefs.chunks().items()]
    assert generate._results(briefs, StageFolder("x"), summaries) == {
        "domains": {"a": {"ok": 8}, "b": {"ok": 90}}
    }
    summaries[0] = Summary("000-00000", 8, 0, 0.0, {"refused": 8})
    with pytest.raises(UserError, match=r"wrote no passage of the domain 'a' \(8 refused\)"):
        generate._results(briefs, StageFolder("x"), summaries)


def test_a_generated_source_may_have_another_share(stage_context):
    tree = {"run": {"name": "a"}, "student": {"base": "b"}, "generate": {"domains": {"bees": 5, "law": 5}}}
    tree["ingest"] = {"sample": 0.1, "sample_of_source": {"generated:bees": 0.3, "Pile-CC": 0}}
    context = stage_context(ingest, Config.model_validate(tree))
    shares = ingest._chunk_settings(context, digests=False).sampling.of_source
    assert shares == {"generated:bees": 0.3, "generated:law": 1.0, "Pile-CC": 0}
