"""What answers evaluate's questions, a module a system, all behind one interface: passages and types in,
mentions out."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from uniner.evaluate.systems.instructions import Found
from uniner.inference.questions import PassageAnswers, Questions, TypeAnswer

Parse = Callable[[Sequence[str], str], Found | None]
"""Reads the answer to a question for types; None is one that says nothing of them."""


class System(Protocol):
    """What a predictor asks."""

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Say of each (passage, types), in order, what mentions of each type it has."""
        ...


class InProcess(ABC):
    """A model in this process: it answers one call after another, beside the event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Ask about many (passage, types), in order."""
        async with self._turn:
            return await asyncio.to_thread(self.answer, questions)

    @abstractmethod
    def answer(self, questions: Questions) -> list[PassageAnswers]:
        """Do what `ask_all` does, in the calling thread."""


def judged(types: Sequence[str], answer: str, failed: str, parse: Parse) -> list[TypeAnswer]:
    """Say what the answer to a question for these types is worth, each type's reply.

    failed: the outcome of an answer that is not worth reading; "" of one that is.
    """
    found = None if failed else parse(types, answer)
    outcome = failed or ("unparseable" if found is None else "ok")
    return [TypeAnswer(name, outcome, {}, answer, found[name] if found else ()) for name in types]


def located(passage: str, found: Mapping[str, Sequence[tuple[int, int, float]]]) -> PassageAnswers:
    """Return the answer of a system that labels a passage: of each type where its mentions stand, and the
    score of each; of a mention that stands twice the higher one counts."""
    replies = []
    for name, spans in found.items():
        scores: dict[str, float] = {}
        for start, end, score in sorted(spans):
            mention = passage[start:end]
            scores[mention] = max(scores.get(mention, 0.0), score)
        places = tuple((start, end) for start, end, _ in sorted(spans))
        replies.append(TypeAnswer(name, "ok", scores, spans=places))
    return PassageAnswers(tuple(replies), {"questions": 1})
