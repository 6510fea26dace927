"""A passage's type questions, asked together, and what their answers say."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, TypeVar

from uniner.inference.engine import Engine, EngineAnswer, EngineSettings
from uniner.inference.mention_scores import mention_scores, text_probability
from uniner.overlaps import settle
from uniner.runtime.work_count import expect_work, work_done
from uniner.templates import (
    AnswerSize,
    ParsedAnswer,
    Renderer,
    Template,
    parse_settling_answer,
    settling_question,
)

Item = TypeVar("Item")
Done = TypeVar("Done")
Questions = Sequence[tuple[str, Sequence[str]]]
"""Passages, each with the types to ask for."""


class EngineProtocol(Protocol):
    """What a question asker needs of an engine."""

    tokenizer: Any
    max_prompt_tokens: int
    window: int

    def admitted(self, questions: int) -> AbstractAsyncContextManager[None]:
        """Wait until there is room for this many questions."""
        ...

    async def ask(
        self, prompts: Sequence[Sequence[int]], *, answer_limit: int | None = None
    ) -> list[EngineAnswer]:
        """Answer prompts, in their order. answer_limit: tokens of the longest answer, if not as always."""
        ...


@dataclass(frozen=True)
class TypeAnswer:
    """The answer for one type of a passage.

    outcome: ok; unparseable (not of the template's form); too_long (cut at the limit); overlong (the prompt
    leaves no room for an answer and is never sent). scores: the mentions of an ok answer and the model's
    confidence in each, 0 to 1; a system without scores lists its mentions in `unscored`. text: the whole
    answer to the question, which the types of a group share. spans: start and end of each mention, from a
    system that gives them; span_scores: the score of each span, from one that scores them one by one.
    """

    type: str
    outcome: str
    scores: Mapping[str, float]
    text: str = ""
    unscored: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    span_scores: tuple[float, ...] = ()

    @property
    def mentions(self) -> tuple[str, ...]:
        """The mentions, in the order of the answer."""
        return tuple(self.scores) or self.unscored


@dataclass(frozen=True)
class PassageAnswers:
    """A passage's answers, one for each type in the order asked, and counts of the work.

    figures: questions sent, their prompt_tokens, the cached_tokens among these, answer_tokens; retried,
    answers that were cut and continued; settled and unsettled, mentions whose conflicting types a further
    question could or could not settle; of an unsettled one the types with the highest score stay;
    unread_words, about which an answer that repeats the passage says nothing.
    """

    answers: tuple[TypeAnswer, ...]
    figures: dict[str, float]


def parse_answer(
    template: Template,
    types: Sequence[str],
    answer: EngineAnswer | None,
    passage: str,
    figures: Counter[str] | None = None,
) -> list[TypeAnswer]:
    """Read the answer to a question for these types; None is a question that was not sent."""
    if answer is None:
        return [TypeAnswer(type_name, "overlong", {}) for type_name in types]
    parsed = template.parse(types, answer.text, passage) if answer.finish != "length" else None
    if parsed is None:
        outcome = "too_long" if answer.finish == "length" else "unparseable"
        return [TypeAnswer(type_name, outcome, {}, answer.text) for type_name in types]
    if figures is not None and parsed.unread:
        figures["unread_words"] += parsed.unread
    if parsed.spans is not None:
        return _placed_answers(passage, parsed, answer)
    scores = mention_scores(answer.pieces)
    names_types = any(type_name is not None for type_name, _ in scores)  # else the question has one type
    return [
        TypeAnswer(
            type_name,
            "ok",
            {mention: scores[type_name if names_types else None, mention] for mention in mentions},
            answer.text,
        )
        for type_name, mentions in parsed.mentions.items()
    ]


def _placed_answers(passage: str, parsed: ParsedAnswer, answer: EngineAnswer) -> list[TypeAnswer]:
    """Return the answers for the types of an answer that says where each mention is."""
    score = text_probability(answer.pieces)
    return [
        _placed_answer(
            passage,
            name,
            answer.text,
            [_PlacedSpan(each.start, each.end, score(each.evidence)) for each in spans],
        )
        for name, spans in (parsed.spans or {}).items()
    ]


@dataclass(frozen=True)
class _PlacedSpan:
    start: int
    end: int
    score: float


def _placed_answer(passage: str, name: str, text: str, spans: Sequence[_PlacedSpan]) -> TypeAnswer:
    """Return the answer for a type. A mention has the score of its best place."""
    scores: dict[str, float] = {}
    for span in spans:
        mention = passage[span.start : span.end]
        scores[mention] = max(scores.get(mention, 0.0), span.score)
    places = tuple((span.start, span.end) for span in spans)
    return TypeAnswer(name, "ok", scores, text, (), places, tuple(span.score for span in spans))


def settle_places(
    passage: str, answers: Sequence[TypeAnswer], groups: Sequence[Sequence[str]]
) -> list[TypeAnswer]:
    """Settle places that answers to several questions give: of those that overlap the surest stays.

    Of equally sure ones the longer stays, then the first in the text, then that of the type asked first.
    Within an answer, and where no answer has places, there is nothing to settle.
    """
    if len(groups) < 2 or not any(answer.span_scores for answer in answers):
        return list(answers)
    spans = [
        _PlacedSpan(start, end, score)
        for answer in answers
        for (start, end), score in zip(answer.spans, answer.span_scores, strict=True)
    ]
    ordered = sorted(spans, key=lambda span: (span.start - span.end, span.start))
    kept = set(map(id, settle(ordered, "flat")))
    left = iter(spans)
    settled = []
    for answer in answers:
        own = [span for span in islice(left, len(answer.spans)) if id(span) in kept]
        settled.append(_placed_answer(passage, answer.type, answer.text, own) if answer.spans else answer)
    return settled


class QuestionAsker:
    """Asks an engine about passages, as many of a chunk at once as the engine has room for."""

    def __init__(self, engine: EngineProtocol, template: Template):
        self._engine, self._template = engine, template
        self._renderer = Renderer(engine.tokenizer)
        self.tokenizer, self.max_prompt_tokens = engine.tokenizer, engine.max_prompt_tokens

    async def ask(self, passage: str, types: Sequence[str]) -> PassageAnswers:
        """Ask all questions of a passage together, then those that settle conflicts between their answers."""
        figures: Counter[str] = Counter()
        groups = self._template.groups(types)
        questions = [self._template.question(group) for group in groups]
        size = self._renderer.answer_size(self._template, passage)
        replies = await self._send(passage, questions, figures, size)
        answers = [
            answer
            for group, reply in zip(groups, replies, strict=True)
            for answer in parse_answer(self._template, group, reply, passage, figures)
        ]
        answers = settle_places(passage, answers, groups)
        conflicts = self._template.conflicts({answer.type: answer.mentions for answer in answers})
        if conflicts:
            questions = [settling_question(mention, types) for mention, types in conflicts.items()]
            replies = await self._send(passage, questions, figures)
            for (mention, claimed), reply in zip(conflicts.items(), replies, strict=True):
                complete = reply is not None and reply.finish != "length"
                right = parse_settling_answer(claimed, reply.text) if reply and complete else None
                figures["unsettled" if right is None else "settled"] += 1
                wrong = set(claimed) - set(_surest(mention, claimed, answers) if right is None else right)
                answers = [
                    _without(mention, answer) if answer.type in wrong else answer for answer in answers
                ]
        return PassageAnswers(tuple(answers), dict(figures))

    async def _send(
        self, passage: str, questions: Sequence[str], figures: Counter[str], size: AnswerSize | None = None
    ) -> list[EngineAnswer | None]:
        return await send_prompts(
            self._engine, len(questions), lambda: self._renderer.prompts(passage, questions), figures, size
        )

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Ask about many (passage, types). Returns the answers in order."""
        return await ask_concurrently(self.ask, questions)


