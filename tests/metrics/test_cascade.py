"""A prefilter's points, counted by hand."""

import pytest

from uniner.metrics.cascade import THRESHOLDS, cascade_points, choose_threshold

# Five questions: the encoder's best score, and the student's right, wrong and missed mentions.
BEST = [0.9, 0.25, 0.02, 0.0005, 0.15]
RIGHT, WRONG, MISSED = [3, 1, 0, 0, 1], [1, 0, 2, 1, 0], [0, 1, 0, 0, 0]


def test_points_are_counted():
    points = {point.threshold: point for point in cascade_points(BEST, RIGHT, WRONG, MISSED)}
    assert list(points) == list(THRESHOLDS)
    low = points[0.001]
    # Of the answers, 5 right, 3 wrong and 1 missed are left: the fourth question had a wrong one.
    assert (low.saved, low.recall_lost, low.f1) == (0.2, 0.0, pytest.approx(2 * 5 / (5 + 3 + 6), abs=1e-6))
    middle = points[0.03]  # the third question had wrong answers only: F1 rises
    assert (middle.saved, middle.recall_lost) == (0.4, 0.0)
    assert middle.f1 == pytest.approx(2 * 5 / (5 + 1 + 6), abs=1e-6) and middle.f1 > low.f1
    high = points[0.2]
    assert (high.saved, high.recall_lost) == (0.6, pytest.approx(0.2))
    assert points[0.5].recall_lost == pytest.approx(0.4)


def test_the_highest_threshold_within_the_loss_is_chosen():
    points = cascade_points(BEST, RIGHT, WRONG, MISSED)
    assert choose_threshold(points, 0.0) == 0.1
    assert choose_threshold(points, 0.25) == 0.2
    assert choose_threshold(points, 1.0) == 0.5
    assert choose_threshold(cascade_points([0.0001], [1], [0], [0]), 0.0) == 0.0  # everything is asked


def test_where_nothing_is_right_nothing_says_that_little_is_lost():
    for points in (cascade_points([], [], [], []), cascade_points([0.2, 0.9], [0, 0], [1, 1], [2, 2])):
        assert {(point.recall_lost, point.f1) for point in points} == {(1.0, 0.0)}
        assert choose_threshold(points, 0.01) == 0.0
