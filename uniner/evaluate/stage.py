"""The evaluate stage: every system answers the questions of every gold data set, one system after another.

The run's `evaluate` folder holds `gold` (a folder of questions for each data set), a folder of predictions
for each system, and `manifest.json` with the scores of the whole table. The cells of the table, a system and
a data set each, are added over many runs (see `result_store`): a new run asks for the missing ones, and cells
that it does not name stay. Under an 8-bit engine, students are evaluated both ways: `student`, `student-fp8`.
"""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

import pyarrow as pa
from rich.console import Console

from uniner.config.systems import BertSystem
from uniner.errors import UserError
from uniner.evaluate.cascade import CascadeFigures, measure_cascade
from uniner.evaluate.dataset_listing import list_datasets as print_datasets
from uniner.evaluate.gold_questions import asked_types, cut_questions
from uniner.evaluate.leaderboard_writer import write_leaderboard
from uniner.evaluate.paraphrase import (
    ParaphrasedCell,
    cut_paraphrased,
    paraphrase_line,
    paraphrased_cells,
    paraphrased_name,
    score_paraphrases,
    words_by_dataset,
)
from uniner.evaluate.result_store import CellQuestions, ResultCell, short_digest
from uniner.evaluate.scoring import PASSAGE_COUNTS, DatasetScores, SystemScorer
from uniner.evaluate.speeds import SystemSpeed, measured_speed
from uniner.evaluate.system_pools import system_pool
from uniner.evaluate.systems.bert_training import BertTrainingJob, train_model
from uniner.evaluate.systems_registry import SystemSpec, choose_systems
from uniner.gold.catalogue import is_listed, label_renamer, require_types, resolve_group, tag_column
from uniner.gold.paraphrases import known_paraphrases, paraphrased
from uniner.gold.reader import gold_digest, verify_gold
from uniner.labels import LABEL_WORDS, unknown_types_line
from uniner.metrics.protocols import PROTOCOL
from uniner.metrics.significance import Comparison, compare_with_first, comparison_lines
from uniner.metrics.type_thresholds import as_setting, gains_of
from uniner.records import FAILED
from uniner.runtime import chunk_pipeline
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.manifest import ChunkEntry, Identity, Manifest, merge
from uniner.storage.model_card import with_scores
from uniner.storage.model_folders import CARD, OWN_STAGES, model_digest, write_calibrations
from uniner.storage.stage_folder import MANIFEST, StageFolder

SECTIONS = ("run", "student", "build", "encoder", "engine", "evaluate")

log = logging.getLogger(__name__)

ScoresBySystem = dict[str, dict[str, Any]]
"""The scores of a table as JSON: system, then data set, then `DatasetScores.to_json`."""


@dataclass(frozen=True, kw_only=True)
class EvaluateResults:
    """What the manifest says of the table.

    cells: data set -> digest of its questions. answers: system -> data set -> digest of the cell's answers.
    speeds: system -> the fields of its `SystemSpeed`.
    """

    protocol: str = PROTOCOL
    cells: dict[str, str] = field(default_factory=dict)
    scores: ScoresBySystem = field(default_factory=dict)
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    speeds: dict[str, dict[str, Any]] = field(default_factory=dict)
    cascade: dict[str, Any] = field(default_factory=dict)


def check(context: StageContext) -> None:
    """Read the gold data and find the systems, and compare with what the stage began with."""
    gold = _gold(context)
    evaluate, labels = context.sections.evaluate, _labels(context)
    asked: list[Collection[str]] = []
    for dataset, url in gold.items():
        trusted = dataset in evaluate.trust_gold
        rename, column = label_renamer(dataset, labels), tag_column(dataset)
        types = verify_gold(url, evaluate.else_types, rename, column, numbers=trusted).types
        if not trusted:
            require_types(dataset, url, types)
        asked.append(types)
        if evaluate.paraphrase:
            words = paraphrased(sorted(types), known_paraphrases(evaluate.paraphrases_file))
            asked += [[*by_type.values()] for by_type in words.values()]
    for system in _systems(context).values() if gold else ():
        if not system.awaits_training:
            system.check(gold.keys(), asked)
            (context.folder / system.name).check_identity(replace(system.identity(), parents={}))
        elif system.own_stage == OWN_STAGES["encoder"] and context.sections.encoder.base is None:
            raise UserError(
                f"evaluate.systems: {system.name} is this run's encoder, but encoder.base is not set; set "
                'it, such as encoder.base="answerdotai/ModernBERT-base", or name a GLiNER model'
            )


