"""The pure parts of the cascade's benchmark."""

import tomllib

import pytest

from benchmarks.cascade import Row, after_prefilter, choose_points, mean_f1, table, toml
from uniner.evaluate.leaderboard import LeaderboardCell
from uniner.evaluate.scoring import score
from uniner.metrics.cascade import THRESHOLDS, CascadePoint
from uniner.records import Prediction, Span


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
    [(0.2, None, True), (None, 0.5, True), (0.6, 0.5, True), (0.5, 0.5, False), (0.0, 0.001, False)],
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
