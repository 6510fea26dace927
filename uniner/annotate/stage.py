"""The annotate stage: an actor pool that asks the teacher, over the passages' chunks."""

import contextlib
import functools
import os
from typing import Any

from uniner import work
from uniner.annotate import prompts, recorded
from uniner.annotate.annotator import Annotator, Teacher
from uniner.config import Annotate, Config
from uniner.errors import UserError
from uniner.storage import Folder

# Requests wait on the network: an actor needs little of a CPU.
_ACTOR_CPUS = 0.75


def check(config: Config) -> None:
    """Find, before Ray starts, the recording or the key, and compare with what the run began with."""
    settings = config.annotate
    if settings.recording:
        recorded.load(settings.recording)
        if not _prompt(config).user.endswith(prompts.PASSAGE_MARK + prompts.PASSAGE):
            raise UserError(
                f"{settings.prompt}: a recording is looked up by passage, so the prompt must end with an "
                f"empty line and 'Passage: {prompts.PASSAGE}'"
            )
    elif not _key(settings):
        raise UserError("annotate: OPENAI_API_KEY is not set; export the teacher's key")
    work.check_plan(_folder(config), _plan(config))


def run(config: Config) -> dict[str, Any]:
    """Annotate the run's passages. Returns the manifest."""
    settings = config.annotate
    with contextlib.ExitStack() as open_servers:
        base_url, key = settings.base_url, _key(settings)
        if settings.recording:
            server = recorded.RecordedTeacher(recorded.load(settings.recording))
            base_url, key = open_servers.enter_context(server).base_url, "recorded"
        teacher = Teacher(
            settings.model,
            base_url,
            _prompt(config),
            settings.reply_format,
            settings.temperature,
            settings.max_reply_tokens,
            settings.in_flight,
            settings.timeout_s,
            settings.retries,
            settings.usd_per_million_in,
            settings.usd_per_million_out,
        )
        parent = Folder(config.run.root) / config.run.name / "ingest"
        return work.run_stage(
            "annotate",
            _folder(config),
            _plan(config, parent.digest()),
            parent,
            pool=work.Pool(functools.partial(Annotator, teacher, key), settings.actors, _ACTOR_CPUS),
            max_bad_share=settings.max_bad_share,
        )


def _folder(config: Config) -> Folder:
    return Folder(config.run.root) / config.run.name / "annotate"


def _plan(config: Config, parent: str | None = None) -> dict[str, Any]:
    return {
        "stage": "annotate",
        "config": {
            "template": config.student.template,
            "prompt": _prompt(config).digest() if config.annotate.prompt else None,
            "annotate": config.annotate.identity(),
        },
        "parents": {"ingest": parent},
    }


def _prompt(config: Config) -> prompts.Prompt:
    settings = config.annotate
    if settings.prompt:
        return prompts.load(settings.prompt)
    return prompts.published(config.student.template, settings.reply_format)


def _key(settings: Annotate) -> str | None:
    # A server of one's own behind base_url often asks for no key, but the client wants one.
    return os.environ.get("OPENAI_API_KEY") or ("none" if settings.base_url else None)