def list_datasets(context: StageContext) -> None:
    """Print the benchmark's data sets, which of them are under evaluate.data, and where to get the others."""
    print_datasets(context.sections.evaluate.data, Console())


def parents(context: StageContext) -> list[str]:
    """Return the stages that train systems of this run, where they have yet to."""
    systems = _systems(context).values() if _gold(context) else ()
    return sorted({system.own_stage for system in systems if system.awaits_training})


def run(context: StageContext) -> Manifest | None:
    """Score the systems. Returns the manifest; None without a gold data set."""
    gold = _gold(context, warn=True)
    if not gold:
        log.info("evaluate: skipped, evaluate.gold names no data set")
        return None
    folder = context.folder
    questions = {dataset: _cut_gold(context, dataset, gold[dataset]) for dataset in sorted(gold)}
    systems = _systems(context)
    _say_unknown_types(systems, questions)
    settings = context.sections.evaluate
    words = words_by_dataset(questions, settings.paraphrases_file) if settings.paraphrase else {}
    others = {
        paraphrased_name(dataset, way): cut_paraphrased(
            folder, dataset, gold_folder, way, words[dataset][way]
        )
        for dataset, gold_folder in questions.items()
        for way in words.get(dataset, {})
    }
    all_cells = {name: _ask(context, system, {**questions, **others}) for name, system in systems.items()}
    cells = {
        name: [cell for cell in answered if cell.dataset in questions] for name, answered in all_cells.items()
    }
    scores, comparisons = _score(
        folder, cells, settings.threshold_precision, paraphrased_cells(all_cells, words)
    )
    for line in (*_lines(scores), *comparison_lines(next(iter(cells), ""), comparisons)):
        log.info(f"evaluate: {line}")
    for name, by_dataset in scores.items():
        for dataset, score in by_dataset.items():
            if score.paraphrase:
                log.info(f"evaluate: {paraphrase_line(name, dataset, score.paraphrase)}")
    brief = {
        name: {dataset: score.without_examples().to_json() for dataset, score in by_dataset.items()}
        for name, by_dataset in scores.items()
    }
    digests = {dataset: gold_folder.url.rsplit("-", 1)[-1] for dataset, gold_folder in questions.items()}
    answers = {name: _answer_digests(folder / name, by_dataset) for name, by_dataset in cells.items()}
    models = {name: model_digest(systems[name].model) for name in OWN_STAGES if name in systems}
    cascade = measure_cascade(folder, cells, models)
    for line in cascade.lines() if cascade else ():
        log.info(f"evaluate: {line}")
    manifest = _update_manifest(folder, digests, brief, answers, _speeds(folder, systems), cascade)
    table: ScoresBySystem = manifest.results["scores"]
    # Other runs' scores too; only this run has examples of mistakes.
    write_leaderboard(
        folder,
        {
            name: {dataset: DatasetScores.from_json(score) for dataset, score in by_dataset.items()}
            | scores.get(name, {})
            for name, by_dataset in table.items()
        },
        {name: SystemSpeed(**speed) for name, speed in manifest.results["speeds"].items()},
    )
    log.info(f"evaluate: scores of {', '.join(table)} and the leaderboard written; output in {folder.url}")
    for name in (name for name in OWN_STAGES if name in scores):
        for line in _threshold_lines(name, scores[name], context.sections.evaluate.threshold_precision):
            log.info(f"evaluate: {line}")
        model = Folder(systems[name].model)
        _write_card_scores(model, table[name])
        calibrations = {dataset: score["calibration"] for dataset, score in brief[name].items()}
        write_calibrations(model, {dataset: found for dataset, found in calibrations.items() if found})
    return manifest


