"""Templates whose answers are JSON: lists of mentions, or objects of such lists."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from uniner.labels import has_surrogate
from uniner.templates.interface import Mentions, ParsedAnswer, Spans


@dataclass(frozen=True)
class SingleTypeTemplate:
    """A question per type, answered by a JSON list of mentions: the best template in the paper.

    The templates `type` and `definition`; in the latter a type is a sentence that defines it.
    """

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Return a group per type."""
        return [(type_name,) for type_name in types]

    def question(self, types: Sequence[str]) -> str:
        """Return the published question."""
        (type_name,) = types
        return f"What describes {type_name} in the text?"

    def types_of(self, question: str) -> tuple[str, ...] | None:
        """Return the question's type."""
        type_name = question.removeprefix("What describes ").removesuffix(" in the text?")
        return (type_name,) if question == self.question([type_name]) else None

    def render(
        self,
        passage: str,  # noqa: ARG002
        answers: Mentions,
        spans: Spans | None = None,  # noqa: ARG002
    ) -> list[tuple[str, str]]:
        """Return a question-answer pair per type."""
        return [(self.question([name]), to_json(list(mentions))) for name, mentions in answers.items()]

    def parse(self, types: Sequence[str], answer: str, passage: str) -> ParsedAnswer | None:  # noqa: ARG002
        """Parse a JSON list of strings."""
        (type_name,) = types
        mentions = strings_of(from_json(answer))
        return None if mentions is None else ParsedAnswer({type_name: mentions})

    def unheld(self, passage: str, answers: Mentions, spans: Spans | None = None) -> dict[str, int]:  # noqa: ARG002
        """Return nothing: JSON holds any mention."""
        return {}

    def empty_answer(self, passage: str) -> str | None:  # noqa: ARG002
        """Return None: the answer lists mentions alone."""
        return None

    def conflicts(self, mentions: Mentions) -> dict[str, tuple[str, ...]]:  # noqa: ARG002
        """Return none: a mention may have several types, each from its own question."""
        return {}


@dataclass(frozen=True)
class MultiTypeTemplate:
    """Several types per question, answered by a JSON object of the types that have mentions.

    `grouped` asks for group_types types per question. Its questions are independent, so one more question
    settles a mention that got types from several. `all_in_one` asks for all types at once (group_types =
    None). The paper compares with all types in one question but never released the wording
    (universal-ner#7): this wording, and that of the settling question, is ours.
    """

    group_types: int | None = None

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Return groups of at most group_types types."""
        size = self.group_types or max(1, len(types))
        return [tuple(types[start : start + size]) for start in range(0, len(types), size)]

    def question(self, types: Sequence[str]) -> str:
        """Return the question, with the types as a JSON list."""
        return f"What describes each of these in the text? {to_json(list(types))}"

    def types_of(self, question: str) -> tuple[str, ...] | None:
        """Return the question's types."""
        types = strings_of(from_json(question.removeprefix("What describes each of these in the text? ")))
        return types if types and question == self.question(types) else None

    def render(
        self,
        passage: str,  # noqa: ARG002
        answers: Mentions,
        spans: Spans | None = None,  # noqa: ARG002
    ) -> list[tuple[str, str]]:
        """Return a pair per group; with several groups also a settling question about one mention."""
        groups = self.groups(list(answers))
        pairs = [
            (self.question(group), to_json({name: list(answers[name]) for name in group if answers[name]}))
            for group in groups
        ]
        if len(groups) > 1 and (example := _settling_example(groups, answers)):
            mention, types = example
            true_types = [name for name in types if mention in answers[name]]
            pairs.append((settling_question(mention, types), to_json(true_types)))
        return pairs

    def parse(self, types: Sequence[str], answer: str, passage: str) -> ParsedAnswer | None:  # noqa: ARG002
        """Parse a JSON object of types to lists of strings; a type that was not asked for breaks it."""
        value = from_json(answer)
        if not isinstance(value, dict) or not value.keys() <= set(types):
            return None
        mentions = {name: strings_of(texts) for name, texts in value.items()}
        broken = None in mentions.values()
        return None if broken else ParsedAnswer({name: mentions.get(name) or () for name in types})

    def unheld(self, passage: str, answers: Mentions, spans: Spans | None = None) -> dict[str, int]:  # noqa: ARG002
        """Return nothing: JSON holds any mention."""
        return {}

    def empty_answer(self, passage: str) -> str | None:  # noqa: ARG002
        """Return None: the answer lists mentions alone."""
        return None

    def conflicts(self, mentions: Mentions) -> dict[str, tuple[str, ...]]:
        """Return the mentions with types from several questions."""
        groups = self.groups(list(mentions))
        group_of = {name: number for number, group in enumerate(groups) for name in group}
        types_of: dict[str, list[str]] = {}
        for name, texts in mentions.items():
            for mention in texts:
                types_of.setdefault(mention, []).append(name)
        return {
            mention: tuple(types)
            for mention, types in types_of.items()
            if len({group_of[name] for name in types}) > 1
        }


def settling_question(mention: str, types: Sequence[str]) -> str:
    """Return the question which of these types a mention has."""
    return f"Which of these describe {to_json(mention)} in the text? {to_json(list(types))}"


def parse_settling_answer(types: Sequence[str], answer: str) -> tuple[str, ...] | None:
    """Parse the answer to a settling question: a JSON list of the mention's types; None if it is broken."""
    true_types = strings_of(from_json(answer))
    return true_types if true_types is not None and set(true_types) <= set(types) else None


def _settling_example(
    groups: Sequence[Sequence[str]], answers: Mentions
) -> tuple[str, tuple[str, ...]] | None:
    """Return the first mention, with its types and the first type of another group that it does not have."""
    for group in groups:
        for name in group:
            for mention in answers[name]:
                true_types = {other for other in answers if mention in answers[other]}
                false_types = [other for other in answers if other not in group and other not in true_types]
                kept = {*true_types, *false_types[:1]}
                return mention, tuple(other for other in answers if other in kept)
    return None


SINGLE_TYPE = SingleTypeTemplate()


def to_json(value: Any) -> str:
    """Return JSON, with letters as they are."""
    return json.dumps(value, ensure_ascii=False)


def from_json(answer: str) -> Any:
    """Parse JSON; None if it is invalid or repeats a key."""
    try:
        return json.loads(answer, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        return None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("repeated key")
    return dict(pairs)


def strings_of(value: Any) -> tuple[str, ...] | None:
    """Return the distinct strings of a list that has nothing else; None of any other value."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return None
    if any(map(has_surrogate, value)):
        return None  # a lone surrogate: JSON can escape it, but no file can store it
    return tuple(dict.fromkeys(value))
