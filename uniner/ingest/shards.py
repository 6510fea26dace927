"""The shards of a corpus: their digests, and the parts that a single task reads."""

import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from uniner.errors import UserError
from uniner.ingest.parquet_columns import is_id, is_text, require_column
from uniner.storage.decompression import compression_of, first_bytes, suffix_of
from uniner.storage.filesystem import explained, filesystem, open_parquet, read_part
from uniner.storage.line_reader import BYTE_ORDER_MARK

Kind = Literal["lines", "parquet", "text", "generated"]
_KINDS: dict[str, Kind] = {
    ".jsonl": "lines", ".json": "lines", ".ndjson": "lines", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip
TEXT_FILES = 256
"""Text files per part: a task per file would cost more than its work."""
_ENDS_BYTES = 1 << 16
_READERS = 16
_LIST = re.compile(rb"\s*\[\s*(\{|\]|$)")
# No line of JSON lines ends within an object.
_OBJECT_OVER_LINES = re.compile(rb"\s*\{[^\n]*(?<=[{\[,])[ \t\r]*\n")
_OTHER_FORMATS = {
    b"\xff\xfe": "UTF-16, not UTF-8; convert it, for instance with `iconv -f UTF-16 -t UTF-8`",
    b"\xfe\xff": "UTF-16, not UTF-8; convert it, for instance with `iconv -f UTF-16 -t UTF-8`",
    b"\x1f\x8b": "gzip, though its name does not say so; rename it to end in .gz",
    b"\x28\xb5\x2f\xfd": "zstd, though its name does not say so; rename it to end in .zst",
    b"PAR1": "Parquet, not JSON lines; rename it to end in .parquet",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"BZh": "bzip2; compress it with gzip or zstd",
    b"\xfd7zXZ": "xz; compress it with gzip or zstd",
}
"""The first bytes of a shard that is not JSON lines, and what it is."""
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ShardPart:
    """The input of one task: a shard of JSON lines, a Parquet row group, text files, or a chunk of generate.

    number: the part's number in the order of shards; keys and ids begin with it. first: the part's first row
    in its shard. sizes: compressed bytes of each url. limit: the amount to read, in bytes of JSON lines or
    rows of a row group; None reads all. root: the folder that all text files of the corpus share.
    """

    number: int
    kind: Kind
    urls: Sequence[str]
    sizes: Sequence[int] = field(repr=False)
    group: int = 0
    first: int = 0
    limit: int | None = None
    root: str = ""

    @property
    def bytes(self) -> int:
        """Return the compressed bytes of the part."""
        return sum(self.sizes)

    def place(self, row: int) -> tuple[str, int]:
        """Return the file name of a row's shard, and the row's line or row number there, from 1.

        A text file's name is its path below the root.
        """
        if self.kind == "text":
            return self.urls[row].removeprefix(f"{self.root}/"), 1
        return PurePosixPath(self.urls[0]).name, self.first + row + 1

    def manifest_entry(self) -> dict[str, Any]:
        """Return the part's entry in the manifest, which leads from an id back to its shard."""
        entry = {"part": self.number, "shard": PurePosixPath(self.urls[0]).name}
        details: dict[str, dict[str, Any]] = {
            "parquet": {"row_group": self.group, "first_row": self.first},
            "text": {"files": len(self.urls)},
            "generated": {"stage": "generate"},
        }
        return entry | details.get(self.kind, {})


@dataclass(frozen=True, kw_only=True)
class ShardDigest:
    """A shard's size, and a digest of its two ends: detects a change between two runs."""

    bytes: int
    ends: str


def shard_digest(url: str) -> ShardDigest:
    """Return the digest of a shard, reading only its ends."""
    system, path = filesystem(url)
    with explained(url):
        size = system.size(path)
        ends = read_part(url, 0, min(size, _ENDS_BYTES)) + read_part(url, max(0, size - _ENDS_BYTES), size)
    return ShardDigest(bytes=size, ends=hashlib.sha256(ends).hexdigest()[:16])


def shard_digests(files: Sequence[str]) -> list[ShardDigest]:
    """Return the digest of each shard."""
    return _in_threads(shard_digest, files)


def split_shards(
    files: Sequence[str],
    sizes: Sequence[int],
    text_field: str,
    read_bytes: int | None = None,
    id_field: str | None = None,
    window_mib: int | None = None,
    first: int = 0,
    root: str | None = None,
) -> list[ShardPart]:
    """Divide shards into parts, in order. read_bytes: maximum to read of each shard, decompressed.

    A text file is always read whole: it is one document. window_mib: as in `decompression.read_blocks`.
    first: number of the first part. root: the folder below which text files' paths are their ids; None: the
    folder that they all share.

    Raises:
        UserError: if a shard has an unknown suffix, is one JSON list, or is Parquet and broken or without the
            text field.
    """
    kinds = [_kind(file) for file in files]
    of_kind = {
        kind: [file for file, its_kind in zip(files, kinds, strict=True) if its_kind == kind]
        for kind in kinds
    }
    _in_threads(functools.partial(_require_lines, window_mib=window_mib), of_kind.get("lines", []))
    parquet = of_kind.get("parquet", [])
    root = _common_folder(of_kind.get("text", [])) if root is None else root
    footers = dict(zip(parquet, _in_threads(_read_footer, parquet), strict=True))
    numbers, parts = count(first), list[ShardPart]()
    for file, size, kind in zip(files, sizes, kinds, strict=True):
        if kind == "parquet":
            metadata, schema = footers[file]
            require_column(file, schema, text_field, "ingest.text_field", is_text)
            if id_field:
                require_column(file, schema, id_field, "ingest.id_field", is_id)
            parts += _row_groups(file, size, metadata, numbers, read_bytes)
        elif kind == "text" and parts and parts[-1].kind == kind and len(parts[-1].urls) < TEXT_FILES:
            last = parts.pop()
            parts.append(replace(last, urls=(*last.urls, file), sizes=(*last.sizes, size)))
        else:
            limit = read_bytes if kind == "lines" else None
            parts.append(ShardPart(next(numbers), kind, (file,), (size,), limit=limit, root=root))
    return parts


def _common_folder(files: Sequence[str]) -> str:
    """Return the folder that all files share; "" for files of several buckets or protocols."""
    folders = [file.rsplit("/", 1)[0].split("/") for file in files]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    root = "/".join(parts[0] for parts in shared)
    return "" if root.endswith((":", ":/")) else root


def generated_parts(chunks: Mapping[str, int], first: int) -> list[ShardPart]:
    """Return a part, numbered from `first` on, for each chunk of generate. chunks: address to bytes."""
    return [
        ShardPart(number, "generated", (url,), (size,))
        for number, (url, size) in enumerate(chunks.items(), first)
    ]


def _kind(url: str) -> Kind:
    kind = _KINDS.get(suffix_of(url).lower())
    if kind is None or (kind == "parquet" and compression_of(url)):
        raise UserError(
            f"{url}: unknown file suffix; JSON lines end in .jsonl, .json or .ndjson, text in .txt (both "
            "also with .gz or .zst), Parquet in .parquet"
        )
    return kind


def _require_lines(url: str, window_mib: int | None) -> None:
    """Raise a UserError if a shard begins as something else than JSON lines."""
    start = first_bytes(url, window_mib).removeprefix(BYTE_ORDER_MARK)
    for magic, name in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise UserError(f"{url}: is {name}")
    if _LIST.match(start):
        raise UserError(
            f"{url}: is one JSON list, not JSON lines; write a row per line, for instance with `jq -c '.[]'`"
        )
    if _OBJECT_OVER_LINES.match(start):
        raise UserError(
            f"{url}: has a JSON object over several lines, not JSON lines; write a row per line, for "
            "instance with `jq -c .`"
        )


def _read_footer(url: str) -> tuple[pq.FileMetaData, pa.Schema]:
    """Return a Parquet shard's metadata and schema."""
    with open_parquet(url) as file:
        return file.metadata, file.schema_arrow


def _row_groups(
    url: str, size: int, metadata: pq.FileMetaData, numbers: Iterator[int], read_bytes: int | None
) -> Iterator[ShardPart]:
    """Yield a part for each row group. Its compressed bytes are its rows' share of the file's.

    The sizes of its columns would tell, but in a damaged file asking for them ends the process.
    """
    first = bytes_before = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        limit = None
        if read_bytes is not None:
            left = read_bytes - bytes_before
            if left <= 0:
                return
            limit = min(group.num_rows, -(-group.num_rows * left // max(1, group.total_byte_size)))
            bytes_before += group.total_byte_size
        share = size * group.num_rows // max(1, metadata.num_rows)
        yield ShardPart(next(numbers), "parquet", (url,), (share,), number, first, limit)
        first += group.num_rows


def _in_threads(function: Callable[[str], _Result], files: Sequence[str]) -> list[_Result]:
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(function, files))
