"""What a template is: the questions that ask a passage for types, and the form of their answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Offsets = tuple[int, int]
"""Start and end in a text; the end is exclusive."""
Mentions = Mapping[str, Sequence[str]]
"""Mentions by type."""
Spans = Mapping[str, Sequence[Offsets]]
"""Places of mentions in a passage by type."""


@dataclass(frozen=True)
class AnsweredSpan:
    """A place in a passage that an answer gives a type.

    evidence: the parts of the answer that say so; their probability is the span's.
    """

    start: int
    end: int
    evidence: tuple[Offsets, ...] = ()


@dataclass(frozen=True)
class ParsedAnswer:
    """What an answer says: the distinct mentions of each type that was asked for, in its order.

    spans: their places by type; None where the form of the answer has no places. unread: words of the passage
    about which the answer says nothing that can be read.
    """

    mentions: dict[str, tuple[str, ...]]
    spans: dict[str, tuple[AnsweredSpan, ...]] | None = field(default=None, compare=False)
    unread: int = 0


class Template(Protocol):
    """The questions that ask a passage for types, and the form of their answers."""

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Divide types, in order, into groups; one question asks for each group."""

    def question(self, types: Sequence[str]) -> str:
        """Return the question for a group of types."""

    def types_of(self, question: str) -> tuple[str, ...] | None:
        """Return the types that a question asks for; None if `question` did not make it."""

    def render(self, passage: str, answers: Mentions, spans: Spans | None = None) -> list[tuple[str, str]]:
        """Return question-answer pairs for all types of `answers`, in its order.

        spans: the places of the mentions, where they are known; unset: wherever they occur.
        """

    def unheld(self, passage: str, answers: Mentions, spans: Spans | None = None) -> dict[str, int]:
        """Count the mentions that the answers of `render` cannot hold, by reason."""

    def parse(self, types: Sequence[str], answer: str, passage: str) -> ParsedAnswer | None:
        """Parse the answer to the question for these types about a passage.

        None means a broken answer, () means no mentions: the two are never confused.
        """

    def empty_answer(self, passage: str) -> str | None:
        """Return the answer about a passage that has no mention, where answers grow with the passage.

        None means that they do not: any limit that holds mentions holds an answer.
        """

    def conflicts(self, mentions: Mentions) -> dict[str, tuple[str, ...]]:
        """Return mentions that got types from several questions, with these types; a question settles each.

        mentions: all types that were asked for, in order.
        """
