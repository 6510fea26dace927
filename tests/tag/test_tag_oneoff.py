"""A text tagged at once, and a plan told from a few chunks: with a stand-in for the engine alone."""

import contextlib
import io
import json
import re
import shutil

import pytest
from rich.console import Console

from uniner.config.schema import Config
from uniner.errors import Planned, UserError
from uniner.inference.engine import Answer
from uniner.inference.mention_scores import Piece
from uniner.records import PASSAGE, TAGGED_PASSAGE, Passage, TaggedEntity, TaggedPassage, from_table, to_table
from uniner.storage.stage_folder import Chunk, Folder, Summary
from uniner.tag import estimate, stage, text_tagger


class Engine:
    """Says of each passage that Ann is a person, and so is a Bob whom no text here has."""

    max_prompt_tokens = 512

    def __init__(self, model, **settings):
        from uniner.storage.model_folders import load_tokenizer

        self.tokenizer = load_tokenizer(model)

    @contextlib.asynccontextmanager
    async def admitted(self, questions):
        yield

    async def ask(self, prompts):
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        said = ['["Ann", "Bob"]' if "person" in text else "[]" for text in texts]
        return [Answer(text, "stop", (Piece(text, -0.1),), 4, 5) for text in said]

    async def close(self):
        Engine.closed = True


@pytest.fixture
def config(tmp_path, base):
    """Return a function that makes a config of a run whose student is ready."""
    shutil.copytree(base, tmp_path / "student")
    facts = {"template": "type", "group_types": 5, "max_tokens": 512, "types": ["person", "city"]}
    (tmp_path / "student" / "uniner.json").write_text(json.dumps(facts))

    def make(**sections):
        return Config.model_validate(
            {
                "run": {"root": str(tmp_path / "runs"), "name": "r"},
                "student": {"base": str(base), "max_tokens": 512},
                "ingest": {"shards": ["unused.jsonl"], "max_tokens": 64},
                "engine": {"gpus": 0, "dtype": "float32", **sections.pop("engine", {})},
                "tag": {"student": str(tmp_path / "student"), **sections},
            }
        )

    return make


@pytest.mark.parametrize("from_input", [False, True])
def test_a_text_is_printed_with_its_entities_and_no_run_is_touched(
    config, tmp_path, monkeypatch, capsys, from_input
):
    text = "Ann went home. " + "Then it rained for a long while. " * 20 + "So Ann stayed.\n"
    monkeypatch.setattr(text_tagger, "Engine", Engine)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    with pytest.raises(Planned):
        stage.check(config(text="-" if from_input else text))
    said = capsys.readouterr().out
    assert said.startswith("Ann [person] went home. Then it") and "So Ann [person] stayed.\n" in said
    assert "not in the text: Bob [person]" in said
    assert said.replace(" [person]", "").startswith(text.rstrip())
    assert Engine.closed and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_a_terminal_shows_colours_unless_they_are_not_wanted(monkeypatch, no_color, coloured):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, color_system="truecolor", width=80)
    entity = TaggedEntity(text="Ann", type="person", start=7, end=10, score=0.9, grounding="exact")
    text_tagger.show(
        "First\n\nAnn [b]sleeps[/b].\n",
        [
            TaggedPassage(
                doc_id="", passage_id="0", char_start=7, entities=(entity,), outcome="ok", failed_types=()
            )
        ],
        console,
    )
    shown = terminal.getvalue()
    assert ("\x1b[30;48;2;255;214;165mAnn [person]" in shown) == coloured
    assert ("48;2;" in shown) == coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == "First\n\nAnn [person] [b]sleeps[/b].\n"


def test_a_student_without_types_is_asked_for_none(config, tmp_path):
    facts = json.loads((tmp_path / "student" / "uniner.json").read_text())
    (tmp_path / "student" / "uniner.json").write_text(json.dumps({**facts, "types": []}))
    with pytest.raises(UserError, match=r"names no types of its own; set tag\.types"):
        stage.check(config(text="Ann"))


def test_a_plan_measures_chunks_from_all_over_the_corpus():
    chunks = {f"{n:03d}": 100 for n in range(100)}
    assert estimate.chosen(chunks) == ["000", "033", "066"]
    assert estimate.chosen({"a": 5000}) == ["a"] and estimate.chosen({"a": 1, "b": 2}) == ["a", "b"]
    assert len(estimate.chosen({"a": 1, "b": 1, "c": 400, "d": 1, "e": 300})) >= 3


def test_a_plan_counts_seconds_hours_and_money():
    figures = {
        "questions": 1000.0,
        "prompt_tokens": 36000.0,
        "cached_tokens": 30000.0,
        "answer_tokens": 4000.0,
    }
    come = [(110.0, Summary("a", 50, 1, 10.0, {}, figures)), (120.0, Summary("b", 50, 1, 15.0, {}, figures))]
    trial = estimate.trial_of(come)
    assert (trial.passages, trial.seconds) == (100, 20.0)
    told = estimate.describe(trial, 36_100, 100, engines=4, gpus=2, usd_per_gpu_hour=3.0)
    assert "passages  36,000 to tag of 36,100 (100 done)" in told
    assert "questions about 720,000" in told
    assert "25,920,000 of prompts (4,320,000 to compute), 2,880,000 of answers" in told
    assert "5.00 passages/s and 4,000 tokens/s an engine" in told
    assert "30.0 minutes with engine.actors=4" in told and "2.0 hours of an engine, 4.0 GPU-hours" in told
    assert "about 12.00 USD at 3 USD a GPU-hour" in told
    assert "set engine.usd_per_gpu_hour" in estimate.describe(trial, 200, 100, 1, 1, None)


@pytest.mark.ray
def test_what_a_plan_tags_counts_as_done(config, tmp_path, ray_session, monkeypatch, capsys):
    def make(*arguments, **settings):
        class Nothing:
            async def __call__(self, chunk):
                passages = from_table(chunk.table, Passage)
                rows = [
                    TaggedPassage(
                        doc_id=p.doc_id,
                        passage_id=p.passage_id,
                        char_start=p.char_start,
                        entities=(),
                        outcome="ok",
                        failed_types=(),
                    )
                    for p in passages
                ]
                return Chunk(chunk.key, to_table(rows, TAGGED_PASSAGE), figures={"questions": 9})

        return Nothing()

    monkeypatch.setattr(stage, "make_tagger", make)
    run = Folder(str(tmp_path / "runs")) / "r"
    passages = [
        Passage(
            passage_id=f"p{n}",
            doc_id="d",
            passage_index=n,
            char_start=0,
            char_end=4,
            text="Ann.",
            n_tokens=2,
            source="",
        )
        for n in range(200)
    ]
    chunks = [Chunk(f"{n}", to_table(passages, PASSAGE)) for n in range(5)]
    (run / "ingest").finish({}, [(run / "ingest").write_chunk(chunk) for chunk in chunks])
    with pytest.raises(Planned):
        stage.run(config(plan=True))
    assert "passages  600 to tag of 1,000 (400 done)" in capsys.readouterr().out
    standing = run / "tag"
    assert standing.chunk_keys() == {"0", "2"} and standing.manifest() is None
    before = standing.sizes()
    manifest = stage.run(config())
    assert manifest["rows"] == 1000 and manifest["figures"] == {"questions": 45}
    assert manifest["input"] == {"chunks": 5, "rows": 1000}
    assert before.items() <= standing.sizes().items()
