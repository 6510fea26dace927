"""How models that follow instructions are asked for entities in plain words, and how answers are parsed."""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from uniner.labels import has_surrogate

MentionsByType = dict[str, tuple[str, ...]]
_NO_MENTION = {"", "none", "n/a", "null", "[]", "-"}
_LIST = re.compile(r"\[.*\]", re.DOTALL)


class Instruction(Protocol):
    """A way to ask about a passage."""

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Divide types, in order, into those that one question asks for."""
        ...

    def text(self, passage: str, types: Sequence[str]) -> str:
        """Return the question for a group of types."""
        ...

    def parse(self, types: Sequence[str], answer: str) -> MentionsByType | None:
        """Parse an answer: the mentions of each type. None: broken; (): no mention of the type."""
        ...


class PublishedInstruction:
    """The prompt behind the published rows of ChatGPT and Vicuna: that of Ye et al. (2023), as GLiNER's paper
    prints it for the four types of CoNLL (appendix A.2); all types in one question.

    For other numbers of types the order of the examples is ours: the last two types have one.
    """

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Ask for all types together."""
        return [tuple(types)] if types else []

    def text(self, passage: str, types: Sequence[str]) -> str:
        """Return the question, with "and" before the last type."""
        *most, last = types
        names = f"{', '.join(most)}{',' if len(most) > 1 else ''} and {last}" if most else last
        examples = ["None"] * len(types)
        examples[-2:] = ["Word1, Word2", "Word3"][-len(types) :]
        form = " | ".join(f"{name}: {words}" for name, words in zip(types, examples, strict=True))
        return (
            f"Please identify {names} Entity from the given text, output using the format as:\n\n"
            f"Entity: {form}\n\nText: {passage}\n\nEntity:"
        )

    def parse(self, types: Sequence[str], answer: str) -> MentionsByType | None:
        """Parse `Type: word, word | Type: None`, also one type a line. Other types are ignored.

        An answer without any of the types is broken, unless it is "None".
        """
        return parse_labelled(types, re.split(r"[|\n]", answer), separator=",")


def parse_labelled(
    types: Sequence[str], parts: Sequence[str], separator: str | None = None
) -> MentionsByType | None:
    """Parse parts of the form `type: mention`. separator: between the mentions of a part."""
    by_length = sorted(types, key=len, reverse=True)
    names = "|".join(f"({re.escape(name)})" for name in by_length)
    label = re.compile(rf"\W*(?:entity\s*:\s*)?(?:{names})\W*?:(?P<mentions>.*)", re.IGNORECASE | re.DOTALL)
    found: dict[str, list[str]] = {name: [] for name in types}
    matches = [match for part in parts if (match := label.fullmatch(part))]
    if not matches:
        whole = " ".join(parts).strip().rstrip(".").casefold().removeprefix("entity:").strip()
        return dict.fromkeys(types, ()) if whole in _NO_MENTION - {""} else None
    for match in matches:
        texts = match["mentions"].split(separator) if separator else [match["mentions"]]
        mentions = [text.strip(" \t\r\n\"'`*[]") for text in texts]
        name = next(name for name, group in zip(by_length, match.groups(), strict=False) if group)
        found[name] += [
            mention for mention in mentions if mention.casefold().strip(" .()") not in _NO_MENTION
        ]
    return {name: tuple(dict.fromkeys(mentions)) for name, mentions in found.items()}


class JsonListInstruction:
    """One question for each type, answered by a JSON list. The wording is ours. The text comes first, so that
    the questions of a passage share a prefix."""

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Ask for each type in a question of its own."""
        return [(type_name,) for type_name in types]

    def text(self, passage: str, types: Sequence[str]) -> str:
        """Return the question."""
        (type_name,) = types
        return (
            f'Text: {passage}\n\nList every mention of the entity type "{type_name}" in this text, word for '
            "word as it is written there. Answer with a JSON list of strings and nothing else, [] if there "
            "is none."
        )

    def parse(self, types: Sequence[str], answer: str) -> MentionsByType | None:
        """Parse the first list of strings in an answer, in JSON's or Python's notation."""
        (type_name,) = types
        mentions = _first_list(answer)
        return None if mentions is None else {type_name: tuple(dict.fromkeys(mentions))}


def _first_list(answer: str) -> list[str] | None:
    decoder = json.JSONDecoder()
    for place in (match.start() for match in re.finditer(r"\[", answer)):
        try:
            value: Any = decoder.raw_decode(answer, place)[0]
        except (ValueError, RecursionError):
            continue
        if _are_strings(value):
            return value
    match = _LIST.search(answer)
    try:
        value = ast.literal_eval(match[0]) if match else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if _are_strings(value) else None


def _are_strings(value: Any) -> bool:
    """Return whether it is a list of strings without lone surrogates, which no file can hold."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return False
    return not any(map(has_surrogate, value))


INSTRUCTIONS: dict[str, Instruction] = {"published": PublishedInstruction(), "json": JsonListInstruction()}
