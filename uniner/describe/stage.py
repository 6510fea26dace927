"""The describe stage: the teacher is asked once about each of the most frequent types of the annotations.

Its result is descriptions.json, which people may edit, and build reads. Without describe.types there is
nothing to do.
"""

import logging
from collections import Counter
from dataclasses import replace
from typing import Any

from uniner.config.teachers import BatchTeacher
from uniner.describe.describer import Describer, TypesToDescribe, count_mentions, description_prompt
from uniner.errors import UserError
from uniner.labels import normalize_type
from uniner.records import Annotation, DescribedType, from_table
from uniner.runtime import chunk_pipeline
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import explained
from uniner.storage.manifest import ChunkEntry, Identity, Manifest, StageTotals
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.batch.stage_batches import require_batches_of, require_no_batches
from uniner.teacher.completion import Teacher
from uniner.teacher.estimate import estimate_requests
from uniner.teacher.reply_cache import unpaid_texts
from uniner.teacher.settings import (
    check_budget,
    check_teacher,
    make_estimate,
    make_teacher,
    reply_cache_folder,
    teacher_identity,
)
from uniner.teacher.stage_pool import stage_pool
from uniner.type_descriptions import TypeDescription, descriptions_json, read_descriptions

SECTIONS = ("run", "student", "teacher", "build", "describe")
DESCRIPTIONS = "descriptions.json"
"""File in the stage's folder: each type's description and synonyms, for people to edit and build to read."""
_REPLY_TOKENS = 60
_ESTIMATE_CHUNKS = 100

log = logging.getLogger(__name__)


def check(context: StageContext) -> None:
    """Check the teacher, the prompt and the budget, and compare with what the stage began with."""
    if not context.sections.describe.types:
        return
    if context.sections.student.template == "definition":
        raise UserError(
            "describe.types: the template definition asks by sentences already; set describe.types=0, or "
            "student.template=type"
        )
    if not context.sections.build.teacher_weight:
        raise UserError(
            "describe.types counts the teacher's types, but build.teacher_weight = 0 leaves them out; set "
            "describe.types=0, and name a file such as build.type_descriptions_file=types.json"
        )
    section = context.sections.teacher
    check_teacher(section)
    check_budget(section, context.sections.run.budget_usd, "run.budget_usd")
    if not isinstance(section, BatchTeacher):
        require_no_batches(context.folder)
    identity = _identity(context, parents={})
    context.folder.check_identity(identity)
    require_batches_of(context.folder, identity, with_parents=False)


def parents(context: StageContext) -> list[str]:
    """Return annotate, whose types are described."""
    return ["annotate"] if context.sections.describe.types else []


def run(context: StageContext) -> Manifest | None:
    """Have the types described. Returns the manifest; None without describe.types.

    Raises:
        Stopped: where the budget is spent.
    """
    settings, section, folder = context.sections.describe, context.sections.teacher, context.folder
    if not settings.types:
        log.info("describe: skipped, describe.types is 0")
        return None
    annotations, teacher = context.run_folder / "annotate", _teacher(context)
    identity = _identity(context, {"annotate": annotations.digest()})
    # Of a corpus that has grown build stays as it was too.
    if manifest := folder.manifest_before_growth(identity, "annotate", annotations):
        return chunk_pipeline.log_complete("describe", manifest, "types", folder)
    require_batches_of(folder, identity)
    if context.retry_failed:
        chunk_pipeline.reopen_failed(folder, identity)
    if manifest := folder.begin(identity):
        return chunk_pipeline.log_complete("describe", manifest, "types", folder)
    types = _count_types(context, annotations)
    pool = stage_pool(
        folder,
        context.run_folder,
        section,
        teacher,
        Describer,
        settings=context.sections.run,
        texts=types,
        chunks=types.chunks(),
        complete=False,
    )
    with pool as actors:
        return chunk_pipeline.run_stage(
            folder,
            identity,
            [ChunkEntry(key=key, rows=rows, bytes=rows) for key, rows in types.chunks().items()],
            read=types.read_chunk,
            pool=actors,
            unit="types",
            max_bad_share=settings.max_bad_share,
            results=lambda totals: _write_descriptions(folder, totals),
        )


