"""The describe stage on Ray with a recorded teacher, and build on what it wrote and a person edited."""

import json

import pytest

from uniner import cli
from uniner.build import stage as build
from uniner.config.loader import load
from uniner.describe import stage as describe
from uniner.errors import UserError
from uniner.records import ANNOTATION, Annotation, Conversation, Entity, from_table, to_table
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.teacher import stage_pool

REPLIES = {
    "movie": '{"description": "a work of cinema", "synonyms": ["film", "motion picture"]}',
    "city": "It is a town.",
}


def annotation(number):
    text = "Heat plays in Bonn."
    entities = (
        Entity(text="Heat", type="movie", start=0, end=4),
        Entity(text="Bonn", type="city" if number % 2 else "rare", start=14, end=18),
    )
    return Annotation(
        passage_id=f"p{number:03d}", doc_id="d", text=text, outcome="ok", reply="", entities=entities,
        model="some-teacher", tokens_in=5, tokens_out=5, cost_usd=0.0, attempts=1,
    )  # fmt: skip


@pytest.fixture
def config(tmp_path, base, complete_stage):
    """A run whose annotations are there, and whose recorded teacher describes two types."""
    chunks = [
        Chunk(f"{key:05d}", to_table([annotation(20 * key + n) for n in range(20)], ANNOTATION))
        for key in range(3)
    ]
    complete_stage(StageFolder(str(tmp_path)) / "r" / "annotate", chunks)
    recording = tmp_path / "teacher.jsonl"
    rows = [{"passage": f"Type: {name}", "reply": reply} for name, reply in REPLIES.items()]
    recording.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    path = tmp_path / "config.toml"
    path.write_text(
        f'[run]\nroot = "{tmp_path}"\nname = "r"\n[student]\nbase = "{base}"\n[ingest]\nshards = ["none"]\n'
        f'[teacher]\nkind = "recording"\npath = "{recording}"\n[describe]\ntypes = 2\nmax_bad_share = 0.5\n'
        "[build]\nvalidation_share = 0.0\nnegatives = 'none'\ndescription_share = 0.5\nsynonym_share = 0.3\n"
    )
    return path


def questions(folder):
    rows = from_table(folder.read_rows(), Conversation)
    return {turn["value"] for row in rows for turn in row.conversations[2::2]}


@pytest.mark.ray
def test_types_are_described_once_and_build_asks_by_the_edited_file(
    config, tmp_path, stage_context, ray_session, capsys
):
    run = StageFolder(str(tmp_path)) / "r"
    assert cli.run(["describe"], [str(config)]) == 0
    manifest = (run / "describe").require_manifest()
    assert manifest.outcomes == {"ok": 1, "unparseable": 1}
    assert manifest.results == {"types": 2, "described": 1}
    path = tmp_path / "r" / "describe" / "descriptions.json"
    assert json.loads(path.read_text()) == {"movie": json.loads(REPLIES["movie"])}
    context = stage_context(build, load([str(config)]))
    assert build.parents(context) == ["annotate", "describe"]
    asked = {f"What describes {name} in the text?" for name in ("city", "rare", "movie", "film")}
    more = {
        "What describes motion picture in the text?",
        "What describes movie (a work of cinema) in the text?",
    }
    built = build.run(context)
    assert questions(run / "build") == asked | more
    assert built.figures["asked_by_description"] > 15 and built.figures["asked_by_synonym"] > 8
    assert "or by name with a description" in (run / "build").read("README.md").decode()
    assert build.run(context).digest == built.digest

    # A person's edit counts as another input of build, and describe leaves it alone.
    path.write_text('{"movie": {"description": "a picture"}, "city": {"synonyms": ["town"]}}')
    with pytest.raises(UserError, match="the output of describe was"):
        build.run(context)
    assert cli.run(["describe"], [str(config)]) == 0
    assert "a picture" in path.read_text()
    again = stage_context(build, load([str(config), f"build.type_descriptions_file={path}"]))
    (run / "build").remove_all()
    assert build.parents(again) == ["annotate"]
    build.check(again)
    build.run(again)
    assert "What describes town in the text?" in questions(run / "build")
    assert "What describes film in the text?" not in questions(run / "build")


def test_the_estimate_and_errors_are_printed_before_ray_starts(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("uniner.runtime.connection.connected", None)
    server = ["teacher.kind=openai", "teacher.path=default", "teacher.base_url=http://127.0.0.1:9/v1"]
    words = [str(config), *server, "teacher.usd_per_million_in=500", "teacher.usd_per_million_out=1000"]
    assert cli.app(["describe", *words, "--estimate"], standalone_mode=False) == 0
    text = capsys.readouterr().out
    assert "types     2 to ask of 2 (0 done, 0 in the cache)" in text
    assert "and 120 out" in text
    assert text.rstrip().endswith("Type: movie")
    assert not (tmp_path / "r" / "describe").exists()
    (tmp_path / "wrong.txt").write_text("Describe it.\n")
    (tmp_path / "wrong.json").write_text('{"a": 1}')
    for stage, wrong, message in (
        ("describe", [f"describe.prompt={tmp_path}/wrong.txt"], "has no {type}"),
        ("describe", ["student.template=definition"], "asks by sentences already; set describe.types=0"),
        ("describe", ["build.teacher_weight=0", "run.name=x"], "build.teacher_weight = 0 leaves them out"),
        ("build", ["build.synonym_share=0.6"], "are more than 1 together; set both to 0.25"),
        ("build", [f"build.type_descriptions_file={tmp_path}/no.json"], "no.json: no such file"),
        ("build", [f"build.type_descriptions_file={tmp_path}/wrong.json"], "the entry of 'a' is wrong"),
    ):
        assert cli.run([stage], [*words, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_teacher_of_kind_batch_gets_the_types_in_batches(config, stage_context, monkeypatch):
    def note(folder, teacher, server, **given):
        asked.append(
            (server.base_url, teacher.usd_per_million_in, dict(given["chunks"]), given["elsewhere_usd"])
        )
        raise UserError("noted")

    asked = []
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setattr(stage_pool, "answer_stage_in_batches", note)
    monkeypatch.setattr(describe.chunk_pipeline, "gather", lambda items, function: map(function, items))
    words = ["teacher.kind=batch", "teacher.path=default", "teacher.base_url=http://127.0.0.1:9/v1"]
    words += ["teacher.usd_per_million_in=2", "teacher.usd_per_million_out=2", "run.budget_usd=1"]
    context = stage_context(describe, load([str(config), *words]))
    describe.check(context)
    with pytest.raises(UserError, match="noted"):
        describe.run(context)
    assert asked == [("http://127.0.0.1:9/v1", 1.0, {"000000": 2}, 0.0)], "at the price of batches"
    assert "up to 24 h a batch" in describe.estimate(context)


def test_without_types_to_describe_the_stage_is_skipped(config, stage_context, caplog):
    context = stage_context(describe, load([str(config), "describe.types=0"]))
    describe.check(context)
    with caplog.at_level("INFO"):
        assert describe.run(context) is None
    assert "describe: skipped, describe.types is 0" in caplog.text
    assert describe.estimate(context) == "describe: nothing to do, describe.types is 0"
    assert build.parents(stage_context(build, load([str(config), "describe.types=0"]))) == ["annotate"]