async def ask_concurrently(
    ask: Callable[[str, Sequence[str]], Coroutine[Any, Any, PassageAnswers]], questions: Questions
) -> list[PassageAnswers]:
    """Ask about many (passage, types) concurrently. Returns the answers in order."""
    return await work_concurrently(lambda question: ask(*question), questions)


async def work_concurrently(
    work: Callable[[Item], Coroutine[Any, Any, Done]], items: Sequence[Item]
) -> list[Done]:
    """Work on many items concurrently, and count those that are done. Returns the results in order."""
    expect_work(len(items))

    async def work_and_count(item: Item) -> Done:
        done = await work(item)
        work_done()
        return done

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work_and_count(item)) for item in items]
    return [task.result() for task in tasks]


async def send_prompts(
    engine: EngineProtocol,
    questions: int,
    render: Callable[[], Sequence[Sequence[int]]],
    figures: Counter[str],
    size: AnswerSize | None = None,
) -> list[EngineAnswer | None]:
    """Send a passage's prompts together and count them in `figures`; None for a prompt that is too long.

    size: of the answers, where it grows with the passage. A prompt is too long too where the window has no
    room for such an answer.
    """
    async with engine.admitted(questions):
        prompts = render()  # only now, so that token ids exist only for admitted passages
        longest = engine.max_prompt_tokens
        if size:
            longest = min(longest, engine.window - size.usual)
        fits = [len(prompt) <= longest for prompt in prompts]
        sent = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
        limit = {"answer_limit": size.longest} if size else {}
        answers = await engine.ask(sent, **limit) if sent else []
    figures["questions"] += len(sent)
    figures["prompt_tokens"] += sum(map(len, sent))
    figures["cached_tokens"] += sum(answer.cached for answer in answers)
    figures["answer_tokens"] += sum(answer.tokens for answer in answers)
    figures["retried"] += sum(answer.retried for answer in answers)
    remaining = iter(answers)
    return [next(remaining) if fit else None for fit in fits]


def _surest(mention: str, claimed: Sequence[str], answers: Sequence[TypeAnswer]) -> list[str]:
    """Return the types in which a mention has its highest score; several where they are equal."""
    scores = {answer.type: answer.scores[mention] for answer in answers if answer.type in claimed}
    highest = max(scores.values())
    return [name for name, score in scores.items() if score == highest]


def _without(mention: str, answer: TypeAnswer) -> TypeAnswer:
    return replace(answer, scores={name: score for name, score in answer.scores.items() if name != mention})


def start_asker(model: str, template: Template, settings: EngineSettings) -> QuestionAsker:
    """Start an engine on a model (folder, s3:// address or hub name) and return its asker."""
    from uniner.storage.model_folders import local_model

    return QuestionAsker(Engine(local_model(model), settings), template)
