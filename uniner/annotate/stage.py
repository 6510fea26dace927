"""The annotate stage: an actor pool that asks the teacher, over the passages' chunks."""

import contextlib
import functools
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uniner import work
from uniner.annotate import batch, prompts, recorded
from uniner.annotate import plan as planning
from uniner.annotate.annotator import Annotator
from uniner.annotate.batch_records import Records, rejections
from uniner.annotate.cache import Index, ReplyCache, key_of
from uniner.annotate.limits import Ask, Grant, Limits, Meter, Report, Want
from uniner.annotate.questions import Questions
from uniner.annotate.served import engine_of
from uniner.annotate.teacher import Teacher
from uniner.config import Annotate, Config
from uniner.errors import Planned, UserError
from uniner.files import explained
from uniner.storage import Folder, run_folder
from uniner.student import model_address, model_fingerprint, require_model

# Requests wait on the network: an actor needs little of a CPU.
_ACTOR_CPUS = 0.75
# A plan reads so many chunks at the most, and scales up.
_PLAN_CHUNKS = 100
_CACHE, _RUN = "reply-cache", "run.json"
# An actor reports when a request ends: it is dead when it is silent for much longer than the longest one.
_SILENCE_S = 60.0


def check(config: Config) -> None:
    """Find, before Ray starts, the recording or the key, and compare with what the run began with.

    Raises:
        Planned: where only the plan is asked for and the passages are there.
    """
    settings = config.annotate
    check_teacher(settings)
    if settings.recording:
        recorded.load(settings.recording)
        if not _prompt(config).user.endswith(prompts.PASSAGE_MARK + prompts.PASSAGE):
            raise UserError(
                f"{settings.prompt}: a recording is looked up by passage, so the prompt must end with an "
                f"empty line and 'Passage: {prompts.PASSAGE}'"
            )
    work.check_plan(_folder(config), _plan(config))
    if not settings.batch and not settings.plan:
        with explained(_folder(config).url):
            Records(_folder(config)).require_none_under_way()
    if settings.plan and _parent(config).manifest() is not None:
        _tell_plan(config)


def check_teacher(settings: Annotate) -> None:
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


def run(config: Config) -> dict[str, Any]:
    """Annotate the run's passages. Returns the manifest.

    Raises:
        Stopped: where the budget is spent.
        Planned: where only the plan is asked for.
    """
    settings, folder, parent = config.annotate, _folder(config), _parent(config)
    if settings.plan:
        _tell_plan(config)
    with contextlib.ExitStack() as open_servers:
        base_url, key = settings.base_url, api_key(settings)
        if settings.recording:
            server = recorded.RecordedTeacher(recorded.load(settings.recording))
            base_url, key = open_servers.enter_context(server).base_url, "recorded"
        plan, teacher = _plan(config, parent.digest()), teacher_of(config, base_url)
        if settings.batch and folder.manifest() is None:
            folder.begin(plan)  # what it was begun with is compared before anything is paid
            _ask_in_batches(config, teacher, key)
        make = functools.partial(
            Annotator,
            every_occurrence=settings.located == "all",
            rejected=rejections(Records(folder).read()),
        )
        return work.run_stage(
            "annotate",
            folder,
            plan,
            parent,
            pool=pool(config, folder, teacher, key, make, work.chunks_of(parent)),
            max_bad_share=settings.max_bad_share,
        )


def _ask_in_batches(config: Config, teacher: Teacher, key: str | None) -> None:
    """Have what the chunks lack answered by batches: what comes then finds it in the cache."""
    settings, parent, folder, kept = config.annotate, _parent(config), _folder(config), _cache(config)
    assert kept, "only a recording goes without a cache"
    paid_by = _run_id(folder)
    index = _index(kept, teacher, paid_by)
    questions = Questions(teacher, parent, ReplyCache(kept, teacher.request(""), index), paid_by)
    spent = _spent_on_generating(config) + teacher.usd(*index.tokens_paid)
    with explained(folder.url):
        todo = sorted(work.chunks_of(parent).keys() - folder.chunk_keys())
        batch.ask(questions, key, Records(folder), todo, settings.budget_usd, spent)


