"""A passage's type questions put to an engine, and what their answers are worth. No Ray, no config."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from uniner.inference.engine import Answer, Engine
from uniner.inference.mention_scores import mention_scores
from uniner.templates import Renderer, Template, parse_settling_answer, settling_question

Questions = Sequence[tuple[str, Sequence[str]]]
"""Passages, each with the types that it is asked for."""


class Answers(Protocol):
    """What an asker needs of an engine."""

    tokenizer: Any
    max_prompt_tokens: int

    def admitted(self, questions: int) -> AbstractAsyncContextManager[None]:
        """Wait until there is room for so many questions."""
        ...

    async def ask(self, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        """Answer prompts, in their order."""
        ...


@dataclass(frozen=True)
class Reply:
    """What was said of a type.

    outcome: ok; unparseable (not of the template's form); too_long (cut at the limit); overlong (the prompt
    leaves no room for an answer: never sent). scores: the mentions of an ok answer, else none, and how sure
    the model is of each, 0 to 1; a system that cannot tell has them in `unscored`. text: the question's whole
    answer, which the types of a group share. spans: where they stand, start and end, of a system that tells.
    """

    type: str
    outcome: str
    scores: Mapping[str, float]
    text: str = ""
    unscored: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def mentions(self) -> tuple[str, ...]:
        """The mentions, in the order of the answer."""
        return tuple(self.scores) or self.unscored


@dataclass(frozen=True)
class Asked:
    """A passage's replies, one a type in the order asked, and the counts of what that took.

    figures: questions that were sent, their prompt_tokens, of these the cached_tokens that were not computed,
    answer_tokens; retried, the answers that were cut at first and had a second try; settled and unsettled,
    the mentions that the template settled or could not.
    """

    replies: tuple[Reply, ...]
    figures: dict[str, float]


def judge(template: Template, types: Sequence[str], answer: Answer | None) -> list[Reply]:
    """Say what the answer to a group of types is worth; None is a question that was not sent."""
    if answer is None:
        return [Reply(type_name, "overlong", {}) for type_name in types]
    found = template.parse(types, answer.text) if answer.finish != "length" else None
    if found is None:
        outcome = "too_long" if answer.finish == "length" else "unparseable"
        return [Reply(type_name, outcome, {}, answer.text) for type_name in types]
    told = mention_scores(answer.pieces)
    by_type = any(type_name is not None for type_name, _ in told)  # else the answer is of one type
    return [
        Reply(
            type_name,
            "ok",
            {mention: told[type_name if by_type else None, mention] for mention in mentions},
            answer.text,
        )
        for type_name, mentions in found.items()
    ]


class Asker:
    """Asks an engine about passages; of a chunk's passages as many at once as the engine has room for."""

    def __init__(self, engine: Answers, template: Template):
        self._engine, self._template = engine, template
        self._renderer = Renderer(engine.tokenizer)

    async def ask(self, passage: str, types: Sequence[str]) -> Asked:
        """Ask about a passage: all its questions together, then those that settle conflicts between them."""
        figures: Counter[str] = Counter()
        groups = self._template.groups(types)
        answers = await self._put(passage, [self._template.question(group) for group in groups], figures)
        replies = [
            reply
            for group, answer in zip(groups, answers, strict=True)
            for reply in judge(self._template, group, answer)
        ]
        conflicts = self._template.conflicts({reply.type: reply.mentions for reply in replies})
        if conflicts:
            questions = [settling_question(mention, held) for mention, held in conflicts.items()]
            settled = await self._put(passage, questions, figures)
            for (mention, held), answer in zip(conflicts.items(), settled, strict=True):
                ended = answer is not None and answer.finish != "length"
                holding = parse_settling_answer(held, answer.text) if answer and ended else None
                figures["unsettled" if holding is None else "settled"] += 1
                if holding is not None:
                    gone = set(held) - set(holding)
                    replies = [_without(mention, reply) if reply.type in gone else reply for reply in replies]
        return Asked(tuple(replies), dict(figures))

    async def _put(
        self, passage: str, questions: Sequence[str], figures: Counter[str]
    ) -> list[Answer | None]:
        """Put a passage's questions, all together, and count them; None for one that is too long."""
        return await put(
            self._engine, len(questions), lambda: self._renderer.prompts(passage, questions), figures
        )

    async def ask_all(self, questions: Questions) -> list[Asked]:
        """Ask about many (passage, types), in order."""
        return await ask_together(self.ask, questions)


async def ask_together(
    ask: Callable[[str, Sequence[str]], Coroutine[Any, Any, Asked]], questions: Questions
) -> list[Asked]:
    """Ask about many (passage, types), all beside each other. Returns what was said, in order."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(passage, types)) for passage, types in questions]
    return [task.result() for task in tasks]


async def put(
    engine: Answers, questions: int, render: Callable[[], Sequence[Sequence[int]]], figures: Counter[str]
) -> list[Answer | None]:
    """Put a passage's questions, all together, and count them; None for one that is too long."""
    async with engine.admitted(questions):
        prompts = render()  # only now: a chunk's passages are not all held as token ids at once
        fits = [len(prompt) <= engine.max_prompt_tokens for prompt in prompts]
        sent = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
        answers = await engine.ask(sent) if sent else []
    figures["questions"] += len(sent)
    figures["prompt_tokens"] += sum(map(len, sent))
    figures["cached_tokens"] += sum(answer.cached for answer in answers)
    figures["answer_tokens"] += sum(answer.tokens for answer in answers)
    figures["retried"] += sum(answer.retried for answer in answers)
    come = iter(answers)
    return [next(come) if fit else None for fit in fits]


def _without(mention: str, reply: Reply) -> Reply:
    return replace(reply, scores={each: score for each, score in reply.scores.items() if each != mention})


def start(model: str, template: Template, **settings: Any) -> Asker:
    """Start an engine on a model (folder, s3:// address or hub name) with `Engine`'s settings."""
    from uniner.storage.model_folders import local_model

    return Asker(Engine(local_model(model), **settings), template)
