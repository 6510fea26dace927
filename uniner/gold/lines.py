"""Read a gold file's bytes and lines: without decompression bombs, and past a line that is not UTF-8."""

from collections.abc import Iterator

from uniner.errors import UserError
from uniner.storage.decompression import first_bytes
from uniner.storage.line_reader import BYTE_ORDER_MARK, read_lines, read_whole

EXPANSION = 200
"""Most decompressed bytes for a compressed one. Columns and JSON of text have up to 30, padding without end
has 1,000 and more. It counts from the first 64 MB, so that small files of repeated rows are read."""
_ARCHIVES = {b"PK\x03\x04": "zip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}
_COMPRESSED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


def gold_start(url: str) -> bytes:
    """Return about the first KB of a file, decompressed, without byte-order mark and blanks.

    Raises:
        UserError: if it is an archive, or compressed without the ending that says so.
    """
    start = first_bytes(url)
    for mark, kind in _ARCHIVES.items():
        if start.startswith(mark):
            raise UserError(f"{url}: is a {kind} archive; unpack it, and name the file that is in it")
    for mark, ending in _COMPRESSED.items():
        if start.startswith(mark):
            raise UserError(f"{url}: is compressed; give it the ending {ending}, or unpack it")
    return start.removeprefix(BYTE_ORDER_MARK).lstrip()


def gold_bytes(url: str) -> bytes:
    """Return a whole file's decompressed bytes, without byte-order mark.

    Raises:
        UserError: if the compression is broken, or expands without end.
    """
    return read_whole(url, EXPANSION).removeprefix(BYTE_ORDER_MARK)


def gold_lines(url: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers (from 1), without byte-order mark.

    Raises:
        UserError: as `gold_bytes`.
    """
    for line in read_lines(url, expansion=EXPANSION):
        data = line.data or b""
        yield line.number + 1, data if line.number else data.removeprefix(BYTE_ORDER_MARK)


def gold_text_lines(url: str) -> Iterator[tuple[int, str | None]]:
    """Yield the lines of a file with their numbers, without line end; None for one that is not UTF-8."""
    for number, data in gold_lines(url):
        try:
            yield number, data.decode().removesuffix("\r")
        except UnicodeDecodeError:
            yield number, None


def not_utf8(url: str, number: int) -> str:
    """Return the error of a line that is not UTF-8."""
    return f"{url}, line {number} is not UTF-8; save the file as UTF-8"
