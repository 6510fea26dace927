"""Thresholds learned on one half of the passages are scored on the other half alone."""

import json

import pytest

from benchmarks.type_thresholds import half_of, learn, main, measure, table, with_thresholds
from uniner.evaluate.result_store import ResultCell
from uniner.metrics import calibration
from uniner.records import PREDICTION, QUESTION, Prediction, Question, Span, to_table
from uniner.storage.stage_folder import Chunk, StageFolder


@pytest.fixture(autouse=True)
def few_swaps(monkeypatch):
    monkeypatch.setattr("uniner.metrics.significance.SWAPS", 99)


def prediction(passage, type_name="city", right=True, sure=True, score=None):
    return Prediction(
        dataset="movie", passage_id=passage, text="Paris or Ann", type=type_name, reply="",
        predicted=("Paris", "Ann"), gold=("Paris",) if right else (), gold_spans=(), outcome="ok",
        scores=(0.9, score if score is not None else (0.2 if sure else 0.8)),
        spans=(Span(start=0, end=5), Span(start=9, end=12)),
    )  # fmt: skip


def answers(passages=200):
    """A wrong mention with a low score beside each right one; the type title has no such order."""
    return [
        each
        for number in range(passages)
        for each in (
            prediction(f"{number:05d}"),
            prediction(f"{number:05d}", "title", score=0.1 + 0.8 * (number * 7919 % 100) / 100),
        )
    ]


def test_a_threshold_drops_the_mention_with_its_score_and_place():
    dropped = with_thresholds(prediction("1"), {"city": 0.5})
    assert (dropped.predicted, dropped.scores, dropped.spans) == (("Paris",), (0.9,), (Span(start=0, end=5),))
    assert with_thresholds(prediction("1"), {"title": 0.5}) == prediction("1")
    assert with_thresholds(prediction("1"), {"city": 0.2}).predicted == ("Paris", "Ann")


def test_the_halves_are_even_and_not_those_by_which_the_learning_half_is_judged():
    ids = [prediction(f"{number:05d}") for number in range(2_000)]
    together = [half_of(each) == calibration.half_of(each.passage_id) for each in ids]
    assert 900 < sum(map(half_of, ids)) < 1_100 and 900 < sum(together) < 1_100


def test_what_one_half_teaches_is_scored_on_the_other():
    gains = list(measure("student", answers()))
    assert [gain.scored_on for gain in gains] == ["half 1", "half 2", "both halves"]
    assert gains[0].gain.passages + gains[1].gain.passages == gains[2].gain.passages == 200
    for gain in gains:
        assert gain.after > gain.before and gain.gain.interval[0] > 0
    assert 0.2 < gains[0].learned["city"] <= 0.9
    assert learn(answers(2)) == {}  # too few mentions
    lines = list(table(gains))
    assert len(lines) == 2 + 3 + 1 + 2 and "city 0." in lines[-1]


def test_thresholds_that_only_fit_chance_show_no_gain():
    """The wrong mentions of one half have low scores, those of the other high ones."""
    mixed = [prediction(f"{number:05d}") for number in range(300)]
    mixed = [prediction(each.passage_id, sure=half_of(each) == 0, score=None) for each in mixed]
    first, second, _ = measure("student", mixed)
    assert second.after == second.before  # what half 1 taught drops nothing here
    assert first.after >= first.before


@pytest.fixture
def run(tmp_path, complete_stage):
    """A run whose evaluate scored a student on a data set."""
    evaluate = StageFolder(str(tmp_path)) / "evaluate"
    gold = evaluate / "gold" / "movie-abc"
    question = Question(dataset="movie", passage_id="1", text="x", type="city")
    complete_stage(gold, [Chunk("movie-00000", to_table([question], QUESTION))])
    rows = gold.require_manifest().rows_of_chunk
    (key,) = ResultCell(dataset="movie", gold=gold, rows=rows).gold_keys()
    (evaluate / "student").write_chunk(Chunk(key, to_table(answers(), PREDICTION)))
    results = {"cells": {"movie": "abc"}, "scores": {"student": {"movie": {}}, "other": {"movie": {}}}}
    complete_stage(evaluate, results=results)
    return tmp_path


def test_a_run_is_measured_and_changed_in_nothing(run, monkeypatch, capsys):
    before = sorted(path.stat().st_mtime_ns for path in run.rglob("*"))
    monkeypatch.setattr("sys.argv", ["type_thresholds", str(run), "--json", str(run.parent / "out.json")])
    main()
    output = capsys.readouterr().out
    assert "| student | movie | both halves | 200 |" in output and "other on movie: left out" in output
    assert len(json.loads((run.parent / "out.json").read_text())) == 3
    assert sorted(path.stat().st_mtime_ns for path in run.rglob("*")) == before
    monkeypatch.setattr("sys.argv", ["type_thresholds", str(run), "--systems", "nobody"])
    with pytest.raises(SystemExit, match="no scores of 'nobody'; it has those of student, other"):
        main()
