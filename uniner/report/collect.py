"""Read a run's manifests, scores and some tagged passages into one plain value for both outputs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from uniner.display import TaggedText, displayed_entities
from uniner.errors import UserError
from uniner.records import Passage, TaggedPassage, from_table
from uniner.storage.folder import Folder
from uniner.storage.joined_chunks import read_joined
from uniner.storage.manifest import Manifest
from uniner.storage.sealed_json import BrokenFileError
from uniner.storage.sealed_parquet import open_sealed
from uniner.storage.stage_folder import StageFolder

EXAMPLES = 5
TYPES, SURFACES, RULES = 25, 8, 25
_RULE_WORK = ("added", "confirmed", "retyped", "dropped", "late")
_EXAMPLE_CHARACTERS = 600
_CHUNKS = 6
# tag's table of surfaces and the tables' manifest, see docs/tagging.md
_SURFACE_TABLE, _TABLES = "aggregate.parquet", "tables.json"

Curve = tuple[tuple[int, float], ...]
"""Points (step, value)."""


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """A stage in the table of stages. figure: its key figure, as text."""

    stage: str
    rows: int
    seconds: float
    figure: str


@dataclass(frozen=True, kw_only=True)
class DatasetScore:
    """A system's strict micro-F1 on a gold data set.

    passages_per_s: of one of its engines, over all data sets. usd_per_million: US dollars a million passages.
    """

    system: str
    dataset: str
    f1: float
    questions: int
    broken: int
    passages_per_s: float | None = None
    usd_per_million: float | None = None


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """How passages became conversations: counts by name, in the order of the work."""

    passages: dict[str, int]
    mentions: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class TypeSurfaces:
    """A type's mentions in the corpus, and its most frequent surfaces with their mentions."""

    type: str
    mentions: int
    surfaces: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class RuleEffect:
    """What a rule of tag.rules did. line: of the file. done: counts by what was done."""

    line: int
    label: str
    kind: str
    done: dict[str, int]
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingCurves:
    """The curves of train; an empty one was not measured."""

    loss: Curve = ()
    validation_loss: Curve = ()
    validation_f1: Curve = ()


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """All that is shown of a run."""

    name: str
    stages: tuple[StageRow, ...] = ()
    scores: tuple[DatasetScore, ...] = ()
    examples: tuple[TaggedText, ...] = ()
    curves: TrainingCurves = TrainingCurves()
    funnel: Funnel | None = None
    types: tuple[TypeSurfaces, ...] = ()
    rules: tuple[RuleEffect, ...] = ()


def collect(run: StageFolder, name: str) -> RunReport:
    """Read what exists of a run. Stages that are not complete are left out."""
    manifests = {stage: manifest for stage in _FIGURES if (manifest := (run / stage).manifest())}
    rows = (
        StageRow(stage=stage, rows=manifest.rows, seconds=manifest.seconds, figure=_FIGURES[stage](manifest))
        for stage, manifest in manifests.items()
    )
    return RunReport(
        name=name,
        stages=tuple(rows),
        scores=scores(manifests["evaluate"]) if "evaluate" in manifests else (),
        examples=_examples(run) if "tag" in manifests else (),
        curves=_curves(run / "train"),
        funnel=_funnel(manifests["build"].figures) if "build" in manifests else None,
        types=_types(run / "tag") if "tag" in manifests else (),
        rules=_rules(manifests["tag"]) if "tag" in manifests else (),
    )


def scores(manifest: Manifest) -> tuple[DatasetScore, ...]:
    """Return the scores in evaluate's manifest, in the order of systems, with the systems' speeds."""
    speeds = manifest.results.get("speeds", {})
    return tuple(
        DatasetScore(
            system=system,
            dataset=dataset,
            f1=figures["f1"],
            questions=figures["questions"],
            broken=figures["broken"],
            **{name: speeds.get(system, {}).get(name) for name in ("passages_per_s", "usd_per_million")},
        )
        for system, datasets in manifest.results["scores"].items()
        for dataset, figures in datasets.items()
    )


def _curves(train: Folder) -> TrainingCurves:
    history = train.read_json("history.json") or {"steps": [], "validation": []}

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


def _rules(tag: Manifest) -> tuple[RuleEffect, ...]:
    """Return the rules that did something, those that did most first."""
    effects = (
        RuleEffect(
            line=rule["line"],
            label=rule["label"],
            kind=rule["kind"],
            done={name: rule[name] for name in _RULE_WORK if name in rule},
            examples=tuple(rule["examples"]),
        )
        for rule in tag.results.get("rules", {}).get("did", ())
    )
    return tuple(sorted(effects, key=lambda effect: -sum(effect.done.values()))[:RULES])


