"""The annotate stage: an actor pool that asks the teacher, over the passages' chunks."""

import contextlib
import functools
import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uniner import work
from uniner.annotate import prompts, recorded
from uniner.annotate.annotator import Annotator
from uniner.annotate.limits import Ask, Grant, Limits, Meter, Report, Want
from uniner.annotate.teacher import Teacher
from uniner.config import Annotate, Config
from uniner.errors import UserError
from uniner.storage import Folder

# Requests wait on the network: an actor needs little of a CPU.
_ACTOR_CPUS = 0.75
# An actor reports when a request ends: it is dead when it is silent for much longer than the longest one.
_SILENCE_S = 60.0


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
        ask = _meter(settings)
        parent = Folder(config.run.root) / config.run.name / "ingest"
        return work.run_stage(
            "annotate",
            _folder(config),
            _plan(config, parent.digest()),
            parent,
            pool=work.Pool(functools.partial(Annotator, teacher, key, ask), settings.actors, _ACTOR_CPUS),
            max_bad_share=settings.max_bad_share,
        )


@ray.remote(num_cpus=0)
class _ClusterMeter:
    """The meter as an actor, beside the driver: it lives and dies with the run."""

    def __init__(self, limits: Limits, forget_s: float):
        self._meter = Meter(limits, forget_s=forget_s)

    def ask(self, holder: str, report: Report, wants: list[Want]) -> Grant:
        return self._meter.ask(holder, report, wants)


class _AskCluster:
    """Asks the cluster's meter from any actor."""

    def __init__(self, meter: Any):
        self._meter = meter

    async def __call__(self, holder: str, report: Report, wants: list[Want]) -> Grant:
        return await self._meter.ask.remote(holder, report, wants)


def _meter(settings: Annotate) -> Ask | None:
    limits = Limits(settings.requests_per_minute, settings.tokens_per_minute)
    if limits == Limits() and settings.actors == 1:
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    forget_s = settings.timeout_s + _SILENCE_S
    # Ray puts `options` on the class when it decorates it: its types do not say so.
    actor: Any = _ClusterMeter
    return _AskCluster(actor.options(scheduling_strategy=here).remote(limits, forget_s))


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
