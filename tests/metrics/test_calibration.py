"""Calibration: the fit, the error, and that the error is measured on mentions the fit did not see."""

import math
import random

import pytest

from uniner.errors import UserError
from uniner.metrics.calibration import assess, calibrated, expected_error, fit
from uniner.storage.model_folders import calibration_of, model_digest, write_calibrations
from uniner.storage.stage_folder import StageFolder


def drawn(slope: float, intercept: float, count: int, seed: int = 3):
    """Return scores, and whether each mention is right, drawn with its calibrated score as probability."""
    chance = random.Random(seed)
    scores = [chance.random() for _ in range(count)]
    return scores, [chance.random() < calibrated(score, slope, intercept) for score in scores]


def test_the_fit_finds_slope_and_intercept():
    slope, intercept = fit(*drawn(0.5, -1.0, 20_000))
    assert (slope, intercept) == (pytest.approx(0.5, abs=0.05), pytest.approx(-1.0, abs=0.06))
    assert calibrated(0.3, 1.0, 0.0) == pytest.approx(0.3)
    assert 0 <= calibrated(0.0, 3.0, 0.0) < 1e-6 and calibrated(1.0, 3.0, 0.0) <= 1


@pytest.mark.parametrize(
    ("scores", "right", "share"),
    [([], [], 0.5), ([0.9], [True], 2 / 3), ([1.0] * 8, [True] * 8, 0.9), ([0.9, 0.1], [False, True], 0.5)],
)
def test_few_or_contradictory_mentions_give_no_certainty(scores, right, share):
    slope, intercept = fit(scores, right)
    assert slope >= 0 and math.isfinite(intercept)
    assert calibrated(0.9, slope, intercept) == pytest.approx(share, abs=0.1)


def test_scores_that_separate_right_from_wrong_give_a_finite_fit():
    slope, intercept = fit([0.1] * 50 + [0.9] * 50, [False] * 50 + [True] * 50)
    assert 0.9 < calibrated(0.9, slope, intercept) < 1 and math.isfinite(slope)


def test_the_error_is_the_distance_of_scores_from_the_share_of_right_mentions():
    assert expected_error([0.75] * 4, [True, True, True, False]) == 0
    assert expected_error([0.9] * 4, [True, False, False, False]) == pytest.approx(0.65)
    assert expected_error([0.2] * 10 + [0.8] * 10, [True] * 10 + [False] * 10) == pytest.approx(0.8)


def test_overconfident_scores_are_corrected_and_the_error_is_of_unseen_mentions():
    scores, right = drawn(0.5, -1.0, 2000)
    figures = assess(scores, right, [f"p{number // 3}" for number in range(2000)])
    assert figures["mentions"] == 2000
    assert figures["expected_error"] > 0.15 > 0.05 > figures["expected_error_calibrated"]
    # All mentions are of one passage: none is left to fit on, so there is no figure.
    alone = assess([0.9] * 50, [True] * 50, ["p"] * 50)
    assert alone["expected_error_calibrated"] is None and alone["expected_error"] == pytest.approx(0.1)
    assert assess([], [], []) is None


def test_a_students_folder_holds_its_calibration_and_keeps_its_digest(tmp_path):
    student = StageFolder(str(tmp_path))
    student.write("config.json", b"{}")
    before = model_digest(student.url)
    with pytest.raises(UserError, match=r"no calibration for the gold data set 'news' \(it has none yet\)"):
        calibration_of(student.url, "news")
    fit_on_news = {"mentions": 9, "slope": 0.5, "intercept": -1.0}
    write_calibrations(student, {"news": fit_on_news})
    write_calibrations(student, {"law": {**fit_on_news, "slope": 0.75}})  # news stays
    assert calibration_of(student.url, "news") == (0.5, -1.0)
    assert calibration_of(student.url, "law") == (0.75, -1.0)
    with pytest.raises(UserError, match=r"'empty' \(it has law, news\); name it in evaluate\.gold"):
        calibration_of(student.url, "empty")
    assert model_digest(student.url) == before
