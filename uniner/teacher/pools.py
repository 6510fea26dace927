"""The actor pools that ask a teacher, on a server or in the actors' own vLLM engines."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from uniner.inference.engine import EngineSettings
from uniner.runtime.chunk_actor import Worker
from uniner.runtime.chunk_pipeline import Pool
from uniner.runtime.cluster_meter import ClusterMeter, MeterSettings, cluster_meter
from uniner.runtime.connection import share
from uniner.runtime.gate import Gate
from uniner.runtime.metrics import StageMetrics
from uniner.runtime.rate_limits import AskMeter, RateLimits
from uniner.runtime.spending import SpendingFile
from uniner.storage.folder import Folder
from uniner.storage.manifest import Counts
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.cached_teacher import CachedTeacher, MakeClient
from uniner.teacher.completion import Rejection, Teacher
from uniner.teacher.openai_client import OpenAIClient, OpenAIServer
from uniner.teacher.reply_cache import ReplyCache, ReplyIndex, run_id
from uniner.teacher.vllm_client import VllmClient, teacher_engine

# An actor mostly waits for the network, so it needs less than a CPU.
_SERVER_ACTOR_CPUS = 0.75
# Sums of money that are closer are equal.
_CLOSE_USD = 1e-9


@dataclass(frozen=True, kw_only=True)
class TeacherActors:
    """The actors of a pool and how each reaches the teacher.

    actors: how many at most. cpus, gpus, chunks_in_flight: of each. max_chunk_crashes: see `Pool`.
    stop_grace_s: seconds that requests in flight get when the run is stopped.
    """

    make_client: MakeClient
    actors: int
    cpus: float = _SERVER_ACTOR_CPUS
    gpus: float = 0
    chunks_in_flight: int
    max_chunk_crashes: int | None = None
    stop_grace_s: float = 0.0


def server_actors(
    teacher: Teacher, server: OpenAIServer, actors: int, chunks: Mapping[str, int], stop_grace_s: float = 0.0
) -> TeacherActors:
    """Return actors that ask an OpenAI-compatible server. `chunks`: the stage's keys and rows."""
    return TeacherActors(
        make_client=functools.partial(OpenAIClient, teacher, server),
        actors=actors,
        chunks_in_flight=chunks_in_hand(chunks, server.in_flight),
        stop_grace_s=stop_grace_s,
    )


def chunks_in_hand(chunks: Mapping[str, int], in_flight: int) -> int:
    """Return how many chunks an actor works on at once: enough rows for twice its requests in flight, so that
    requests wait to be sent even while a chunk waits for its last replies and is written."""
    mean_rows = sum(chunks.values()) / max(1, len(chunks))
    return 1 + math.ceil(2 * in_flight / max(1.0, mean_rows))


def make_vllm_client(teacher: Teacher, model: str, engine: EngineSettings, gate: Gate) -> VllmClient:
    """Make the client of an engine in this process."""
    return VllmClient(teacher, teacher_engine(teacher, model, engine), gate)


@contextlib.contextmanager
def teacher_pool(
    stage: StageFolder,
    teacher: Teacher,
    actors: TeacherActors,
    make_worker: Callable[[CachedTeacher], Worker],
    *,
    limits: RateLimits,
    cache: Folder | None,
    elsewhere_usd: float = 0.0,
    batches_usd: float = 0.0,
    rejected: Mapping[str, Rejection] | None = None,
) -> Iterator[Pool]:
    """Yield the actor pool of a worker that asks a teacher, for the chunks in a stage's folder.

    All actors together keep to `limits`. elsewhere_usd: what other stages spent of the budget. batches_usd:
    what this stage spent in batches. rejected: requests, by key, that are not sent again.
    """
    make = functools.partial(_make_worker, make_worker, teacher, actors.make_client)
    pool = functools.partial(
        Pool,
        actors=actors.actors,
        cpus=actors.cpus,
        gpus=actors.gpus,
        chunks_in_flight=actors.chunks_in_flight,
        max_chunk_crashes=actors.max_chunk_crashes,
    )
    if stage.manifest() is not None:  # nothing will be asked
        yield pool(make_worker=functools.partial(make, None, None, rejected))
        return
    shared_cache, spending = None, SpendingFile(stage)
    spent_usd = spending.read()
    if cache:
        run = run_id(stage)
        index = ReplyCache.of(cache, teacher).read_index(run)
        # Where spending.json was deleted, its replies still tell what they cost.
        spent_usd = max(spent_usd, teacher.usd(*index.paid) - batches_usd)
        shared_cache = _SharedCache(folder=cache, run=run, index=share(index))
    settings = MeterSettings(
        metrics=StageMetrics.of(stage, stage.name),
        name=stage.name,
        teacher=f"teacher {teacher.model}",
        limits=limits,
        spent_usd=spent_usd,
        elsewhere_usd=elsewhere_usd + batches_usd,
        spending=spending,
        grace_s=actors.stop_grace_s,
    )
    with cluster_meter(settings) as meter:
        yield pool(
            make_worker=functools.partial(make, meter.ask, shared_cache, rejected),
            note=meter.note,
            totals=functools.partial(_totals, meter, batches_usd),
        )


def _totals(meter: ClusterMeter, batches_usd: float, figures: Counts) -> Counts:
    """Return a stage's figures with all that it spent, and the part of it that brought no reply."""
    answered = figures.get("cost_usd", 0.0)
    unanswered = max(0.0, meter.spent_usd() + batches_usd - answered)
    if unanswered < _CLOSE_USD:
        return figures
    return {**figures, "cost_usd": answered + unanswered, "unanswered_usd": unanswered}


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
    cache = ReplyCache.of(shared.folder, teacher, shared.index()) if shared else None
    run = shared.run if shared else ""
    return make_worker(CachedTeacher(teacher, make_client, ask_meter, cache, run, rejected))
