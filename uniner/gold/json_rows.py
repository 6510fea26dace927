"""Rows of a JSON file: an object a line, or the elements of one list."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from uniner.errors import UserError
from uniner.storage.line_reader import read_lines, read_whole

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """A row's JSON, its number (from 1), and its place in the words of an error."""

    number: int
    place: str
    data: bytes


def read_rows(url: str, is_list: bool) -> Iterator[Row]:
    """Yield the rows of a file; lines come as a stream, a list is read whole.

    Raises:
        UserError: where a list is none.
    """
    if is_list:
        try:
            found = msgspec.json.decode(read_whole(url).removeprefix(BYTE_ORDER_MARK), type=list[msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{url}: is no JSON list ({error}); fetch or write the file again") from None
        for number, raw in enumerate(found, start=1):
            yield Row(number, f"entry {number}", bytes(raw))
        return
    for line in read_lines(url):
        data = (line.data or b"").removeprefix(BYTE_ORDER_MARK if not line.number else b"")
        if data and not data.isspace():
            yield Row(line.number + 1, f"line {line.number + 1}", data)
