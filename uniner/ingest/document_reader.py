"""Read the documents of a part of a shard, row by row; a row that has none says why."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import msgspec

from uniner.errors import UserError
from uniner.ingest.shards import Part, parts_of
from uniner.storage.filesystem import open_parquet
from uniner.storage.line_reader import read_blocks, read_lines

REASONS = {
    "not_json": "the line is no JSON",
    "not_object": "the line is JSON but no object",
    "invalid_utf8": "bytes that are no UTF-8",
    "no_text": "the text field is missing or null",
    "text_not_string": "the text field is no text",
    "empty_text": "the text is empty or blank",
    "nul_character": "the text has a NUL, which no clean text has",
    "no_id": "the id field is missing, or neither text nor a whole number",
    "too_long": "the row is longer than ingest.max_row_mb",
}
"""Why a row has no document."""
# Rows decoded together: few, since each may be a book.
_PARQUET_ROWS = 64
_OUTCOME = "outcome"


@dataclass(frozen=True)
class Fields:
    """Where a row's values stand; dots go into nested objects. Without id, the row's place is the id."""

    text: str
    source: str
    id: str | None = None


# Of records.GeneratedPassage, whatever the fields of the shards are.
_GENERATED = Fields("text", "source", "doc_id")


class Document(NamedTuple):
    """A row's document; id is empty where its place is its id."""

    text: str
    source: str
    id: str


class Row(NamedTuple):
    """A row of a part: its number (from 0), its document or the reason for none, compressed bytes so far."""

    number: int
    found: Document | str
    bytes_read: int


def read_rows(part: Part, fields: Fields, longest: int, first: int = 0) -> Iterator[Row]:
    """Yield the rows of a part from number `first` on, none longer than `longest` bytes.

    Blank lines are no rows, nor are generated passages that are not ok. A text file is one, with its folder's
    name as the source and its own as the id where ids are asked for.

    Raises:
        UserError: where a shard is broken.
    """
    if part.kind == "lines":
        return _read_lines(part, fields, longest, first)
    if part.kind == "parquet":
        return _read_parquet(part, fields, longest, first)
    if part.kind == "generated":
        return _read_parquet(part, _GENERATED, longest, first, _OUTCOME)
    return _read_text(part, fields, longest, first)


def read_texts(url: str, longest: int) -> Iterator[str]:
    """Yield the texts of a file of any kind that a shard may be, from the field `text`.

    Raises:
        UserError: where the file is broken, or a row has no text.
    """
    for part in parts_of([url], [0], "text"):
        for row in read_rows(part, Fields("text", ""), longest):
            if isinstance(row.found, str):
                name, line = part.place(row.number)
                raise UserError(f"{name}, line {line}: {REASONS[row.found]}; mend {url}")
            yield row.found.text


def _read_lines(part: Part, fields: Fields, longest: int, first: int) -> Iterator[Row]:
    for line in read_lines(part.urls[0], longest):
        if line.number < first:
            pass
        elif line.data is None:
            yield Row(line.number, "too_long", line.bytes_read)
        elif line.data and not line.data.isspace():
            yield Row(line.number, parse(line.data, fields), line.bytes_read)
        if part.limit is not None and line.offset >= part.limit:
            return


def _read_parquet(
    part: Part, fields: Fields, longest: int, first: int, outcome: str | None = None
) -> Iterator[Row]:
    columns = [name for name in (fields.text, fields.source, fields.id, outcome) if name]
    with open_parquet(part.urls[0]) as file:
        rows, number = max(1, file.metadata.row_group(part.group).num_rows), 0
        for batch in file.iter_batches(_PARQUET_ROWS, [part.group], columns, use_threads=False):
            records = batch.to_struct_array()
            for index in range(len(records)):
                if number == part.limit:
                    return
                if number >= first and (outcome is None or records[index][outcome].as_py() == "ok"):
                    yield Row(
                        number, _record(records[index], fields, longest), part.bytes * (number + 1) // rows
                    )
                number += 1


def _record(record: Any, fields: Fields, longest: int) -> Document | str:
    try:
        row = record.as_py()
    except UnicodeDecodeError:
        return "invalid_utf8"
    found = document(row, fields)
    # Four bytes a character at most: most texts need not be encoded to be known as short enough.
    if isinstance(found, Document) and 4 * len(found.text) > longest and len(found.text.encode()) > longest:
        return "too_long"
    return found


def _read_text(part: Part, fields: Fields, longest: int, first: int) -> Iterator[Row]:
    bytes_read = sum(part.sizes[:first])
    for number, url in enumerate(part.urls[first:], start=first):
        data, size = [], 0
        for block, _ in read_blocks(url):
            if block is None:
                raise UserError(f"{url}: broken or truncated compression; fetch the file again")
            size += len(block)
            if size > longest:
                break
            data.append(block)
        bytes_read += part.sizes[number]
        path = PurePosixPath(url)
        found = "too_long" if size > longest else _decoded(b"".join(data))
        if isinstance(found, Document):
            found = Document(found.text, path.parent.name, path.name if fields.id else "")
        yield Row(number, found, bytes_read)


def _decoded(data: bytes) -> Document | str:
    try:
        return document({"text": data.decode("utf-8-sig")}, Fields("text", ""))
    except UnicodeDecodeError:
        return "invalid_utf8"


def parse(data: bytes, fields: Fields) -> Document | str:
    """Read a line's document, or return the reason why it has none."""
    try:
        row = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return "not_json"
    except UnicodeDecodeError:
        return "invalid_utf8"
    return document(row, fields) if isinstance(row, dict) else "not_object"


def document(row: dict[str, Any], fields: Fields) -> Document | str:
    """Make a document of a row's values, or return the reason why it has none."""
    text = _field(row, fields.text)
    if text is None:
        return "no_text"
    if not isinstance(text, str):
        return "text_not_string"
    if not text or text.isspace():
        return "empty_text"
    if "\x00" in text:
        return "nul_character"
    doc_id = ""
    if fields.id:
        found = _field(row, fields.id)
        if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
            return "no_id"
        doc_id = str(found)
    source = _field(row, fields.source)
    return Document(text, source if isinstance(source, str) else "", doc_id)


def _field(row: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(row, dict):
            return None
        row = row.get(part)
    return row
