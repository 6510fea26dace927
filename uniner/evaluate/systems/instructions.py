"""How a model that follows instructions is asked for entities in plain words, and how its answer is read."""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

Found = dict[str, tuple[str, ...]]
_NOTHING = {"", "none", "n/a", "null", "[]", "-"}
_LIST = re.compile(r"\[.*\]", re.DOTALL)


class Instruction(Protocol):
    """A way to ask about a passage."""

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Divide types, in order, into those that one question asks for."""
        ...

    def text(self, passage: str, types: Sequence[str]) -> str:
        """Return the question for a group of types."""
        ...

    def parse(self, types: Sequence[str], answer: str) -> Found | None:
        """Read an answer: each type's mentions. None is "broken", () is "no such mention"."""
        ...


class Published:
    """The prompt behind the published rows of ChatGPT and Vicuna: that of Ye et al. (2023), as GLiNER's
    paper prints it for the four types of CoNLL (appendix A.2); all types in one question.

    The order of the examples with other numbers of types is ours: the last two types have one.
    """

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Ask for all types together."""
        return [tuple(types)] if types else []

    def text(self, passage: str, types: Sequence[str]) -> str:
        """Return the question, the last type after "and"."""
        *most, last = types
        named = f"{', '.join(most)}{',' if len(most) > 1 else ''} and {last}" if most else last
        shown = ["None"] * len(types)
        shown[-2:] = ["Word1, Word2", "Word3"][-len(types) :]
        form = " | ".join(f"{name}: {words}" for name, words in zip(types, shown, strict=True))
        return (
            f"Please identify {named} Entity from the given text, output using the format as:\n\n"
            f"Entity: {form}\n\nText: {passage}\n\nEntity:"
        )

    def parse(self, types: Sequence[str], answer: str) -> Found | None:
        """Read `Type: word, word | Type: None`, also a type a line; what is none of these types is left out.

        An answer that names no type at all is broken, unless it is "None".
        """
        return labelled(types, re.split(r"[|\n]", answer), between=",")


def labelled(types: Sequence[str], parts: Sequence[str], between: str | None = None) -> Found | None:
    """Read parts of the form `type: mention`, several mentions where something stands between them."""
    by_length = sorted(types, key=len, reverse=True)
    names = "|".join(f"({re.escape(name)})" for name in by_length)
    label = re.compile(rf"\W*(?:entity\s*:\s*)?(?:{names})\W*?:(?P<said>.*)", re.IGNORECASE | re.DOTALL)
    found: dict[str, list[str]] = {name: [] for name in types}
    read = [match for part in parts if (match := label.fullmatch(part))]
    if not read:
        whole = " ".join(parts).strip().rstrip(".").casefold().removeprefix("entity:").strip()
        return dict.fromkeys(types, ()) if whole in _NOTHING - {""} else None
    for match in read:
        said = match["said"].split(between) if between else [match["said"]]
        mentions = [mention.strip(" \t\r\n\"'`*[]") for mention in said]
        name = next(name for name, matched in zip(by_length, match.groups(), strict=False) if matched)
        found[name] += [one for one in mentions if one.casefold().strip(" .()") not in _NOTHING]
    return {name: tuple(dict.fromkeys(mentions)) for name, mentions in found.items()}


class JsonList:
    """A question a type, answered by a JSON list: the wording is ours. The text comes first, so that the
    questions of a passage share their beginning."""

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Give each type a question of its own."""
        return [(type_name,) for type_name in types]

    def text(self, passage: str, types: Sequence[str]) -> str:
        """Return the question."""
        (type_name,) = types
        return (
            f'Text: {passage}\n\nList every mention of the entity type "{type_name}" in this text, word for '
            "word as it is written there. Answer with a JSON list of strings and nothing else, [] if there "
            "is none."
        )

    def parse(self, types: Sequence[str], answer: str) -> Found | None:
        """Read the first list of strings of an answer, JSON's or Python's, whatever stands around it."""
        (type_name,) = types
        mentions = _list_in(answer)
        return None if mentions is None else {type_name: tuple(dict.fromkeys(mentions))}


def _list_in(answer: str) -> list[str] | None:
    decoder = json.JSONDecoder()
    for place in (match.start() for match in re.finditer(r"\[", answer)):
        try:
            found: Any = decoder.raw_decode(answer, place)[0]
        except (ValueError, RecursionError):
            continue
        if _are_strings(found):
            return found
    match = _LIST.search(answer)
    try:
        found = ast.literal_eval(match[0]) if match else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return found if _are_strings(found) else None


def _are_strings(found: Any) -> bool:
    """Tell whether it is a list of strings that a file can hold: none with half of a character."""
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        return False
    return not any("\ud800" <= letter <= "\udfff" for one in found for letter in one)


INSTRUCTIONS: dict[str, Instruction] = {"published": Published(), "json": JsonList()}
