"""The actor pool of each kind of system, and the worker that turns questions into predictions."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

from uniner.config.schema import Config, Engine
from uniner.config.systems import (
    ChatSystem,
    GlinerSystem,
    InstructedSystem,
    InstructUIESystem,
    TemplateSystem,
)
from uniner.evaluate.systems import NerSystem, instructed
from uniner.evaluate.systems.bert import BertTagger
from uniner.evaluate.systems.chat import PROMPT, ChatModel
from uniner.evaluate.systems.gliner import GlinerTagger
from uniner.evaluate.systems.instructions import INSTRUCTIONS
from uniner.evaluate.systems.instructuie import InstructUIEModel
from uniner.evaluate.systems_registry import SystemSpec, annotate_settings
from uniner.inference.questions import TypeAnswer
from uniner.records import PREDICTION, QUESTION, Prediction, Question, Span, from_table, to_table
from uniner.runtime import chunk_pipeline
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import Chunk, merge
from uniner.tag.stage import engine_settings
from uniner.tag.stage import pool as engine_pool
from uniner.teacher import settings as asking
from uniner.teacher.pools import pool as asking_pool
from uniner.teacher.replies import Replies
from uniner.templates import Template

_CACHED_MODELS = 2


class Predictor:
    """Answers a chunk's questions. The questions of a passage are asked together."""

    def __init__(self, system_of: Callable[[str], NerSystem]):
        """`system_of` returns the system for a data set. A chunk has questions of one data set."""
        self._system_of = system_of

    @classmethod
    def of(cls, system: NerSystem) -> "Predictor":
        """Return a predictor with the same system for every data set."""
        return cls(lambda _: system)

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Answer the questions in order. The questions of a passage must follow one another."""
        rows = from_table(chunk.table.select(QUESTION.names), Question)
        passages = [list(group) for _, group in groupby(rows, key=lambda question: question.passage_id)]
        if not passages:
            return Chunk(chunk.key, to_table([], PREDICTION))
        answers = await self._system_of(rows[0].dataset).ask_all(
            [(passage[0].text, [question.type for question in passage]) for passage in passages]
        )
        replies = [reply for answer in answers for reply in answer.replies]
        predictions = [_prediction(question, reply) for question, reply in zip(rows, replies, strict=True)]
        figures = merge([answer.figures for answer in answers])
        return Chunk(chunk.key, to_table(predictions, PREDICTION), figures=figures)

    def set_aside(self, chunk: Chunk, reason: str) -> Chunk:
        """Return the chunk of questions that crash the engine: no answers, and rejects with the reason."""
        rows = from_table(chunk.table.select(QUESTION.names), Question)
        predictions = [_prediction(question, TypeAnswer(question.type, "poison", {})) for question in rows]
        rejects = [
            {"passage_id": question.passage_id, "type": question.type, "reason": reason} for question in rows
        ]
        return Chunk(chunk.key, to_table(predictions, PREDICTION), rejects=rejects)


def _prediction(question: Question, reply: TypeAnswer) -> Prediction:
    return Prediction(
        dataset=question.dataset,
        passage_id=question.passage_id,
        text=question.text,
        type=question.type,
        reply=reply.text,
        predicted=reply.mentions,
        gold=question.gold,
        gold_spans=question.gold_spans,
        outcome=reply.outcome,
        scores=tuple(reply.scores.values()),
        spans=tuple(Span(start=start, end=end) for start, end in reply.spans),
    )


def model_pool(system: SystemSpec, trained_models: Mapping[str, str]) -> chunk_pipeline.Pool:
    """Return the actor pool of a system whose model runs in the actors.

    trained_models: the addresses of the models trained for this system, by data set.
    """
    settings, engine, model = system.settings, system.engine, system.model
    if isinstance(settings, TemplateSystem):
        make = partial(make_predictor, model, system.template())
        return engine_pool(partial(make, _engine_settings(engine, system.student.max_tokens)), engine)
    if isinstance(settings, InstructedSystem):
        instruction = INSTRUCTIONS[settings.instruction]
        start: Callable[[], NerSystem] = partial(
            instructed.start,
            model,
            settings.kind,
            instruction,
            **_engine_settings(engine, settings.max_prompt_tokens),
        )
        return engine_pool(partial(_start_predictor, start), engine)
    on_gpu = engine.gpus > 0
    if isinstance(settings, InstructUIESystem):
        limits = (settings.max_prompt_tokens, engine.max_answer_tokens, settings.batch_passages)
        start = partial(InstructUIEModel, model, *limits, on_gpu, engine.dtype)
        return engine_pool(partial(_start_predictor, start), engine)
    if isinstance(settings, GlinerSystem):
        start = partial(GlinerTagger, model, settings.threshold, settings.batch_passages, on_gpu)
        pool = engine_pool(partial(_start_predictor, start), engine)
        return replace(pool, runtime_env=_runtime_env(settings))
    assert not isinstance(settings, ChatSystem), "a chat model does not run in the actors"
    return engine_pool(partial(_trained_predictor, dict(trained_models), settings.max_tokens, on_gpu), engine)


def chat_pool(
    config: Config, folder: Folder, settings: ChatSystem, chunks: dict[str, int]
) -> chunk_pipeline.Pool:
    """Return the actor pool of a chat model on a server. A reply that any run has paid for is reused.

    folder: the system's. chunks: number of questions by chunk key.
    """
    config = config.model_copy(update={"annotate": annotate_settings(settings)})
    section = f"evaluate.system.{folder.url.rsplit('/', 1)[-1]}"
    teacher = replace(asking.teacher_of(config, settings.base_url), prompt=PROMPT, section=section)
    make = partial(_chat_predictor, settings.instruction)
    return asking_pool(config, folder, teacher, asking.api_key(config.annotate), make, chunks)


def make_predictor(model: str, template: Template, settings: dict[str, Any]) -> Predictor:
    """Start an engine in this process and return the worker that asks it."""
    return Predictor.of(start_asker(model, template, settings))


def _engine_settings(engine: Engine, max_tokens: int) -> dict[str, Any]:
    # The published protocol has no second try.
    return {**engine_settings(engine, max_tokens), "retry_answer_tokens": 0}


def _runtime_env(settings: GlinerSystem) -> dict[str, Any] | None:
    if settings.python:
        return {"py_executable": settings.python}
    return {"pip": settings.pip} if settings.pip else None


def _start_predictor(start: Callable[[], NerSystem]) -> Predictor:
    return Predictor.of(start())


def _chat_predictor(instruction: str, replies: Replies) -> Predictor:
    return Predictor.of(ChatModel(replies, INSTRUCTIONS[instruction]))


def _trained_predictor(models: dict[str, str], max_tokens: int, on_gpu: bool) -> Predictor:
    """Return a predictor with one model for each data set; the last few used stay in memory."""

    @lru_cache(maxsize=_CACHED_MODELS)
    def system_of(dataset: str) -> BertTagger:
        return BertTagger(models[dataset], max_tokens, on_gpu)

    return Predictor(system_of)
