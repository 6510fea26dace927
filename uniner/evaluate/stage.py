"""The evaluate stage: every system answers the questions of every gold data set, one system after another.

Under the run's `evaluate` folder lie `gold` (a folder of questions a data set), a folder a system with its
predictions, and `manifest.json` with the scores of the whole table. The cells of the table, a system and a
data set, fill in over many runs (see `cells`): what is added later is asked beside what stands, and what is
no longer named stays. Students that an engine of 8 bits is to ask are scored both ways: `student`,
`student-fp8`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from rich.console import Console

from uniner.config.schema import Config
from uniner.config.systems import AnySystem, BertSystem
from uniner.errors import Planned
from uniner.evaluate import systems_registry
from uniner.evaluate.dataset_listing import show
from uniner.evaluate.gold_questions import cut
from uniner.evaluate.leaderboard_writer import publish
from uniner.evaluate.result_store import Cell, GoldOf, digest_of, predictions
from uniner.evaluate.scoring import PASSAGE_COUNTS, Scores, without_examples
from uniner.evaluate.system_pools import pool, train_on
from uniner.gold.catalogue import resolve_group
from uniner.gold.reader import gold_digest, verify_gold
from uniner.metrics.protocols import PROTOCOL
from uniner.metrics.significance import against_first, lines
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
        show(config.evaluate.data, Console())
        raise Planned
    config = _with_group(config)
    if not config.evaluate.gold:
        return
    for url in config.evaluate.gold.values():
        verify_gold(url, else_types=config.evaluate.else_types)
    for name, (system, its) in systems_registry.chosen(config).items():
        if systems_registry.is_to_be_trained(config, system):
            continue
        systems_registry.check(config, name, system)
        chunk_pipeline.check_plan(_folder(config) / name, systems_registry.plan_of(its, system))


def run(config: Config) -> dict[str, Any] | None:
    """Score the systems. Returns the manifest; None where there is no gold data set."""
    config = _with_group(config, say)
    if not config.evaluate.gold:
        say("evaluate: skipped, evaluate.gold names no data set")
        return None
    gold = {dataset: _cut_gold(config, dataset) for dataset in sorted(config.evaluate.gold)}
    systems = {
        name: _ask(its, name, system, gold) for name, (system, its) in systems_registry.chosen(config).items()
    }
    scores, compared = _score(config, systems)
    for line in _lines(scores):
        say(line)
    for line in lines(next(iter(systems), ""), compared):
        say(f"evaluate: {line}")
    asked = {dataset: folder.url.rsplit("-", 1)[-1] for dataset, folder in gold.items()}
    brief = {name: without_examples(found) for name, found in scores.items()}
    manifest = _publish(_folder(config), asked, brief)
    # With what stands of other runs; the examples of mistakes are this run's alone.
    shown = {name: {**found, **scores.get(name, {})} for name, found in manifest["scores"].items()}
    publish(_folder(config), shown)
    if "student" in scores:
        write_card(_train(config) / "student", shown["student"])
        write_calibrations(_train(config) / "student", scores["student"])
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


def _ask(config: Config, name: str, system: AnySystem, gold: Mapping[str, Folder]) -> list[Cell]:
    """Let a system answer the questions that it has not answered yet: all data sets' in one go, so that its
    engines start once. Returns its cells."""
    if systems_registry.is_own_student(system):
        _train(config).require_manifest()
    folder, plan = _folder(config) / name, systems_registry.plan_of(config, system)
    models = _train_on(config, folder, system, gold)
    cells = [
        Cell(
            dataset,
            questions,
            chunk_pipeline.chunks_of(questions),
            models[dataset].digest() if models else "",
        )
        for dataset, questions in gold.items()
        if not models or dataset in models
    ]
    wanted = {key: rows for cell in cells for key, rows in cell.questions().items()}
    if folder.begin(plan):
        listed = chunk_pipeline.chunks_of(folder)
        if wanted.keys() - listed.keys():
            folder.remove([MANIFEST])  # it tells of fewer cells
        wanted = {**listed, **wanted}
    chunk_pipeline.run_stage(
        f"evaluate {name}",
        folder,
        plan,
        None,
        read=GoldOf.all(cells),
        others=wanted,
        pool=pool(config, folder, system, wanted, {dataset: model.url for dataset, model in models.items()}),
        unit="questions",
    )
    return cells


def _train_on(
    config: Config, folder: Folder, system: AnySystem, gold: Mapping[str, Folder]
) -> dict[str, Folder]:
    """Train a system that learns from each data set's train split. Returns its models; none of another."""
    if not isinstance(system, BertSystem):
        return {}
    return {
        dataset: train_on(
            config, folder / "models" / f"{dataset}-{gold_digest(system.train[dataset])[:8]}", system, dataset
        )
        for dataset in gold
        if dataset in system.train
    }


def _score(config: Config, systems: Mapping[str, list[Cell]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score all cells, from what was answered, in tasks beside each other.

    Returns the scores, and each system's comparison with the first.
    """
    places = {(name, cell.dataset): cell for name, cells in systems.items() for cell in cells}
    folder = _folder(config)

    def score_cell(place: list[str]) -> list[Any]:
        name, dataset = place
        scores = Scores(predictions(folder / name, places[name, dataset]))
        return [name, dataset, scores.figures()[dataset], scores.passages().to_pydict()]

    done = {(name, dataset): rest for name, dataset, *rest in chunk_pipeline.gather(list(places), score_cell)}
    scores: dict[str, Any] = {}
    passages: dict[str, pa.Table] = {}
    for name, cells in systems.items():
        scores[name] = {cell.dataset: done[name, cell.dataset][0] for cell in cells}
        counts = [pa.table(done[name, cell.dataset][1], schema=PASSAGE_COUNTS) for cell in cells]
        passages[name] = pa.concat_tables([PASSAGE_COUNTS.empty_table(), *counts])
    return scores, against_first(passages)


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
    folder = _folder(config) / "gold" / f"{dataset}-{digest_of(plan)}"
    if not folder.begin(plan):
        summaries = [folder.write_chunk(chunk) for chunk in cut(dataset, url, **cutting)]
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


def _lines(scores: dict[str, Any]) -> Iterator[str]:
    """Yield a line a data set: the systems' F1 beside each other, and the protocol in short."""
    datasets = dict.fromkeys(dataset for found in scores.values() for dataset in found)
    for dataset in datasets:
        asked = {system: found[dataset] for system, found in scores.items() if dataset in found}
        systems = ", ".join(_said(system, found) for system, found in asked.items())
        questions = next(iter(asked.values()))["questions"]
        yield f"evaluate: {systems} on {dataset} (strict, string sets, {questions:,} questions)"
    if len(datasets) > 1:
        means = (
            f"{system} F1 {sum(one['f1'] for one in found.values()) / len(found):.3f} over {len(found)}"
            for system, found in scores.items()
        )
        yield f"evaluate: on average {', '.join(means)} of {len(datasets)} data sets"


def _said(system: str, found: dict[str, Any]) -> str:
    broken = f" ({found['broken']:,} answers broken)" if found["broken"] else ""
    return f"{system} F1 {found['f1']:.3f}{broken}"


def _with_group(config: Config, say: Callable[[str], None] | None = None) -> Config:
    settings = config.evaluate
    gold = resolve_group(settings.group, settings.data, settings.gold, say)
    return config.model_copy(update={"evaluate": settings.model_copy(update={"gold": gold})})


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "evaluate"


def _train(config: Config) -> Folder:
    return run_folder(config.run) / "train"
