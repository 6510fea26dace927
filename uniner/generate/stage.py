"""The generate stage: the teacher writes passages of the named domains, for ingest to read beside its shards.

Its chunks are those of the briefs. Without a domain there is nothing to do.
"""

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from uniner.config.teachers import RecordingTeacher
from uniner.errors import UserError
from uniner.generate.briefs import ASPECTS, Briefs, generation_prompt
from uniner.generate.generator import Generator
from uniner.runtime import chunk_pipeline
from uniner.runtime.stage_context import StageContext
from uniner.storage.manifest import ChunkEntry, Identity, Manifest, Summary, merge
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.completion import Teacher
from uniner.teacher.estimate import estimate_requests
from uniner.teacher.pools import teacher_pool
from uniner.teacher.reply_cache import unpaid_texts
from uniner.teacher.settings import (
    check_budget,
    check_teacher,
    make_estimate,
    make_teacher,
    rate_limits,
    reply_cache_folder,
    teacher_actors,
    teacher_identity,
)
from uniner.teacher.spent import spent_elsewhere

SECTIONS = ("run", "teacher", "generate")
# OpenAI's rule of thumb for English.
_TOKENS_PER_WORD = 4 / 3

log = logging.getLogger(__name__)


def check(context: StageContext) -> None:
    """Check the teacher, the prompt and the budget, and compare with what the stage began with."""
    section = context.sections.teacher
    if not context.sections.generate.domains:
        return
    if isinstance(section, RecordingTeacher):
        raise UserError(
            "generate: a recording has no passages to give; set teacher.kind=openai, or "
            "generate.domains=default"
        )
    check_teacher(section)
    check_budget(section, context.sections.run.budget_usd, "run.budget_usd")
    context.folder.check_identity(_identity(context))


def parents(_context: StageContext) -> list[str]:
    """Return no stage: this is the first."""
    return []


def run(context: StageContext) -> Manifest | None:
    """Have the passages written. Returns the manifest; None without a domain.

    Raises:
        Stopped: where the budget is spent.
    """
    if not context.sections.generate.domains:
        log.info("generate: skipped, generate.domains names no domain")
        return None
    section, briefs, folder, teacher = (
        context.sections.teacher,
        _briefs(context),
        context.folder,
        _teacher(context),
    )
    if context.retry_failed:
        chunk_pipeline.reopen_failed(folder, _identity(context))
    budget_usd = context.sections.run.budget_usd
    with contextlib.ExitStack() as work:
        elsewhere_usd = 0.0
        if folder.manifest() is None:
            elsewhere_usd = work.enter_context(spent_elsewhere(context.run_folder, "generate", budget_usd))
        pool = work.enter_context(
            teacher_pool(
                folder,
                teacher,
                teacher_actors(section, teacher, briefs.chunks()),
                Generator,
                limits=rate_limits(section, budget_usd),
                cache=reply_cache_folder(section, context.sections.run.root),
                elsewhere_usd=elsewhere_usd,
            )
        )
        return chunk_pipeline.run_stage(
            folder,
            _identity(context),
            [ChunkEntry(key=key, rows=rows, bytes=rows) for key, rows in briefs.chunks().items()],
            read=briefs.read_chunk,
            pool=pool,
            max_bad_share=context.sections.generate.max_bad_share,
            results=lambda totals: _results(briefs, folder, folder.summaries(totals.chunks())),
        )


def estimate(context: StageContext) -> str:
    """Return what the passages left to write would take."""
    section, generate = context.sections.teacher, context.sections.generate
    if not generate.domains:
        return "generate: nothing to do, generate.domains names no domain"
    check(context)
    briefs, teacher = _briefs(context), _teacher(context)
    chunks, done = briefs.chunks(), context.folder.chunk_keys()
    texts = [brief.text for key in chunks if key not in done for brief in briefs.of(key)]
    cache = reply_cache_folder(section, context.sections.run.root)
    requests = estimate_requests(teacher, unpaid_texts(cache, teacher, texts))
    passage_tokens = min(teacher.max_reply_tokens, generate.words * _TOKENS_PER_WORD)
    total = sum(chunks.values())
    return make_estimate(
        section,
        teacher,
        replace(requests, tokens_out=requests.passages * passage_tokens),
        context.sections.run.budget_usd,
        total=total,
        done=total - len(texts),
        sample=briefs.of(min(chunks))[0].text,
    ).text()


def _results(briefs: Briefs, folder: StageFolder, summaries: Iterable[Summary]) -> dict[str, Any]:
    """Return the outcomes by domain.

    Raises:
        UserError: where a domain has no passage at all.
    """
    by_domain: dict[str, dict[str, int]] = {}
    for summary in summaries:
        domain = briefs.domain(summary.key)
        by_domain[domain] = merge([by_domain.get(domain, {}), summary.outcomes])
    outcomes = {domain: by_domain[domain] for domain in briefs.domains if domain in by_domain}
    for domain, counts in outcomes.items():
        if not counts.get("ok"):
            listed = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
            raise UserError(
                f"generate: the teacher wrote no passage of the domain '{domain}' ({listed}); look at the "
                f"replies in {folder.url}, then take another run.name without it or with another prompt"
            )
    return {"domains": outcomes}


def _briefs(context: StageContext) -> Briefs:
    generate = context.sections.generate
    return Briefs(
        domains=generate.domains,
        seed=context.seed,
        words=generate.words,
        aspects=generate.aspects or ASPECTS,
        chunk_passages=generate.chunk_passages,
    )


def _teacher(context: StageContext) -> Teacher:
    generate = context.sections.generate
    return make_teacher(
        context.sections.teacher,
        prompt=generation_prompt(generate.prompt),
        temperature=generate.temperature,
        max_reply_tokens=generate.max_reply_tokens,
    )


def _identity(context: StageContext) -> Identity:
    generate = context.sections.generate
    prompt = generation_prompt(generate.prompt).digest() if generate.prompt else None
    return Identity(
        stage="generate",
        settings={
            "run": {"seed": context.seed},
            "teacher": teacher_identity(context.sections.teacher),
            "generate": {**generate.identity(), "prompt": prompt},
        },
    )
