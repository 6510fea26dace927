"""Calibration of mention scores: of mentions with a score of 0.8, 80 % should be right. Pure.

A student's probabilities rank mentions well but are mostly too high. Platt scaling corrects that with two
numbers, fitted on gold data: calibrated = sigmoid(slope * logit(score) + intercept). It keeps the order, and
two numbers do not overfit on a few hundred mentions, as isotonic regression would.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

_BINS = 10
_MARGIN = 1e-6
"""Scores are clipped to this distance from 0 and 1, where the logit is infinite."""


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """How well a system's scores are calibrated on a data set, and the Platt scaling that corrects them.

    expected_error: expected calibration error as predicted. expected_error_calibrated: the same after
    scaling, on mentions that the fit did not see; None where it cannot be measured.
    """

    mentions: int
    expected_error: float
    slope: float
    intercept: float
    expected_error_calibrated: float | None


def calibrate(score: float, slope: float, intercept: float) -> float:
    """Return the calibrated score, 0 to 1."""
    return float(expit(slope * _logits(score) + intercept))


def fit_platt(scores: ArrayLike, right: ArrayLike) -> tuple[float, float]:
    """Fit slope (0 or more) and intercept to mentions' scores and to whether each mention is right.

    Maximum likelihood on targets slightly off 0 and 1, so that a few mentions do not give certainty (Platt
    1999): each mention counts as right and as wrong, weighted by its target.
    """
    from sklearn.linear_model import LogisticRegression

    is_right = np.asarray(right, bool)
    positives, negatives = int(is_right.sum()), int((~is_right).sum())
    slope, intercept = 0.0, float(np.log((positives + 1) / (negatives + 1)))
    if len(is_right):
        targets = np.where(is_right, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        logits = _logits(scores)
        centre = logits.mean()  # keeps the slope at 0 where all scores are equal
        model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
            np.tile(logits - centre, 2)[:, None],
            np.repeat([True, False], len(targets)),
            np.concatenate([targets, 1 - targets]),
        )
        if (
            model.coef_[0, 0] > 0
        ):  # else the score is uninformative: every mention gets the share that is right
            slope = float(model.coef_[0, 0])
            intercept = float(model.intercept_[0] - slope * centre)
    return slope, intercept


def expected_calibration_error(scores: ArrayLike, right: ArrayLike) -> float:
    """Return the mean distance of scores from the share of right mentions.

    Over ten bins of equally many mentions; mentions with the same score stay in one bin, which
    `sklearn.calibration.calibration_curve` does not guarantee.
    """
    order = np.argsort(scores, kind="stable")
    predicted, is_right = np.asarray(scores, float)[order], np.asarray(right, float)[order]
    size = len(predicted)
    cuts = np.searchsorted(predicted, predicted[[size * number // _BINS for number in range(1, _BINS)]])
    bins = np.split(np.arange(size), np.unique(cuts))
    return float(sum(abs((predicted[rows] - is_right[rows]).sum()) for rows in bins) / size)


def half_of(group: str) -> int:
    """Return the half, 0 or 1, that a passage is in where one half of a data set judges the other."""
    return zlib.crc32(group.encode()) % 2


def report_calibration(
    scores: Sequence[float], right: Sequence[bool], groups: Sequence[str]
) -> CalibrationReport | None:
    """Measure the calibration of mentions' scores; None without mentions.

    The error after scaling is cross-fitted: each half of the groups (passages) is scaled with a fit on the
    other half; None where a half is empty. Slope and intercept come from a fit on all mentions.
    """
    if not scores:
        return None
    predicted, is_right = np.asarray(scores, float), np.asarray(right, bool)
    first = np.array([half_of(group) == 0 for group in groups])
    scaled = np.empty(len(predicted))
    for half in (first, ~first):
        slope, intercept = fit_platt(predicted[~half], is_right[~half])
        scaled[half] = expit(slope * _logits(predicted[half]) + intercept)
    slope, intercept = fit_platt(predicted, is_right)
    has_halves = first.any() and not first.all()
    return CalibrationReport(
        mentions=len(predicted),
        expected_error=round(expected_calibration_error(predicted, is_right), 6),
        slope=round(slope, 6),
        intercept=round(intercept, 6),
        expected_error_calibrated=(
            round(expected_calibration_error(scaled, is_right), 6) if has_halves else None
        ),
    )


def _logits(scores: ArrayLike) -> np.ndarray:
    return logit(np.clip(np.asarray(scores, float), _MARGIN, 1 - _MARGIN))
