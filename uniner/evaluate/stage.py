"""The evaluate stage: every system answers the questions of every gold data set, one system after another.

The run's `evaluate` folder holds `gold` (a folder of questions for each data set), a folder of predictions
for each system, and `manifest.json` with the scores of the whole table. The cells of the table, a system and
a data set each, are added over many runs (see `result_store`): a new run asks for the missing ones, and cells
that it does not name stay. Under an 8-bit engine, students are evaluated both ways: `student`, `student-fp8`.
"""

import time
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

import pyarrow as pa
from rich.console import Console

from uniner.config.schema import Config
from uniner.config.systems import BertSystem, ChatSystem
from uniner.errors import Planned
from uniner.evaluate.dataset_listing import list_datasets
from uniner.evaluate.gold_questions import cut_questions
from uniner.evaluate.leaderboard_writer import write_leaderboard
from uniner.evaluate.result_store import CellQuestions, ResultCell, short_digest
from uniner.evaluate.scoring import PASSAGE_COUNTS, DatasetScores, SystemScorer
from uniner.evaluate.system_pools import chat_pool, model_pool
from uniner.evaluate.systems.bert_training import BertTrainingJob, train_model
from uniner.evaluate.systems_registry import SystemSpec, choose_systems
from uniner.gold.reader import gold_digest, verify_gold
from uniner.metrics.protocols import PROTOCOL
from uniner.metrics.significance import Comparison, compare_with_first, comparison_lines
from uniner.progress import say
from uniner.runtime import chunk_pipeline
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_card import with_scores
from uniner.storage.model_folders import CARD, write_calibrations
from uniner.storage.stage_folder import MANIFEST, merge, run_folder


def check(config: Config) -> None:
    """Make sure, before Ray starts, that gold files can be read and systems be asked.

    Raises:
        Planned: where only the catalogue is asked for, and listed.
    """
    if config.evaluate.catalogue:
        list_datasets(config.evaluate.data, Console())
        raise Planned
    config = _with_group(config)
    if not config.evaluate.gold:
        return
    for url in config.evaluate.gold.values():
        verify_gold(url, else_types=config.evaluate.else_types)
    for system in _systems(config).values():
        if not system.awaits_training:
            system.check(config.evaluate.gold.keys())
            chunk_pipeline.check_plan(_folder(config) / system.name, system.identity())


def run(config: Config) -> dict[str, Any] | None:
    """Score the systems. Returns the manifest; None where there is no gold data set."""
    config = _with_group(config, say)
    if not config.evaluate.gold:
        say("evaluate: skipped, evaluate.gold names no data set")
        return None
    gold = {dataset: _cut_gold(config, dataset) for dataset in sorted(config.evaluate.gold)}
    cells = {name: _ask(config, system, gold) for name, system in _systems(config).items()}
    scores, comparisons = _score(config, cells)
    for line in _lines(scores):
        say(line)
    for line in comparison_lines(next(iter(cells), ""), comparisons):
        say(f"evaluate: {line}")
    asked = {dataset: folder.url.rsplit("-", 1)[-1] for dataset, folder in gold.items()}
    brief = {
        name: {dataset: found.without_examples().to_json() for dataset, found in by_dataset.items()}
        for name, by_dataset in scores.items()
    }
    manifest = _publish(_folder(config), asked, brief)
    # Other runs' scores too; only this run has examples of mistakes.
    table = {
        name: {dataset: DatasetScores.from_json(found) for dataset, found in by_dataset.items()}
        | scores.get(name, {})
        for name, by_dataset in manifest["scores"].items()
    }
    write_leaderboard(_folder(config), table)
    if "student" in scores:
        write_card(_train(config) / "student", manifest["scores"]["student"])
        write_calibrations(_train(config) / "student", brief["student"])
    return manifest