def pool(
    config: Config,
    folder: Folder,
    teacher: Teacher,
    key: str | None,
    make: Callable[..., work.Worker],
    chunks: Mapping[str, int],
) -> work.Pool:
    """Return the actor pool of a worker that asks the teacher for a stage's folder: within the limits of all
    actors together and what is left of the run's budget, and for nothing that is in the cache.

    `make` takes what `annotator.Replies` is made of; chunks are the stage's keys and rows.
    """
    settings, keep, spent = config.annotate, None, _spent_on_generating(config)
    cache = _cache(config)
    if cache and folder.manifest() is None:
        paid_by = _run_id(folder)
        index = _index(cache, teacher, paid_by)
        keep = _Keep(cache, paid_by, ray.put(index))
        spent += teacher.usd(*index.tokens_paid)
    worker = functools.partial(_worker, make, teacher, key, _meter(settings, spent), keep)
    if settings.served:
        return _serving(config, worker)
    in_hand = chunks_in_hand(chunks, settings.in_flight)
    return work.Pool(worker, settings.actors, _ACTOR_CPUS, chunks_in_flight=in_hand)


def chunks_in_hand(chunks: Mapping[str, int], in_flight: int) -> int:
    """Return how many chunks an actor works on at once: enough rows for twice its requests in flight, so that
    there are always requests to go while a chunk waits for its last replies and is written."""
    usual = sum(chunks.values()) / max(1, len(chunks))
    return 1 + math.ceil(2 * in_flight / max(1.0, usual))


def _serving(config: Config, make: Callable[..., work.Worker]) -> work.Pool:
    """Return the pool of actors that serve the teacher themselves."""
    engine = config.teacher
    settings = engine.model_dump(exclude={"chunks_in_flight", "max_prompt_tokens"})
    settings["max_tokens"] = engine.max_prompt_tokens
    make = functools.partial(make, served=(model_address(config.annotate.model), settings))
    return work.Pool(make, config.annotate.actors, engine.cpus, engine.gpus, engine.chunks_in_flight)


def _spent_on_generating(config: Config) -> float:
    # Nothing while generate itself is at work: it then counts what it paid for by its replies.
    manifest = (run_folder(config.run) / "generate").manifest()
    return manifest["figures"]["cost_usd"] if manifest else 0.0


def model_name(settings: Annotate) -> str:
    """Return the teacher's name: a folder's is its own and its content's, for that may change or move."""
    fingerprint = model_fingerprint(settings.model) if settings.served else settings.model
    if fingerprint == settings.model:
        return settings.model
    return f"{model_address(settings.model).rstrip('/').rsplit('/', 1)[-1]}@{fingerprint}"


