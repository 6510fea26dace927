"""The reviews of a reviewed file as it has them, and its fields, each with an error that shows a right value.

A review that cannot be read is left out alone: the others of its row are kept.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from uniner.errors import UserError
from uniner.labels import is_visible
from uniner.review.tasks import REVIEWED

Kind = TypeVar("Kind")

ENTITY = '{"start": 0, "end": 3, "text": "Ann", "type": "person"}'
_TIME, _NAME = '"2026-11-27T10:00:00Z"', '"Ann"'


class ReadSpan(NamedTuple):
    """A span as a file has it, in code points. text: None where the file does not repeat it."""

    start: int
    end: int
    text: str | None
    type: str


@dataclass(frozen=True, kw_only=True)
class ReadReview:
    """A review as a file has it, not yet checked. reviewer, at: empty where the file does not say it."""

    passage_id: str
    text: str
    reviewer: str
    spans: tuple[ReadSpan, ...]
    at: str = ""
    outcome: str = REVIEWED
    note: str = ""


class Unreadable(NamedTuple):
    """A review that cannot be read: which one of its row, and what is wrong with it."""

    place: str
    error: str


def read_each(
    row: Mapping[str, Any],
    name: str,
    example: str,
    read: Callable[[Mapping[str, Any]], ReadReview],
    passage_id: str | None = None,
) -> Iterator[ReadReview | Unreadable]:
    """Read the reviews of a row one by one. name: the field that is a list of them. example: a right value.

    passage_id: of all of them; None: each has its own as `id`. It is for the error.

    Raises:
        UserError: where the field is not a list.
    """
    for number, item in enumerate(read_list(row, name, example), start=1):
        try:
            if not isinstance(item, dict):
                raise UserError(f"it must be an object, such as {example[1:-1]}, not {shown(item)}")
            yield read(item)
        except UserError as error:
            passage = item.get("id") if passage_id is None and isinstance(item, dict) else passage_id
            of_passage = f"passage {passage!r:.80}, " if isinstance(passage, str) else ""
            yield Unreadable(f"{of_passage}number {number} of {name}", str(error))


def read_list(row: Mapping[str, Any], name: str, example: str) -> list[Any]:
    """Return a field that is a list: anything else, such as null, is not an empty one.

    Raises:
        UserError: where it is not.
    """
    return _field(row, name, list, "a list", example)


def read_text(row: Mapping[str, Any], name: str, example: str) -> str:
    """Return a field that is a text.

    Raises:
        UserError: where it is not.
    """
    return _field(row, name, str, "a text", example)


def given_text(row: Mapping[str, Any], name: str, example: str) -> str:
    """Return a text that a file may leave out or have as null, without blanks around it.

    Raises:
        UserError: where it is something else.
    """
    return "" if row.get(name) is None else read_text(row, name, example).strip()


def read_time(row: Mapping[str, Any], *names: str) -> str:
    """Return the first of these fields that has a value: when a review was made."""
    name = next((name for name in names if row.get(name) not in (None, "")), names[-1])
    return given_text(row, name, _TIME)


def read_reviewer(row: Mapping[str, Any]) -> str:
    """Return who reviewed; empty where the file does not say it, or has a name that nobody can see."""
    return visible_name(given_text(row, "reviewer", _NAME))


def visible_name(name: str) -> str:
    """Return a name with single blanks inside and none around it; empty without a visible character."""
    return " ".join(name.split()) if is_visible(name) else ""


def read_spans(row: Mapping[str, Any]) -> tuple[ReadSpan, ...]:
    """Return the spans of a row's entities.

    Raises:
        UserError: where they are not a list, or one is not such as ENTITY.
    """
    return tuple(map(_read_span, read_list(row, "entities", f"[{ENTITY}]")))


def _read_span(entity: Any) -> ReadSpan:
    if not isinstance(entity, dict):
        raise UserError(f"the entity {shown(entity)} must be an object, such as {ENTITY}")
    start, end, text, name = (entity.get(key) for key in ("start", "end", "text", "type"))
    # type(), not isinstance: true and false are integers too.
    right = type(start) is int and type(end) is int and isinstance(name, str)
    if not right or not isinstance(text, str | None):
        raise UserError(
            f"the entity {shown(entity)} must have whole numbers as start and end, and texts as text and "
            f"type, such as {ENTITY}"
        )
    return ReadSpan(start, end, text, name)  # type: ignore[arg-type]


def shown(value: Any) -> str:
    """Return a value of a file for a message: JSON in one line, shortened."""
    text = msgspec.json.encode(value).decode(errors="replace")
    return text if len(text) <= 100 else f"{text[:97]}..."


def _field(row: Mapping[str, Any], name: str, kind: type[Kind], in_words: str, example: str) -> Kind:
    value = row.get(name)
    if not isinstance(value, kind):
        found = f", not {shown(row[name])}" if name in row else "; it is missing"
        raise UserError(f"{name} must be {in_words}{found}, such as {example}")
    return value
