"""Read the documents of a part of a shard row by row; a row without a document gives the reason."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import msgspec

from uniner.errors import UserError
from uniner.ingest.shards import ShardPart, split_shards
from uniner.storage.decompression import read_blocks
from uniner.storage.filesystem import open_parquet
from uniner.storage.line_reader import BYTE_ORDER_MARK, read_lines

REASONS = {
    "not_json": "the line is not JSON",
    "not_object": "the line is JSON but not an object",
    "invalid_utf8": "the bytes are not UTF-8",
    "no_text": "the text field is missing or null",
    "text_not_string": "the text field is not a string",
    "empty_text": "the text is empty or blank",
    "nul_character": "the text contains a NUL character",
    "no_id": "the id field is missing, or neither a string nor an integer",
    "too_long": "the row is longer than ingest.max_row_mb",
}
"""Reasons for rejecting a row."""
# Few rows per batch, because each may be a book.
_PARQUET_ROWS = 64
_OUTCOME = "outcome"
_SURROGATE = re.compile("[\ud800-\udfff]")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_MAX_DEPTH, _MAX_DIGITS = 100, 4_000
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


@dataclass(frozen=True)
class RowFields:
    """The names of a row's fields; dots go into nested objects, unless a field has the whole name.

    Without id, the row's place is the id.
    """

    text: str
    source: str
    id: str | None = None


# The fields of records.GeneratedPassage, whatever the fields of the shards are.
_GENERATED = RowFields("text", "source", "doc_id")


class CorpusDocument(NamedTuple):
    """A row's document; an empty id means that its place is the id."""

    text: str
    source: str
    id: str


class DocumentRow(NamedTuple):
    """A row of a part: its number (from 0), its document or reject reason, and the compressed bytes read."""

    number: int
    content: CorpusDocument | str
    bytes_read: int


def read_rows(
    part: ShardPart, fields: RowFields, max_bytes: int, first: int = 0, window_mib: int | None = None
) -> Iterator[DocumentRow]:
    """Yield the rows of a part from number `first` on; a row longer than max_bytes is rejected.

    Blank lines are skipped, and so are generated passages that are not ok. A text file is one row; its source
    is its folder's name, and its id is its path below the folder that all text files share. window_mib: as in
    `decompression.read_blocks`.

    Raises:
        UserError: if a shard is broken.
    """
    if part.kind == "lines":
        return _read_lines(part, fields, max_bytes, first, window_mib)
    if part.kind == "parquet":
        return _read_parquet(part, fields, max_bytes, first)
    if part.kind == "generated":
        return _read_parquet(part, _GENERATED, max_bytes, first, _OUTCOME)
    return _read_text_files(part, max_bytes, first, window_mib)


def read_texts(url: str, max_bytes: int) -> Iterator[str]:
    """Yield the texts of a file of any shard format, from the field `text`.

    Raises:
        UserError: if the file is broken, or a row has no text.
    """
    for part in split_shards([url], [0], "text"):
        for row in read_rows(part, RowFields("text", ""), max_bytes):
            if isinstance(row.content, str):
                name, line = part.place(row.number)
                raise UserError(f"{name}, line {line}: {REASONS[row.content]}; correct {url}")
            yield row.content.text


def _read_lines(
    part: ShardPart, fields: RowFields, max_bytes: int, first: int, window_mib: int | None
) -> Iterator[DocumentRow]:
    for line in read_lines(part.urls[0], max_bytes, window_mib):
        if line.number < first:
            pass
        elif line.data is None:
            yield DocumentRow(line.number, "too_long", line.bytes_read)
        else:
            data = line.data if line.number else line.data.removeprefix(BYTE_ORDER_MARK)
            if data and not data.isspace():
                yield DocumentRow(line.number, parse(data, fields), line.bytes_read)
        if part.limit is not None and line.offset >= part.limit:
            return


