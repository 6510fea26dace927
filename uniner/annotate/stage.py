"""The annotate stage: a pool of actors asks the teacher about the passages, chunk by chunk."""

import functools

from uniner.annotate.annotator import Annotator
from uniner.config.teachers import BatchTeacher, RecordingTeacher
from uniner.errors import UserError
from uniner.runtime import chunk_pipeline
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import explained
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.batch.stage_batches import require_batches_of, require_no_batches
from uniner.teacher.completion import Teacher
from uniner.teacher.estimate import estimate_requests
from uniner.teacher.prompts import PASSAGE, PASSAGE_MARK, Prompt, annotation_prompt
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

SECTIONS = ("run", "student", "teacher", "annotate")
_ESTIMATE_CHUNKS = 100
"""An estimate reads at most this many chunks, and scales up."""


def check(context: StageContext) -> None:
    """Check the teacher, the prompt and the budget, and compare with what the stage began with."""
    _check_settings(context)
    if not isinstance(context.sections.teacher, BatchTeacher):
        require_no_batches(context.folder)


def _check_settings(context: StageContext) -> None:
    section = context.sections.teacher
    check_teacher(section)
    check_budget(section, context.sections.run.budget_usd, "run.budget_usd")
    if isinstance(section, RecordingTeacher) and not _prompt(context).user.endswith(PASSAGE_MARK + PASSAGE):
        raise UserError(
            f"{context.sections.annotate.prompt}: a recording is looked up by passage, so the prompt must "
            f"end with an empty line and 'Passage: {PASSAGE}'"
        )
    identity = _identity(context, parents={})
    context.folder.check_identity(identity)
    require_batches_of(context.folder, identity, with_parents=False)


def parents(_context: StageContext) -> list[str]:
    """Return ingest, whose passages are annotated."""
    return ["ingest"]


def run(context: StageContext) -> Manifest:
    """Annotate the run's passages. Returns the manifest.

    Raises:
        Stopped: where the budget is spent.
    """
    section, folder, passages = context.sections.teacher, context.folder, context.run_folder / "ingest"
    teacher = _teacher(context)
    parent = passages.require_manifest()
    sources = parent.chunks
    identity = _identity(context, {"ingest": parent.digest}).with_earlier_parent("ingest", parent.grown_from)
    require_batches_of(folder, identity)
    if context.retry_failed:
        chunk_pipeline.reopen_failed(folder, identity)
    pool = stage_pool(
        folder,
        context.run_folder,
        section,
        teacher,
        functools.partial(Annotator, occurrences=context.sections.annotate.occurrences),
        settings=context.sections.run,
        texts=passages,
        chunks={chunk.key: chunk.rows for chunk in sources},
        complete=folder.begin(identity) is not None,
    )
    with pool as actors:
        return chunk_pipeline.run_stage(
            folder,
            identity,
            sources,
            read=passages.read_chunk,
            pool=actors,
            max_bad_share=context.sections.annotate.max_bad_share,
        )


def estimate(context: StageContext) -> str:
    """Return what annotating the passages left would take, from a sample of them where there are many."""
    _check_settings(context)
    section, folder, passages = context.sections.teacher, context.folder, context.run_folder / "ingest"
    teacher, chunks = _teacher(context), passages.require_manifest().rows_of_chunk
    with explained(folder.url):
        missing = sorted(chunks.keys() - folder.chunk_keys())
    left, total = sum(chunks[key] for key in missing), sum(chunks.values())
    sample = missing[:: -(-len(missing) // _ESTIMATE_CHUNKS)] if missing else []
    texts = [text for key in sample for text in _texts(passages, key)]
    cache = reply_cache_folder(section, context.sections.run.root)
    requests = estimate_requests(teacher, unpaid_texts(cache, teacher, texts))
    return make_estimate(
        section,
        teacher,
        requests.scaled(left / len(texts) if texts else 0),
        context.sections.run.budget_usd,
        total=total,
        done=total - left,
        sample=texts[0] if texts else PASSAGE,
        batch=isinstance(section, BatchTeacher),
    ).text()


def _texts(passages: StageFolder, key: str) -> list[str]:
    return passages.read_columns(key, ["text"])["text"].to_pylist()


def _prompt(context: StageContext) -> Prompt:
    annotate = context.sections.annotate
    return annotation_prompt(annotate.prompt, context.sections.student.template, annotate.reply_format)


def _teacher(context: StageContext) -> Teacher:
    annotate = context.sections.annotate
    return make_teacher(
        context.sections.teacher,
        prompt=_prompt(context),
        temperature=annotate.temperature,
        max_reply_tokens=annotate.max_reply_tokens,
        reply_format=annotate.reply_format,
        in_batches=True,
    )


def _identity(context: StageContext, parents: dict[str, str | None]) -> Identity:
    annotate, template = context.sections.annotate, context.sections.student.template
    prompt = _prompt(context).digest() if annotate.prompt else None
    # Of the templates only definition has another built-in prompt.
    asked = "definition" if template == "definition" else "type, grouped or all_in_one"
    return Identity(
        stage="annotate",
        settings={
            "student": {} if prompt else {"template": asked},
            "teacher": teacher_identity(context.sections.teacher),
            "annotate": {**annotate.identity(), "prompt": prompt},
        },
        parents=parents,
    )
