"""The chunks of a stage as columns: a million take 100 MB; as objects they would take four times that."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, overload

import pyarrow as pa
import pyarrow.compute as pc

_SCHEMA = pa.schema(
    [("key", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64()), ("digest", pa.string())]
)
_BATCH = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkEntry:
    """A chunk in a manifest's list: its key, rows, file size in bytes, and the digest of its contents."""

    key: str
    rows: int
    bytes: int
    digest: str = ""


class ChunkList(Sequence[ChunkEntry]):
    """A sequence of chunks. table: columns key, rows, bytes and digest."""

    def __init__(self, table: pa.Table | None = None):
        self.table = _SCHEMA.empty_table() if table is None else table.cast(_SCHEMA)

    @classmethod
    def of(cls, entries: Iterable[ChunkEntry]) -> Self:
        """Return a list of these chunks."""
        if isinstance(entries, cls):
            return entries
        builder = ChunkListBuilder()
        for entry in entries:
            builder.add(entry.key, entry.rows, entry.bytes, entry.digest)
        return cls(builder.table())

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, place: int) -> ChunkEntry: ...
    @overload
    def __getitem__(self, place: slice) -> "ChunkList": ...
    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return ChunkList(self.table.take(pa.array(range(*place.indices(len(self))), pa.int64())))
        return ChunkEntry(**self.table.slice(range(len(self))[place], 1).to_pylist()[0])

    def __iter__(self) -> Iterator[ChunkEntry]:
        for batch in self.table.to_batches(_BATCH):
            for row in batch.to_pylist():
                yield ChunkEntry(**row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkList) and self.table.equals(other.table)

    __hash__ = None  # type: ignore[assignment]  # as for a list

    @property
    def keys(self) -> pa.ChunkedArray:
        """Return the column of the keys."""
        return self.table["key"]

    @property
    def rows_of_chunk(self) -> dict[str, int]:
        """Return the number of rows by key."""
        return dict(zip(self.keys.to_pylist(), self.table["rows"].to_pylist(), strict=True))

    @property
    def total_rows(self) -> int:
        """Return the number of rows of all chunks."""
        return pc.sum(self.table["rows"]).as_py() or 0

    def sorted_by_key(self) -> "ChunkList":
        """Return the chunks in key order."""
        return ChunkList(self.table.sort_by("key"))

    def largest_first(self) -> "ChunkList":
        """Return the chunks by bytes, the largest first, then by key."""
        return ChunkList(self.table.sort_by([("bytes", "descending"), ("key", "ascending")]))

    def without(self, others: "ChunkList") -> "ChunkList":
        """Return the chunks whose key is not among others'."""
        return ChunkList(self.table.filter(pc.invert(pc.is_in(self.keys, value_set=others.keys))))

    def same_rows(self, others: "ChunkList") -> bool:
        """Tell whether two lists in any order have the same keys with the same numbers of rows."""
        one, two = (chunks.sorted_by_key().table.select(["key", "rows"]) for chunks in (self, others))
        return one.equals(two)

    def same_contents(self, others: "ChunkList") -> bool:
        """Tell whether each chunk is among others with the same rows and digest."""
        places = pc.index_in(self.keys, value_set=others.keys)
        if places.null_count:
            return False
        found = others.table.take(places)
        return all(self.table[name].equals(found[name]) for name in ("rows", "digest"))


class ChunkListBuilder:
    """Takes chunks one by one and keeps them as columns."""

    def __init__(self) -> None:
        self._done: list[pa.RecordBatch] = []
        self._columns: tuple[list[Any], ...] = ([], [], [], [])

    def add(self, key: str, rows: int, bytes: int, digest: str) -> None:
        """Add a chunk."""
        for column, value in zip(self._columns, (key, rows, bytes, digest), strict=True):
            column.append(value)
        if len(self._columns[0]) == _BATCH:
            self._flush()

    def table(self) -> pa.Table:
        """Return the chunks' columns in the order they were added."""
        self._flush()
        return pa.Table.from_batches(self._done, schema=_SCHEMA).combine_chunks()

    def _flush(self) -> None:
        if self._columns[0]:
            arrays = [
                pa.array(column, kind) for column, kind in zip(self._columns, _SCHEMA.types, strict=True)
            ]
            self._done.append(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
            self._columns = ([], [], [], [])