def teacher_of(config: Config, base_url: str | None) -> Teacher:
    """Return the teacher of the annotate section."""
    settings = config.annotate
    return Teacher(
        model_name(settings),
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


def _cache(config: Config) -> Folder | None:
    settings = config.annotate
    if settings.recording and not settings.cache:
        return None
    return Folder(settings.cache or f"{config.run.root}/{_CACHE}")


def _index(cache: Folder, teacher: Teacher, paid_by: str = "") -> Index:
    with explained(cache.url):
        return ReplyCache(cache, teacher.request("")).read_index(paid_by)


def unpaid(config: Config, teacher: Teacher, texts: Sequence[str]) -> list[str]:
    """Return the texts to which no run has a reply yet."""
    cache = _cache(config)
    if cache is None:
        return list(texts)
    index = _index(cache, teacher)
    return [text for text in texts if not index.groups_of([key_of(teacher.request(text))])]


def _tell_plan(config: Config) -> None:
    """Print the plan, from a sample of the chunks where there are many, and end the job."""
    settings, parent, folder = config.annotate, _parent(config), _folder(config)
    teacher, chunks = teacher_of(config, settings.base_url), work.chunks_of(parent)
    with explained(folder.url):
        todo = sorted(chunks.keys() - folder.chunk_keys())
    left = sum(chunks[key] for key in todo)
    some = todo[:: -(-len(todo) // _PLAN_CHUNKS)] if todo else []
    texts = [text for key in some for text in parent.read_chunk(key).column("text").to_pylist()]
    unknown = unpaid(config, teacher, texts)
    asked = planning.estimate(teacher, unknown).scaled(left / len(texts) if texts else 0)
    total = sum(chunks.values())
    sample = texts[0] if texts else prompts.PASSAGE
    told = planning.describe(
        teacher,
        limits_of(settings),
        in_flight(settings),
        asked,
        total,
        total - left,
        sample,
        engines(config),
        settings.batch,
    )
    print(told, flush=True)
    raise Planned


def in_flight(settings: Annotate) -> int:
    """Return the requests in flight of all actors together."""
    return settings.in_flight * settings.actors


def engines(config: Config) -> str | None:
    """Say which engines serve the teacher; None where a server is asked."""
    settings = config.annotate
    return f"{settings.actors} of {config.teacher.gpus:g} GPUs each" if settings.served else None


@dataclass(frozen=True)
class _Keep:
    """Where an actor keeps replies, for which run, and (a reference to) the index of those that stand."""

    folder: Folder
    run: str
    index: Any


def _worker(
    make: Callable[..., work.Worker],
    teacher: Teacher,
    key: str | None,
    ask: Ask | None,
    keep: _Keep | None,
    served: tuple[str, dict[str, Any]] | None = None,
) -> work.Worker:
    engine = engine_of(teacher, *served) if served else None
    if keep is None:
        return make(teacher, key, ask, engine=engine)
    cache = ReplyCache(keep.folder, teacher.request(""), ray.get(keep.index))
    return make(teacher, key, ask, cache, keep.run, engine=engine)


def _run_id(folder: Folder) -> str:
    """Return the id under which this run pays: it goes with the stage's folder."""
    with explained(folder.url):
        standing = folder.read_json(_RUN)
        if standing is None:
            standing = {"id": uuid.uuid4().hex}
            folder.write_json(_RUN, standing)
    return str(standing["id"])


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


def limits_of(settings: Annotate) -> Limits:
    """Return the limits of all actors together."""
    return Limits(settings.requests_per_minute, settings.tokens_per_minute, settings.budget_usd)


def _meter(settings: Annotate, spent: float) -> Ask | None:
    limits = limits_of(settings)
    if limits == Limits() and settings.actors == 1:
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    forget_s = settings.timeout_s + _SILENCE_S
    # Ray puts `options` on the class when it decorates it: its types do not say so.
    actor: Any = _ClusterMeter
    return _AskCluster(actor.options(scheduling_strategy=here).remote(limits, spent, forget_s))


def _parent(config: Config) -> Folder:
    return run_folder(config.run) / "ingest"


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "annotate"


def _plan(config: Config, parent: str | None = None) -> dict[str, Any]:
    settings = config.annotate
    return {
        "stage": "annotate",
        "config": {
            "template": config.student.template,
            "prompt": _prompt(config).digest() if settings.prompt else None,
            "annotate": settings.identity() | {"model": model_name(settings)},
            **({"teacher": config.teacher.identity()} if settings.served else {}),
        },
        "parents": {"ingest": parent},
    }


def _prompt(config: Config) -> prompts.Prompt:
    return prompts.chosen(config.annotate.prompt, config.student.template, config.annotate.reply_format)


def api_key(settings: Annotate) -> str | None:
    """Return the teacher's key from the environment."""
    # A server of one's own behind base_url often asks for no key, but the client wants one.
    return os.environ.get("OPENAI_API_KEY") or ("none" if settings.base_url else None)
