"""Right, wrong and missed mentions, and the shares that are made of them. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives; add them up for a micro-average.

    Partial matches count in halves.
    """

    tp: float = 0
    fp: float = 0
    fn: float = 0

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
        rounded = {name: round(share, 12) for name, share in shares.items()}
        return {**rounded, "tp": self.tp, "fp": self.fp, "fn": self.fn}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
