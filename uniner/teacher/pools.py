"""The actors that ask the teacher: their pool, and the one meter of the whole cluster that they share."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uniner.config.schema import Annotate, Config
from uniner.inference.engine import EngineSettings
from uniner.runtime import chunk_pipeline
from uniner.runtime.chunk_actor import Worker
from uniner.runtime.rate_limits import Ask, Grant, Limits, Meter, Report, Want
from uniner.storage.folder import Folder
from uniner.storage.model_folders import model_address
from uniner.teacher.completion import Rejection
from uniner.teacher.openai_client import Teacher
from uniner.teacher.replies import Replies
from uniner.teacher.reply_cache import ReplyCache
from uniner.teacher.settings import cache_of, index_of, limits_of, run_id
from uniner.teacher.vllm_client import engine_of

# Requests wait on the network: an actor needs little of a CPU.
_ACTOR_CPUS = 0.75
# An actor reports when a request ends: it is dead when it is silent for much longer than the longest one.
_SILENCE_S = 60.0


def pool(
    config: Config,
    folder: Folder,
    teacher: Teacher,
    key: str | None,
    make: Callable[[Replies], Worker],
    chunks: Mapping[str, int],
    rejected: Mapping[str, Rejection] | None = None,
    spent: float = 0.0,
) -> chunk_pipeline.Pool:
    """Return the actor pool of a worker that asks the teacher for a stage's folder: within the limits of all
    actors together and what is left of the budget, and for nothing that is in the cache.

    chunks are the stage's keys and rows. What is `rejected`, by the request's key, is not asked again. spent:
    US dollars of the budget that were spent elsewhere.
    """
    settings, keep = config.annotate, None
    cache = cache_of(config)
    if cache and folder.manifest() is None:
        paid_by = run_id(folder)
        index = index_of(cache, teacher, paid_by)
        keep = _Keep(cache, paid_by, ray.put(index))
        spent += teacher.usd(*index.tokens_paid)
    worker = functools.partial(
        _worker, make, teacher, key, _meter(settings, spent, teacher.section), keep, rejected
    )
    if settings.served:
        return _serving(config, worker)
    in_hand = chunks_in_hand(chunks, settings.in_flight)
    return chunk_pipeline.Pool(worker, settings.actors, _ACTOR_CPUS, chunks_in_flight=in_hand)


def chunks_in_hand(chunks: Mapping[str, int], in_flight: int) -> int:
    """Return how many chunks an actor works on at once: enough rows for twice its requests in flight, so that
    there are always requests to go while a chunk waits for its last replies and is written."""
    usual = sum(chunks.values()) / max(1, len(chunks))
    return 1 + math.ceil(2 * in_flight / max(1.0, usual))


def _serving(config: Config, make: Callable[..., Worker]) -> chunk_pipeline.Pool:
    """Return the pool of actors that serve the teacher themselves."""
    engine = config.teacher
    make = functools.partial(make, served=(model_address(config.annotate.model), EngineSettings.of(engine)))
    actors, in_flight = config.annotate.actors, engine.chunks_in_flight
    return chunk_pipeline.Pool(make, actors, engine.cpus, engine.gpus, in_flight, engine.poison_tries)


@dataclass(frozen=True)
class _Keep:
    """Where an actor keeps replies, for which run, and (a reference to) the index of those that stand."""

    folder: Folder
    run: str
    index: Any


def _worker(
    make: Callable[[Replies], Worker],
    teacher: Teacher,
    key: str | None,
    ask: Ask | None,
    keep: _Keep | None,
    rejected: Mapping[str, Rejection] | None,
    served: tuple[str, EngineSettings] | None = None,
) -> Worker:
    engine = engine_of(teacher, *served) if served else None
    if keep is None:
        return make(Replies(teacher, key, ask, engine=engine, rejected=rejected))
    cache = ReplyCache(keep.folder, teacher.request(""), ray.get(keep.index))
    return make(Replies(teacher, key, ask, cache, keep.run, engine, rejected))


@ray.remote(num_cpus=0)
class _ClusterMeter:
    """The meter as an actor, beside the driver: it lives and dies with the run."""

    def __init__(self, limits: Limits, spent_usd: float, forget_s: float):
        self._meter = Meter(limits, spent_usd, forget_s)

    def ask(self, holder: str, report: Report, wants: list[Want]) -> Grant:
        return self._meter.ask(holder, report, wants)


class _AskCluster:
    """Asks the cluster's meter from any actor."""

    def __init__(self, meter: Any):
        self._meter = meter

    async def __call__(self, holder: str, report: Report, wants: list[Want]) -> Grant:
        return await self._meter.ask.remote(holder, report, wants)


def _meter(settings: Annotate, spent: float, section: str) -> Ask | None:
    limits = replace(limits_of(settings), section=section)
    if limits == Limits(section=section) and settings.actors == 1:
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    forget_s = settings.timeout_s + _SILENCE_S
    # Ray puts `options` on the class when it decorates it: its types do not say so.
    actor: Any = _ClusterMeter
    return _AskCluster(actor.options(scheduling_strategy=here).remote(limits, spent, forget_s))
