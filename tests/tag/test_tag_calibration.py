"""Calibration: what is fitted, what is measured, and that it is measured on what was not fitted."""

import math
import random

import pytest

from uniner.tag.calibration import assess, calibrated, expected_error, fit


def drawn(slope: float, intercept: float, many: int, seed: int = 3):
    """Return scores and, of each, whether its mention is right, with the chance that the two numbers give."""
    chance = random.Random(seed)
    scores = [chance.random() for _ in range(many)]
    return scores, [chance.random() < calibrated(score, slope, intercept) for score in scores]


def test_the_two_numbers_are_found_again():
    slope, intercept = fit(*drawn(0.5, -1.0, 20_000))
    assert (slope, intercept) == (pytest.approx(0.5, abs=0.05), pytest.approx(-1.0, abs=0.06))
    assert calibrated(0.3, 1.0, 0.0) == pytest.approx(0.3)
    assert 0 <= calibrated(0.0, 3.0, 0.0) < 1e-6 and calibrated(1.0, 3.0, 0.0) <= 1


@pytest.mark.parametrize(
    ("scores", "right", "share"),
    [([], [], 0.5), ([0.9], [True], 2 / 3), ([1.0] * 8, [True] * 8, 0.9), ([0.9, 0.1], [False, True], 0.5)],
)
def test_little_or_contradictory_data_gives_no_certainty(scores, right, share):
    slope, intercept = fit(scores, right)
    assert slope >= 0 and math.isfinite(intercept)
    assert calibrated(0.9, slope, intercept) == pytest.approx(share, abs=0.1)


def test_scores_that_part_right_from_wrong_have_an_end():
    slope, intercept = fit([0.1] * 50 + [0.9] * 50, [False] * 50 + [True] * 50)
    assert 0.9 < calibrated(0.9, slope, intercept) < 1 and math.isfinite(slope)


def test_the_error_is_the_distance_of_scores_from_the_share_that_is_right():
    assert expected_error([0.75] * 4, [True, True, True, False]) == 0
    assert expected_error([0.9] * 4, [True, False, False, False]) == pytest.approx(0.65)
    assert expected_error([0.2] * 10 + [0.8] * 10, [True] * 10 + [False] * 10) == pytest.approx(0.8)


def test_overconfident_scores_are_mended_and_the_error_is_of_mentions_that_were_not_seen():
    scores, right = drawn(0.5, -1.0, 2000)
    found = assess(scores, right, [f"p{number // 3}" for number in range(2000)])
    assert found["mentions"] == 2000
    assert found["expected_error"] > 0.15 > 0.05 > found["expected_error_calibrated"]
    # All of one passage: nothing is left to fit on, so nothing is claimed.
    alone = assess([0.9] * 50, [True] * 50, ["p"] * 50)
    assert alone["expected_error_calibrated"] == pytest.approx(0.5)
    assert assess([], [], []) is None
