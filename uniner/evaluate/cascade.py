"""What the run's encoder saves and costs as a prefilter of its student, from the answers of both."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from uniner.evaluate.result_store import ResultCell
from uniner.metrics.cascade import CascadePoint, cascade_points
from uniner.metrics.matching import normalised, strict
from uniner.storage.stage_folder import StageFolder

STUDENT, ENCODER = "student", "encoder"


@dataclass(frozen=True, kw_only=True)
class CascadeFigures:
    """The points of all data sets together. student, encoder: digests of the models that were measured."""

    student: str
    encoder: str
    datasets: tuple[str, ...]
    questions: int
    points: tuple[CascadePoint, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as the manifest holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "CascadeFigures":
        """Read it from a manifest."""
        points = tuple(CascadePoint(**point) for point in stored["points"])
        return cls(**{**stored, "datasets": tuple(stored["datasets"]), "points": points})

    def lines(self) -> Iterator[str]:
        """Yield a line for each threshold that saves anything."""
        for point in self.points:
            if point.saved:
                yield (
                    f"with the encoder as prefilter (tag.prefilter_threshold={point.threshold:g}): "
                    f"{point.saved:.1%} of the student's questions saved, {point.recall_lost:.2%} of its "
                    f"right answers lost, F1 {point.f1:.3f}"
                )


def measure_cascade(
    folder: StageFolder, cells: Mapping[str, Sequence[ResultCell]], digests: Mapping[str, str]
) -> CascadeFigures | None:
    """Return what the prefilter does; None unless evaluate has scored the run's student and its encoder.

    cells: by system. digests: of the systems' models. A question that only one has answered is left out.
    """
    if STUDENT not in cells or ENCODER not in cells:
        return None
    encoder_cells = {cell.dataset: cell for cell in cells[ENCODER]}
    best: list[float] = []
    counts: list[tuple[float, float, float]] = []
    datasets = []
    for cell in cells[STUDENT]:
        if cell.dataset not in encoder_cells:
            continue
        datasets.append(cell.dataset)
        scores = {
            (row["passage_id"], row["type"]): float(row["reply"] or 0.0)
            for row in _rows(encoder_cells[cell.dataset], folder / ENCODER, ("passage_id", "type", "reply"))
        }
        for row in _rows(cell, folder / STUDENT, ("passage_id", "type", "predicted", "gold")):
            if (question := (row["passage_id"], row["type"])) in scores:
                found = strict(normalised(row["predicted"]), normalised(row["gold"]))
                best.append(scores[question])
                counts.append((found.tp, found.fp, found.fn))
    right, wrong, missed = np.array(counts, float).reshape(-1, 3).T
    return CascadeFigures(
        student=digests[STUDENT],
        encoder=digests[ENCODER],
        datasets=tuple(datasets),
        questions=len(best),
        points=tuple(cascade_points(best, right, wrong, missed)),
    )


def _rows(cell: ResultCell, system: StageFolder, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for key in cell.gold_keys():
        yield from system.read_columns(key, list(columns)).to_pylist()
