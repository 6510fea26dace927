"""The actor pool of each kind of system, and the worker that turns questions into predictions."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

from uniner.config.systems import (
    BertSystem,
    ChatSystem,
    EncoderSystem,
    GlinerSystem,
    InstructedSystem,
    InstructUIESystem,
    TemplateSystem,
)
from uniner.evaluate.gold_questions import prediction
from uniner.evaluate.speeds import PASSAGES, SECONDS, BusyClock
from uniner.evaluate.systems import NerSystem, instructed
from uniner.evaluate.systems.bert import BertTagger
from uniner.evaluate.systems.chat import PROMPT, ChatModel
from uniner.evaluate.systems.gliner import GlinerTagger
from uniner.evaluate.systems.instructions import INSTRUCTIONS
from uniner.evaluate.systems.instructuie import InstructUIEModel
from uniner.evaluate.systems.windows import PromptedSystem, WindowedSystem
from uniner.evaluate.systems_registry import SystemSpec
from uniner.inference.encoder_settings import EncoderSettings, start_encoder
from uniner.inference.engine import EngineSettings
from uniner.inference.engine_pool import engine_pool
from uniner.inference.questions import TypeAnswer, start_asker
from uniner.records import PREDICTION, QUESTION, Question, from_table, to_table
from uniner.runtime.chunk_pipeline import Pool
from uniner.storage.manifest import merge
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.pools import teacher_pool
from uniner.teacher.settings import make_teacher, rate_limits, replay, reply_cache_folder, teacher_actors
from uniner.templates import Template

_CACHED_MODELS = 2


class Predictor:
    """Answers a chunk's questions. The questions of a passage are asked together."""

    def __init__(self, system_of: Callable[[str], NerSystem]):
        """`system_of` returns the system for a data set. A chunk has questions of one data set."""
        self._system_of, self._clock = system_of, BusyClock()

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
        system = self._system_of(rows[0].dataset)
        self._clock.begin()
        try:
            answers = await system.ask_all(
                [(passage[0].text, [question.type for question in passage]) for passage in passages]
            )
        finally:
            seconds = self._clock.end()
        replies = [reply for answer in answers for reply in answer.answers]
        predictions = [prediction(question, reply) for question, reply in zip(rows, replies, strict=True)]
        timed = {PASSAGES: len(passages), SECONDS: round(seconds, 6)}
        figures = merge([*(answer.figures for answer in answers), timed])
        return Chunk(chunk.key, to_table(predictions, PREDICTION), figures=figures)

    def set_aside(self, chunk: Chunk, reason: str) -> Chunk:
        """Return the chunk of questions that crash the engine: no answers, and rejects with the reason."""
        rows = from_table(chunk.table.select(QUESTION.names), Question)
        predictions = [prediction(question, TypeAnswer(question.type, "poison", {})) for question in rows]
        rejects = [
            {"passage_id": question.passage_id, "type": question.type, "reason": reason} for question in rows
        ]
        return Chunk(chunk.key, to_table(predictions, PREDICTION), rejects=rejects)


@contextlib.contextmanager
def system_pool(
    system: SystemSpec, folder: StageFolder, chunks: Mapping[str, int], models: Mapping[str, str], root: str
) -> Iterator[Pool]:
    """Yield the actor pool of a system.

    folder: the system's. chunks: number of questions by chunk key. models: addresses of the models that were
    trained for this system, by data set. root: run.root, for the reply cache.
    """
    settings = system.settings
    if not isinstance(settings, ChatSystem):
        yield _model_pool(system, models, sum(chunks.values()) / max(1, len(chunks)))
        return
    with (
        replay(settings.teacher) as recording_url,
        _chat_pool(settings, folder, chunks, root, recording_url) as pool,
    ):
        yield pool


