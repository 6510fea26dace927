"""The systems that evaluate compares, one module each, behind one interface: passages and types in, mentions
out."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from uniner.evaluate.systems.instructions import MentionsByType
from uniner.inference.questions import PassageAnswers, Questions, TypeAnswer

AnswerParser = Callable[[Sequence[str], str], MentionsByType | None]
"""Parses the answer to a question for types; None: the answer is broken."""


class NerSystem(Protocol):
    """A system that finds mentions of types in passages."""

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Answer each (passage, types), in order, with the mentions of each type."""
        ...


class InProcessSystem(ABC):
    """A model in this process. It answers one call at a time, in a thread beside the event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Answer each (passage, types), in order."""
        async with self._lock:
            return await asyncio.to_thread(self.answer, questions)

    @abstractmethod
    def answer(self, questions: Questions) -> list[PassageAnswers]:
        """Do the work of `ask_all` in the calling thread."""


class ScoredSpan(NamedTuple):
    """A mention found by a tagger: offsets into the passage, and the score."""

    start: int
    end: int
    score: float


def parse_replies(types: Sequence[str], answer: str, failure: str, parse: AnswerParser) -> list[TypeAnswer]:
    """Return the reply for each type that a question asked for.

    failure: the outcome of an answer that is not worth parsing; "": parse it.
    """
    mentions = None if failure else parse(types, answer)
    outcome = failure or ("unparseable" if mentions is None else "ok")
    return [TypeAnswer(name, outcome, {}, answer, mentions[name] if mentions else ()) for name in types]


def tagged_answer(passage: str, spans_by_type: Mapping[str, Sequence[ScoredSpan]]) -> PassageAnswers:
    """Return the answer of a system that tags spans. A mention's score is the highest of its spans."""
    replies = []
    for name, spans in spans_by_type.items():
        scores: dict[str, float] = {}
        for start, end, score in sorted(spans):
            mention = passage[start:end]
            scores[mention] = max(scores.get(mention, 0.0), score)
        places = tuple((start, end) for start, end, _ in sorted(spans))
        replies.append(TypeAnswer(name, "ok", scores, spans=places))
    return PassageAnswers(tuple(replies), {"questions": 1})
