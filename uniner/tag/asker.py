"""A passage's type questions put to an engine, and what their answers are worth. No Ray, no config."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from uniner.tag.engine import Answer, Engine
from uniner.templates import Renderer, parse_answer


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
    """The answer to a type's question, judged.

    outcome: ok; unparseable (no JSON list of strings); too_long (cut at the limit); overlong (the prompt
    leaves no room for an answer: never sent). mentions are those of an ok answer, else none.
    """

    type: str
    outcome: str
    mentions: tuple[str, ...]
    text: str = ""
    score: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0


def judge(type_name: str, prompt_tokens: int, answer: Answer | None) -> Reply:
    """Say what an answer is worth; None is a question that was not sent."""
    if answer is None:
        return Reply(type_name, "overlong", ())
    mentions = parse_answer(answer.text)
    outcome = "unparseable" if mentions is None else "ok"
    if answer.finish == "length":
        outcome = "too_long"
    return Reply(
        type_name,
        outcome,
        mentions if mentions and outcome == "ok" else (),
        answer.text,
        answer.score,
        prompt_tokens,
        answer.cached,
        answer.tokens,
    )


def figures(replies: Sequence[Reply]) -> dict[str, float]:
    """Count the questions that were sent and their tokens; cached_tokens are prompt tokens not computed."""
    sent = [reply for reply in replies if reply.outcome != "overlong"]
    return {
        "questions": len(sent),
        "prompt_tokens": sum(reply.prompt_tokens for reply in sent),
        "cached_tokens": sum(reply.cached_tokens for reply in sent),
        "answer_tokens": sum(reply.answer_tokens for reply in sent),
    }


class Asker:
    """Asks an engine about passages; of a chunk's passages as many at once as the engine has room for."""

    def __init__(self, engine: Answers):
        self._engine = engine
        self._renderer = Renderer(engine.tokenizer)

    async def ask(self, passage: str, types: Sequence[str]) -> list[Reply]:
        """Put a passage's questions, all together; a reply a type, in order."""
        async with self._engine.admitted(len(types)):
            # Rendered only now: a chunk's passages are not all held as token ids at once.
            prompts = self._renderer.prompts(passage, types)
            fits = [len(prompt) <= self._engine.max_prompt_tokens for prompt in prompts]
            sent = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
            answers = iter(await self._engine.ask(sent) if sent else [])
        return [
            judge(type_name, len(prompt), next(answers) if fit else None)
            for type_name, prompt, fit in zip(types, prompts, fits, strict=True)
        ]

    async def ask_all(self, questions: Sequence[tuple[str, Sequence[str]]]) -> list[list[Reply]]:
        """Put the questions of many (passage, types); a list of replies a passage, in order."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.ask(passage, types)) for passage, types in questions]
        return [task.result() for task in tasks]


def start(model: str, **settings: Any) -> Asker:
    """Start an engine on a model (folder, s3:// address or hub name) with `Engine`'s settings."""
    from uniner.student import local_model

    return Asker(Engine(local_model(model), **settings))
