"""The pure parts of the cascade's benchmark."""

import tomllib
from dataclasses import replace

import pytest

from benchmarks.cascade import (
    Row,
    after_prefilter,
    cascade_figures,
    cascade_scores,
    cells,
    choose_points,
    gold_passages,
    mean_f1,
    table,
    toml,
)
from uniner.errors import UserError
from uniner.evaluate.cascade import measure_cascade
from uniner.evaluate.leaderboard import LeaderboardCell
from uniner.evaluate.result_store import ResultCell
from uniner.evaluate.scoring import score
from uniner.metrics.cascade import THRESHOLDS, CascadePoint
from uniner.records import PREDICTION, QUESTION, Prediction, Question, Span, to_table
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk, StageFolder


def points(saved):
    pairs = zip(THRESHOLDS, saved, strict=False)
    return [
        CascadePoint(threshold=threshold, saved=share, recall_lost=share / 10, f1=0.5)
        for threshold, share in pairs
    ]


def thresholds(chosen):
    return [point.threshold for point in chosen]


def prediction(passage, gold, predicted, dataset="one", type_name="city"):
    return Prediction(
        dataset=dataset, passage_id=passage, text="Ann left Paris", type=type_name, reply="",
        predicted=tuple(predicted), gold=tuple(gold), gold_spans=(), outcome="ok",
        scores=tuple(0.9 for _ in predicted), spans=tuple(Span(start=9, end=14) for _ in predicted),
    )  # fmt: skip


def test_five_points_are_chosen_evenly_with_the_lowest_and_the_highest():
    saved = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    assert thresholds(choose_points(points(saved))) == [0.001, 0.01, 0.1, 0.2, 0.5]


def test_of_points_that_save_the_same_the_highest_threshold_is_chosen():
    chosen = choose_points(points((0.0, 0.0, 0.0, 0.0, 0.4, 0.4, 0.4, 0.9)))
    assert thresholds(chosen) == [0.03, 0.3, 0.5]


def test_a_single_point_and_none_are_chosen_whole():
    assert thresholds(choose_points(points((0.5,)))) == [0.001]
    assert choose_points([]) == []


@pytest.mark.parametrize(
    ("best", "threshold", "asked"),
    [(0.2, None, True), (None, 0.5, True), (0.6, 0.5, True), (0.5, 0.5, True), (0.0, 0.001, False)],
)
def test_the_student_answers_what_the_prefilter_lets_through(best, threshold, asked):
    answer = prediction("1", ["Paris"], ["Paris"])
    kept = after_prefilter(answer, best, threshold)
    assert kept.predicted == (("Paris",) if asked else ())
    assert len(kept.scores) == len(kept.spans) == len(kept.predicted)
    assert kept.gold == ("Paris",)


def test_the_mean_is_over_data_sets_in_per_cent_with_an_interval():
    scores = score(
        [
            prediction("1", ["Paris"], ["Paris"]),
            prediction("1", ["Paris"], [], dataset="two"),
            prediction("2", ["Paris"], ["Paris"], dataset="two"),
        ]
    )
    mean = mean_f1(scores)
    assert mean.f1 == pytest.approx((100 + 200 / 3) / 2)
    assert mean.low <= mean.f1 <= mean.high and mean.over == 2


def test_the_table_compares_each_way_with_the_student():
    cell = LeaderboardCell(30.25, 27.04, 33.0)
    rows = [
        Row(way="student", f1=cell, rate=2.0),
        Row(way="both, threshold 0.1", f1=cell, rate=5.0, saved=0.755, lost=0.0101),
    ]
    assert table(rows)[2:] == [
        "| student |  |  | 30.2 [27.0, 33.0] | 2 | 1.00 |",
        "| both, threshold 0.1 | 75.5% | 1.0% | 30.2 [27.0, 33.0] | 5 | 2.50 |",
    ]


def test_the_config_of_the_tag_runs_is_toml():
    sections = {
        "run": {"root": 'a "b" \\ c', "seed": 3},
        "tag": {"types": ["größe", "a b"], "entity_table": False},
        "tag.types_of_source": {"mit movie": ["year"]},
    }
    read = tomllib.loads(toml(sections))
    assert read["run"] == sections["run"]
    assert read["tag"] == {**sections["tag"], "types_of_source": {"mit movie": ["year"]}}


def evaluated_run(folder):
    """A run whose evaluate has scored a student and an encoder on five passages of one data set."""
    run = StageFolder(str(folder / "run"))
    evaluate, identity = run / "evaluate", Identity(stage="evaluate", settings={})
    gold = evaluate / "gold" / "one-0a1b"
    answers = [
        prediction(f"{number}", ["Paris"], ["Paris"] if number else ["Oslo"], type_name=name)
        for number in range(5)
        for name in ("city", "river")
    ]
    of_encoder = [
        replace(answer, reply=f"{score}", predicted=(), scores=(), spans=())
        for answer, score in zip(
            answers, (0.9, 0.4, 0.25, 0.15, 0.05, 0.02, 0.7, 0.0, 0.002, 0.3), strict=True
        )
    ]
    questions = [
        Question(
            dataset="one", passage_id=each.passage_id, text=each.text, type=each.type, gold=each.gold,
            gold_spans=(),
        )
        for each in answers
    ]  # fmt: skip
    summary = gold.write_chunk(Chunk("one-0", to_table(questions, QUESTION)))
    gold.write_manifest(Manifest.of(identity, [summary], 1.0))
    for system, rows in (("student", answers), ("encoder", of_encoder)):
        (evaluate / system).write_chunk(Chunk("one-0a1b-0", to_table(rows, PREDICTION)))
    cell = ResultCell(dataset="one", gold=gold, rows={"one-0": len(questions)})
    digests = {"student": "a", "encoder": "b"}
    measured = measure_cascade(evaluate, {"student": [cell], "encoder": [cell]}, digests)
    results = {"cells": {"one": "0a1b"}, "cascade": measured.to_json()}
    evaluate.write_manifest(Manifest.of(identity, [], 1.0, results=results))
    return run


def test_the_cascade_scores_as_evaluate_does_at_every_threshold(tmp_path):
    run = evaluated_run(tmp_path)
    figures = cascade_figures(run)
    ours = [round(cascade_scores(run, point.threshold)["one"].f1, 6) for point in figures.points]
    assert ours == [point.f1 for point in figures.points]
    assert len(set(ours)) > 3 and cascade_scores(run, None)["one"].f1 == pytest.approx(0.8)


def test_the_tagged_passages_are_the_first_ones_with_the_types_asked(tmp_path):
    run = evaluated_run(tmp_path)
    found = gold_passages(cells(run, ["one"]), 3)
    assert found == {"one": (["Ann left Paris"] * 3, ["city", "river"])}


def test_a_run_without_both_scores_says_what_to_run(tmp_path):
    run = StageFolder(str(tmp_path))
    (run / "evaluate").write_manifest(Manifest.of(Identity(stage="evaluate", settings={}), [], 1.0))
    with pytest.raises(UserError, match="run `uniner evaluate CONFIG"):
        cascade_figures(run)