def write_card(student: Folder, scores: dict[str, Any]) -> None:
    """Write a student's scores into its model card, if it has one."""
    with explained(student.url):
        if not student.exists(CARD):
            return
        standing = student.read(CARD)
        card = with_scores(standing.decode(), PROTOCOL, scores).encode()
        if card != standing:
            student.write(CARD, card)


def _systems(config: Config) -> dict[str, SystemSpec]:
    run, seed = run_folder(config.run), config.run.seed
    return choose_systems(config.evaluate, config.engine, config.student, run, seed)


def _ask(config: Config, system: SystemSpec, gold: Mapping[str, Folder]) -> list[ResultCell]:
    """Ask a system the questions that it has not answered yet, all data sets' in one go, so that its engines
    start once. Returns its cells."""
    if system.is_own_student:
        _train(config).require_manifest()
    folder, plan = _folder(config) / system.name, system.identity()
    models = _train_models(config, folder, system, gold)
    cells = [
        ResultCell(
            dataset=dataset,
            gold=questions,
            rows=chunk_pipeline.chunks_of(questions),
            trained=models[dataset].digest() if models else "",
        )
        for dataset, questions in gold.items()
        if not models or dataset in models
    ]
    wanted = {key: rows for cell in cells for key, rows in cell.questions().items()}
    if folder.begin(plan):
        listed = chunk_pipeline.chunks_of(folder)
        if wanted.keys() - listed.keys():
            folder.remove([MANIFEST])  # it lists fewer cells
        wanted = {**listed, **wanted}
    if isinstance(system.settings, ChatSystem):
        pool = chat_pool(config, folder, system.settings, wanted)
    else:
        pool = model_pool(system, {dataset: model.url for dataset, model in models.items()})
    chunk_pipeline.run_stage(
        f"evaluate {system.name}",
        folder,
        plan,
        None,
        read=CellQuestions(cells),
        others=wanted,
        pool=pool,
        unit="questions",
    )
    return cells


def _train_models(
    config: Config, folder: Folder, system: SystemSpec, gold: Mapping[str, Folder]
) -> dict[str, Folder]:
    """Train a system that learns from each data set's train split. Returns its models, none of others."""
    settings = system.settings
    if not isinstance(settings, BertSystem):
        return {}
    models = {}
    for dataset in gold:
        if dataset in settings.train:
            job = BertTrainingJob(
                settings=settings,
                base=system.model,
                dataset=dataset,
                labels=config.build.labels,
                output=(folder / "models" / f"{dataset}-{gold_digest(settings.train[dataset])[:8]}").url,
                seed=system.seed,
            )
            models[dataset] = train_model(job)
    return models


def _score(
    config: Config, systems: Mapping[str, list[ResultCell]]
) -> tuple[dict[str, dict[str, DatasetScores]], dict[str, dict[str, Comparison]]]:
    """Score all cells in parallel tasks. Returns the scores, and each system's comparison with the first."""
    places = {(name, cell.dataset): cell for name, cells in systems.items() for cell in cells}
    folder = _folder(config)

    def score_cell(place: list[str]) -> list[Any]:
        name, dataset = place
        scorer = SystemScorer(places[name, dataset].predictions(folder / name))
        return [name, dataset, scorer.scores()[dataset].to_json(), scorer.passages().to_pydict()]

    done = {(name, dataset): rest for name, dataset, *rest in chunk_pipeline.gather(list(places), score_cell)}
    scores: dict[str, dict[str, DatasetScores]] = {}
    passages: dict[str, pa.Table] = {}
    for name, cells in systems.items():
        scores[name] = {cell.dataset: DatasetScores.from_json(done[name, cell.dataset][0]) for cell in cells}
        counts = [pa.table(done[name, cell.dataset][1], schema=PASSAGE_COUNTS) for cell in cells]
        passages[name] = pa.concat_tables([PASSAGE_COUNTS.empty_table(), *counts])
    return scores, compare_with_first(passages)