def estimate(context: StageContext) -> str:
    """Return what describing the types would take, by the types of a sample of the annotations."""
    settings, section = context.sections.describe, context.sections.teacher
    if not settings.types:
        return "describe: nothing to do, describe.types is 0"
    check(context)
    annotations, folder, teacher = context.run_folder / "annotate", context.folder, _teacher(context)
    keys = sorted(annotations.require_manifest().rows_of_chunk)
    counts: Counter[str] = Counter()
    for key in keys[:: -(-len(keys) // _ESTIMATE_CHUNKS)] if keys else []:
        counts += _count_chunk(annotations, key, context.sections.build.drop_types)
    types = TypesToDescribe.of(counts, settings.types, settings.chunk_types)
    with explained(folder.url):
        done = folder.manifest() is not None
    texts = [] if done else [each.text for each in types.types]
    requests = estimate_requests(
        teacher, unpaid_texts(reply_cache_folder(section, context.sections.run.root), teacher, texts)
    )
    tokens_out = requests.passages * min(teacher.max_reply_tokens, _REPLY_TOKENS)
    return make_estimate(
        section,
        teacher,
        replace(requests, tokens_out=tokens_out),
        context.sections.run.budget_usd,
        total=len(types.types),
        done=len(types.types) - len(texts),
        sample=types.types[0].text if types.types else "person",
        batch=isinstance(section, BatchTeacher),
        unit="types",
    ).text()


def _count_types(context: StageContext, annotations: StageFolder) -> TypesToDescribe:
    """Count the types of all annotations, in parallel tasks, and choose the most frequent ones."""
    settings, dropped = context.sections.describe, context.sections.build.drop_types
    counts: Counter[str] = Counter()
    keys = annotations.require_manifest().chunks.keys.to_pylist()
    for chunk in chunk_pipeline.gather(keys, lambda key: dict(_count_chunk(annotations, key, dropped))):
        counts.update(chunk)
    if not counts:
        raise UserError(
            f"describe: {annotations.url} has no entity of a type with a meaning; look at the column outcome "
            "there, and at build.drop_types"
        )
    return TypesToDescribe.of(counts, settings.types, settings.chunk_types)


def _count_chunk(annotations: StageFolder, key: str, dropped: list[str]) -> Counter[str]:
    rows = from_table(annotations.read_chunk(key).table, Annotation)
    return count_mentions(rows, set(map(normalize_type, dropped)))


def _write_descriptions(folder: StageFolder, totals: StageTotals) -> dict[str, Any]:
    """Write the file of descriptions. Entries that it has already stay: a person may have edited them."""
    rows = [
        row
        for key in totals.chunks().keys.to_pylist()
        for row in from_table(folder.read_chunk(key).table, DescribedType)
    ]
    written = folder.read_if_exists(DESCRIPTIONS)
    before = read_descriptions(written, folder.path(DESCRIPTIONS)) if written else {}
    asked = {
        row.type: TypeDescription(description=row.description, synonyms=row.synonyms)
        for row in rows
        if row.outcome == "ok"
    }
    folder.write(DESCRIPTIONS, descriptions_json(asked | before))
    return {"types": len(rows), "described": len(asked)}


def _teacher(context: StageContext) -> Teacher:
    settings = context.sections.describe
    return make_teacher(
        context.sections.teacher,
        prompt=description_prompt(settings.prompt),
        temperature=settings.temperature,
        max_reply_tokens=settings.max_reply_tokens,
        in_batches=True,
    )


def _identity(context: StageContext, parents: dict[str, str | None]) -> Identity:
    settings = context.sections.describe
    prompt = description_prompt(settings.prompt).digest() if settings.prompt else None
    return Identity(
        stage="describe",
        settings={
            "teacher": teacher_identity(context.sections.teacher),
            "build": {"drop_types": context.sections.build.drop_types},
            "describe": {**settings.identity(), "prompt": prompt},
        },
        parents=parents,
    )
