"""True positives, false positives and false negatives, with precision, recall and F1. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """Counts of mentions. Add them for a micro-average. Partial matches count in halves."""

    tp: float = 0
    fp: float = 0
    fn: float = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Share of the predictions that are right; 0 without predictions."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the gold mentions that were found; 0 without gold mentions."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def score(self) -> "F1Score":
        """Return the counts with their precision, recall and F1, rounded to 12 places."""
        shares = {name: round(getattr(self, name), 12) for name in ("precision", "recall", "f1")}
        return F1Score(**shares, tp=self.tp, fp=self.fp, fn=self.fn)


@dataclass(frozen=True, kw_only=True)
class F1Score:
    """Precision, recall and F1 (0 to 1) with the counts they come from, as manifests hold them."""

    precision: float
    recall: float
    f1: float
    tp: float
    fp: float
    fn: float


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