def _cut_gold(config: Config, dataset: str) -> Folder:
    """Cut a gold data set into chunks of questions, once. A file that changed is another folder."""
    started, settings = time.monotonic(), config.evaluate
    url = settings.gold[dataset]
    cutting: dict[str, Any] = {
        "chunk_passages": settings.chunk_passages,
        "max_passages": settings.max_passages,
        "max_questions": settings.max_questions,
        "else_types": settings.else_types,
        "labels": config.build.labels,
    }
    # A file stands by its content: it may be moved.
    plan = {"stage": "evaluate gold", "config": cutting, "gold": {dataset: gold_digest(url)}}
    folder = _folder(config) / "gold" / f"{dataset}-{short_digest(plan)}"
    if not folder.begin(plan):
        summaries = [folder.write_chunk(chunk) for chunk in cut_questions(dataset, url, **cutting)]
        folder.finish(plan, summaries, seconds=round(time.monotonic() - started, 1))
    return folder


def _publish(folder: Folder, cells: dict[str, str], scores: dict[str, Any]) -> dict[str, Any]:
    """Write the table's scores into the stage's manifest. Those that stood there stay, but for those of data
    sets whose questions are others now.

    cells: each data set and what decides its questions.
    """
    plan: dict[str, Any] = {"stage": "evaluate"}
    folder.begin(plan)
    standing = folder.manifest() or {"scores": {}, "cells": {}}
    before = standing["cells"]
    gone = {dataset for dataset in before if before[dataset] != cells.get(dataset, before[dataset])}
    table = {
        name: {dataset: one for dataset, one in found.items() if dataset not in gone}
        for name, found in standing["scores"].items()
    }
    table = {name: {**table.get(name, {}), **scores.get(name, {})} for name in {**scores, **table}}
    table = {name: found for name, found in table.items() if found}
    cells = {**before, **cells}
    if (standing["scores"], before) == (table, cells):
        return standing
    # A system that was stopped at more cells, or removed, has none.
    manifests = [manifest for name in table if (manifest := (folder / name).manifest())]
    found = [one for scored in table.values() for one in scored.values()]
    return folder.finish(
        plan,
        [],
        rows=sum(one["questions"] for one in found),
        seconds=round(sum(manifest["seconds"] for manifest in manifests), 1),
        outcomes=merge(one["outcomes"] for one in found),
        protocol=PROTOCOL,
        cells=cells,
        scores=table,
    )


def _lines(scores: Mapping[str, Mapping[str, DatasetScores]]) -> Iterator[str]:
    """Yield a line for each data set: the F1 of all systems, and the protocol in short."""
    datasets = dict.fromkeys(dataset for by_dataset in scores.values() for dataset in by_dataset)
    for dataset in datasets:
        answered = {name: found[dataset] for name, found in scores.items() if dataset in found}
        systems = ", ".join(_f1_text(name, found) for name, found in answered.items())
        questions = next(iter(answered.values())).questions
        yield f"evaluate: {systems} on {dataset} (strict, string sets, {questions:,} questions)"
    if len(datasets) > 1:
        means = (
            f"{name} F1 {fmean(found.f1 for found in by_dataset.values()):.3f} over {len(by_dataset)}"
            for name, by_dataset in scores.items()
        )
        yield f"evaluate: on average {', '.join(means)} of {len(datasets)} data sets"


def _f1_text(system: str, scores: DatasetScores) -> str:
    broken = f" ({scores.broken:,} answers broken)" if scores.broken else ""
    return f"{system} F1 {scores.f1:.3f}{broken}"


def _with_group(config: Config, say: Callable[[str], None] | None = None) -> Config:
    settings = config.evaluate
    gold = resolve_group(settings.group, settings.data, settings.gold, say)
    return config.model_copy(update={"evaluate": settings.model_copy(update={"gold": gold})})


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "evaluate"


def _train(config: Config) -> Folder:
    return run_folder(config.run) / "train"