def _speeds(folder: StageFolder, systems: Mapping[str, SystemSpec]) -> dict[str, dict[str, Any]]:
    measured = {
        name: measured_speed(system, (folder / name).require_manifest().figures)
        for name, system in systems.items()
    }
    return {name: asdict(speed) for name, speed in measured.items() if speed}


def _gold(context: StageContext, warn: bool = False) -> dict[str, str]:
    """Return the gold data sets to score, name to address. warn: log the missing members of the group."""
    evaluate = context.sections.evaluate
    return resolve_group(evaluate.group, evaluate.data, evaluate.gold, log.warning if warn else None)


def _labels(context: StageContext) -> dict[str, str]:
    """Return the user's words for labels."""
    labels = context.sections.evaluate.labels
    return context.sections.build.labels if labels is None else labels


def _say_unknown_types(systems: Mapping[str, SystemSpec], questions: Mapping[str, StageFolder]) -> None:
    """Log the types that a data set asks for and a student was not trained on, with the nearest that is."""
    trained = {name: facts.types for name, system in systems.items() if (facts := system.facts())}
    for dataset, gold in questions.items() if trained else ():
        types = asked_types(gold)
        for known in dict.fromkeys(trained.values()):
            names = ", ".join(name for name, types_ in trained.items() if types_ == known)
            if line := unknown_types_line(types, known):
                cure = """evaluate.labels can ask for other words, such as evaluate.labels={PER="person"}"""
                log.warning(f"evaluate: {dataset} for {names}: {line}. {cure}")


def _systems(context: StageContext) -> dict[str, SystemSpec]:
    sections = context.sections
    return choose_systems(
        sections.evaluate, sections.engine, sections.student, context.run_folder, context.seed
    )


def _write_card_scores(student: Folder, scores: Mapping[str, Any]) -> None:
    """Write a student's scores into its model card, if it has one."""
    with explained(student.url):
        if not student.exists(CARD):
            return
        before = student.read(CARD)
        card = with_scores(before.decode(), PROTOCOL, scores).encode()
        if card != before:
            student.write(CARD, card)


def _ask(context: StageContext, system: SystemSpec, questions: Mapping[str, StageFolder]) -> list[ResultCell]:
    """Ask a system all questions that it has not answered yet, so that its engines start once.

    questions: the folder of each data set. Returns the system's cells.
    """
    if system.own_stage:
        (context.run_folder / system.own_stage).require_manifest()
    folder, identity = context.folder / system.name, system.identity()
    models = _train_models(context, folder, system, questions)
    cells = [
        ResultCell(
            dataset=dataset,
            gold=gold_folder,
            rows=gold_folder.require_manifest().rows_of_chunk,
            trained=models[dataset].digest() if models else "",
        )
        for dataset, gold_folder in questions.items()
        if not models or dataset in models
    ]
    wanted = {key: rows for cell in cells for key, rows in cell.questions().items()}
    wanted = _reopen(folder, identity, wanted, context.retry_failed)
    addresses = {dataset: model.url for dataset, model in models.items()}
    with system_pool(system, folder, wanted, addresses, context.sections.run.root) as pool:
        chunk_pipeline.run_stage(
            folder,
            identity,
            [ChunkEntry(key=key, rows=rows, bytes=rows) for key, rows in wanted.items()],
            read=CellQuestions(cells),
            pool=pool,
            unit="questions",
            name=f"evaluate {system.name}",
        )
    return cells


def _reopen(
    folder: StageFolder, identity: Identity, wanted: dict[str, int], retry_failed: bool
) -> dict[str, int]:
    """Make a complete system incomplete where chunks are missing or are to be asked again.

    wanted: number of questions by the key of this run's chunks. Returns them with those that the system's
    manifest is to list too.
    """
    manifest = folder.begin(identity)
    if manifest is None:
        return wanted
    listed = {**manifest.rows_of_chunk, **wanted}
    failed = chunk_pipeline.chunks_with_failures(folder) if manifest.outcomes.get(FAILED) else set()
    again = failed & wanted.keys() if retry_failed else set()
    if wanted.keys() <= manifest.rows_of_chunk.keys() and not again:
        return listed
    if again:
        log.info(f"evaluate {folder.name}: asks again about the failed rows of {len(again):,} chunks")
    folder.remove([MANIFEST])  # it lists fewer cells, or failed rows
    # An incomplete stage makes chunks with failed rows anew, and this run has the questions of its own cells.
    return {key: rows for key, rows in listed.items() if key in wanted or key not in failed}


