"""What an encoder as prefilter saves and costs: a student is asked only what the encoder finds likely. Pure.

A question is a passage and a type. Its answer without the prefilter is known, so that every threshold can be
tried without asking again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

THRESHOLDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True, kw_only=True)
class CascadePoint:
    """A threshold of the encoder's best score for a question, and what it does to the student's answers.

    saved: share of the questions that are not asked. recall_lost: share of the right mentions lost with them.
    f1: of what is left.
    """

    threshold: float
    saved: float
    recall_lost: float
    f1: float


def cascade_points(
    best_scores: ArrayLike, right: ArrayLike, wrong: ArrayLike, missed: ArrayLike
) -> list[CascadePoint]:
    """Return a point for each threshold.

    best_scores: the encoder's of each question. right, wrong, missed: of the student's answer, in mentions.
    """
    scores = np.asarray(best_scores, float)
    tp, fp, fn = (np.asarray(each, float) for each in (right, wrong, missed))
    points = []
    for threshold in THRESHOLDS:
        asked = scores >= threshold
        kept, all_right = tp[asked].sum(), tp.sum()
        gold = all_right + fn.sum()
        denominator = kept + fp[asked].sum() + gold
        points.append(
            CascadePoint(
                threshold=threshold,
                saved=round(float(1 - asked.mean()), 6) if len(scores) else 0.0,
                recall_lost=round(float(1 - kept / all_right), 6) if all_right else 1.0,
                f1=round(float(2 * kept / denominator), 6) if denominator else 0.0,
            )
        )
    return points


def choose_threshold(points: Sequence[CascadePoint], max_recall_loss: float) -> float:
    """Return the highest threshold that loses at most that much; 0 where none does: everything is asked."""
    return max((point.threshold for point in points if point.recall_lost <= max_recall_loss), default=0.0)
