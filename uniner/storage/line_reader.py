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
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A block fits into the processor's cache: with 4 MB, reading takes a fifth longer.
_BLOCK_BYTES = 1 << 20
_FETCH_BYTES = 8 << 20
_START_BYTES, _START_FETCH_BYTES = 1 << 10, 1 << 16
_ZSTD_FRAME, _FRAME_HEADER_BYTES = b"\x28\xb5\x2f\xfd", 18
# zstd decompresses windows of up to 128 MiB; Arrow does not let this be raised.
_WINDOW_LOG = 27
_ANY_EXPANSION_BYTES = 64 << 20


class Line(NamedTuple):
    """A line: its number (from 0), and its bytes without the line end; None if it is too long.

    bytes_read: compressed bytes of the file read so far. offset: bytes of all lines to the end of this one.
    """

    number: int
    data: bytes | None
    bytes_read: int
    offset: int


def read_lines(url: str, longest: int = sys.maxsize, expansion: int | None = None) -> Iterator[Line]:
    """Yield the lines of a file in order. A line of more than `longest` bytes is not kept in memory.

    expansion: as in `read_blocks`.

    Raises:
        UserError: naming the last good line, if the compression is broken or ends too early.
    """
    number, offset, size = 0, 0, 0
    held: list[bytes] = []
    for block, bytes_read in read_blocks(url, expansion=expansion):
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


def read_whole(url: str, expansion: int | None = None) -> bytes:
    """Return a file's decompressed bytes. expansion: as in `read_blocks`.

    Raises:
        UserError: if the compression is broken or ends too early.
    """
    blocks = [block for block, _ in read_blocks(url, expansion=expansion)]
    if None in blocks:
        raise UserError(f"{url}: broken or truncated {_kind(url)}; download the file again")
    return b"".join(block for block in blocks if block)


def first_bytes(url: str) -> bytes:
    """Return about the first KB of a file, decompressed; nothing if the compression is broken.

    Raises:
        UserError: as `read_blocks`.
    """
    block, _ = next(read_blocks(url, _START_BYTES, _START_FETCH_BYTES), (b"", 0))
    return block or b""


def read_blocks(
    url: str, block_bytes: int | None = None, fetch_bytes: int = _FETCH_BYTES, expansion: int | None = None
) -> Iterator[tuple[bytes | None, int]]:
    """Yield a file's decompressed bytes in blocks, each with the compressed bytes read so far.

    A last block of None means that the compression is broken from there on. expansion: most decompressed
    bytes for each compressed byte, after the first 64 MiB; None: any number.

    Raises:
        UserError: if the file needs a larger zstd window than 128 MiB, or expands more.
    """
    total = 0
    system, path = filesystem(url)
    compression = _kind(url)
    with explained(url), system.open(path, "rb", block_size=fetch_bytes) as raw:
        source = pa.PythonFile(raw, mode="r")
        stream = pa.CompressedInputStream(source, compression) if compression else source
        while True:
            block = _read(url, stream, block_bytes or _BLOCK_BYTES, compressed=compression is not None)
            if not block:
                # No program compresses nothing to an empty file: the upload failed.
                if block is None or (compression and not raw.tell()):
                    yield None, raw.tell()
                return
            total += len(block)
            if compression and expansion and total > max(_ANY_EXPANSION_BYTES, expansion * raw.tell()):
                raise UserError(
                    f"{url}: {raw.tell():,} bytes of it expand to more than {total:,}, over {expansion} "
                    "times as many, which no text does; check where it comes from, or unpack it yourself"
                )
            yield block, raw.tell()


def _read(url: str, stream: Any, size: int, compressed: bool) -> bytes | None:
    try:
        return stream.read(size)
    except OSError as error:
        # Arrow raises a bare OSError for broken compression; errors of the storage have a number.
        if not compressed or type(error) is not OSError or error.errno is not None:
            raise
        if "too much memory" in str(error):
            raise UserError(_window_error(url)) from None
        return None


def _window_error(url: str) -> str:
    system, path = filesystem(url)
    with system.open(path, "rb") as raw:
        window = _window_bytes(raw.read(_FRAME_HEADER_BYTES))
    largest = 1 << _WINDOW_LOG
    # A later frame may have the large window.
    size = f"of {window >> 20:,} MiB" if window > largest else f"over {largest >> 20} MiB"
    log = (window - 1).bit_length() if window > largest else 31
    return (
        f"{url}: compressed with a zstd window {size}; at most {largest >> 20} MiB can be read. Compress it "
        f"again: `zstd -dc --long={log} {PurePosixPath(url).name} | zstd --long={_WINDOW_LOG} -o new.zst`"
    )


def _window_bytes(header: bytes) -> int:
    """Return the window that a zstd frame's header asks for (RFC 8878, 3.1.1.1); 0 for another frame."""
    if not header.startswith(_ZSTD_FRAME):
        return 0
    descriptor = header[4]
    if not descriptor & 0x20:
        exponent, mantissa = header[5] >> 3, header[5] & 7
        return (1 << (10 + exponent)) * (8 + mantissa) // 8
    # A single segment: the window is the content.
    first = 5 + (0, 1, 2, 4)[descriptor & 3]
    return int.from_bytes(header[first : first + (1, 2, 4, 8)[descriptor >> 6]], "little")


def suffix_of(url: str) -> str:
    """Return the suffix of a file's name, without that of its compression: .jsonl of a.jsonl.gz."""
    path = PurePosixPath(url)
    return (path.with_suffix("") if path.suffix in COMPRESSION else path).suffix


def _kind(url: str) -> str | None:
    return COMPRESSION.get(PurePosixPath(url).suffix)
