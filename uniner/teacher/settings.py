"""From a teacher's config section to the values that ask it: its name, server, actors, limits and cache.

name: what error messages call the section, such as "teacher" or "evaluate.system.chatgpt.teacher".
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from uniner.config.teachers import (
    AnyTeacher,
    BatchTeacher,
    HttpTeacher,
    RecordingTeacher,
    ServerTeacher,
    VllmTeacher,
)
from uniner.errors import UserError
from uniner.inference.engine import EngineSettings
from uniner.inference.engine_pool import chunks_in_flight
from uniner.runtime.connection import own_address
from uniner.runtime.rate_limits import RateLimits
from uniner.storage.folder import Folder
from uniner.storage.model_folders import model_address, model_digest, require_model
from uniner.teacher.completion import Teacher
from uniner.teacher.estimate import RequestEstimate, TeacherEstimate
from uniner.teacher.openai_client import OpenAIServer
from uniner.teacher.pools import TeacherActors, make_vllm_client, server_actors
from uniner.teacher.prompts import Prompt
from uniner.teacher.replay_server import ReplayServer, load_recording
from uniner.teacher.reply_cache import server_address
from uniner.teacher.request_form import RequestForm

_CACHE = "reply-cache"
_OPENAI = "https://api.openai.com/v1"


def check_teacher(section: AnyTeacher, name: str = "teacher") -> None:
    """Check that the model, the recording or the server's key exists.

    Raises:
        UserError: where it does not.
    """
    if isinstance(section, VllmTeacher):
        require_model(section.model, setting=f"{name}.model")
    elif isinstance(section, RecordingTeacher):
        load_recording(section.path)
    elif key := api_key(section):
        if strange := [place for place, sign in enumerate(key, 1) if not "!" <= sign <= "~"]:
            raise UserError(
                f"{name}: the key in the environment variable {section.api_key_env} has a blank, a control "
                f"character or another one that no key has (character {strange[0]:,} of {len(key):,}); copy "
                "the server's key again"
            )
    else:
        raise UserError(
            f"{name}: the environment variable {section.api_key_env} is not set; export the server's key in "
            f"it, or name the variable that has it, such as {name}.api_key_env=MY_KEY"
        )


def check_budget(
    section: AnyTeacher, budget_usd: float | None, budget_setting: str, name: str = "teacher"
) -> None:
    """Check that a budget comes with both prices.

    Raises:
        UserError: where it does not.
    """
    if budget_usd is None or isinstance(section, VllmTeacher):
        return
    examples = {"usd_per_million_in": "0.15", "usd_per_million_out": "0.60"}
    missing = [f"{name}.{field}={usd}" for field, usd in examples.items() if not getattr(section, field)]
    if missing:
        whose = {"in": " for prompts", "out": " for replies"}[missing[0].split("=")[0].rsplit("_", 1)[-1]]
        raise UserError(
            f"{budget_setting}: no price is set{whose if len(missing) == 1 else ''}; set "
            f"{' and '.join(missing)}, for example"
        )


def make_teacher(
    section: AnyTeacher,
    *,
    prompt: Prompt,
    temperature: float,
    max_reply_tokens: int,
    reply_format: str = "tuples",
    in_batches: bool = False,
) -> Teacher:
    """Return the teacher of a section, asked with a stage's prompt.

    in_batches: a section that has a Batch API is asked by it, at its price.
    """
    share = section.batch_price_share if in_batches and isinstance(section, BatchTeacher) else 1.0
    return Teacher(
        model=model_name(section),
        prompt=prompt,
        reply_format=reply_format,
        temperature=temperature,
        max_reply_tokens=max_reply_tokens,
        usd_per_million_in=share * section.usd_per_million_in if isinstance(section, HttpTeacher) else 0.0,
        usd_per_million_out=share * section.usd_per_million_out if isinstance(section, HttpTeacher) else 0.0,
        extra_body=section.extra_body if isinstance(section, ServerTeacher) else {},
        server=server_address(_base_url(section)) if isinstance(section, ServerTeacher) else "",
    )


def _base_url(section: ServerTeacher) -> str:
    # The openai client reads the same variable.
    return section.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI


def model_name(section: AnyTeacher) -> str:
    """Return the teacher's name; a folder's has the digest of its content, as folders change and move."""
    if not isinstance(section, VllmTeacher):
        return section.model
    digest = model_digest(section.model)
    if digest == section.model:
        return section.model
    return f"{model_address(section.model).rstrip('/').rsplit('/', 1)[-1]}@{digest}"


def teacher_identity(section: AnyTeacher) -> dict[str, Any]:
    """Return what of a section decides the replies: the model, more fields of the requests, and for an engine
    its number format."""
    return section.identity() | {"model": model_name(section)}


def api_key(section: ServerTeacher) -> str | None:
    """Return the server's key from the environment."""
    # The user's own server behind a base_url often needs no key, but the openai client requires one.
    return os.environ.get(section.api_key_env) or ("none" if section.base_url else None)


