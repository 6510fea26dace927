"""The annotate section as what asking the teacher takes: the teacher, its key, limits, and who keeps replies.

generate asks the same teacher, so both stages come here.
"""

import os
import uuid
from collections.abc import Sequence

from uniner.config.schema import Annotate, Config
from uniner.errors import UserError
from uniner.runtime.rate_limits import Limits
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_folders import model_address, model_fingerprint, require_model
from uniner.storage.stage_folder import run_folder
from uniner.teacher.estimate import Work, describe
from uniner.teacher.openai_client import Teacher
from uniner.teacher.prompts import Prompt, chosen
from uniner.teacher.reply_cache import Index, ReplyCache, key_of

_CACHE, _RUN = "reply-cache", "run.json"


def check(settings: Annotate) -> None:
    """Find, before Ray starts, the model or the key, and the prices where there is a budget."""
    if settings.served and (settings.base_url or settings.recording):
        raise UserError("annotate.served: leave out annotate.base_url and annotate.recording, or this")
    if settings.batch and (settings.served or settings.recording):
        raise UserError("annotate.batch: only a server has a Batch API; unset annotate.served and recording")
    if settings.served:
        require_model(settings.model)
    elif not settings.recording and not api_key(settings) and not settings.plan:
        raise UserError("annotate: OPENAI_API_KEY is not set; export the teacher's key")
    if settings.budget_usd is not None and not settings.usd_per_million_in + settings.usd_per_million_out:
        raise UserError("annotate.budget_usd: no price is set; set annotate.usd_per_million_in and _out")


def teacher_of(config: Config, base_url: str | None) -> Teacher:
    """Return the teacher of the annotate section."""
    settings = config.annotate
    return Teacher(
        model_name(settings),
        base_url,
        prompt_of(config),
        settings.reply_format,
        settings.temperature,
        settings.max_reply_tokens,
        settings.in_flight,
        settings.timeout_s,
        settings.retries,
        settings.usd_per_million_in,
        settings.usd_per_million_out,
    )


def model_name(settings: Annotate) -> str:
    """Return the teacher's name: a folder's is its own and its content's, for that may change or move."""
    fingerprint = model_fingerprint(settings.model) if settings.served else settings.model
    if fingerprint == settings.model:
        return settings.model
    return f"{model_address(settings.model).rstrip('/').rsplit('/', 1)[-1]}@{fingerprint}"


def prompt_of(config: Config) -> Prompt:
    """Return the prompt that annotates."""
    return chosen(config.annotate.prompt, config.student.template, config.annotate.reply_format)


def api_key(settings: Annotate) -> str | None:
    """Return the teacher's key from the environment."""
    # A server of one's own behind base_url often asks for no key, but the client wants one.
    return os.environ.get("OPENAI_API_KEY") or ("none" if settings.base_url else None)


def limits_of(settings: Annotate) -> Limits:
    """Return the limits of all actors together."""
    return Limits(settings.requests_per_minute, settings.tokens_per_minute, settings.budget_usd)


def told_plan(
    config: Config, teacher: Teacher, asked: Work, total: int, done: int, sample: str, batch: bool = False
) -> str:
    """Return as text what is planned (see `plan.describe`), within the section's limits."""
    settings = config.annotate
    engines = f"{settings.actors} of {config.teacher.gpus:g} GPUs each" if settings.served else None
    in_flight = settings.in_flight * settings.actors
    return describe(teacher, limits_of(settings), in_flight, asked, total, done, sample, engines, batch)


def cache_of(config: Config) -> Folder | None:
    """Return the folder of the kept replies; None where none are kept."""
    settings = config.annotate
    if settings.recording and not settings.cache:
        return None
    return Folder(settings.cache) if settings.cache else Folder(config.run.root) / _CACHE


def index_of(cache: Folder, teacher: Teacher, paid_by: str = "") -> Index:
    """Read what stands of this teacher's replies, and what a run paid for them."""
    with explained(cache.url):
        return ReplyCache(cache, teacher.request("")).read_index(paid_by)


def unpaid(config: Config, teacher: Teacher, texts: Sequence[str]) -> list[str]:
    """Return the texts to which no run has a reply yet."""
    cache = cache_of(config)
    if cache is None:
        return list(texts)
    index = index_of(cache, teacher)
    return [text for text in texts if not index.groups_of([key_of(teacher.request(text))])]


def run_id(folder: Folder) -> str:
    """Return the id under which this run pays: it goes with the stage's folder."""
    with explained(folder.url):
        standing = folder.read_json(_RUN)
        if standing is None:
            standing = {"id": uuid.uuid4().hex}
            folder.write_json(_RUN, standing)
    return str(standing["id"])


def spent_on_generating(config: Config) -> float:
    """Return the US dollars that the run paid for its generated passages."""
    # Nothing while generate itself is at work: it then counts what it paid for by its replies.
    manifest = (run_folder(config.run) / "generate").manifest()
    return manifest["figures"]["cost_usd"] if manifest else 0.0
