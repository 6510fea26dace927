"""The actors that answer evaluate's questions: for each kind of system, how one is made and what it needs."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from uniner.config.schema import Config, Engine
from uniner.config.systems import (
    AnySystem,
    BertSystem,
    ChatSystem,
    GlinerSystem,
    InstructedSystem,
    InstructUIESystem,
    TemplateSystem,
)
from uniner.errors import UserError
from uniner.evaluate.predictor import Predictor
from uniner.evaluate.systems import System, instructed
from uniner.evaluate.systems.bert import Bert
from uniner.evaluate.systems.bert_training import Order, train
from uniner.evaluate.systems.chat import PROMPT, Chat
from uniner.evaluate.systems.gliner import Gliner
from uniner.evaluate.systems.instructions import INSTRUCTIONS
from uniner.evaluate.systems.instructuie import InstructUIE
from uniner.evaluate.systems_registry import model_of, template_of
from uniner.gold.reader import digest
from uniner.inference import questions
from uniner.progress import say
from uniner.runtime import chunk_pipeline
from uniner.runtime.trainer import RAY_FOLDER, TrainerSession, run_training
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_folders import model_fingerprint
from uniner.storage.folder import Folder
from uniner.tag.stage import engine_settings
from uniner.tag.stage import pool as engines
from uniner.teacher import settings as teacher_settings
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Teacher
from uniner.teacher.pools import server_actors, teacher_pool
from uniner.templates import Template

_MODELS, _FAILURES = 2, 3


def pool(
    config: Config,
    folder: Folder,
    system: AnySystem,
    chunks: dict[str, int],
    models: dict[str, str] | None = None,
) -> chunk_pipeline.Pool:
    """Return the actor pool that answers for a system, whose predictions go into a folder.

    chunks: the keys of the chunks and their questions. models: the addresses of the models that were trained,
    one a data set.
    """
    if isinstance(system, ChatSystem):
        return _asking(config.run.root, folder, system, chunks)
    model = model_of(config, system)
    if isinstance(system, TemplateSystem):
        make = partial(make_predictor, model, template_of(config, system))
        settings = _settings(config.engine, config.student.max_tokens)
        return engine_pool(config.engine, partial(make, settings))
    if isinstance(system, InstructedSystem):
        settings = _settings(config.engine, system.max_prompt_tokens)
        instruction = INSTRUCTIONS[system.instruction]
        return _engines(config.engine, partial(instructed.start, model, system.kind, instruction, settings))
    on_gpu = config.engine.gpus > 0
    if isinstance(system, InstructUIESystem):
        engine = config.engine
        most = (system.max_prompt_tokens, engine.max_answer_tokens, system.batch_passages)
        return _engines(engine, partial(InstructUIE, model, *most, on_gpu, engine.dtype))
    if isinstance(system, GlinerSystem):
        start = partial(Gliner, model, system.threshold, system.batch_passages, on_gpu)
        return replace(_engines(config.engine, start), runtime_env=_environment(system))
    return engine_pool(config.engine, partial(_trained, models or {}, system.max_tokens, on_gpu))


def _environment(system: GlinerSystem) -> dict[str, Any] | None:
    if system.python:
        return {"py_executable": system.python}
    return {"pip": system.pip} if system.pip else None


def _trained(models: dict[str, str], max_tokens: int, on_gpu: bool) -> Predictor:
    """Return the predictor whose model is the data set's own; the last few stay in memory."""

    @lru_cache(maxsize=_MODELS)
    def system_of(dataset: str) -> Bert:
        return Bert(models[dataset], max_tokens, on_gpu)

    return Predictor(system_of)


def train_on(config: Config, folder: Folder, system: BertSystem, dataset: str) -> Folder:
    """Train a system on a data set's train split, once. Returns the model's folder."""
    settings = system.model_dump(
        include={"epochs", "learning_rate", "batch_passages", "max_tokens", "max_passages"}
    )
    order = Order(
        base=model_of(config, system),
        dataset=dataset,
        gold=system.train[dataset],
        labels=config.build.labels,
        folder_url=folder.url,
        seed=config.run.seed,
        use_gpu=system.use_gpu,
        **settings,
    )
    plan = {
        "stage": "evaluate train",
        "config": {**settings, "seed": order.seed, "dataset": dataset, "labels": order.labels},
        "parents": {"model": model_fingerprint(order.base), "train": gold_digest(order.gold)},
    }
    if folder.begin(plan):
        return folder
    say(f"evaluate: training {system.model} on {dataset}")
    started = time.monotonic()
    told = run_training(
        _train,
        order,
        folder=folder,
        workers=system.workers,
        use_gpu=order.use_gpu,
        max_failures=_FAILURES,
    )
    if "error" in told:
        raise UserError(told["error"])
    with explained(folder.url):
        (folder / RAY_FOLDER).remove_all()
    folder.finish(plan, [], rows=told["examples"], figures=told, seconds=round(time.monotonic() - started, 1))
    return folder


def _train(order: Order, _session: TrainerSession) -> dict[str, Any]:
    return train(order)


def make_predictor(model: str, template: Template, settings: EngineSettings) -> Predictor:
    """Start an engine in this process and return the worker that asks it."""
    return Predictor.of(start_asker(model, template, settings))


def _settings(engine: Engine, max_prompt_tokens: int) -> EngineSettings:
    # The published protocol has no retry.
    return EngineSettings.of(engine, max_prompt_tokens=max_prompt_tokens, retry_answer_tokens=0)


def _engines(engine: Engine, start: Callable[[], System]) -> chunk_pipeline.Pool:
    """Return the pool of a system that lives in its actors."""
    return engine_pool(engine, partial(_predictor, start))


def _predictor(start: Callable[[], System]) -> Predictor:
    return Predictor.of(start())


def _asking(root: str, folder: Folder, system: ChatSystem, chunks: dict[str, int]) -> chunk_pipeline.Pool:
    """Return the pool that asks a server: no reply is paid for twice, whatever run paid."""
    section = f"evaluate.system.{folder.url.rsplit('/', 1)[-1]}"
    teacher = Teacher(
        model=system.model,
        prompt=PROMPT,
        temperature=system.temperature,
        max_reply_tokens=system.max_reply_tokens,
        usd_per_million_in=system.usd_per_million_in,
        usd_per_million_out=system.usd_per_million_out,
    )
    return teacher_pool(
        folder,
        teacher,
        server_actors(teacher, teacher_settings.server_of(system, section), system.actors, chunks),
        partial(_chat, system.instruction),
        limits=teacher_settings.limits_of(system, section),
        cache=teacher_settings.cache_folder(system.cache, root),
    )


def _chat(instruction: str, teacher: CachedTeacher) -> Predictor:
    return Predictor.of(Chat(teacher, INSTRUCTIONS[instruction]))