def _train_models(
    context: StageContext, folder: StageFolder, system: SystemSpec, datasets: Iterable[str]
) -> dict[str, StageFolder]:
    """Train a system that learns from each data set's train split. Returns its models; others have none."""
    settings = system.settings
    if not isinstance(settings, BertSystem):
        return {}
    return {
        dataset: train_model(
            BertTrainingJob(
                settings=settings,
                base=system.model,
                dataset=dataset,
                labels=_labels(context),
                output=(folder / "models" / f"{dataset}-{gold_digest(settings.train[dataset])[:8]}").url,
                seed=system.seed,
            )
        )
        for dataset in datasets
        if dataset in settings.train
    }


def _score(
    folder: StageFolder,
    systems: Mapping[str, Sequence[ResultCell]],
    precision: float | None,
    others: Mapping[tuple[str, str], Sequence[ParaphrasedCell]],
) -> tuple[dict[str, dict[str, DatasetScores]], dict[str, dict[str, Comparison]]]:
    """Score all cells in parallel tasks. Returns the scores, and each system's comparison with the first.

    precision: that the proposed thresholds should reach; None: they look for the best F1. others: by system
    and data set, the answers in other words.
    """
    places = {(name, cell.dataset): cell for name, cells in systems.items() for cell in cells}

    def score_cell(place: list[str]) -> list[Any]:
        name, dataset = place
        scorer = SystemScorer(places[name, dataset].predictions(folder / name), precision)
        ways = {
            other.way: (other.words, other.cell.predictions(folder / name))
            for other in others.get((name, dataset), ())
        }
        found = score_paraphrases(places[name, dataset].predictions(folder / name), ways) if ways else None
        score = scorer.scores()[dataset].with_paraphrase(found)
        return [name, dataset, score.to_json(), scorer.passages().to_pydict()]

    scored = {
        (name, dataset): rest for name, dataset, *rest in chunk_pipeline.gather(list(places), score_cell)
    }
    scores: dict[str, dict[str, DatasetScores]] = {}
    passages: dict[str, pa.Table] = {}
    for name, cells in systems.items():
        results = {cell.dataset: scored[name, cell.dataset] for cell in cells}
        scores[name] = {dataset: DatasetScores.from_json(score) for dataset, (score, _) in results.items()}
        counts = [pa.table(columns, schema=PASSAGE_COUNTS) for _, columns in results.values()]
        passages[name] = pa.concat_tables([PASSAGE_COUNTS.empty_table(), *counts])
    return scores, compare_with_first(passages)


def _cut_gold(context: StageContext, dataset: str, url: str) -> StageFolder:
    """Cut a gold data set into chunks of questions, once. A changed file gets another folder."""
    started, evaluate = time.monotonic(), context.sections.evaluate
    settings: dict[str, Any] = {
        "chunk_passages": evaluate.chunk_passages,
        "max_passages": evaluate.max_passages,
        "max_questions": evaluate.max_questions,
        "else_types": evaluate.else_types,
        "labels": _labels(context),
    }
    # The catalogue's words are as old as the catalogue; those of other labels came with this number.
    words = {} if is_listed(dataset) else {"label_words": LABEL_WORDS}
    identity = Identity(
        stage="evaluate gold", settings={"evaluate": settings | words}, inputs={dataset: gold_digest(url)}
    )
    folder = context.folder / "gold" / f"{dataset}-{short_digest(identity.content())}"
    if not folder.begin(identity):
        trusted = dataset in evaluate.trust_gold
        chunks = cut_questions(dataset, url, **settings, numbers=trusted)
        summaries = [folder.write_chunk(chunk) for chunk in chunks]
        folder.write_manifest(Manifest.of(identity, summaries, time.monotonic() - started))
    return folder


