"""Read a run's manifests, scores and some tagged passages into one plain value for both outputs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from uniner.display import TaggedText, displayed_entities
from uniner.errors import UserError
from uniner.report.funnel import FunnelLane, funnel_lanes
from uniner.report.quality import (
    DatasetScore,
    PublishedBoard,
    SystemMistakes,
    dataset_scores,
    published_boards,
    system_mistakes,
)
from uniner.report.sample import PassageSample, SampledPassage, compare, passage_stage, sample_passages
from uniner.report.stages import RULE_WORK, Spending, StageRow, read_work, spending, stage_rows
from uniner.storage.folder import Folder
from uniner.storage.manifest import Manifest
from uniner.storage.model_folders import OWN_STAGES
from uniner.storage.sealed_json import BrokenFileError
from uniner.storage.sealed_parquet import open_sealed
from uniner.storage.stage_folder import StageFolder

EXAMPLES = 5
TYPES, SURFACES, RULES, THRESHOLDS = 25, 8, 25, 50
PASSAGES = 2_000
_EXAMPLE_CHARACTERS = 600
# tag's table of surfaces and the tables' manifest, see docs/output.md
_SURFACE_TABLE, _TABLES = "aggregate.parquet", "tables.json"

_FIGURES = {"plain_f1": "F1 without", "f1": "F1 with", "precision": "precision", "recall": "recall"}

Curve = tuple[tuple[int, float], ...]
"""Points (step, value)."""


@dataclass(frozen=True, kw_only=True)
class TypeSurfaces:
    """A type's mentions in the corpus, and its most frequent surfaces with their mentions."""

    type: str
    mentions: int
    surfaces: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class TrainingCurves:
    """The curves of a training; an empty one was not measured."""

    loss: Curve = ()
    validation_loss: Curve = ()
    validation_f1: Curve = ()


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """A further table of a stage's results, such as what each rule did. Numbers are aligned to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """All that is shown of a run."""

    name: str
    stages: tuple[StageRow, ...] = ()
    spending: Spending | None = None
    funnel: tuple[FunnelLane, ...] = ()
    curves: Mapping[str, TrainingCurves] = field(default_factory=dict)
    scores: tuple[DatasetScore, ...] = ()
    published: tuple[PublishedBoard, ...] = ()
    mistakes: tuple[SystemMistakes, ...] = ()
    tables: tuple[ResultTable, ...] = ()
    types: tuple[TypeSurfaces, ...] = ()
    sample: PassageSample = field(default_factory=PassageSample)
    examples: tuple[TaggedText, ...] = ()


def collect(
    run: StageFolder,
    name: str,
    *,
    passages: int = PASSAGES,
    budget_usd: float | None = None,
    compare_with: StageFolder | None = None,
) -> RunReport:
    """Read what exists of a run, finished or not.

    passages: most to show. compare_with: a run whose entities are shown beside this one's; the run itself
    stands for its teacher's annotations.

    Raises:
        UserError: a file is damaged, or the runs have no passage in common.
    """
    works = read_work(run)
    evaluated = works["evaluate"].manifest if "evaluate" in works else None
    tagged = works["tag"].manifest if "tag" in works else None
    sample = _sample(run, passages, compare_with)
    return RunReport(
        name=name,
        stages=stage_rows(works),
        spending=spending(works, budget_usd),
        funnel=funnel_lanes(
            {stage: work.figures for stage, work in works.items()},
            {stage: work.rows for stage, work in works.items()},
        ),
        curves={model: _curves(run / stage) for model, stage in OWN_STAGES.items() if stage in works},
        scores=dataset_scores(evaluated) if evaluated else (),
        published=published_boards(run / "evaluate") if evaluated else (),
        mistakes=system_mistakes(evaluated) if evaluated else (),
        tables=(*(_thresholds(evaluated) if evaluated else ()), *(_rules(tagged) if tagged else ())),
        types=_types(run / "tag") if tagged else (),
        sample=sample,
        examples=_examples(sample.passages) if sample.stage == "tag" else (),
    )


def _sample(run: StageFolder, most: int, compare_with: StageFolder | None) -> PassageSample:
    source = passage_stage(run)
    if source is None:
        if compare_with:
            raise UserError(f"{run.url}: nothing is tagged or annotated yet, so nothing can be compared")
        return PassageSample()
    sample = sample_passages(source, most)
    if compare_with is None:
        return sample
    itself = compare_with.url == run.url
    other = passage_stage(compare_with, ("annotate",) if itself else ("tag", "annotate"))
    if other is None or (itself and source.stage == "annotate"):
        raise UserError(
            f"{compare_with.url}: has no tagged passages to compare with; --with takes the folder of a run "
            "that tag has begun, such as --with runs/other-student, or this run's own: then the teacher's "
            "annotations are compared"
        )
    teacher = " (teacher)" if other.stage == "annotate" else ""
    return compare(sample, other, f"{compare_with.name}{teacher}")


def _curves(train: Folder) -> TrainingCurves:
    cure = "delete that file; the page then has no curves"
    history = train.read_json("history.json", cure) or {"steps": [], "validation": []}

    def curve(part: str, figure: str) -> Curve:
        return tuple((point["step"], point[figure]) for point in history[part] if figure in point)

    return TrainingCurves(
        loss=curve("steps", "loss"),
        validation_loss=curve("validation", "loss"),
        validation_f1=curve("validation", "f1"),
    )


def _types(tag: Folder) -> tuple[TypeSurfaces, ...]:
    """Return the most frequent types with their most frequent surfaces; none where tag is at its tables."""
    tables = tag.read_sealed_json(_TABLES, "delete that file and run `uniner tag CONFIG` again")
    if tables is None:
        return ()
    mentions_by_type, surfaces = tables["mentions_by_type"], dict[str, list[tuple[str, int]]]()
    try:
        table = open_sealed(tag.read(_SURFACE_TABLE))
    except BrokenFileError as error:
        raise UserError(
            f"{tag.path(_SURFACE_TABLE)}: is damaged: {error}; delete {_TABLES} beside it and run "
            "`uniner tag CONFIG` again"
        ) from None
    for row in table.to_pylist():
        surfaces.setdefault(row["type"], []).append((row["text"], row["mentions"]))
    return tuple(
        TypeSurfaces(type=name, mentions=mentions, surfaces=tuple(surfaces[name][:SURFACES]))
        for name, mentions in list(mentions_by_type.items())[:TYPES]
    )


def _thresholds(evaluate: Manifest) -> tuple[ResultTable, ...]:
    """Return the table of the lowest scores that evaluate proposes for the run's models."""
    scores = evaluate.results["scores"]
    rows = [
        (system, dataset, name, found["threshold"], *(round(found[figure], 3) for figure in _FIGURES))
        for system in OWN_STAGES
        for dataset, scored in scores.get(system, {}).items()
        for name, found in scored.get("thresholds", {}).items()
    ]
    if not rows:
        return ()
    return (
        ResultTable(
            title="Proposed thresholds",
            columns=("system", "gold data", "type", "lowest score", *_FIGURES.values()),
            rows=tuple(rows[:THRESHOLDS]),
            note="F1, precision and recall are of passages that a threshold was not chosen on. Tag takes "
            f"them as tag.min_score_of_type = {{{json.dumps(rows[0][2])} = {rows[0][3]}}}.",
        ),
    )


