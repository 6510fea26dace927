"""Stream the decompressed bytes of a plain, .gz or .zst file, of any number of members or frames."""

import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from uniner.errors import UserError
from uniner.storage.filesystem import explained, filesystem

COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
"""The last suffix of a file to its compression."""
# A block fits into the processor's cache: with 4 MB, reading takes a fifth longer.
_BLOCK_BYTES = 1 << 20
_FETCH_BYTES = 8 << 20
_START_BYTES, _START_FETCH_BYTES = 1 << 10, 1 << 16
_ZSTD_FRAME, _FRAME_HEADER_BYTES = b"\x28\xb5\x2f\xfd", 18
_SKIPPABLE_FRAME, _GZIP_MEMBER = b"\x2a\x4d\x18", b"\x1f\x8b"
# zstd decompresses windows of up to 128 MiB; Arrow does not let this be raised.
_WINDOW_LOG = 27
_WINDOW_BYTES = 1 << _WINDOW_LOG
_LARGEST_WINDOW_MIB = 2048
# A piece of zstd may hold a thousand times its size.
_PIECE_BYTES = 1 << 16
_ANY_EXPANSION_BYTES = 64 << 20
# zlib's number for gzip with its header and checksum.
_GZIP = 31


def first_bytes(url: str, window_mib: int | None = None) -> bytes:
    """Return about the first KB of a file, decompressed; nothing if the compression breaks off before.

    Raises:
        UserError: if the file is not of the compression that its name says, or as `read_blocks`.
    """
    block, _ = next(read_blocks(url, _START_BYTES, _START_FETCH_BYTES, window_mib), (b"", 0))
    compression = compression_of(url)
    if block is None and compression and not _has_magic(url, compression):
        raise UserError(
            f"{url}: is not {compression}, as its name says; correct its name, or download it again"
        )
    return block or b""


def _has_magic(url: str, compression: str) -> bool:
    system, path = filesystem(url)
    with explained(url), system.open(path, "rb") as raw:
        start = raw.read(len(_ZSTD_FRAME))
    if compression == "gzip":
        return start.startswith(_GZIP_MEMBER)
    return start == _ZSTD_FRAME or start[1:] == _SKIPPABLE_FRAME


def read_blocks(
    url: str,
    block_bytes: int | None = None,
    fetch_bytes: int = _FETCH_BYTES,
    window_mib: int | None = None,
    expansion: int | None = None,
) -> Iterator[tuple[bytes | None, int]]:
    """Yield a file's decompressed bytes in blocks, each with the compressed bytes read so far.

    A last block of None means that the compression is broken from there on, or that a compressed file is
    empty: no program compresses nothing to that, so the upload failed. window_mib: largest zstd window
    to read, as ingest.zstd_window_mib says; None: 128. expansion: most decompressed bytes for each
    compressed byte, after the first 64 MiB; None: any number.

    Raises:
        UserError: if the file needs a larger zstd window, or expands more.
    """
    total = 0
    system, path = filesystem(url)
    compression = compression_of(url)
    with explained(url), system.open(path, "rb", block_size=fetch_bytes) as raw:
        size = block_bytes or _BLOCK_BYTES
        if compression == "gzip":
            blocks = _gzip_blocks(raw, size)
        elif compression and (window_mib or 0) << 20 > _WINDOW_BYTES:
            blocks = _zstd_blocks(raw, window_mib or 0)
        else:
            blocks = _arrow_blocks(raw, size, compression)
        try:
            for block in blocks:
                total += len(block or b"")
                if compression and expansion and total > max(_ANY_EXPANSION_BYTES, expansion * raw.tell()):
                    raise UserError(
                        f"{url}: {raw.tell():,} bytes of it expand to more than {total:,}, over {expansion} "
                        "times as many, which no text does; check where it comes from, or unpack it yourself"
                    )
                yield block, raw.tell()
        except _WindowError:
            raise UserError(_window_error(url, window_mib)) from None


class _WindowError(Exception):
    """A zstd frame needs a larger window than may be read."""


def _arrow_blocks(raw: Any, size: int, compression: str | None) -> Iterator[bytes | None]:
    source = pa.PythonFile(raw, mode="r")
    stream = pa.CompressedInputStream(source, compression) if compression else source
    while True:
        try:
            block = stream.read(size)
        except OSError as error:
            # Arrow raises a bare OSError for broken compression; errors of the storage have a number.
            if not compression or type(error) is not OSError or error.errno is not None:
                raise
            if "too much memory" in str(error):
                raise _WindowError from None
            block = None
        if block:
            yield block
            continue
        if block is None or (compression and not raw.tell()):
            yield None
        return


def _gzip_blocks(raw: Any, size: int) -> Iterator[bytes | None]:
    """Yield the contents of a gzip file's members. Zeros after a member are padding, as tapes have it."""
    member, inside, data = zlib.decompressobj(_GZIP), True, b""
    while data or (data := raw.read(_PIECE_BYTES)):
        if not inside:
            data = data.lstrip(b"\0")
            inside = bool(data)
        while inside:
            try:
                block = member.decompress(data, size)
            except zlib.error:
                yield None
                return
            data = member.unconsumed_tail
            if block:
                yield block
            if member.eof:
                data, member, inside = member.unused_data, zlib.decompressobj(_GZIP), False
            elif not block and not data:
                break
    if inside:
        yield None


def _zstd_blocks(raw: Any, window_mib: int) -> Iterator[bytes | None]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=window_mib << 20)
    frame, inside = decompressor.decompressobj(), False
    while data := raw.read(_PIECE_BYTES):
        while data:
            try:
                block, inside = frame.decompress(data), True
            except zstandard.ZstdError as error:
                if "too much memory" in str(error):
                    raise _WindowError from None
                yield None
                return
            if block:
                yield block
            data = frame.unused_data
            if frame.eof:
                frame, inside = decompressor.decompressobj(), False
    if inside or not raw.tell():
        yield None


def _window_error(url: str, window_mib: int | None) -> str:
    system, path = filesystem(url)
    with system.open(path, "rb") as raw:
        window = _window_bytes(raw.read(_FRAME_HEADER_BYTES))
    largest = (window_mib << 20) if window_mib else _WINDOW_BYTES
    # A later frame may have the large window.
    size = f"of {-(-window >> 20):,} MiB" if window > largest else f"over {largest >> 20:,} MiB"
    needed = -(-window >> 20) if window > largest else _LARGEST_WINDOW_MIB
    setting = "" if window_mib is None else f"set ingest.zstd_window_mib={needed} (memory per reader), or "
    limit = (
        f"at most {largest >> 20:,} MiB can be read"
        if window_mib is None
        else (f"ingest.zstd_window_mib = {window_mib}")
    )
    log = (window - 1).bit_length() if window > largest else 31
    return (
        f"{url}: compressed with a zstd window {size}, {limit}; {setting}compress it again: "
        f"`zstd -dc --long={log} {PurePosixPath(url).name} | zstd --long={_WINDOW_LOG} -o new.zst`"
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


def compression_of(url: str) -> str | None:
    """Return the compression that a file's name says: gzip, zstd or None."""
    return COMPRESSION.get(PurePosixPath(url).suffix.lower())


def suffix_of(url: str) -> str:
    """Return the suffix of a file's name, without that of its compression: .jsonl of a.jsonl.gz."""
    path = PurePosixPath(url)
    return (path.with_suffix("") if compression_of(url) else path).suffix
