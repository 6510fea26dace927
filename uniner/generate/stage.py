"""The generate stage: the teacher, reached as annotate reaches it, writes passages of the domains named.

Nothing is read: the chunks are those of the briefs. What is ok among the passages is read by ingest, beside
the shards. Where no domain is named there is nothing to do.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from uniner.config.schema import Config
from uniner.errors import Planned, UserError
from uniner.generate.briefs import ASPECTS, Briefs, generation_prompt
from uniner.generate.generator import Generator
from uniner.progress import say
from uniner.runtime import chunk_pipeline
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import Summary, merge, run_folder
from uniner.teacher import settings as teacher_settings
from uniner.teacher.completion import Teacher
from uniner.teacher.estimate import estimate_requests
from uniner.teacher.pools import teacher_pool
from uniner.teacher.reply_cache import unpaid_texts

# OpenAI's rule of thumb for English.
_TOKENS_A_WORD = 4 / 3


def check(config: Config) -> None:
    """Find, before Ray starts, the prompt and the key, and compare with what the run began with.

    Raises:
        Planned: where only the plan is asked for and the passages are still to be written.
    """
    if not config.generate.domains:
        return
    if config.annotate.recording:
        raise UserError("generate: annotate.recording has no passages to give; name a server or no domains")
    teacher_settings.check(config.annotate)
    chunk_pipeline.check_plan(_folder(config), _plan(config))
    if config.annotate.plan and _folder(config).manifest() is None:
        _tell_plan(config)
        raise Planned


def run(config: Config) -> dict[str, Any] | None:
    """Have the passages written. Returns the manifest; None where there is no domain.

    Raises:
        Stopped: where the budget is spent.
    """
    if not config.generate.domains:
        say("generate: skipped, generate.domains names no domain")
        return None
    briefs, folder, teacher, settings = _briefs(config), _folder(config), _teacher(config), config.annotate
    actors = teacher_settings.actors_of(settings, config.teacher, teacher, briefs.chunks())
    return chunk_pipeline.run_stage(
        "generate",
        folder,
        _plan(config),
        None,
        read=briefs.read,
        others=briefs.chunks(),
        pool=teacher_pool(
            folder,
            teacher,
            actors,
            Generator,
            limits=teacher_settings.limits_of(settings),
            cache=teacher_settings.annotation_cache(settings, config.run.root),
        ),
        max_bad_share=config.generate.max_bad_share,
        close=partial(_by_domain, briefs, folder),
    )


def _by_domain(briefs: Briefs, folder: Folder, summaries: Sequence[Summary]) -> dict[str, Any]:
    outcomes: dict[str, dict[str, int]] = {}
    for summary in sorted(summaries, key=lambda summary: summary.key):
        domain = briefs.domain(summary.key)
        outcomes[domain] = merge([outcomes.get(domain, {}), summary.outcomes])
    for domain, found in outcomes.items():
        if not found.get("ok"):
            listed = ", ".join(f"{count:,} {outcome}" for outcome, count in found.items())
            raise UserError(
                f"generate: no passage of the domain '{domain}' came ({listed}); look at the replies in "
                f"{folder.url}, then take another run.name without it or with another prompt"
            )
    return {"domains": outcomes}


def _tell_plan(config: Config) -> None:
    """Print what the stage would take."""
    folder, briefs, teacher = _folder(config), _briefs(config), _teacher(config)
    chunks, done = briefs.chunks(), folder.chunk_keys()
    texts = [brief.text for key in chunks if key not in done for brief in briefs.of(key)]
    settings = config.annotate
    cache = teacher_settings.annotation_cache(settings, config.run.root)
    requests = estimate_requests(teacher, unpaid_texts(cache, teacher, texts))
    a_passage = min(teacher.max_reply_tokens, config.generate.words * _TOKENS_A_WORD)
    total = sum(chunks.values())
    requests = replace(requests, tokens_out=requests.passages * a_passage)
    sample = briefs.of(min(chunks))[0].text
    estimate = teacher_settings.estimate_of(
        settings, config.teacher, teacher, requests, total=total, done=total - len(texts), sample=sample
    )
    print(f"generate, before which no later stage can be planned:\n{estimate.text()}", flush=True)


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "generate"


def _briefs(config: Config) -> Briefs:
    settings = config.generate
    aspects = settings.aspects or ASPECTS
    return Briefs(
        domains=settings.domains,
        seed=config.run.seed,
        words=settings.words,
        aspects=aspects,
        chunk_passages=settings.chunk_passages,
    )


def _teacher(config: Config) -> Teacher:
    settings = config.generate
    return replace(
        teacher_settings.annotation_teacher(config.annotate, config.student.template),
        prompt=generation_prompt(settings.prompt),
        reply_format="tuples",
        temperature=settings.temperature,
        max_reply_tokens=settings.max_reply_tokens,
    )


def _plan(config: Config) -> dict[str, Any]:
    settings = config.generate
    return {
        "stage": "generate",
        "config": {
            "seed": config.run.seed,
            "model": teacher_settings.model_name(config.annotate),
            "prompt": generation_prompt(settings.prompt).digest() if settings.prompt else None,
            "generate": settings.identity(),
            **({"teacher": config.teacher.identity()} if config.annotate.served else {}),
        },
        "parents": {},
    }
