"""Scores that mean what they say: of mentions with a score of 0.8, 80 % are right. Pure.

A student's probabilities are ordered well but are mostly too high. Platt's scaling mends that with two
numbers, fitted on gold data: calibrated = sigmoid(slope * logit(score) + intercept). It keeps the order, and
two numbers do not overfit where a few hundred mentions are all there is, as a free curve would.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

_BINS = 10
_LEAST = 1e-6
"""Scores are kept this far from 0 and 1, where a logit has no end."""


def calibrated(score: float, slope: float, intercept: float) -> float:
    """Return a score's calibrated one, 0 to 1."""
    return float(_sigmoid(slope * _logits([score]) + intercept)[0])


def fit(scores: ArrayLike, right: ArrayLike) -> tuple[float, float]:
    """Fit slope (0 or more) and intercept to mentions' scores and whether each is right.

    Maximum likelihood, on targets a little off 0 and 1 so that few mentions do not make it sure of itself
    (Platt 1999): each mention counts as right and as wrong, by its target.
    """
    from sklearn.linear_model import LogisticRegression

    is_right = np.asarray(right, bool)
    good, bad = int(is_right.sum()), int((~is_right).sum())
    slope, intercept = 0.0, float(np.log((good + 1) / (bad + 1)))
    if len(is_right):
        targets = np.where(is_right, (good + 1) / (good + 2), 1 / (bad + 2))
        logits = _logits(scores)
        centre = logits.mean()  # of scores that are all alike the slope then stays 0
        found = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
            np.tile(logits - centre, 2)[:, None],
            np.repeat([True, False], len(targets)),
            np.concatenate([targets, 1 - targets]),
        )
        if found.coef_[0, 0] > 0:  # else the score tells nothing: all mentions get the share that is right
            slope = float(found.coef_[0, 0])
            intercept = float(found.intercept_[0] - slope * centre)
    return slope, intercept


def expected_error(scores: ArrayLike, right: ArrayLike) -> float:
    """Return the expected calibration error: how far a score is, on average, from the share that is right.

    Over ten bins of as many mentions each; mentions of one score are never divided among bins.
    """
    order = np.argsort(scores, kind="stable")
    told, true = np.asarray(scores, float)[order], np.asarray(right, float)[order]
    cuts = np.searchsorted(told, told[[len(told) * place // _BINS for place in range(1, _BINS)]])
    bins = np.split(np.arange(len(told)), np.unique(cuts))
    return float(sum(abs((told[some] - true[some]).sum()) for some in bins) / len(told))


def assess(scores: Sequence[float], right: Sequence[bool], groups: Sequence[str]) -> dict[str, Any] | None:
    """Return mentions, error before and after, and the two numbers; None where there are no mentions.

    The error after is that of mentions that the fit did not see: it is made on each half of the groups
    (passages) and held against the other half; None where a half is empty. The numbers are of a fit on all.
    """
    if not scores:
        return None
    told, true = np.asarray(scores, float), np.asarray(right, bool)
    first = np.array([zlib.crc32(group.encode()) % 2 == 0 for group in groups])
    after = np.empty(len(told))
    for half in (first, ~first):
        slope, intercept = fit(told[~half], true[~half])
        after[half] = _sigmoid(slope * _logits(told[half]) + intercept)
    slope, intercept = fit(told, true)
    figures = {"expected_error": expected_error(told, true), "slope": slope, "intercept": intercept}
    halves = first.any() and not first.all()
    return {
        "mentions": len(told),
        **{name: round(figure, 6) for name, figure in figures.items()},
        "expected_error_calibrated": round(expected_error(after, true), 6) if halves else None,
    }


def _logits(scores: ArrayLike) -> np.ndarray:
    kept = np.clip(np.asarray(scores, float), _LEAST, 1 - _LEAST)
    return np.log(kept) - np.log1p(-kept)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))
