"""What a corpus is made of: shards, what identifies them, and the parts of them that one task reads."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar

import pyarrow.parquet as pq

from uniner.errors import UserError
from uniner.storage.filesystem import explained, filesystem, open_parquet, read_part
from uniner.storage.line_reader import COMPRESSION

Kind = Literal["lines", "parquet", "text", "generated"]
KINDS: dict[str, Kind] = {
    ".jsonl": "lines", ".json": "lines", ".ndjson": "lines", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip
TEXT_FILES = 256
"""Text files a part: a task for each would cost more than its work."""
_ENDS_BYTES = 1 << 16
_READERS = 16
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Part:
    """What one task reads: a shard of JSON lines, a row group of a Parquet shard, some text files, or a chunk
    of what generate wrote.

    number is the part's own, in the order of shards; keys and ids begin with it. first is the number of its
    first row in its shard. sizes are the compressed bytes, one for each of urls. limit, where it is set, is
    how much of the part is read: bytes of JSON lines, or rows of a row group.
    """

    number: int
    kind: Kind
    urls: Sequence[str]
    sizes: Sequence[int] = field(repr=False)
    group: int = 0
    first: int = 0
    limit: int | None = None

    @property
    def bytes(self) -> int:
        """Return the compressed bytes of the part."""
        return sum(self.sizes)

    def place(self, row: int) -> tuple[str, int]:
        """Return a row's place: its shard's file name and its line or row in it, from 1."""
        if self.kind == "text":
            return PurePosixPath(self.urls[row]).name, 1
        return PurePosixPath(self.urls[0]).name, self.first + row + 1

    def account(self) -> dict[str, Any]:
        """Return what the manifest says of the part, so that an id leads back to its shard."""
        account = {"part": self.number, "shard": PurePosixPath(self.urls[0]).name}
        more: dict[str, dict[str, Any]] = {
            "parquet": {"row_group": self.group, "first_row": self.first},
            "text": {"files": len(self.urls)},
            "generated": {"stage": "generate"},
        }
        return account | more.get(self.kind, {})


def fingerprint(url: str) -> dict[str, Any]:
    """Return a shard's size and a digest of its two ends, to notice that it changed between two runs."""
    system, path = filesystem(url)
    with explained(url):
        size = system.size(path)
        ends = read_part(url, 0, min(size, _ENDS_BYTES)) + read_part(url, max(0, size - _ENDS_BYTES), size)
    return {"bytes": size, "ends": hashlib.sha256(ends).hexdigest()[:16]}


def fingerprints(files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return each shard's fingerprint under its number and name: files of two folders may share a name."""
    names = (f"{number:05d} {PurePosixPath(file).name}" for number, file in enumerate(files))
    return dict(zip(names, _at_once(fingerprint, files), strict=True))


def parts_of(
    files: Sequence[str], sizes: Sequence[int], text_field: str, read_bytes: int | None = None
) -> list[Part]:
    """Divide shards into parts, in their order; read_bytes (decompressed) bounds what is read of each shard.

    A text file is read whole: it is one document.

    Raises:
        UserError: where a shard is of no known kind, or is Parquet and broken or without the text field.
    """
    kinds = [kind_of(file) for file in files]
    footers = dict(
        zip(
            [file for file, kind in zip(files, kinds, strict=True) if kind == "parquet"],
            _at_once(read_footer, [file for file in files if kind_of(file) == "parquet"]),
            strict=True,
        )
    )
    numbers, parts = count(), list[Part]()
    for file, size, kind in zip(files, sizes, kinds, strict=True):
        if kind == "parquet":
            parts += _row_groups(file, footers[file], text_field, numbers, read_bytes)
        elif kind == "text" and parts and parts[-1].kind == kind and len(parts[-1].urls) < TEXT_FILES:
            before = parts.pop()
            parts.append(Part(before.number, kind, (*before.urls, file), (*before.sizes, size)))
        else:
            limit = read_bytes if kind == "lines" else None
            parts.append(Part(next(numbers), kind, (file,), (size,), limit=limit))
    return parts


def generated_parts(chunks: Mapping[str, int], first: int) -> list[Part]:
    """Return the parts, numbered from `first` on, that the chunks of generate are: addresses to bytes."""
    return [
        Part(number, "generated", (url,), (size,)) for number, (url, size) in enumerate(chunks.items(), first)
    ]


def kind_of(url: str) -> Kind:
    """Return what a shard holds, by its suffix.

    Raises:
        UserError: where that is unknown.
    """
    path = PurePosixPath(url)
    if path.suffix in COMPRESSION:
        path = path.with_suffix("")
    kind = KINDS.get(path.suffix)
    if kind is None or (kind == "parquet" and url != str(url).removesuffix(".gz").removesuffix(".zst")):
        raise UserError(
            f"{url}: is of no known kind; JSON lines end in .jsonl, .json or .ndjson, text in .txt (both "
            "also with .gz or .zst), Parquet in .parquet"
        )
    return kind


def read_footer(url: str) -> tuple[pq.FileMetaData, list[str]]:
    """Return a Parquet shard's footer and the names of its columns."""
    with open_parquet(url) as file:
        return file.metadata, file.schema_arrow.names


def _row_groups(
    url: str,
    footer: tuple[pq.FileMetaData, list[str]],
    text_field: str,
    numbers: Iterator[int],
    read_bytes: int | None,
) -> Iterator[Part]:
    metadata, columns = footer
    if text_field.split(".")[0] not in columns:
        raise UserError(f"{url}: has no column {text_field}, but {', '.join(columns)}; set ingest.text_field")
    first = bytes_before = 0
    for group in range(metadata.num_row_groups):
        found = metadata.row_group(group)
        limit = None
        if read_bytes is not None:
            left = read_bytes - bytes_before
            if left <= 0:
                return
            limit = min(found.num_rows, -(-found.num_rows * left // max(1, found.total_byte_size)))
            bytes_before += found.total_byte_size
        size = sum(found.column(column).total_compressed_size for column in range(found.num_columns))
        yield Part(next(numbers), "parquet", (url,), (size,), group, first, limit)
        first += found.num_rows


def _at_once(function: Callable[[str], _Result], files: Sequence[str]) -> list[_Result]:
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(function, files))
