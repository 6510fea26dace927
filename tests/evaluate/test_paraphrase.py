"""Protocol paraphrase: the same questions in other words, beside those by name, through the stage."""

import contextlib
import json

import pytest

from uniner.errors import UserError
from uniner.evaluate import stage
from uniner.evaluate.paraphrase import paraphrase_rows, score_paraphrases
from uniner.records import PREDICTION, Prediction, Question, from_table, to_table
from uniner.storage.manifest import Manifest
from uniner.storage.stage_folder import Chunk

TEXTS = [f"Ann Lee of Velmora met {name} in Tarn." for name in ("Bo", "Cy", "Di", "Ed", "Flo")]
MENTIONS = {"Ann Lee": "person", "Velmora": "city", "Tarn": "gizmo"}


def prediction(passage, kind, gold, predicted, outcome="ok"):
    return Prediction(
        dataset="toy", passage_id=passage, text="A and B.", type=kind, reply=json.dumps(predicted),
        predicted=tuple(predicted), gold=tuple(gold), gold_spans=(), outcome=outcome,
    )  # fmt: skip


def test_both_sides_count_the_same_passages_and_types():
    by_name = [
        prediction("1", "person", "A", "A"),
        prediction("1", "city", "B", "B"),
        prediction("2", "person", "A", "A"),
        prediction("2", "city", "", ""),
    ]
    ways = {
        "synonym1": (
            {"person": "human", "city": "town"},
            [
                prediction("1", "human", "A", "A"),
                prediction("1", "town", "B", "", "unparseable"),
                prediction("2", "human", "A", "B"),
                prediction("2", "town", "", ""),
            ],
        ),
        "description": ({"person": "who lives"}, [prediction("1", "who lives", "A", "A")]),
    }
    found = score_paraphrases(by_name, ways)
    assert (found.total.by_name, found.total.tp, found.total.fp, found.total.fn) == (1.0, 2, 1, 2)
    assert found.total.f1 == pytest.approx(4 / 7) and found.total.loss == pytest.approx(3 / 7)
    low, high = found.total.loss_interval
    assert 0 <= low < found.total.loss < high
    assert (found.total.questions, found.total.broken) == (5, 1)
    assert found.ways["description"].loss == 0 and found.ways["synonym1"].f1 == pytest.approx(0.4)
    assert found.types == {"city": (1.0, 0.0), "person": (1.0, pytest.approx(2 / 3))}
    assert score_paraphrases(by_name, {"synonym1": ({}, [])}) is None
    (row,) = paraphrase_rows({"student": {"toy": found}})
    assert row[:2] == ("student", "toy") and row[2] == "100.0 [100.0, 100.0]"
    assert row[3].startswith("57.1 [") and row[4].startswith("42.9 [") and row[5:] == ("40.0", "100.0")


@pytest.fixture
def make_context(make_engine_config, stage_context, tmp_path, base):
    def make(**evaluate):
        evaluate = {"chunk_passages": 2, "systems": ["base"], **evaluate}
        return stage_context(stage, make_engine_config(tmp_path, base, evaluate=evaluate))

    return make


@pytest.fixture
def asked(monkeypatch):
    """Answer in this process: `person` and `human being` find Ann Lee, no other words find anything."""
    questions = []

    def run_stage(folder, identity, sources, *, read, **_):
        if manifest := folder.begin(identity):
            return manifest
        summaries = []
        for source in sources:
            if source.key in folder.chunk_keys():
                continue
            rows = from_table(read(source.key).table, Question)
            questions.extend(row.type for row in rows)
            predictions = [
                Prediction(
                    **vars(row), reply="[]", outcome="ok",
                    predicted=("Ann Lee",) if row.type in ("person", "human being") else (),
                )
                for row in rows
            ]  # fmt: skip
            folder.write_chunk(Chunk(source.key, to_table(predictions, PREDICTION)))
        summaries = list(folder.summaries())
        return folder.write_manifest(Manifest.of(identity, summaries, 1.0))

    monkeypatch.setattr(stage.chunk_pipeline, "run_stage", run_stage)
    monkeypatch.setattr(stage.chunk_pipeline, "gather", lambda items, function: map(function, items))
    monkeypatch.setattr(stage, "system_pool", lambda *_: contextlib.nullcontext())
    return questions


def test_a_run_asks_in_other_words_once_and_shows_what_is_lost(
    make_context, write_gold, tmp_path, asked, capsys
):
    gold = {"toy": write_gold(tmp_path / "g.jsonl", [(text, MENTIONS) for text in TEXTS])}
    plain = stage.run(make_context(gold=gold))
    assert len(asked) == 15 and plain.results["scores"]["base"]["toy"]["paraphrase"] is None
    assert "other words" not in (tmp_path / "r" / "evaluate" / "leaderboard.md").read_text()
    asked.clear()
    context = make_context(gold=gold, paraphrase=True)
    stage.check(context)
    manifest = stage.run(context)
    assert len(asked) == 30, "answers by name are kept, and gizmo has no other words"
    assert {*asked} == {
        "human being", "individual", "someone who is called by name", "town", "municipality",
        "a large town where people live",
    }  # fmt: skip
    score = manifest.results["scores"]["base"]["toy"]
    assert score["questions"] == 15, "other words are no questions of the data set"
    assert list(manifest.results["scores"]["base"]) == ["toy"]
    found = score["paraphrase"]
    assert found["types"] == {"city": [0, 0], "person": [1, pytest.approx(0.5)]}
    assert found["ways"]["synonym1"]["loss"] == 0 and found["ways"]["description"]["f1"] == 0
    assert score["protocols"]["paraphrase"]["f1"] == pytest.approx(found["total"]["f1"])
    log = capsys.readouterr().err
    assert "evaluate: base on toy F1 0.667 by name and 0.286 by paraphrase of 2 types, loss +0.381" in log
    assert "toy has no paraphrases for 'gizmo'" in log
    folder = context.folder
    for name in ("leaderboard.md", "leaderboard.html"):
        page = folder.read(name).decode()
        assert "By name and in other words" in page and "38.1 [38.1, 38.1]" in page
    assert "paraphrase" in folder.read("scores.csv").decode()
    asked.clear()
    own = tmp_path / "own.json"
    own.write_text('{"gizmo": {"synonyms": ["gadget"]}}')
    stage.run(make_context(gold=gold, paraphrase=True, paraphrases_file=str(own)))
    assert {*asked} == {"human being", "town", "gadget"}, "the other ways to ask are answered already"


def test_a_wrong_file_of_other_words_is_refused_before_ray_starts(make_context, write_gold, tmp_path):
    gold = {"toy": write_gold(tmp_path / "g.jsonl", [(TEXTS[0], MENTIONS)])}
    context = make_context(gold=gold, paraphrase=True, paraphrases_file=str(tmp_path / "none.json"))
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        stage.check(context)
