"""Stream the lines of a plain, .gz or .zst file (any number of frames) with a few MB of memory."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

from uniner.errors import UserError
from uniner.storage.decompression import compression_of, read_blocks

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line: its number (from 0), and its bytes without the line end; None if it is too long.

    bytes_read: compressed bytes of the file read so far. offset: bytes of all lines to the end of this one.
    """

    number: int
    data: bytes | None
    bytes_read: int
    offset: int


def read_lines(
    url: str, longest: int = sys.maxsize, window_mib: int | None = None, expansion: int | None = None
) -> Iterator[Line]:
    """Yield the lines of a file in order. A line of more than `longest` bytes is not kept in memory.

    window_mib, expansion: as in `read_blocks`.

    Raises:
        UserError: naming the last good line, if the compression is broken or ends too early.
    """
    number, offset, size = 0, 0, 0
    held: list[bytes] = []
    for block, bytes_read in read_blocks(url, window_mib=window_mib, expansion=expansion):
        if block is None:
            kind = compression_of(url)
            raise UserError(f"{url}: broken or truncated {kind} after line {number}; download the file again")
        *ends, start = block.split(b"\n")
        for end in ends:
            data: bytes | None = end
            if size + len(end) > longest:
                data = None
            elif size:
                data = b"".join((*held, end))
            offset += size + len(end) + 1
            held, size = [], 0
            yield Line(number, data, bytes_read, offset)
            number += 1
        size += len(start)
        if size > longest:
            held = []  # the rest of the line is only measured
        elif start:
            held.append(start)
    if size:
        data = b"".join(held) if size <= longest else None
        yield Line(number, data, bytes_read, offset + size)


def read_text_lines(url: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers (from 1), without line end and byte-order mark.

    A line ends in LF, CRLF or, as old programs of the Mac write it, in CR alone.

    Raises:
        UserError: naming a line that is not UTF-8; and as `read_lines`.
    """
    before = 0
    for number, data, *_ in read_lines(url):
        assert data is not None, "lines of any length are read"
        try:
            text = data.decode("utf-8" if number else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{url}, line {before + 1} is not UTF-8 ({error.reason}); save the file as UTF-8"
            ) from None
        for line in text.removesuffix("\r").split("\r"):
            before += 1
            yield before, line


def read_whole(url: str, expansion: int | None = None) -> bytes:
    """Return a file's decompressed bytes. expansion: as in `read_blocks`.

    Raises:
        UserError: if the compression is broken or ends too early.
    """
    blocks = [block for block, _ in read_blocks(url, expansion=expansion)]
    if None in blocks:
        raise UserError(f"{url}: broken or truncated {compression_of(url)}; download the file again")
    return b"".join(block for block in blocks if block)
