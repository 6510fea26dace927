"""Stream the lines of a plain, .gz or .zst file (any number of frames) with a few MB of memory."""

import sys
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from uniner.errors import UserError
from uniner.storage.filesystem import explained, filesystem

COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
"""The last suffix of a file to its compression."""
# A block fits into the processor's cache: with 4 MB, reading takes a fifth longer.
_BLOCK_BYTES = 1 << 20
_FETCH_BYTES = 8 << 20


class Line(NamedTuple):
    """A line: its number (from 0), and its bytes without the line end; None if it is too long.

    bytes_read: compressed bytes of the file read so far. offset: bytes of all lines to the end of this one.
    """

    number: int
    data: bytes | None
    bytes_read: int
    offset: int


def read_lines(url: str, longest: int = sys.maxsize) -> Iterator[Line]:
    """Yield the lines of a file in order. A line of more than `longest` bytes is not kept in memory.

    Raises:
        UserError: naming the last good line, if the compression is broken or ends too early.
    """
    number, offset, size = 0, 0, 0
    held: list[bytes] = []
    for block, bytes_read in read_blocks(url):
        if block is None:
            raise UserError(
                f"{url}: broken or truncated {_kind(url)} after line {number}; download the file again"
            )
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

    Raises:
        UserError: naming a line that is not UTF-8; and as `read_lines`.
    """
    for number, data, *_ in read_lines(url):
        assert data is not None, "lines of any length are read"
        try:
            text = data.decode("utf-8" if number else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{url}, line {number + 1} is not UTF-8 ({error.reason}); save the file as UTF-8"
            ) from None
        yield number + 1, text.removesuffix("\r")


def read_whole(url: str) -> bytes:
    """Return a file's decompressed bytes.

    Raises:
        UserError: if the compression is broken or ends too early.
    """
    blocks = [block for block, _ in read_blocks(url)]
    if None in blocks:
        raise UserError(f"{url}: broken or truncated {_kind(url)}; download the file again")
    return b"".join(block for block in blocks if block)


def read_blocks(url: str) -> Iterator[tuple[bytes | None, int]]:
    """Yield a file's decompressed bytes in blocks, each with the compressed bytes read so far.

    A last block of None means that the compression is broken from there on.
    """
    system, path = filesystem(url)
    compression = _kind(url)
    with explained(url), system.open(path, "rb", block_size=_FETCH_BYTES) as raw:
        source = pa.PythonFile(raw, mode="r")
        stream = pa.CompressedInputStream(source, compression) if compression else source
        some = False
        while True:
            block = _read(stream, compressed=compression is not None)
            if not block:
                # No program compresses nothing to an empty file: the upload failed.
                if block is None or (compression and not some):
                    yield None, raw.tell()
                return
            some = True
            yield block, raw.tell()


def _read(stream: Any, compressed: bool) -> bytes | None:
    try:
        return stream.read(_BLOCK_BYTES)
    except OSError as error:
        # Arrow raises a bare OSError for broken compression; errors of the storage have a number.
        if compressed and type(error) is OSError and error.errno is None:
            return None
        raise


def _kind(url: str) -> str | None:
    return COMPRESSION.get(PurePosixPath(url).suffix)
