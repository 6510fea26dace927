"""Read a shard of JSON lines, compressed with zstd (any number of frames), as a stream."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from uniner.errors import UserError
from uniner.storage import explained, filesystem, read_part

_BLOCK_BYTES = 4 << 20
_ENDS_BYTES = 1 << 16


@dataclass(frozen=True)
class Line:
    """A line of a shard: its number (from 0), its bytes, and the compressed bytes read up to it."""

    number: int
    data: bytes
    bytes_read: int


def read_lines(url: str) -> Iterator[Line]:
    """Yield the lines of a shard in order, holding a few MB at a time.

    Raises:
        UserError: where the compression is broken or the shard ends too early, naming the last good line.
    """
    system, path = filesystem(url)
    number, rest = 0, b""
    with contextlib.ExitStack() as open_files:
        with explained(url):
            raw = open_files.enter_context(system.open(path, "rb", block_size=2 * _BLOCK_BYTES))
        source = pa.PythonFile(raw, mode="r")
        stream = pa.CompressedInputStream(source, "zstd")
        while True:
            try:
                block = stream.read(_BLOCK_BYTES)
            except OSError as error:
                if isinstance(error, (ConnectionError, PermissionError)):
                    raise
                raise UserError(
                    f"{url}: broken or truncated zstd after line {number} ({' '.join(str(error).split())}); "
                    "fetch the shard again"
                ) from None
            if not block:
                break
            *lines, rest = (rest + block).split(b"\n")
            for data in lines:
                yield Line(number, data, raw.tell())
                number += 1
        if rest:
            yield Line(number, rest, raw.tell())


@dataclass(frozen=True)
class Document:
    """A line's document."""

    text: str
    source: str


def parse(data: bytes, text_field: str, source_field: str) -> Document | str:
    """Read a line's document, or return the reason why it has none.

    Reasons: not_json, not_object, no_text (field missing), text_not_string, empty_text.
    """
    try:
        row = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return "not_json"
    except UnicodeDecodeError:
        return "not_json"
    if not isinstance(row, dict):
        return "not_object"
    text = _field(row, text_field)
    if text is None:
        return "no_text"
    if not isinstance(text, str):
        return "text_not_string"
    if not text.strip():
        return "empty_text"
    source = _field(row, source_field)
    return Document(text, source if isinstance(source, str) else "")


def _field(row: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(row, dict):
            return None
        row = row.get(part)
    return row


def fingerprint(url: str) -> dict[str, Any]:
    """Return a shard's size and a digest of its two ends, to notice that it changed between two runs."""
    system, path = filesystem(url)
    with explained(url):
        size = system.size(path)
        ends = read_part(url, 0, min(size, _ENDS_BYTES)) + read_part(url, max(0, size - _ENDS_BYTES), size)
    return {"bytes": size, "ends": hashlib.sha256(ends).hexdigest()[:16]}