def _read_parquet(
    part: ShardPart, fields: RowFields, max_bytes: int, first: int, outcome: str | None = None
) -> Iterator[DocumentRow]:
    columns = [name for name in (fields.text, fields.source, fields.id, outcome) if name]
    with open_parquet(part.urls[0], sealed=part.kind == "generated") as file:
        rows, number = max(1, file.metadata.row_group(part.group).num_rows), 0
        for batch in file.iter_batches(_PARQUET_ROWS, [part.group], columns, use_threads=False):
            records = batch.to_struct_array()
            for record in records:
                if number == part.limit:
                    return
                if number >= first and (outcome is None or record[outcome].as_py() == "ok"):
                    content = _parquet_document(record, fields, max_bytes)
                    yield DocumentRow(number, content, part.bytes * (number + 1) // rows)
                number += 1


def _parquet_document(record: Any, fields: RowFields, max_bytes: int) -> CorpusDocument | str:
    try:
        content = _document(record.as_py(), fields)
    except UnicodeDecodeError:
        return "invalid_utf8"
    if isinstance(content, str):
        return content
    # A character has at most four bytes: most texts need no encoding to be known as short enough.
    too_long = 4 * len(content.text) > max_bytes and len(content.text.encode()) > max_bytes
    return "too_long" if too_long else content


def _read_text_files(
    part: ShardPart, max_bytes: int, first: int, window_mib: int | None
) -> Iterator[DocumentRow]:
    bytes_read = sum(part.sizes[:first])
    for number, url in enumerate(part.urls[first:], start=first):
        blocks, size = [], 0
        for block, _ in read_blocks(url, window_mib=window_mib):
            if block is None:
                raise UserError(f"{url}: broken or truncated compression; download the file again")
            size += len(block)
            if size > max_bytes:
                break
            blocks.append(block)
        bytes_read += part.sizes[number]
        content = "too_long" if size > max_bytes else _decoded(b"".join(blocks))
        if isinstance(content, CorpusDocument):
            content = CorpusDocument(content.text, PurePosixPath(url).parent.name, part.place(number)[0])
        yield DocumentRow(number, content, bytes_read)


def _decoded(data: bytes) -> CorpusDocument | str:
    """Decode a text file: UTF-8, or UTF-16 with its byte-order mark, which is not part of the text."""
    encoding = "utf-16" if data.startswith(_UTF_16) else "utf-8-sig"
    try:
        return _document({"text": data.decode(encoding)}, RowFields("text", ""))
    except UnicodeDecodeError:
        return "invalid_utf8"


def parse(data: bytes, fields: RowFields) -> CorpusDocument | str:
    """Return a JSON line's document, or the reason for rejecting it.

    Other fields than `fields` decide nothing. Half a surrogate pair becomes U+FFFD.
    """
    try:
        row = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _parse_leniently(data, fields)
    return _document(row, fields) if isinstance(row, dict) else "not_object"


def _parse_leniently(data: bytes, fields: RowFields) -> CorpusDocument | str:
    """Parse what a strict parser refuses: NaN, numbers that are too large, values that are nested too deeply,
    half a surrogate pair, and bytes that are not UTF-8."""
    is_utf8 = True
    try:
        line = data.decode()
    except UnicodeDecodeError:
        is_utf8 = False
        line = data.decode(errors="surrogateescape")
    try:
        row = json.loads(_without_depth(line), parse_int=_parse_int)
    except (ValueError, RecursionError):
        return "not_json" if is_utf8 else "invalid_utf8"
    content = _document(row, fields) if isinstance(row, dict) else "not_object"
    if isinstance(content, str):
        return content
    if not is_utf8 and any(map(_SURROGATE.search, content)):
        return "invalid_utf8"
    return CorpusDocument(*(_SURROGATE.sub("\ufffd", value) for value in content))


def _parse_int(digits: str) -> float:
    # Python refuses integers of more than 4,300 digits.
    return int(digits) if len(digits) < _MAX_DIGITS else float(digits)


def _without_depth(line: str) -> str:
    """Put null in the place of lists and objects that lie deeper than any field that is asked for."""
    pieces: list[str] = []
    depth = position = 0
    for match in _STRING_OR_BRACKET.finditer(line):
        if match[0] in ("[", "{"):
            depth += 1
            if depth == _MAX_DEPTH:
                pieces += line[position : match.start()], "null"
        elif match[0] in ("]", "}"):
            depth -= 1
            if depth == _MAX_DEPTH - 1:
                position = match.end()
    return "".join((*pieces, line[position:])) if pieces and not depth else line


def _document(row: dict[str, Any], fields: RowFields) -> CorpusDocument | str:
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
        value = _field(row, fields.id)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas writes whole numbers beside missing ones as floats
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            return "no_id"
        doc_id = str(value)
    source = _field(row, fields.source)
    return CorpusDocument(text, source if isinstance(source, str) else "", doc_id)


def _field(row: Any, name: str) -> Any:
    """Return a row's field: the field of this very name, otherwise dots go into nested objects."""
    for part in [name] if name in row else name.split("."):
        if not isinstance(row, dict):
            return None
        row = row.get(part)
    # Spark writes strings as binary columns.
    return row.decode() if isinstance(row, bytes) else row
