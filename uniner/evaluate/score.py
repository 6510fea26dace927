"""Strict entity-level scores of answers to (passage, type) questions (paper §5; pure)."""

import re
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from uniner.records import Prediction
from uniner.tag.calibration import assess

PROTOCOL = (
    "strict: for each (passage, type) question the sets of predicted and gold mentions are compared as "
    "normalised strings (lower case, punctuation and the articles a, an, the removed, white space folded); "
    "micro-average over all questions; every type of a data set is asked of each of its passages, of a file "
    "that has questions these alone; ELSE-like types (misc, other, else, none) are left out; an answer that "
    "is broken (no JSON list of strings, cut at the limit, or not asked because the passage is too long) "
    "counts as no prediction and is shown"
)
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def normalise(mention: str) -> str:
    """Fold what does not count: case, punctuation, articles, white space, in this order."""
    return " ".join(_ARTICLE.sub(" ", mention.lower().translate(_PUNCTUATION)).split())


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives; add them up for a micro-average."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Share of the predictions that are right; 0 where there is none."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the gold mentions that were found; 0 where there is none."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def figures(self) -> dict[str, float]:
        """Return counts and shares as plain values."""
        shares = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        rounded = {name: round(share, 6) for name, share in shares.items()}
        return {**rounded, "tp": self.tp, "fp": self.fp, "fn": self.fn}


def compare(predicted: Iterable[str], gold: Iterable[str]) -> Counts:
    """Count one question, by sets of normalised strings."""
    said, true = {normalise(mention) for mention in predicted}, {normalise(mention) for mention in gold}
    return Counts(len(said & true), len(said - true), len(true - said))


class Scoreboard:
    """Adds up one system's predictions on one data set."""

    def __init__(self) -> None:
        self._types: dict[str, Counts] = {}
        self._outcomes: Counter[str] = Counter()
        self._passages: set[str] = set()
        self._told: list[tuple[float, bool, str]] = []  # score, right, passage of each scored mention

    def add(self, prediction: Prediction) -> None:
        """Count a question's answer; a broken one predicts nothing."""
        predicted = prediction.predicted if prediction.outcome == "ok" else ()
        counts = self._types.get(prediction.type, Counts()) + compare(predicted, prediction.gold)
        self._types[prediction.type] = counts
        self._outcomes[prediction.outcome] += 1
        self._passages.add(prediction.passage_id)
        if predicted and prediction.scores:
            gold = {normalise(mention) for mention in prediction.gold}
            self._told += [
                (told, normalise(mention) in gold, prediction.passage_id)
                for mention, told in zip(predicted, prediction.scores, strict=True)
            ]

    def scores(self) -> dict[str, Any]:
        """Return the micro-average, what was counted, each type's score, and if mentions' scores hold."""
        questions = self._outcomes.total()
        told, right, passages = zip(*self._told, strict=True) if self._told else ((), (), ())
        return {
            **sum(self._types.values(), Counts()).figures(),
            "passages": len(self._passages),
            "questions": questions,
            "broken": questions - self._outcomes["ok"],
            "outcomes": dict(sorted(self._outcomes.items())),
            "calibration": assess(told, right, passages),
            "types": {name: counts.figures() for name, counts in sorted(self._types.items())},
        }


def score(predictions: Iterable[Prediction]) -> dict[str, dict[str, Any]]:
    """Score a system's predictions, data set by data set."""
    boards: dict[str, Scoreboard] = {}
    for prediction in predictions:
        boards.setdefault(prediction.dataset, Scoreboard()).add(prediction)
    return {dataset: board.scores() for dataset, board in sorted(boards.items())}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