def _funnel(figures: dict[str, float]) -> Funnel:
    counts = Counter({name: int(count) for name, count in figures.items()})

    def dropped(prefix: str) -> dict[str, int]:
        return {
            f"dropped: {name.removeprefix(prefix).replace('_', ' ')}": -count
            for name, count in sorted(counts.items())
            if name.startswith(prefix) and count
        }

    passages = {
        "passages annotated": counts["passages"],
        **dropped("dropped_"),
        "conversations": counts["conversations"],
        "of these to train on": counts["train"],
        "of these for validation": counts["validation"],
        "positive questions": counts["positives"],
        "negative questions": counts["negatives"],
    }
    mentions = {**dropped("mentions_"), "mentions kept": counts["mentions"]}
    return Funnel(passages=passages, mentions=mentions)


def _examples(run: StageFolder) -> tuple[TaggedText, ...]:
    """Return a short tagged passage of each of several sources, those with the most types first."""
    best: dict[str, TaggedText] = {}
    chunks = (run / "tag").require_manifest().chunks
    for chunk in chunks[:: max(1, len(chunks) // _CHUNKS)]:  # spread over the corpus
        rows = from_table((run / "tag").read_chunk(chunk.key).table, TaggedPassage)
        passages = from_table(read_joined(run / "ingest", chunk.key).table, Passage)
        for passage, row in zip(passages, rows, strict=True):
            entities = displayed_entities(row.entities, row.char_start)
            example = TaggedText(text=passage.text, source=passage.source, entities=entities)
            current = best.get(passage.source)
            if len(passage.text) < _EXAMPLE_CHARACTERS and (
                current is None or _variety(example) > _variety(current)
            ):
                best[passage.source] = example
    return tuple(sorted(best.values(), key=_variety, reverse=True)[:EXAMPLES])


def _variety(example: TaggedText) -> tuple[int, int]:
    return len({entity.type for entity in example.entities}), len(example.entities)


def _generate(manifest: Manifest) -> str:
    return f"{len(manifest.results['domains']):,} domains, {_teacher_figures(manifest)}"


def _ingest(manifest: Manifest) -> str:
    return f"{manifest.figures.get('documents_chosen', 0):,} documents"


def _annotate(manifest: Manifest) -> str:
    return f"{manifest.figures['entities']:,} entities, {_teacher_figures(manifest)}"


def _describe(manifest: Manifest) -> str:
    return f"{manifest.figures['synonyms']:,} synonyms, {_teacher_figures(manifest)}"


def _teacher_figures(manifest: Manifest) -> str:
    ok = manifest.outcomes.get("ok", 0) / max(1, manifest.rows)
    return f"{ok:.1%} ok, {manifest.figures['cost_usd']:.2f} USD"


def _build(manifest: Manifest) -> str:
    figures = manifest.figures
    negatives = figures.get("negatives", 0)
    questions = figures.get("positives", 0) + negatives
    types = manifest.results["types"]
    return f"{types:,} types, {questions:,} questions, {negatives / max(1, questions):.0%} negative"


def _train(manifest: Manifest) -> str:
    figures = manifest.figures
    return f"{figures['steps']:,} steps, loss {figures['first_loss']:.2f} to {figures['last_loss']:.3f}"


def _evaluate(manifest: Manifest) -> str:
    return ", ".join(f"F1 {score.f1:.3f} {score.system}" for score in scores(manifest)[:4])


def _tag(manifest: Manifest) -> str:
    figures = manifest.figures
    entities = figures.get("entities", 0)
    dropped = figures.get("dropped_ungrounded", 0)
    grounded = 1 - (figures.get("ungrounded", 0) + dropped) / max(1, entities + dropped)
    rules = manifest.results.get("rules", {})
    done = [f"{name} {rules[name]:,}" for name in _RULE_WORK if rules.get(name)]
    by_rules = f"; by rules: {', '.join(done)}" if done else ""
    return f"{entities:,} entities, {grounded:.1%} found in the text{by_rules}"


_FIGURES: dict[str, Callable[[Manifest], str]] = {
    "generate": _generate,
    "ingest": _ingest,
    "annotate": _annotate,
    "describe": _describe,
    "build": _build,
    "train": _train,
    "evaluate": _evaluate,
    "tag": _tag,
}
