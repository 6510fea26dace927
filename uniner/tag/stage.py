"""The tag stage: the run's passages are the chunks; a pool of engines tags them."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from rich.console import Console

from uniner.config.schema import Config, Tag
from uniner.errors import Planned, UserError
from uniner.gold.catalogue import with_group
from uniner.inference.engine import EngineSettings, engine_pool
from uniner.inference.fp8_gate import fp8_suffix, require_f1
from uniner.inference.questions import start_asker
from uniner.progress import say
from uniner.runtime import chunk_pipeline
from uniner.storage.filesystem import absolute
from uniner.storage.model_folders import (
    FACTS,
    calibration_of,
    calibrations,
    model_address,
    model_fingerprint,
    student_facts,
)
from uniner.storage.stage_folder import MANIFEST, Folder, run_folder
from uniner.tag import estimate as planning
from uniner.tag import interactive
from uniner.tag.tables import ENTITIES, SurfaceCounts, TablePartWriter, divide_into_parts, write_top
from uniner.tag.tagger import EntityRules, Tagger
from uniner.tag.types import TypeSelection, read_types, require_sources, select_types
from uniner.templates import Template, template

_SURFACES = 10_000
"""Surfaces of a type that are counted exactly; beyond, the rarest are let go from time to time."""
_RULES = {"located", "min_score", "ungrounded", "overlaps"}
_TABLE_SETTINGS = {"top_surfaces", "entity_table", "partition_by_source"}
_TABLES = {"tables", "mentions_by_type", "understated_by_at_most"}


def check(config: Config) -> None:
    """Make sure, before Ray starts, that the student that is there can be asked this way.

    Raises:
        Planned: where only a text is to be tagged, and is.
    """
    if config.tag.partition_by_source and not config.tag.entity_table:
        raise UserError("tag.partition_by_source lays out the entity table; set tag.entity_table=true too")
    if config.tag.types_file:
        read_types(absolute(config.tag.types_file))
    if config.tag.text is not None or config.tag.page is not None:
        _tag_here(config)
    name = config.tag.calibration
    own = with_group(config).evaluate if name or fp8_suffix(config.engine) else config.evaluate
    to_measure = not config.tag.student and name in own.gold and "student" in own.systems
    if name and not to_measure:
        calibration_of(_student(config), name)
    there = config.tag.student or (_own(config) / "student").exists(FACTS)
    if there and (name is None or name in calibrations(_student(config))):
        facts = student_facts(_student(config))
        chunk_pipeline.check_plan(_folder(config), _plan(config, facts, _types(config, facts), parents={}))
    if fp8_suffix(config.engine) and not own.gold:  # else evaluate may still come before tag
        require_f1(run_folder(config.run) / "evaluate", model_fingerprint(_student(config)), config.engine)


def run(config: Config) -> dict[str, Any]:
    """Tag the passages. Returns the manifest.

    Raises:
        Planned: where only the plan is asked for.
    """
    student, passages = _student(config), run_folder(config.run) / "ingest"
    if not config.tag.student:
        _own(config).require_manifest()
    facts = student_facts(student)
    types = _types(config, facts)
    if not (config.tag.types or config.tag.types_file):
        asked = types.everywhere
        say(f"tag: asking the student's {len(asked)} most frequent types: {', '.join(asked)}")
    require_sources(types.of_source, _sources(passages))
    parents = {"ingest": passages.digest(), "student": model_fingerprint(student)}
    require_f1(run_folder(config.run) / "evaluate", parents["student"], config.engine)
    folder, plan = _folder(config), _plan(config, facts, types, parents)
    make = _making(config, student, facts, types)
    engines = engine_pool(config.engine, make)
    if config.tag.plan:
        _tell_plan(config, plan, passages, engines)
    manifest = chunk_pipeline.run_stage(
        "tag",
        folder,
        plan,
        passages,
        pool=engines,
        max_bad_share=config.engine.max_bad_share,
        close=lambda summaries: _close(
            config.tag, folder, passages, {summary.key: summary.rows for summary in summaries}
        ),
    )
    if not _stand(config.tag, manifest):
        say("tag: the entities stand; writing their tables anew, as the settings are others")
        rows = chunk_pipeline.chunks_of(folder)
        bare = {name: value for name, value in manifest.items() if name not in _TABLES}
        folder.write_json(MANIFEST, bare)  # a run that is killed here does not leave half a table as a whole
        manifest = {**bare, **_tables(config.tag, folder, passages, rows)}
        folder.write_json(MANIFEST, manifest)
    return manifest


def _making(
    config: Config, student: str, facts: dict[str, Any], types: TypeSelection
) -> Callable[[], Tagger]:
    """Return what starts an engine in the process that calls it, and returns the worker that asks it."""
    return partial(
        make_tagger,
        student,
        asked_by(config, facts),
        types,
        _rules(config),
        EngineSettings.of(config.engine, max_prompt_tokens=config.student.max_tokens),
    )


def _tell_plan(config: Config, plan: dict[str, Any], passages: Folder, engines: chunk_pipeline.Pool) -> None:
    """Tag some of the chunks that are left with one engine, print what all of them take, and end the job."""
    folder, chunks = _folder(config), chunk_pipeline.chunks_of(passages)
    if folder.begin(plan):
        chunk_pipeline.already_done("tag", folder, "passages")
        raise Planned
    standing = folder.chunk_keys() & chunks.keys()
    todo = {key: rows for key, rows in chunks.items() if key not in standing}
    if not todo:
        raise UserError(f"{folder.url}: all chunks stand, there is nothing to measure; leave out tag.plan")
    keys = planning.sample_chunks(todo)
    say(f"tag: measuring {sum(todo[key] for key in keys):,} passages on one engine")
    summaries = chunk_pipeline.stream(
        folder, keys, chunk_pipeline.read_chunk_of(passages), replace(engines, actors=1)
    )
    trial = planning.measure((time.monotonic(), summary) for summary in summaries)
    done = sum(chunks[key] for key in standing) + trial.passages
    settings = config.engine
    told = planning.describe(
        trial,
        total=sum(chunks.values()),
        done=done,
        engines=settings.actors,
        gpus=settings.gpus,
        usd_per_gpu_hour=settings.usd_per_gpu_hour,
    )
    print(told, flush=True)
    raise Planned


def _tag_here(config: Config) -> None:
    """Tag a text in this process and print it with its entities, or serve a page that does; end the job."""
    student = _student(config)
    facts = student_facts(student)
    types = _types(config, facts)
    tagger = interactive.TextTagger(
        student,
        asked_by(config, facts),
        config.ingest.max_tokens,
        _rules(config),
        EngineSettings.of(config.engine, max_prompt_tokens=config.student.max_tokens),
    )
    if config.tag.page is not None:
        interactive.serve_page(tagger, types.everywhere, config.tag.page)
        raise Planned
    text = sys.stdin.read() if config.tag.text == "-" else config.tag.text or ""
    interactive.print_text(text, asyncio.run(tagger.tag_once(text, types)), Console())
    raise Planned


def make_tagger(
    model: str,
    template: Template,
    types: TypeSelection,
    rules: EntityRules,
    settings: EngineSettings,
) -> Tagger:
    """Start an engine in this process and return the worker that asks it."""
    return Tagger(start_asker(model, template, settings), types, rules)


def asked_by(config: Config, facts: dict[str, Any] | None) -> Template:
    """Return the template that a model is asked by: a student's own, by its facts, or the config's."""
    told = facts or config.student.model_dump()
    return template(told["template"], told.get("group_types", config.student.group_types))


def _own(config: Config) -> Folder:
    return run_folder(config.run) / "train"


def _student(config: Config) -> str:
    return model_address(config.tag.student) if config.tag.student else (_own(config) / "student").url


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "tag"


def _types(config: Config, facts: dict[str, Any]) -> TypeSelection:
    tag = config.tag
    file = read_types(absolute(tag.types_file)) if tag.types_file else []
    return select_types(tag.types, file, tag.top_types, tag.types_of_source, facts["types"])


def _sources(passages: Folder) -> Iterator[set[str]]:
    for key in sorted(chunk_pipeline.chunks_of(passages)):
        yield set(passages.read_columns(key, ["source"])["source"].unique().to_pylist())


def _rules(config: Config) -> EntityRules:
    tag = config.tag
    return EntityRules(
        occurrences=tag.located,
        min_score=tag.min_score,
        keep_ungrounded=tag.ungrounded == "keep",
        flat=tag.overlaps == "flat",
        calibration=_calibration(config),
    )


def _calibration(config: Config) -> tuple[float, float] | None:
    return calibration_of(_student(config), config.tag.calibration) if config.tag.calibration else None


def _close(tag: Tag, folder: Folder, passages: Folder, rows: Mapping[str, int]) -> dict[str, Any]:
    """Make sure that each chunk lies beside its passages', row for row, and write what people query."""
    given = chunk_pipeline.chunks_of(passages)
    differing = sorted(key for key in given.keys() | rows.keys() if given.get(key) != rows.get(key))
    if differing:
        key = differing[0]
        raise RuntimeError(
            f"{folder.url}: chunk {key} has {rows.get(key)} rows, its passages are {given.get(key)}; "
            f"{len(differing):,} such chunks"
        )
    return {"input": {"chunks": len(given), "rows": sum(given.values())}} | _tables(
        tag, folder, passages, rows
    )