def _model_pool(system: SystemSpec, trained_models: Mapping[str, str], chunk_questions: float) -> Pool:
    settings, engine, model = system.settings, system.engine, system.model
    on_gpu, environment = engine.gpus > 0, None
    make: Callable[[], Predictor]
    if isinstance(settings, TemplateSystem):
        limits = _engine_settings(system, system.student.max_tokens)
        make = partial(make_predictor, model, system.template(), limits)
    elif isinstance(settings, InstructedSystem):
        limits = _engine_settings(system, settings.max_prompt_tokens)
        instruction = INSTRUCTIONS[settings.instruction]
        make = partial(_start_windowed, instructed.start, model, settings.kind, instruction, limits)
    elif isinstance(settings, InstructUIESystem):
        sizes = (settings.max_prompt_tokens, engine.max_answer_tokens, settings.batch_passages)
        make = partial(_start_windowed, InstructUIEModel, model, *sizes, on_gpu, engine.dtype)
    elif isinstance(settings, EncoderSystem):
        counts = {name: getattr(settings, name) for name in ("types_per_pass", "overlaps")}
        encoder = EncoderSettings.of(engine, threshold=system.threshold(), **counts)
        make = partial(_start_predictor, start_encoder, model, encoder)
    elif isinstance(settings, GlinerSystem):
        threshold, batch = settings.threshold, settings.batch_passages
        make = partial(_start_predictor, GlinerTagger, model, threshold, batch, on_gpu)
        environment = _runtime_env(settings)
    else:
        assert isinstance(settings, BertSystem), "a chat model does not run in the actors"
        make = partial(_trained_predictor, dict(trained_models), settings.max_tokens, on_gpu)
    return replace(engine_pool(engine, make, chunk_questions), runtime_env=environment)


def _chat_pool(
    settings: ChatSystem, folder: StageFolder, chunks: Mapping[str, int], root: str, recording_url: str | None
) -> contextlib.AbstractContextManager[Pool]:
    """Return the actor pool of a chat model. A reply that any run has paid for is reused."""
    section, name = settings.teacher, f"evaluate.system.{folder.name}"
    longest, temperature = settings.max_reply_tokens, settings.temperature
    teacher = make_teacher(section, prompt=PROMPT, temperature=temperature, max_reply_tokens=longest)
    return teacher_pool(
        folder,
        teacher,
        teacher_actors(section, teacher, chunks, name=f"{name}.teacher", recording_url=recording_url),
        partial(_chat_predictor, settings.instruction),
        limits=rate_limits(section, settings.budget_usd, f"{name}.budget_usd"),
        cache=reply_cache_folder(section, root),
    )


def make_predictor(model: str, template: Template, settings: EngineSettings) -> Predictor:
    """Start an engine in this process and return the worker that asks it."""
    return Predictor.of(WindowedSystem(start_asker(model, template, settings)))


def _engine_settings(system: SystemSpec, max_prompt_tokens: int) -> EngineSettings:
    # The published protocol has no second try.
    return EngineSettings.of(system.engine, max_prompt_tokens=max_prompt_tokens, retry_answer_tokens=0)


def _runtime_env(settings: GlinerSystem) -> dict[str, Any] | None:
    if settings.python:
        return {"py_executable": settings.python}
    return {"pip": settings.pip} if settings.pip else None


def _start_predictor(start: Callable[..., NerSystem], *arguments: Any) -> Predictor:
    return Predictor.of(start(*arguments))


def _start_windowed(start: Callable[..., PromptedSystem], *arguments: Any) -> Predictor:
    return Predictor.of(WindowedSystem(start(*arguments)))


def _chat_predictor(instruction: str, teacher: CachedTeacher) -> Predictor:
    return Predictor.of(ChatModel(teacher, INSTRUCTIONS[instruction]))


def _trained_predictor(models: dict[str, str], max_tokens: int, on_gpu: bool) -> Predictor:
    """Return a predictor with one model for each data set; the last few used stay in memory."""

    @lru_cache(maxsize=_CACHED_MODELS)
    def system_of(dataset: str) -> BertTagger:
        return BertTagger(models[dataset], max_tokens, on_gpu)

    return Predictor(system_of)
