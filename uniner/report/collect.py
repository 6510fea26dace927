"""Read a run's manifests, scores and some tagged passages into one plain value that both outputs show."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uniner.records import Passage, TaggedEntity, TaggedPassage, from_table
from uniner.storage.stage_folder import Folder
from uniner.tag.tables import AGGREGATE

EXAMPLES = 5
TYPES, SURFACES = 25, 8
_CHUNKS = 6


@dataclass(frozen=True)
class StageRow:
    """A line of the table."""

    stage: str
    rows: int
    seconds: float
    figure: str


@dataclass(frozen=True)
class Example:
    """A tagged passage: its text and its entities, offsets into the text."""

    text: str
    source: str
    entities: tuple[TaggedEntity, ...]


@dataclass(frozen=True)
class Score:
    """A system's strict micro-F1 on a gold data set."""

    system: str
    dataset: str
    f1: float
    questions: int
    broken: int


@dataclass(frozen=True)
class Funnel:
    """How passages became conversations: counts by name, in the order of the work."""

    passages: dict[str, int]
    mentions: dict[str, int]


@dataclass(frozen=True)
class Found:
    """A type's mentions in the corpus, and its most frequent surfaces with theirs."""

    type: str
    mentions: int
    surfaces: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Report:
    """All that is shown of a run."""

    name: str
    stages: tuple[StageRow, ...] = ()
    scores: tuple[Score, ...] = ()
    examples: tuple[Example, ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    validation: tuple[tuple[int, float], ...] = ()
    validation_f1: tuple[tuple[int, float], ...] = ()
    funnel: Funnel | None = None
    found: tuple[Found, ...] = ()


def collect(run: Folder, name: str) -> Report:
    """Read what stands of a run; stages that are not done are left out."""
    manifests = {stage: (run / stage).manifest() for stage in _FIGURES}
    done = {stage: manifest for stage, manifest in manifests.items() if manifest}
    rows = tuple(
        StageRow(stage, manifest["rows"], manifest["seconds"], _FIGURES[stage](manifest))
        for stage, manifest in done.items()
    )
    history = (run / "train").read_json("history.json") or {"steps": [], "validation": []}
    losses, validation, validation_f1 = (
        tuple((point["step"], point[figure]) for point in history[name] if figure in point)
        for name, figure in (("steps", "loss"), ("validation", "loss"), ("validation", "f1"))
    )
    examples = _examples(run) if "tag" in done else ()
    funnel = _funnel(done["build"]["figures"]) if "build" in done else None
    found = _found(run / "tag", done["tag"]) if "mentions_by_type" in done.get("tag", {}) else ()
    return Report(
        name,
        rows,
        scores(done.get("evaluate")),
        examples,
        losses,
        validation,
        validation_f1,
        funnel,
        found,
    )


def scores(manifest: dict[str, Any] | None) -> tuple[Score, ...]:
    """Return the scores in the manifest of evaluate, in the order of systems."""
    return tuple(
        Score(system, dataset, found["f1"], found["questions"], found["broken"])
        for system, datasets in (manifest or {"scores": {}})["scores"].items()
        for dataset, found in datasets.items()
    )


def _found(tag: Folder, manifest: dict[str, Any]) -> tuple[Found, ...]:
    """Return the most frequent types with their most frequent surfaces."""
    surfaces: dict[str, list[tuple[str, int]]] = {}
    table = pq.read_table(pa.BufferReader(tag.read(AGGREGATE)), columns=["type", "text", "mentions"])
    for row in table.to_pylist():
        surfaces.setdefault(row["type"], []).append((row["text"], row["mentions"]))
    mentions = list(manifest["mentions_by_type"].items())[:TYPES]
    return tuple(Found(name, count, tuple(surfaces[name][:SURFACES])) for name, count in mentions)


def _funnel(figures: dict[str, Any]) -> Funnel:
    counts = Counter({name: int(count) for name, count in figures.items()})

    def dropped(prefix: str) -> dict[str, int]:
        named = {name: count for name, count in sorted(counts.items()) if name.startswith(prefix) and count}
        return {f"dropped: {name.removeprefix(prefix).replace('_', ' ')}": -named[name] for name in named}

    became = {
        "conversations": counts["conversations"],
        "of these to train on": counts["train"],
        "of these for validation": counts["validation"],
        "positive questions": counts["positives"],
        "negative questions": counts["negatives"],
    }
    passages = {"passages annotated": counts["passages"], **dropped("dropped_"), **became}
    return Funnel(passages, {**dropped("mentions_"), "mentions kept": counts["mentions"]})


def _examples(run: Folder) -> tuple[Example, ...]:
    """Return tagged passages of different sources, the ones with the most types first."""
    manifest = (run / "tag").require_manifest()
    best: dict[str, Example] = {}
    chunks = manifest["chunks"]
    for chunk in chunks[:: max(1, len(chunks) // _CHUNKS)]:  # from all over the corpus
        tagged = from_table((run / "tag").read_chunk(chunk["key"]), TaggedPassage)
        passages = from_table((run / "ingest").read_chunk(chunk["key"]), Passage)
        for passage, found in zip(passages, tagged, strict=True):
            example = Example(passage.text, passage.source, inside(found))
            standing = best.get(passage.source)
            if len(passage.text) < 600 and (standing is None or _interest(example) > _interest(standing)):
                best[passage.source] = example
    return tuple(sorted(best.values(), key=_interest, reverse=True)[:EXAMPLES])


def inside(tagged: TaggedPassage) -> tuple[TaggedEntity, ...]:
    """Return the located entities with offsets into the passage, in order, the longer of two that overlap."""
    chosen: list[TaggedEntity] = []
    located = [entity for entity in tagged.entities if entity.start >= 0]
    for entity in sorted(located, key=lambda entity: (entity.start, -entity.end)):
        start, end = entity.start - tagged.char_start, entity.end - tagged.char_start
        if not chosen or start >= chosen[-1].end:
            chosen.append(
                TaggedEntity(
                    text=entity.text,
                    type=entity.type,
                    start=start,
                    end=end,
                    score=entity.score,
                    grounding=entity.grounding,
                )
            )
    return tuple(chosen)


def _interest(example: Example) -> tuple[int, int]:
    return len({entity.type for entity in example.entities}), len(example.entities)


def _generate(manifest: dict[str, Any]) -> str:
    figures, ok = manifest["figures"], manifest["outcomes"].get("ok", 0) / max(1, manifest["rows"])
    return f"{len(manifest['domains']):,} domains, {ok:.1%} ok, {figures['cost_usd']:.2f} USD"


def _ingest(manifest: dict[str, Any]) -> str:
    return f"{manifest['figures'].get('documents_chosen', 0):,} documents"


def _annotate(manifest: dict[str, Any]) -> str:
    figures, rows = manifest["figures"], max(1, manifest["rows"])
    ok = manifest["outcomes"].get("ok", 0) / rows
    return f"{figures['entities']:,} entities, {ok:.1%} ok, {figures['cost_usd']:.2f} USD"


def _build(manifest: dict[str, Any]) -> str:
    figures = manifest["figures"]
    negatives = figures.get("negatives", 0)
    questions = figures.get("positives", 0) + negatives
    return (
        f"{manifest['types']:,} types, {questions:,} questions, {negatives / max(1, questions):.0%} negative"
    )


def _train(manifest: dict[str, Any]) -> str:
    figures = manifest["figures"]
    return f"{figures['steps']:,} steps, loss {figures['first_loss']:.2f} to {figures['last_loss']:.3f}"


def _evaluate(manifest: dict[str, Any]) -> str:
    return ", ".join(f"F1 {score.f1:.3f} {score.system}" for score in scores(manifest)[:4])


def _tag(manifest: dict[str, Any]) -> str:
    figures = manifest["figures"]
    entities = figures.get("entities", 0)
    dropped = figures.get("dropped_ungrounded", 0)
    grounded = 1 - (figures.get("ungrounded", 0) + dropped) / max(1, entities + dropped)
    return f"{entities:,} entities, {grounded:.1%} found in the text"


_FIGURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "generate": _generate,
    "ingest": _ingest,
    "annotate": _annotate,
    "build": _build,
    "train": _train,
    "evaluate": _evaluate,
    "tag": _tag,
}