def _rules(tag: Manifest) -> tuple[ResultTable, ...]:
    """Return the table of the rules of tag.rules that did something, those that did most first."""
    did = tag.results.get("rules", {}).get("did", ())
    if not did:
        return ()
    rows = sorted(did, key=lambda rule: -sum(rule.get(name, 0) for name in RULE_WORK))
    return (
        ResultTable(
            title="Rules after the model",
            columns=("line", "type", "rule", *RULE_WORK, "examples"),
            rows=tuple(
                (
                    rule["line"],
                    rule["label"],
                    rule["kind"].replace("_", " "),
                    *(rule.get(name, 0) for name in RULE_WORK),
                    ", ".join(rule["examples"]),
                )
                for rule in rows[:RULES]
            ),
            note="late: passages on which a regular expression reached its time limit.",
        ),
    )


def _examples(passages: Sequence[SampledPassage]) -> tuple[TaggedText, ...]:
    """Return a short tagged passage of each of several sources, those with the most types first."""
    best: dict[str, TaggedText] = {}
    for passage in passages:
        if len(passage.text) >= _EXAMPLE_CHARACTERS:
            continue
        entities = displayed_entities(passage.entities)
        example = TaggedText(text=passage.text, source=passage.source, entities=entities)
        current = best.get(passage.source)
        if current is None or _variety(example) > _variety(current):
            best[passage.source] = example
    return tuple(sorted(best.values(), key=_variety, reverse=True)[:EXAMPLES])


def _variety(example: TaggedText) -> tuple[int, int]:
    return len({entity.type for entity in example.entities}), len(example.entities)
