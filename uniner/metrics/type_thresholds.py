"""Propose for each type the lowest score that counts, from mentions on gold data. Pure.

A threshold that is best on some mentions is partly chance. So each is judged on passages that it was not
chosen on: each half of the passages by the choice on the other half.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_MENTIONS = 20
"""Scored mentions of a type; fewer tell nothing."""


@dataclass(frozen=True, kw_only=True)
class TypeThreshold:
    """threshold: the lowest score that counts. f1, precision, recall: with it, of passages that it was not
    chosen on; plain_f1: of the same without a threshold."""

    threshold: float
    f1: float
    precision: float
    recall: float
    plain_f1: float


@dataclass(frozen=True)
class TypeMentions:
    """The mentions that a system found of a type: their scores, which are right, and in which half of the
    passages they lie (`calibration.half_of`). gold: mentions that there are in each half."""

    scores: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    half: npt.NDArray[np.int64]
    gold: tuple[float, float]


def propose_thresholds(
    mentions: Mapping[str, TypeMentions], precision: float | None = None
) -> dict[str, TypeThreshold]:
    """Return the thresholds that help, by type.

    precision: unset, the best F1 is looked for; else the lowest threshold whose mentions are that precise. A
    type is left out where no threshold does it, or where F1 on the other half would not gain.
    """
    proposed = {}
    for name, found in mentions.items():
        if len(found.scores) >= LEAST_MENTIONS and (best := _propose(found, precision)):
            proposed[name] = best
    return proposed


def as_setting(thresholds: Mapping[str, TypeThreshold]) -> str:
    """Return the thresholds as tag takes them."""
    values = ", ".join(
        f"{json.dumps(name, ensure_ascii=False)} = {found.threshold}" for name, found in thresholds.items()
    )
    return f"tag.min_score_of_type = {{{values}}}"


def gains_of(thresholds: Mapping[str, TypeThreshold]) -> str:
    """Return what each threshold does on passages that it was not chosen on."""
    return ", ".join(
        f"{name} F1 {found.plain_f1:.3f} to {found.f1:.3f}, precision {found.precision:.3f}"
        for name, found in thresholds.items()
    )


def _propose(found: TypeMentions, precision: float | None) -> TypeThreshold | None:
    whole = _choose(found.scores, found.right, sum(found.gold), precision)
    if not whole:
        return None
    right = wrong = 0
    for half in (0, 1):
        others, own = found.half != half, found.half == half
        chosen = _choose(found.scores[others], found.right[others], found.gold[1 - half], precision)
        kept = found.right[own & (found.scores >= (whole if chosen is None else chosen))]
        right, wrong = right + int(kept.sum()), wrong + int((~kept).sum())
    gold = sum(found.gold)
    plain = _f1(int(found.right.sum()), len(found.right), gold)
    f1 = _f1(right, right + wrong, gold)
    if precision is None and f1 <= plain:
        return None
    return TypeThreshold(
        threshold=whole,
        f1=round(f1, 4),
        precision=round(right / max(1, right + wrong), 4),
        recall=round(right / gold, 4) if gold else 0.0,
        plain_f1=round(plain, 4),
    )


def _choose(
    scores: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], gold: float, precision: float | None
) -> float | None:
    """Return the threshold, between two scores; 0 keeps all mentions. None where none is precise enough."""
    order = np.argsort(-scores, kind="stable")
    ordered, is_right = scores[order], right[order]
    if not len(ordered):
        return None
    kept, hits = np.arange(1, len(ordered) + 1), np.cumsum(is_right)
    ends = np.append(ordered[1:] < ordered[:-1], True)  # equal scores are kept or dropped together
    if precision is None:
        worth = np.where(ends, 2 * hits / (kept + gold), -1)
        last = len(worth) - 1 - int(np.argmax(worth[::-1]))  # of equals the lowest threshold
    else:
        precise = np.flatnonzero(ends & (hits / kept >= precision))
        if not len(precise):
            return None
        last = int(precise[-1])
    if last == len(ordered) - 1:
        return 0.0
    return _between(float(ordered[last + 1]), float(ordered[last]))


def _between(dropped: float, kept: float) -> float:
    """Return a number above one score and up to the next, of four digits where these are enough."""
    middle = (dropped + kept) / 2
    numbers = (round(middle, digits) for digits in range(4, 17))
    return next((number for number in numbers if dropped < number <= kept), kept)


def _f1(right: float, found: float, gold: float) -> float:
    return 2 * right / (found + gold) if found + gold else 0.0
