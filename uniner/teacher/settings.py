"""The values that config sections hold for a teacher: its name, server, actors, limits and reply cache."""

import functools
import os
from collections.abc import Mapping
from typing import Any

from uniner.config.schema import Annotate
from uniner.config.schema import Teacher as EngineSection
from uniner.config.systems import ChatSystem
from uniner.errors import UserError
from uniner.runtime.rate_limits import RateLimits
from uniner.storage.model_folders import model_address, model_fingerprint, require_model
from uniner.storage.folder import Folder
from uniner.teacher.completion import Teacher
from uniner.teacher.estimate import RequestEstimate, TeacherEstimate
from uniner.teacher.openai_client import OpenAIServer
from uniner.teacher.pools import TeacherActors, make_vllm_client, server_actors
from uniner.teacher.prompts import Prompt, annotation_prompt

_CACHE = "reply-cache"


def check(settings: Annotate) -> None:
    """Check, before Ray starts, that the model or the key exists, and prices where there is a budget."""
    if settings.served and (settings.base_url or settings.recording):
        raise UserError("annotate.served: leave out annotate.base_url and annotate.recording, or this")
    if settings.batch and (settings.served or settings.recording):
        raise UserError("annotate.batch: only a server has a Batch API; unset annotate.served and recording")
    if settings.served:
        require_model(settings.model)
    elif not settings.recording and not api_key(settings.base_url) and not settings.plan:
        raise UserError("annotate: OPENAI_API_KEY is not set; export the teacher's key")
    if settings.budget_usd is not None and not settings.usd_per_million_in + settings.usd_per_million_out:
        raise UserError(
            "annotate.budget_usd: no price is set; set annotate.usd_per_million_in=0.15, for example, and "
            "annotate.usd_per_million_out"
        )


def annotation_teacher(settings: Annotate, template: str) -> Teacher:
    """Return the teacher that annotates for a student template."""
    return Teacher(
        model=model_name(settings),
        prompt=prompt_of(settings, template),
        reply_format=settings.reply_format,
        temperature=settings.temperature,
        max_reply_tokens=settings.max_reply_tokens,
        usd_per_million_in=settings.usd_per_million_in,
        usd_per_million_out=settings.usd_per_million_out,
    )


def model_name(settings: Annotate) -> str:
    """Return the teacher's name; a folder's has the digest of its content, as folders change and move."""
    digest = model_fingerprint(settings.model) if settings.served else settings.model
    if digest == settings.model:
        return settings.model
    return f"{model_address(settings.model).rstrip('/').rsplit('/', 1)[-1]}@{digest}"


def prompt_of(settings: Annotate, template: str) -> Prompt:
    """Return the prompt that annotates for a student template."""
    return annotation_prompt(settings.prompt, template, settings.reply_format)


def api_key(base_url: str | None) -> str | None:
    """Return the server's key from the environment."""
    # The user's own server behind a base_url often needs no key, but the openai client requires one.
    return os.environ.get("OPENAI_API_KEY") or ("none" if base_url else None)


def server_of(
    settings: Annotate | ChatSystem, section: str = "annotate", recording_url: str | None = None
) -> OpenAIServer:
    """Return the server of a section; `recording_url` is the address of a `ReplayServer` in its place."""
    return OpenAIServer(
        base_url=recording_url or settings.base_url,
        api_key="recorded" if recording_url else api_key(settings.base_url),
        in_flight=settings.in_flight,
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        section=section,
    )


def actors_of(
    settings: Annotate,
    engine: EngineSection,
    teacher: Teacher,
    chunks: Mapping[str, int],
    recording_url: str | None = None,
) -> TeacherActors:
    """Return the actors that ask a teacher about a stage's chunks, as the annotate section says."""
    if not settings.served:
        server = server_of(settings, recording_url=recording_url)
        return server_actors(teacher, server, settings.actors, chunks)
    arguments = engine.model_dump(exclude={"chunks_in_flight", "max_prompt_tokens", "poison_tries"})
    arguments["max_tokens"] = engine.max_prompt_tokens
    return TeacherActors(
        make_client=functools.partial(make_vllm_client, teacher, model_address(settings.model), arguments),
        actors=settings.actors,
        cpus=engine.cpus,
        gpus=engine.gpus,
        chunks_in_flight=engine.chunks_in_flight,
        poison_tries=engine.poison_tries,
        timeout_s=settings.timeout_s,
    )


def limits_of(settings: Annotate | ChatSystem, section: str = "annotate") -> RateLimits:
    """Return the limits of all actors together."""
    return RateLimits(
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        budget_usd=settings.budget_usd,
        budget_setting=f"{section}.budget_usd",
    )


def estimate_of(
    settings: Annotate, engine: EngineSection, teacher: Teacher, requests: RequestEstimate, **passages: Any
) -> TeacherEstimate:
    """Return an estimate within the section's limits; `passages`: the other fields of `TeacherEstimate`."""
    return TeacherEstimate(
        teacher=teacher,
        requests=requests,
        limits=limits_of(settings),
        in_flight=settings.in_flight * settings.actors,
        engines=f"{settings.actors} of {engine.gpus:g} GPUs each" if settings.served else None,
        **passages,
    )


def cache_folder(cache: str | None, root: str) -> Folder:
    """Return the reply cache: a folder of its own, or the one under run.root."""
    return Folder(cache) if cache else Folder(root) / _CACHE


def annotation_cache(settings: Annotate, root: str) -> Folder | None:
    """Return the teacher's reply cache; None for a recording without one, whose replies cost nothing."""
    return None if settings.recording and not settings.cache else cache_folder(settings.cache, root)
