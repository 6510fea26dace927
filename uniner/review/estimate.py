"""Estimate a student's precision and recall on the whole corpus from the random share of a round. Pure.

Entities of one passage are right or wrong together, so an interval that counts each alone is too narrow. The
share is a ratio of sums over passages; its variance over that of independent entities is the design effect,
by which the number of entities is divided before Wilson's interval (as Korn and Graubard do for survey
data). Wilson's interval is not empty where all entities are right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_Z = 1.959964
"""95 %."""


@dataclass(frozen=True, kw_only=True)
class EstimatedShare:
    """A share with its 95 % interval. of: the number of entities it is a share of; 0: nothing is known."""

    value: float
    low: float
    high: float
    of: int

    def __str__(self) -> str:
        return (
            f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})" if self.of else "not known (no entities)"
        )


@dataclass(frozen=True, kw_only=True)
class CorpusEstimate:
    """Precision and recall of the student on the corpus, from `passages` passages drawn at random."""

    passages: int
    precision: EstimatedShare
    recall: EstimatedShare


@dataclass(frozen=True, kw_only=True)
class ShareDifference:
    """A share less an earlier one, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def estimate(counts: Sequence[tuple[int, int, int]]) -> CorpusEstimate:
    """Estimate from passages' counts: right entities, the student's, and those it should have."""
    table = np.asarray(counts, float).reshape(-1, 3)
    return CorpusEstimate(
        passages=len(table), precision=share(table[:, 0], table[:, 1]), recall=share(table[:, 0], table[:, 2])
    )


def share(parts: np.ndarray, wholes: np.ndarray) -> EstimatedShare:
    """Return sum(parts) / sum(wholes) with its interval. parts, wholes: one number for each passage."""
    total = wholes.sum()
    if not total:
        return EstimatedShare(value=0.0, low=0.0, high=1.0, of=0)
    value, passages = float(parts.sum() / total), np.count_nonzero(wholes)
    effect = 1.0
    if passages > 1 and 0 < value < 1:
        deviations = parts - value * wholes
        variance = passages / (passages - 1) * float((deviations**2).sum()) / total**2
        effect = max(1.0, variance / (value * (1 - value) / total))
    size = total / effect
    centre = (value + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = _Z / (1 + _Z**2 / size) * math.sqrt(value * (1 - value) / size + _Z**2 / (4 * size**2))
    return EstimatedShare(
        value=round(value, 6),
        low=round(max(0.0, centre - half), 6),
        high=round(min(1.0, centre + half), 6),
        of=int(total),
    )


def difference(now: EstimatedShare, before: EstimatedShare) -> ShareDifference:
    """Return now less before, of two independent samples (Newcombe's interval from the two intervals)."""
    value = now.value - before.value
    low = value - math.hypot(now.value - now.low, before.high - before.value)
    high = value + math.hypot(now.high - now.value, before.value - before.low)
    return ShareDifference(value=round(value, 6), low=round(low, 6), high=round(high, 6))