def _tables(tag: Tag, folder: Folder, passages: Folder, rows: Mapping[str, int]) -> dict[str, Any]:
    """Write what people query. Returns what the manifest says of it."""
    if (folder / ENTITIES).tree():
        (folder / ENTITIES).remove_all()  # of a run that was killed, or laid out otherwise
    keys = tuple(sorted(rows))
    parts = TablePartWriter(
        tagged=folder,
        passages=passages,
        keys=keys,
        entity_table=tag.entity_table,
        by_source=tag.partition_by_source,
    )
    surfaces = SurfaceCounts(max(_SURFACES, 10 * tag.top_surfaces))
    for part in chunk_pipeline.gather(divide_into_parts([rows[key] for key in keys]), parts.write):
        surfaces.add(part)
    write_top(folder, surfaces, tag.top_surfaces)
    told = {"mentions_by_type": dict(surfaces.mentions.most_common())}
    if surfaces.understated:
        told["understated_by_at_most"] = dict(surfaces.understated)
    return {**told, "tables": tag.model_dump(include=_TABLE_SETTINGS)}


def _stand(tag: Tag, manifest: dict[str, Any]) -> bool:
    """Tell whether the tables stand that are asked for; a table that is not asked for may stand too."""
    standing, asked = manifest.get("tables") or {}, tag.model_dump(include=_TABLE_SETTINGS)
    if not tag.entity_table:
        return standing.get("top_surfaces") == tag.top_surfaces
    return standing == asked


def _plan(
    config: Config, facts: dict[str, Any], types: TypeSelection, parents: dict[str, str]
) -> dict[str, Any]:
    """Return what decides the entities. The student stands by its content: its folder may be moved."""
    return {
        "stage": "tag",
        "config": {
            "template": facts["template"],
            "max_tokens": config.student.max_tokens,
            "engine": config.engine.identity(),
            "tag": {
                "types": list(types.everywhere),
                "types_of_source": types.of_source,
                **config.tag.model_dump(include=_RULES),
                "calibration": _calibration(config),
            },
        },
        "parents": parents,
    }
