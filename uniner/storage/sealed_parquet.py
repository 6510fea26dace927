"""Parquet files that notice damage: a changed bit never reads as other rows.

Page checksums do not cover the footer and the pages' headers, where a changed bit can give other rows. So the
footer holds a seal: the digest of each column's contents, a few words of the writer's own (a chunk's
summary), and a digest of the seal itself. Whatever is read, the seal is checked first and then every column
that was read. Other programs read the files as any Parquet.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from uniner.storage.sealed_json import BrokenFileError

_SEAL = b"uniner.seal"


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What a sealed file says of its contents.

    rows: their number. columns: digest of each column's contents by name, in order. note: the writer's own
    JSON object.
    """

    rows: int
    columns: dict[str, str]
    note: dict[str, Any]


def sealed_parquet(table: pa.Table, note: Mapping[str, Any] | None = None) -> bytes:
    """Return a table as the bytes of a sealed Parquet file. note: a JSON object to keep in its footer."""
    return seal_table(table, note)[0]


def seal_table(table: pa.Table, note: Mapping[str, Any] | None = None) -> tuple[bytes, Seal]:
    """Return the bytes of a sealed Parquet file, and its seal."""
    columns = {name: column_digest(table.column(name)) for name in table.schema.names}
    seal = Seal(rows=table.num_rows, columns=columns, note=dict(note or {}))
    content = _canonical([seal.rows, list(columns.items()), seal.note])
    sealed = table.replace_schema_metadata({_SEAL: hashlib.sha256(content).hexdigest().encode() + content})
    sink = io.BytesIO()
    pq.write_table(sealed, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue(), seal


def open_sealed(data: bytes) -> pa.Table:
    """Return the rows of a sealed file's bytes.

    Raises:
        BrokenFileError: where they are not those that were sealed.
    """
    return read_sealed(pa.BufferReader(data))[0]


def read_sealed(file: Any, columns: Sequence[str] | None = None) -> tuple[pa.Table, Seal]:
    """Return some columns of an open sealed file, by default all, and its seal.

    Raises:
        BrokenFileError: where they are not those that were sealed.
    """
    with _as_broken():
        source = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        seal = _read_seal(source.metadata.metadata)
        table = source.read(columns=columns and list(columns), use_threads=columns is None)
    table = table.replace_schema_metadata(None)
    wanted = list(seal.columns if columns is None else columns)
    if table.schema.names != wanted or set(wanted) - seal.columns.keys() or table.num_rows != seal.rows:
        raise BrokenFileError("its rows or columns are not those of its seal")
    for name in wanted:
        try:
            digest = column_digest(table.column(name))
        except TypeError as error:
            raise BrokenFileError(str(error)) from None
        if digest != seal.columns[name]:
            raise BrokenFileError(f"the column {name} has other values than were written")
    return table, seal


def read_seal(file: Any) -> Seal:
    """Return an open sealed file's seal, from the footer alone.

    Raises:
        BrokenFileError: where the seal is not as it was written.
    """
    with _as_broken():
        return _read_seal(pq.read_metadata(file).metadata)


def column_digest(column: pa.ChunkedArray) -> str:
    """Return the SHA-256 of a column's type and values, however they are sliced, divided or laid out."""
    digest = hashlib.sha256()
    combined = column.combine_chunks()
    _update(digest, pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined)
    return digest.hexdigest()


def _update(digest: Any, array: pa.Array) -> None:
    """Add an array's type and values, as plain buffers. Fields are named, so that no two types agree."""
    kind = array.type
    digest.update(f"{len(array)} {array.null_count} ".encode())
    if array.null_count:
        digest.update(_bytes(array.is_valid().cast(pa.uint8())))
        array = array.drop_null()
    if pa.types.is_struct(kind):
        digest.update(f"struct of {[field.name for field in kind]} ".encode())
        for field in array.flatten():
            _update(digest, field)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        digest.update(b"list ")
        digest.update(_bytes(pc.list_value_length(array)))
        _update(digest, array.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        digest.update(f"{kind} ".encode())
        digest.update(_bytes(pc.binary_length(array)))
        digest.update(_characters(array))
    elif pa.types.is_boolean(kind):
        digest.update(b"bool ")
        digest.update(_bytes(array.cast(pa.uint8())))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        digest.update(f"{kind} ".encode())
        digest.update(_bytes(array))
    else:
        raise TypeError(f"a column of type {kind} cannot be sealed")


def _bytes(numbers: pa.Array) -> Any:
    return np.ascontiguousarray(numbers.to_numpy(zero_copy_only=False)).view(np.uint8)


def _characters(array: pa.Array) -> memoryview:
    """Return the bytes of all strings in a row."""
    _, offsets, values = array.buffers()
    if values is None or not len(array):
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int32, len(array) + 1, offset=4 * array.offset)
    return memoryview(values)[int(ends[0]) : int(ends[-1])]


def _read_seal(metadata: Mapping[bytes, bytes] | None) -> Seal:
    value = (metadata or {}).get(_SEAL)
    if value is None:
        raise BrokenFileError("it has no seal")
    digest, content = value[:64], value[64:]
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise BrokenFileError("its seal is broken")
    rows, columns, note = json.loads(content)
    return Seal(rows=rows, columns=dict(columns), note=note)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@contextlib.contextmanager
def _as_broken() -> Iterator[None]:
    """Turn what Arrow raises for broken Parquet into a BrokenFileError; errors of the storage pass."""
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        # Arrow raises a bare OSError; errors of the storage have a number or a subclass.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise BrokenFileError(f"broken or truncated Parquet: {' '.join(str(error).split())[:120]}") from None