def _answer_digests(folder: StageFolder, cells: Sequence[ResultCell]) -> dict[str, str]:
    """Return the digest of each of a system's cells."""
    chunks = {chunk.key: chunk.digest for chunk in folder.require_manifest().chunks}
    return {cell.dataset: cell.digest(chunks) for cell in cells}


def _update_manifest(
    folder: StageFolder,
    cells: dict[str, str],
    scores: ScoresBySystem,
    answers: dict[str, dict[str, str]],
    speeds: dict[str, dict[str, Any]],
    cascade: CascadeFigures | None,
) -> Manifest:
    """Write the table's scores into the stage's manifest. Returns it.

    Scores of earlier runs stay, unless their data set's questions changed. cells, answers, speeds: as in
    `EvaluateResults`.
    """
    identity = Identity(stage="evaluate", settings={})
    before = folder.begin(identity)
    earlier = EvaluateResults(**before.results) if before else EvaluateResults()
    changed = {name for name, digest in earlier.cells.items() if digest != cells.get(name, digest)}
    table = {
        system: {dataset: score for dataset, score in by_dataset.items() if dataset not in changed}
        for system, by_dataset in earlier.scores.items()
    }
    table = {system: {**table.get(system, {}), **scores.get(system, {})} for system in {**scores, **table}}
    table = {system: by_dataset for system, by_dataset in table.items() if by_dataset}
    answered = {
        system: {
            dataset: {**earlier.answers.get(system, {}), **answers.get(system, {})}[dataset]
            for dataset in by_dataset
        }
        for system, by_dataset in table.items()
    }
    results = EvaluateResults(
        cells={**earlier.cells, **cells},
        scores=table,
        answers=answered,
        speeds={name: speed for name, speed in {**earlier.speeds, **speeds}.items() if name in table},
        cascade=cascade.to_json() if cascade else earlier.cascade,
    )
    # A system that was stopped while it answered more cells, or removed, has no manifest.
    manifests = [manifest for system in table if (manifest := (folder / system).manifest())]
    all_scores = [score for by_dataset in table.values() for score in by_dataset.values()]
    seconds = sum(manifest.seconds for manifest in manifests)
    manifest = replace(
        Manifest.of(identity, [], seconds, results=asdict(results), content=answered),
        rows=sum(score["questions"] for score in all_scores),
        outcomes=merge(score["outcomes"] for score in all_scores),
    )
    return folder.write_manifest(manifest)


def _threshold_lines(
    system: str, scores: Mapping[str, DatasetScores], precision: float | None
) -> Iterator[str]:
    """Yield for each data set the lowest scores that would do, on a line as tag takes them."""
    goal = "a better F1" if precision is None else f"a precision of {precision:g}"
    for dataset, score in scores.items():
        if score.thresholds:
            gains = gains_of(score.thresholds)
            yield (
                f"{system} on {dataset}: lowest scores for {goal} (on passages that they were not chosen on: "
                f"{gains}):\n{as_setting(score.thresholds)}"
            )


def _lines(scores: Mapping[str, Mapping[str, DatasetScores]]) -> Iterator[str]:
    """Yield a line for each data set: the F1 of all systems, and the protocol in short."""
    datasets = dict.fromkeys(dataset for by_dataset in scores.values() for dataset in by_dataset)
    for dataset in datasets:
        answered = {name: by_dataset[dataset] for name, by_dataset in scores.items() if dataset in by_dataset}
        systems = ", ".join(
            f"{name} F1 {score.f1:.3f}" + (f" ({score.broken:,} answers broken)" if score.broken else "")
            for name, score in answered.items()
        )
        questions = next(iter(answered.values())).questions
        yield f"{systems} on {dataset} (strict, string sets, {questions:,} questions)"
    if len(datasets) > 1:
        means = (
            f"{name} F1 {fmean(score.f1 for score in by_dataset.values()):.3f} over {len(by_dataset)}"
            for name, by_dataset in scores.items()
        )
        yield f"on average {', '.join(means)} of {len(datasets)} data sets"
