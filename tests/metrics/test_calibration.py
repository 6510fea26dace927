"""Calibration: fitting Platt scaling, and measuring the error on mentions outside the fit."""

import math
import random

import pytest

from uniner.errors import UserError
from uniner.metrics.calibration import calibrate, expected_calibration_error, fit_platt, report_calibration
from uniner.storage.model_folders import calibration_of, model_digest, write_calibrations
from uniner.storage.stage_folder import StageFolder


def draw_mentions(slope: float, intercept: float, size: int, seed: int = 3):
    """Return scores and whether each mention is right, with the probability that Platt scaling gives."""
    generator = random.Random(seed)
    scores = [generator.random() for _ in range(size)]
    return scores, [generator.random() < calibrate(score, slope, intercept) for score in scores]


def test_fit_recovers_slope_and_intercept():
    slope, intercept = fit_platt(*draw_mentions(0.5, -1.0, 20_000))
    assert (slope, intercept) == (pytest.approx(0.5, abs=0.05), pytest.approx(-1.0, abs=0.06))
    assert calibrate(0.3, 1.0, 0.0) == pytest.approx(0.3)
    assert 0 <= calibrate(0.0, 3.0, 0.0) < 1e-6 and calibrate(1.0, 3.0, 0.0) <= 1


@pytest.mark.parametrize(
    ("scores", "right", "share"),
    [([], [], 0.5), ([0.9], [True], 2 / 3), ([1.0] * 8, [True] * 8, 0.9), ([0.9, 0.1], [False, True], 0.5)],
)
def test_few_or_contradictory_data_give_no_certainty(scores, right, share):
    slope, intercept = fit_platt(scores, right)
    assert slope >= 0 and math.isfinite(intercept)
    assert calibrate(0.9, slope, intercept) == pytest.approx(share, abs=0.1)


def test_scores_that_separate_right_from_wrong_give_a_finite_slope():
    slope, intercept = fit_platt([0.1] * 50 + [0.9] * 50, [False] * 50 + [True] * 50)
    assert 0.9 < calibrate(0.9, slope, intercept) < 1 and math.isfinite(slope)


def test_the_error_is_the_distance_of_scores_from_the_share_of_right_mentions():
    assert expected_calibration_error([0.75] * 4, [True, True, True, False]) == 0
    assert expected_calibration_error([0.9] * 4, [True, False, False, False]) == pytest.approx(0.65)
    assert expected_calibration_error([0.2] * 10 + [0.8] * 10, [True] * 10 + [False] * 10) == pytest.approx(
        0.8
    )


def test_overconfident_scores_are_corrected_and_the_error_is_cross_fitted():
    scores, right = draw_mentions(0.5, -1.0, 2000)
    report = report_calibration(scores, right, [f"p{number // 3}" for number in range(2000)])
    assert report.mentions == 2000
    assert report.expected_error > 0.15 > 0.05 > report.expected_error_calibrated
    # All mentions in one passage: no other half to fit on, so the error is unknown.
    alone = report_calibration([0.9] * 50, [True] * 50, ["p"] * 50)
    assert alone.expected_error_calibrated is None and alone.expected_error == pytest.approx(0.1)
    assert report_calibration([], [], []) is None


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
