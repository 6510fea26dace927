"""How good the run's systems are: scores, calibration, mistakes, and comparable published numbers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uniner.gold.catalogue import catalogue
from uniner.storage.folder import Folder
from uniner.storage.manifest import Manifest

WORST_TYPES, CONFUSIONS = 10, 10
LEADERBOARD = "leaderboard.json"
_HEADLINE = "strict"


@dataclass(frozen=True, kw_only=True)
class ScoreCalibration:
    """How far a system's scores are from the share that is right, and the scaling that corrects them."""

    mentions: int
    expected_error: float
    expected_error_calibrated: float | None
    slope: float
    intercept: float


@dataclass(frozen=True, kw_only=True)
class DatasetScore:
    """A system's strict micro-F1 on a gold data set.

    own: the data set is not one of the benchmark's. interval: 95 %, of F1. passages_per_s: of one of its
    engines, over all data sets. usd_per_million: US dollars a million passages.
    """

    system: str
    dataset: str
    f1: float
    questions: int
    broken: int
    own: bool = True
    precision: float | None = None
    recall: float | None = None
    interval: tuple[float, float] | None = None
    calibration: ScoreCalibration | None = None
    passages_per_s: float | None = None
    usd_per_million: float | None = None


@dataclass(frozen=True, kw_only=True)
class SystemMistakes:
    """A system's mistakes over all data sets.

    wrong, missed: mentions by kind. worst: types with the most mistakes: name, F1, wrong and missed mentions.
    confusions: the type asked for, the gold type of what was answered, and how often.
    """

    system: str
    wrong: Mapping[str, int]
    missed: Mapping[str, int]
    worst: tuple[tuple[str, float, int, int], ...]
    confusions: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """A row of a table of comparable numbers: F1 in per cent by column; ours: scored by this run."""

    system: str
    source: str
    ours: bool
    cells: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class PublishedBoard:
    """Scores of this run beside published ones of the same data sets, by comparable protocols."""

    title: str
    columns: Mapping[str, str]
    rows: tuple[BoardRow, ...]


def dataset_scores(manifest: Manifest) -> tuple[DatasetScore, ...]:
    """Return the scores in evaluate's manifest with the systems' speeds: own data sets first."""
    speeds, known = manifest.results.get("speeds", {}), catalogue()
    scores = [
        DatasetScore(
            system=system,
            dataset=dataset,
            f1=figures["f1"],
            questions=figures["questions"],
            broken=figures["broken"],
            own=dataset not in known,
            precision=figures.get("precision"),
            recall=figures.get("recall"),
            interval=tuple(figures["interval"]) if figures.get("interval") else None,
            calibration=_calibration(figures.get("calibration")),
            **{name: speeds.get(system, {}).get(name) for name in ("passages_per_s", "usd_per_million")},
        )
        for system, datasets in manifest.results["scores"].items()
        for dataset, figures in datasets.items()
    ]
    return tuple(sorted(scores, key=lambda score: not score.own))


def _calibration(report: Mapping[str, Any] | None) -> ScoreCalibration | None:
    if report is None:
        return None
    return ScoreCalibration(**{name: report[name] for name in ScoreCalibration.__dataclass_fields__})


def system_mistakes(manifest: Manifest) -> tuple[SystemMistakes, ...]:
    """Return the mistakes of each system in evaluate's manifest."""
    return tuple(
        _mistakes(system, datasets)
        for system, datasets in manifest.results["scores"].items()
        if any("errors" in figures for figures in datasets.values())
    )


def _mistakes(system: str, datasets: Mapping[str, Mapping[str, Any]]) -> SystemMistakes:
    wrong, missed, confusions = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    types = []
    for dataset, figures in datasets.items():
        errors = figures.get("errors", {})
        wrong.update(errors.get("wrong", {}))
        missed.update(errors.get("missed", {}))
        for asked, by_gold in errors.get("confusions", {}).items():
            confusions.update({(asked, gold): count for gold, count in by_gold.items()})
        more = f" ({dataset})" if len(datasets) > 1 else ""
        types += [
            (f"{name}{more}", score["f1"], int(score["fp"]), int(score["fn"]))
            for name, score in figures.get("types", {}).items()
        ]
    worst = sorted(types, key=lambda row: (-row[2] - row[3], row[0]))
    return SystemMistakes(
        system=system,
        wrong=_in_words(wrong),
        missed=_in_words(missed),
        worst=tuple(row for row in worst[:WORST_TYPES] if row[2] + row[3]),
        confusions=tuple((asked, gold, count) for (asked, gold), count in confusions.most_common(CONFUSIONS)),
    )


def _in_words(kinds: Counter[str]) -> dict[str, int]:
    return {kind.replace("_", " "): count for kind, count in kinds.most_common()}


def published_boards(evaluate: Folder) -> tuple[PublishedBoard, ...]:
    """Return the leaderboard's tables with data sets that this run scored too, of these columns only."""
    leaderboard = evaluate.read_json(LEADERBOARD, "delete it and run `uniner evaluate CONFIG` again") or {
        "boards": []
    }
    boards = [_board(board) for board in leaderboard["boards"] if board["name"] != "others"]
    return tuple(board for board in boards if board is not None)


def _board(board: Mapping[str, Any]) -> PublishedBoard | None:
    ours = [row for row in board["rows"] if row["ours"] and row["protocol"] == _HEADLINE]
    columns = {
        name: title for name, title in board["columns"].items() if any(name in row["cells"] for row in ours)
    }
    comparable = [row for row in board["rows"] if not row["ours"] and row.get("compares_with") == _HEADLINE]
    rows = [
        BoardRow(
            system=row["system"],
            source=row["source"],
            ours=row["ours"],
            cells={name: row["cells"][name]["f1"] for name in columns if name in row["cells"]},
        )
        for row in (*ours, *comparable)
    ]
    rows = [row for row in rows if row.cells]
    if not any(not row.ours for row in rows):
        return None
    return PublishedBoard(title=board["title"], columns=columns, rows=tuple(rows))
