"""The result of reading any gold format: passages with entities, and counts of skipped annotations."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from uniner.errors import UserError

_NUMBER = re.compile(r"[-+]?[0-9]+(?:[.,][0-9]+)*")


@dataclass(frozen=True)
class GoldEntity:
    """A gold mention: `passage[start:end] == text`. Offsets count characters, end exclusive."""

    start: int
    end: int
    text: str
    type: str


class GoldQuestion(NamedTuple):
    """A question that a gold file itself asks about a passage: a type and its gold strings."""

    type: str
    mentions: tuple[str, ...]


@dataclass(frozen=True)
class GoldPassage:
    """A gold passage; id is empty if the format has no ids.

    questions: the questions that the file itself asks (published conversations); whether the passage has any
    other type is unknown. None: the passage is annotated for all types of its data set. left_out: number of
    annotations that became no entity, by reason.
    """

    text: str
    entities: tuple[GoldEntity, ...]
    id: str
    questions: tuple[GoldQuestion, ...] | None = None
    left_out: dict[str, int] = field(default_factory=dict)


class GoldRow(NamedTuple):
    """A passage, its number in the file (line or row), and its place for an error message ("line 12")."""

    number: int
    place: str
    passage: GoldPassage


def rename_types(passage: GoldPassage, rename: Callable[[str], str]) -> GoldPassage:
    """Rename the types of a passage; a passage with its own questions stays as it is."""
    if passage.questions is not None:
        return passage
    return replace(
        passage, entities=tuple(replace(entity, type=rename(entity.type)) for entity in passage.entities)
    )


def checked_entity(where: str, text: str, start: int, end: int, mention: str, type_name: str) -> GoldEntity:
    """Return an annotation's entity, with the passage's own text between its offsets.

    White space at its ends is not part of it. where: file and line, for the error. mention: the annotation's
    text; white space may differ, because formats with one line per annotation cannot write a line end.

    Raises:
        UserError: if the text between the offsets is not the mention, or the mention or the type is blank.
    """
    inside = text[max(0, start) : end]
    if not (0 <= start < end <= len(text) and same_words(inside, mention)):
        raise UserError(
            f"{where}: the text from {start} to {end} is {inside!r}, not {mention!r}; offsets count "
            "characters from 0, the end is exclusive"
        )
    if not type_name.strip():
        raise UserError(f"{where}: {mention!r} has a blank type; name a type or remove the entity")
    trimmed = inside.strip()
    if not trimmed:
        raise UserError(f"{where}: the text from {start} to {end} is blank; remove the entity")
    start += inside.index(trimmed)
    return GoldEntity(start, start + len(trimmed), trimmed, type_name)


def hand_on_left_out(rows: Iterable[GoldRow | Mapping[str, int]]) -> Iterator[GoldRow]:
    """Yield the rows; counts between them, of what has no passage, are added to a neighbouring passage."""
    held: GoldRow | None = None
    counts: Counter[str] = Counter()
    for row in rows:
        if not isinstance(row, GoldRow):
            counts.update(row)
            continue
        if held:
            yield held
        held, counts = _with_left_out(row, counts), Counter()
    if held:
        yield _with_left_out(held, counts)


def _with_left_out(row: GoldRow, counts: Mapping[str, int]) -> GoldRow:
    if not counts:
        return row
    total = Counter(row.passage.left_out)
    total.update(counts)
    return row._replace(passage=replace(row.passage, left_out=dict(total)))


def is_number(word: str) -> bool:
    """Tell whether a word is a number in digits, such as 7, -1, 2,019 or 0.5."""
    return _NUMBER.fullmatch(word) is not None


def same_words(first: str, second: str) -> bool:
    """Tell whether two texts are the same, except for white space."""
    return first == second or first.split() == second.split()