@contextlib.contextmanager
def replay(section: AnyTeacher) -> Iterator[str | None]:
    """Serve a recording meanwhile, where the cluster's actors reach it: the driver's machine may run none.

    Yields its address; None for another kind of teacher.
    """
    if not isinstance(section, RecordingTeacher):
        yield None
        return
    with ReplayServer(load_recording(section.path), host=own_address()) as server:
        yield server.base_url


def make_server(
    section: HttpTeacher, name: str = "teacher", recording_url: str | None = None
) -> OpenAIServer:
    """Return the server of a section. recording_url: of the `ReplayServer` of a recording."""
    server = OpenAIServer(
        base_url=recording_url,
        api_key="recorded",
        in_flight=section.in_flight,
        timeout_s=section.timeout_s,
        retries=section.retries,
        section=name,
    )
    if not isinstance(section, ServerTeacher):
        return server
    return replace(
        server,
        base_url=section.base_url,
        api_key=api_key(section),
        api_key_env=section.api_key_env,
        form=RequestForm(limit=section.reply_limit_field, temperature=section.send_temperature),
    )


def teacher_actors(
    section: AnyTeacher,
    teacher: Teacher,
    chunks: Mapping[str, int],
    *,
    name: str = "teacher",
    recording_url: str | None = None,
) -> TeacherActors:
    """Return the actors that ask a teacher about a stage's chunks (key to rows)."""
    if isinstance(section, HttpTeacher):
        server = make_server(section, name, recording_url)
        return server_actors(teacher, server, section.actors, chunks, section.stop_grace_s)
    engine = EngineSettings.of(section, max_prompt_tokens=section.max_prompt_tokens)
    return TeacherActors(
        make_client=functools.partial(make_vllm_client, teacher, model_address(section.model), engine),
        actors=section.actors,
        cpus=section.cpus,
        gpus=section.gpus,
        chunks_in_flight=chunks_in_flight(section, sum(chunks.values()) / max(1, len(chunks))),
        max_chunk_crashes=section.max_chunk_crashes,
    )


def rate_limits(
    section: AnyTeacher, budget_usd: float | None, budget_setting: str = "run.budget_usd"
) -> RateLimits:
    """Return the limits of all actors together."""
    return RateLimits(
        requests_per_minute=section.requests_per_minute if isinstance(section, HttpTeacher) else None,
        tokens_per_minute=section.tokens_per_minute if isinstance(section, HttpTeacher) else None,
        budget_usd=budget_usd,
        budget_setting=budget_setting,
    )


def make_estimate(
    section: AnyTeacher,
    teacher: Teacher,
    requests: RequestEstimate,
    budget_usd: float | None,
    *,
    total: int,
    done: int,
    sample: str,
    batch: bool = False,
    unit: str = "passages",
) -> TeacherEstimate:
    """Return a stage's estimate (see `TeacherEstimate`) within the section's limits and the budget."""
    engines = f"{section.actors} of {section.gpus:g} GPUs each" if isinstance(section, VllmTeacher) else None
    return TeacherEstimate(
        teacher=teacher,
        requests=requests,
        total=total,
        done=done,
        sample=sample,
        limits=rate_limits(section, budget_usd),
        in_flight=1 if isinstance(section, VllmTeacher) else section.in_flight * section.actors,
        engines=engines,
        batch=batch,
        unit=unit,
    )


def reply_cache_folder(section: AnyTeacher, root: str) -> Folder | None:
    """Return the folder of the reply cache; None for a recording without one, whose replies cost nothing.

    root: run.root, for the default folder.
    """
    if section.cache:
        return Folder(section.cache)
    return None if isinstance(section, RecordingTeacher) else Folder(root) / _CACHE
