"""Read the documents of a shard, row by row; a row that has none says why."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from uniner.lines import read_lines

REASONS = {
    "not_json": "the line is no JSON",
    "not_object": "the line is JSON but no object",
    "invalid_utf8": "bytes that are no UTF-8",
    "no_text": "the text field is missing or null",
    "text_not_string": "the text field is no text",
    "empty_text": "the text is empty or blank",
    "nul_character": "the text has a NUL, which no clean text has",
    "too_long": "the row is longer than ingest.max_row_mb",
}
"""Why a row has no document."""


@dataclass(frozen=True)
class Fields:
    """Where a row's values stand; dots go into nested objects."""

    text: str
    source: str


class Document(NamedTuple):
    """A row's document."""

    text: str
    source: str


class Row(NamedTuple):
    """A row of a shard: its number (from 0), its document or the reason for none, compressed bytes so far."""

    number: int
    found: Document | str
    bytes_read: int


def read_rows(url: str, fields: Fields, longest: int, first: int = 0) -> Iterator[Row]:
    """Yield the rows of a shard of JSON lines from number `first` on; blank lines are none.

    Raises:
        UserError: where the shard is broken.
    """
    for line in read_lines(url, longest):
        if line.number < first:
            continue
        if line.data is None:
            yield Row(line.number, "too_long", line.bytes_read)
        elif line.data and not line.data.isspace():
            yield Row(line.number, parse(line.data, fields), line.bytes_read)


def parse(data: bytes, fields: Fields) -> Document | str:
    """Read a line's document, or return the reason why it has none."""
    try:
        row = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return "not_json"
    except UnicodeDecodeError:
        return "invalid_utf8"
    if not isinstance(row, dict):
        return "not_object"
    return document(_field(row, fields.text), _field(row, fields.source))


def document(text: Any, source: Any) -> Document | str:
    """Make a document of a row's values, or return the reason why it has none."""
    if text is None:
        return "no_text"
    if not isinstance(text, str):
        return "text_not_string"
    if not text or text.isspace():
        return "empty_text"
    if "\x00" in text:
        return "nul_character"
    return Document(text, source if isinstance(source, str) else "")


def _field(row: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(row, dict):
            return None
        row = row.get(part)
    return row
