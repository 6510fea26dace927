"""The result of reading any gold format: passages with entities, and counts of skipped annotations."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from uniner.errors import UserError
from uniner.labels import is_visible

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
    annotations that became no entity, by reason. reviewed: people corrected it, as the file of a review says.
    """

    text: str
    entities: tuple[GoldEntity, ...]
    id: str
    questions: tuple[GoldQuestion, ...] | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    reviewed: bool = False


class GoldRow(NamedTuple):
    """A passage, its number in the file (line or row), and its place for an error message ("line 12").

    error: the first wrong annotation in one line, where the passage left some out.
    """

    number: int
    place: str
    passage: GoldPassage
    error: str = ""


class LeftOut(NamedTuple):
    """Something in a file that became no passage: counts by reason, and the error in one line."""

    counts: Mapping[str, int]
    error: str = ""


class MarkedSpan(NamedTuple):
    """An annotation as a file has it. where: file and line. text: None if the format does not repeat it."""

    where: str
    start: int
    end: int
    text: str | None
    type: str


BAD_ROW, BAD_LINE, BAD_ANNOTATION = "bad_row", "bad_line", "bad_annotation"
"""Reasons that say that the data is wrong: a row, a line of columns (which `conll` limits), an annotation."""


def faults_in(left_out: Mapping[str, int]) -> int:
    """Count the rows and annotations that were left out because they are wrong."""
    return left_out.get(BAD_ROW, 0) + left_out.get(BAD_ANNOTATION, 0)


def most_faults(total: int) -> int:
    """Return how many of a data set's rows, lines or annotations may be wrong: 1 %, or one of ten or more.

    Data sets that others made have an odd line here and there (most of the benchmark's do, well below 1 %);
    more than that means that the file is read in the wrong way, and its scores would mislead.
    """
    return max(total // 100, int(total >= 10))


def bad_row(error: object) -> LeftOut:
    """Return the count of a row that is left out because of an error."""
    return LeftOut({BAD_ROW: 1}, str(error))


def annotated_row(
    number: int,
    place: str,
    text: str,
    mentions: Iterable[MarkedSpan],
    name: str = "",
    left_out: Mapping[str, int] | None = None,
    errors: Iterable[str] = (),
) -> GoldRow:
    """Return a passage with its entities; a mention that does not fit the text is left out and counted.

    left_out: counts of other annotations by reason. errors: other annotations that are wrong.
    """
    entities, wrong = [], list(errors)
    for mention in mentions:
        try:
            entities.append(
                checked_entity(mention.where, text, mention.start, mention.end, mention.text, mention.type)
            )
        except UserError as error:
            wrong.append(str(error))
    counts = dict(left_out or {})
    if wrong:
        counts[BAD_ANNOTATION] = counts.get(BAD_ANNOTATION, 0) + len(wrong)
    passage = GoldPassage(text, tuple(entities), name, left_out=counts)
    return GoldRow(number, place, passage, wrong[0] if wrong else "")


def rename_types(passage: GoldPassage, rename: Callable[[str], str]) -> GoldPassage:
    """Rename the types of a passage; a passage with its own questions stays as it is."""
    if passage.questions is not None:
        return passage
    return replace(
        passage, entities=tuple(replace(entity, type=rename(entity.type)) for entity in passage.entities)
    )


def checked_entity(
    where: str, text: str, start: int, end: int, mention: str | None, type_name: str
) -> GoldEntity:
    """Return an annotation's entity, with the passage's own text between its offsets.

    White space at its ends is not part of it. where: file and line, for the error. mention: the annotation's
    text; white space may differ, because formats with one line per annotation cannot write a line end. None:
    the format does not repeat it, so that only the offsets can be checked.

    Raises:
        UserError: if the text between the offsets is not the mention, or the mention or the type is blank.
    """
    inside = text[max(0, start) : end]
    within = 0 <= start < end <= len(text)
    if mention is None and not within:
        raise UserError(
            f"{where}: an entity from {start} to {end} is not within the text of {len(text)} characters; "
            "offsets count characters from 0, the end is exclusive"
        )
    if mention is not None and not (within and same_words(inside, mention)):
        raise UserError(
            f"{where}: the text from {start} to {end} is {inside[:60]!r}, not {mention[:60]!r}; offsets "
            "count characters from 0, the end is exclusive"
        )
    if not type_name.strip():
        raise UserError(f"{where}: {inside[:60]!r} has a blank type; name a type or remove the entity")
    trimmed = inside.strip()
    if not is_visible(trimmed):
        raise UserError(f"{where}: the text from {start} to {end} is blank; remove the entity")
    start += inside.index(trimmed)
    return GoldEntity(start, start + len(trimmed), trimmed, type_name)


def hand_on_left_out(rows: Iterable[GoldRow | LeftOut]) -> Iterator[GoldRow]:
    """Yield the rows; counts between them, of what has no passage, are added to a neighbouring row.

    Raises:
        UserError: the error of what was left out, if there is no row at all.
    """
    held: GoldRow | None = None
    counts: Counter[str] = Counter()
    error = ""
    for row in rows:
        if isinstance(row, LeftOut):
            counts.update(row.counts)
            error = error or row.error
            continue
        if held:
            yield held
        held, counts, error = _with_left_out(row, counts, error), Counter(), ""
    if held:
        yield _with_left_out(held, counts, error)
    elif error:
        raise UserError(error)


def _with_left_out(row: GoldRow, counts: Mapping[str, int], error: str) -> GoldRow:
    if not counts:
        return row
    total = Counter(row.passage.left_out)
    total.update(counts)
    passage = replace(row.passage, left_out=dict(total))
    return row._replace(passage=passage, error=error or row.error)


def is_number(word: str) -> bool:
    """Tell whether a word is a number in digits, such as 7, -1, 2,019 or 0.5."""
    return _NUMBER.fullmatch(word) is not None


def same_words(first: str, second: str) -> bool:
    """Tell whether two texts are the same, except for white space."""
    return first == second or first.split() == second.split()
