"""Rows of JSON files: objects or lists, one per line, in one list, or one document that is a single row."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import msgspec

from uniner.errors import UserError
from uniner.gold.lines import gold_bytes, gold_lines
from uniner.gold.records import GoldRow, LeftOut, bad_row
from uniner.storage.decompression import read_blocks
from uniner.storage.line_reader import BYTE_ORDER_MARK

_Decoded = TypeVar("_Decoded")
_Item = TypeVar("_Item")
_Converted = TypeVar("_Converted")
JSON_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises: malformed or wrongly typed JSON, not UTF-8, nested too deep."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_ANY: "msgspec.json.Decoder[object]" = msgspec.json.Decoder(object)


class JsonRow(NamedTuple):
    """A row's JSON, its number (from 1), and its place for an error message."""

    number: int
    place: str
    data: bytes


def json_value(data: bytes) -> object:
    """Return the value of JSON, half a surrogate pair as U+FFFD, or the string that it is if it is broken."""
    try:
        return decode(_ANY, data)
    except JSON_ERRORS:
        try:
            return decode(_ANY, _SURROGATE.sub(rb"\\ufffd", data))
        except JSON_ERRORS:
            return data.decode(errors="replace")


def decode(decoder: "msgspec.json.Decoder[_Decoded]", data: bytes) -> _Decoded:
    """Decode JSON, also where what is not read has NaN or half a surrogate pair, which msgspec refuses."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except JSON_ERRORS as error:
        try:
            value = msgspec.convert(json.loads(data), decoder.type)
            msgspec.json.encode(value)  # fails at half a pair: no file could store it
            return value
        except (ValueError, RecursionError):
            raise error from None


def is_json(url: str) -> bool:
    """Tell whether a file begins as JSON does. A line of CoNLL columns may start with `[` or `{` as well."""
    line = _first_line(url)
    if line == b"[" or line.startswith(b"[{"):
        return True
    value = json_value(line)
    # `[ ]` and `{ }` are also tokens.
    return bool(value) and (isinstance(value, dict) or (isinstance(value, list) and len(value) > 1))


def read_rows(url: str) -> Iterator[JsonRow]:
    """Yield the rows of a JSON file: streamed lines, or of a list or one document, which are read whole.

    Raises:
        UserError: if the file is a list that is broken.
    """
    line = _first_line(url)
    whole = isinstance(json_value(line), dict | list)
    if line.startswith(b"[") and not (whole and _is_pair(line)):
        yield from _list_entries(url)
    elif line.startswith(b"{") and not whole and isinstance(json_value(data := gold_bytes(url)), dict):
        yield JsonRow(1, "the object", data)
    else:
        for number, data in gold_lines(url):
            if data and not data.isspace():
                yield JsonRow(number, f"line {number}", data)


def decoded_rows(
    url: str,
    rows: Iterable[JsonRow],
    type_: type[_Decoded],
    example: str,
    read: Callable[[JsonRow, str, _Decoded], Iterable[GoldRow | LeftOut]],
) -> Iterator[GoldRow | LeftOut]:
    """Decode each row and yield what `read` makes of it; a row that is wrong is left out and counted.

    example: a right row, for the error. read: gets the row, its place with the file, and the decoded value.
    """
    decoder = msgspec.json.Decoder(type_)
    for row in rows:
        where = f"{url}, {row.place}"
        try:
            yield from read(row, where, decode(decoder, row.data))
        except JSON_ERRORS as error:
            yield bad_row(f"{where}: {str(error)[:200]}; a row is {example}")
        except UserError as error:
            yield bad_row(error)


def converted(
    items: Iterable[_Item], convert: Callable[[_Item], _Converted], where: str, example: str
) -> tuple[list[_Converted], list[str]]:
    """Convert a row's annotations one by one. Returns those that are right, and a line about each other one.

    convert: raises msgspec's ValidationError for another form, or a UserError with the whole line. example: a
    right row.
    """
    right: list[_Converted] = []
    errors: list[str] = []
    for item in items:
        try:
            right.append(convert(item))
        except msgspec.ValidationError as error:
            errors.append(f"{where}: {error}; a row is {example}")
        except UserError as error:
            errors.append(str(error))
    return right, errors


def id_of(value: object) -> str:
    """Return a row's id; empty if it has none, or one that is neither a word nor a short number.

    Where rows lack ids, pandas writes those of the others as 7.0.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
        return str(value)
    return value if isinstance(value, str) else ""


def _first_line(url: str) -> bytes:
    block, _ = next(read_blocks(url), (b"", 0))
    return (block or b"").removeprefix(BYTE_ORDER_MARK).lstrip().split(b"\n", 1)[0].strip()


def _is_pair(line: bytes) -> bool:
    """Tell whether a line that is a list is a row itself: a text and its annotations."""
    value = json_value(line)
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _list_entries(url: str) -> Iterator[JsonRow]:
    data = gold_bytes(url)
    try:
        entries = list(map(bytes, msgspec.json.decode(data, type=list[msgspec.Raw])))
    except JSON_ERRORS as error:
        try:  # NaN or half a surrogate pair costs its own entry, if it is read
            entries = [json.dumps(entry).encode() for entry in json.loads(data)]
        except (ValueError, RecursionError):
            raise UserError(f"{url}: not a JSON list ({error}); fetch or write the file again") from None
    for number, entry in enumerate(entries, start=1):
        yield JsonRow(number, f"entry {number}", entry)
