"""The actor pools that ask a teacher, on a server or in the actors' own vLLM engines."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from uniner.inference.engine import EngineSettings
from uniner.runtime.chunk_actor import Worker
from uniner.runtime.chunk_pipeline import Pool
from uniner.runtime.connection import share
from uniner.runtime.rate_limits import AskMeter, Gate, RateLimits, cluster_meter
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.cached_teacher import CachedTeacher, MakeClient
from uniner.teacher.completion import Rejection, Teacher
from uniner.teacher.openai_client import OpenAIClient, OpenAIServer
from uniner.teacher.reply_cache import ReplyCache, ReplyIndex, run_id
from uniner.teacher.vllm_client import VllmClient, teacher_engine

# An actor mostly waits for the network, so it needs less than a CPU.
_SERVER_ACTOR_CPUS = 0.75
# An actor reports to the meter when a request ends. One that is silent for the longest request and this long
# counts as dead.
_SILENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class TeacherActors:
    """The actors of a pool and how each reaches the teacher.

    actors: how many at most. cpus, gpus, chunks_in_flight: of each. max_chunk_crashes: see `Pool`. timeout_s:
    the longest time that a request may take.
    """

    make_client: MakeClient
    actors: int
    cpus: float = _SERVER_ACTOR_CPUS
    gpus: float = 0
    chunks_in_flight: int
    max_chunk_crashes: int | None = None
    timeout_s: float


def server_actors(
    teacher: Teacher, server: OpenAIServer, actors: int, chunks: Mapping[str, int]
) -> TeacherActors:
    """Return actors that ask an OpenAI-compatible server. `chunks`: the stage's keys and rows."""
    return TeacherActors(
        make_client=functools.partial(OpenAIClient, teacher, server),
        actors=actors,
        chunks_in_flight=chunks_in_hand(chunks, server.in_flight),
        timeout_s=server.timeout_s,
    )


def chunks_in_hand(chunks: Mapping[str, int], in_flight: int) -> int:
    """Return how many chunks an actor works on at once: enough rows for twice its requests in flight, so that
    requests wait to be sent even while a chunk waits for its last replies and is written."""
    mean_rows = sum(chunks.values()) / max(1, len(chunks))
    return 1 + math.ceil(2 * in_flight / max(1.0, mean_rows))


def make_vllm_client(teacher: Teacher, model: str, engine: EngineSettings, gate: Gate) -> VllmClient:
    """Make the client of an engine in this process."""
    return VllmClient(teacher, teacher_engine(teacher, model, engine), gate)


def teacher_pool(
    stage: StageFolder,
    teacher: Teacher,
    actors: TeacherActors,
    make_worker: Callable[[CachedTeacher], Worker],
    *,
    limits: RateLimits,
    cache: Folder | None,
    spent_usd: float = 0.0,
    rejected: Mapping[str, Rejection] | None = None,
) -> Pool:
    """Return the actor pool of a worker that asks a teacher, for the chunks in a stage's folder.

    All actors together keep to `limits`. spent_usd: the part of the budget that other stages spent; the
    stage's own replies in the cache are added. rejected: requests, by key, that are not sent again.
    """
    shared_cache = None
    if cache and stage.manifest() is None:
        run = run_id(stage)
        index = ReplyCache(cache, teacher.request("")).read_index(run)
        spent_usd += teacher.usd(*index.paid)
        shared_cache = _SharedCache(folder=cache, run=run, index=share(index))
    ask_meter = None
    if not limits.unlimited or actors.actors > 1:  # a single actor needs no meter of the cluster's
        ask_meter = cluster_meter(limits, spent_usd, actors.timeout_s + _SILENCE_S)
    make = functools.partial(
        _make_worker, make_worker, teacher, actors.make_client, ask_meter, shared_cache, rejected
    )
    return Pool(
        make_worker=make,
        actors=actors.actors,
        cpus=actors.cpus,
        gpus=actors.gpus,
        chunks_in_flight=actors.chunks_in_flight,
        max_chunk_crashes=actors.max_chunk_crashes,
    )


@dataclass(frozen=True, kw_only=True)
class _SharedCache:
    """The reply cache that actors use, the run that pays, and a function that returns the shared index."""

    folder: Folder
    run: str
    index: Callable[[], ReplyIndex]


def _make_worker(
    make_worker: Callable[[CachedTeacher], Worker],
    teacher: Teacher,
    make_client: MakeClient,
    ask_meter: AskMeter | None,
    shared: _SharedCache | None,
    rejected: Mapping[str, Rejection] | None,
) -> Worker:
    cache = ReplyCache(shared.folder, teacher.request(""), shared.index()) if shared else None
    run = shared.run if shared else ""
    return make_worker(CachedTeacher(teacher, make_client, ask_meter, cache, run, rejected))
