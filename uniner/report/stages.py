"""The stages of a run in figures: time, rows, rejects, tokens, cost and worker-hours, finished or not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from uniner.report.quality import dataset_scores
from uniner.report.status import training_progress
from uniner.storage.chunk_list import ChunkList
from uniner.storage.manifest import Counts, Manifest, StageTotals, merge
from uniner.storage.model_folders import OWN_STAGES
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.spent import ASKING_STAGES, spent_usd

_TIMED_CHUNKS = 256
"""Chunks whose footers are read for the worker-hours; those of a longer stage are estimated from them."""
RULE_WORK = ("added", "confirmed", "retyped", "dropped", "late")
"""What a rule of tag.rules did, as tag's manifest counts it."""
_TOKENS_IN = ("tokens_in", "prompt_tokens", "tokens")
_TOKENS_OUT = ("tokens_out", "answer_tokens")


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """A stage in the table of stages.

    seconds: of the command that completed it; None where it is not complete. figure: its key figure, or how
    far it is. rejects: rows left out or without a usable result, by reason. worker_seconds: the seconds of
    work on its chunks, added up; for a training the seconds of its steps on one worker.
    """

    stage: str
    rows: int
    seconds: float | None
    figure: str
    rejects: Mapping[str, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    worker_seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether the stage is complete."""
        return self.seconds is not None


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What the teacher cost. budget_usd: None without one. saved_usd: what cached replies would have cost."""

    spent_usd: float
    budget_usd: float | None
    asked: int
    cached: int
    saved_usd: float


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """A stage that has begun: its manifest if it is complete, and the sums over its chunks so far."""

    folder: StageFolder
    manifest: Manifest | None
    rows: int
    outcomes: Mapping[str, int]
    figures: Counts
    chunks: ChunkList


def read_work(run: StageFolder) -> dict[str, StageWork]:
    """Return the stages that have begun, in the order of the work."""
    works = ((stage, _work(run / stage)) for stage in _FIGURES)
    return {stage: work for stage, work in works if work is not None}


def _work(folder: StageFolder) -> StageWork | None:
    """Return what a stage has done; None where it has not begun."""
    manifest = folder.manifest()
    if manifest is None and folder.read_identity() is None:
        return None
    done = manifest or StageTotals(folder.summaries())
    return StageWork(
        folder=folder,
        manifest=manifest,
        rows=done.rows,
        outcomes=done.outcomes,
        figures=done.figures,
        chunks=done.chunks if isinstance(done, Manifest) else done.chunks(),
    )


def stage_rows(works: Mapping[str, StageWork]) -> tuple[StageRow, ...]:
    """Return the table of stages."""
    return tuple(_row(stage, work) for stage, work in works.items())


def spending(works: Mapping[str, StageWork], budget_usd: float | None) -> Spending | None:
    """Return what the teacher cost; None where it was not asked."""
    asking = [works[stage] for stage in ASKING_STAGES if stage in works]
    if not asking:
        return None
    figures = merge(work.figures for work in asking)
    cached = int(figures.get("cache_hits", 0))
    return Spending(
        spent_usd=sum(_usd(work) for work in asking),
        budget_usd=budget_usd,
        asked=cached + int(figures.get("cache_misses", 0)),
        cached=cached,
        saved_usd=figures.get("saved_usd", 0.0),
    )


def _row(stage: str, work: StageWork) -> StageRow:
    figures = work.figures
    parts = _systems(work) if stage == "evaluate" else [work]
    if stage == "evaluate":
        figures = merge(part.figures for part in parts)
    return StageRow(
        stage=stage,
        rows=work.rows,
        seconds=work.manifest.seconds if work.manifest else None,
        figure=_FIGURES[stage](work.manifest) if work.manifest else _progress(stage, work),
        rejects=_rejects(stage, work),
        tokens_in=_first(figures, _TOKENS_IN),
        tokens_out=0 if stage in OWN_STAGES.values() else _first(figures, _TOKENS_OUT),
        cost_usd=_usd(work) if stage != "evaluate" else figures.get("cost_usd", 0.0),
        worker_seconds=figures.get("step_seconds", 0.0) or sum(map(_worker_seconds, parts)),
    )


def _systems(work: StageWork) -> list[StageWork]:
    """Return the work of evaluate's systems, each of which has a folder of its own."""
    results = work.manifest.results if work.manifest else {}
    return [system for name in results.get("scores", {}) if (system := _work(work.folder / name))]


def _worker_seconds(work: StageWork) -> float:
    chunks = work.chunks
    timed = chunks[:: max(1, -(-len(chunks) // _TIMED_CHUNKS))]
    if not timed:
        return 0.0
    summaries = work.folder.read_summaries(timed.keys.to_pylist())
    share = len(summaries) / len(chunks)
    return sum(summary.seconds for summary in summaries) / share


def _usd(work: StageWork) -> float:
    return max(work.figures.get("cost_usd", 0.0), spent_usd(work.folder))


def _first(figures: Counts, names: tuple[str, ...]) -> int:
    return next((int(figures[name]) for name in names if figures.get(name)), 0)


def _rejects(stage: str, work: StageWork) -> dict[str, int]:
    """Return the rows of a stage that came to nothing, by reason, the most frequent first."""
    counts = {name: count for name, count in work.outcomes.items() if name != "ok"}
    if stage in ("ingest", "build"):
        for prefix in ("rejected_", "dropped_"):
            counts |= {
                name.removeprefix(prefix): int(count)
                for name, count in work.figures.items()
                if name.startswith(prefix) and count
            }
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {name.replace("_", " "): count for name, count in ordered}


def _progress(stage: str, work: StageWork) -> str:
    if stage in OWN_STAGES.values():
        return training_progress(work.folder)
    chunks = len(work.chunks)
    return f"begun, {chunks:,} {'chunk' if chunks == 1 else 'chunks'} done"


def _generate(manifest: Manifest) -> str:
    return f"{len(manifest.results['domains']):,} domains, {_teacher_figures(manifest)}"


def _ingest(manifest: Manifest) -> str:
    return f"{manifest.figures.get('documents_chosen', 0):,} documents"


def _annotate(manifest: Manifest) -> str:
    return f"{manifest.figures['entities']:,} entities, {_teacher_figures(manifest)}"


def _teacher_figures(manifest: Manifest) -> str:
    ok = manifest.outcomes.get("ok", 0) / max(1, manifest.rows)
    return f"{ok:.1%} ok, {manifest.figures['cost_usd']:.2f} USD"


def _build(manifest: Manifest) -> str:
    figures = manifest.figures
    negatives = figures.get("negatives", 0)
    questions = figures.get("positives", 0) + negatives
    types = manifest.results["types"]
    return f"{types:,} types, {questions:,} questions, {negatives / max(1, questions):.0%} negative"


def _describe(manifest: Manifest) -> str:
    figures = manifest.figures
    ok = manifest.outcomes.get("ok", 0) / max(1, manifest.rows)
    return f"{figures['synonyms']:,} synonyms, {ok:.1%} ok, {figures['cost_usd']:.2f} USD"


def _train(manifest: Manifest) -> str:
    figures = manifest.figures
    return f"{figures['steps']:,} steps, loss {figures['first_loss']:.2f} to {figures['last_loss']:.3f}"


def _evaluate(manifest: Manifest) -> str:
    return ", ".join(f"F1 {score.f1:.3f} {score.system}" for score in dataset_scores(manifest)[:4])


def _tag(manifest: Manifest) -> str:
    figures = manifest.figures
    entities = figures.get("entities", 0)
    dropped = figures.get("dropped_ungrounded", 0)
    grounded = 1 - (figures.get("ungrounded", 0) + dropped) / max(1, entities + dropped)
    rules = manifest.results.get("rules", {})
    done = [f"{name} {rules[name]:,}" for name in RULE_WORK if rules.get(name)]
    by_rules = f"; by rules: {', '.join(done)}" if done else ""
    return f"{entities:,} entities, {grounded:.1%} found in the text{by_rules}"


_FIGURES: dict[str, Callable[[Manifest], str]] = {
    "generate": _generate,
    "ingest": _ingest,
    "annotate": _annotate,
    "describe": _describe,
    "build": _build,
    "train": _train,
    "train-encoder": _train,
    "evaluate": _evaluate,
    "tag": _tag,
}
