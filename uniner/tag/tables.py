"""What people query: the flat table of entities, and each type's most frequent surfaces. Arrow, no Ray.

Both are made part by part of the stage's chunks; a part is named by its first chunk, so that one that is made
again replaces itself.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniner.storage.stage_folder import Folder, parquet

AGGREGATE, ENTITIES = "aggregate.parquet", "entities"
PART_PASSAGES = 20_000
_NO_SOURCE = "(none)"  # Spark cannot read an empty name, nor pandas that which Hive has for null
_ENTITIES = pa.schema(
    [
        ("doc_id", pa.string()),
        ("passage_id", pa.string()),
        ("source", pa.string()),
        ("type", pa.string()),
        ("text", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("score", pa.float64()),
        ("grounding", pa.string()),
    ]
)
_SURFACES = pa.schema(
    [("type", pa.string()), ("text", pa.string()), ("mentions", pa.int64()), ("documents", pa.int64())]
)


@dataclass(frozen=True)
class Parts:
    """Makes parts of tagged chunks, each with the passages that it is of, under the same keys.

    keys: all chunks', in the order of the corpus. entities: write the flat table too; by_source: in a folder
    a source.
    """

    tagged: Folder
    passages: Folder
    keys: tuple[str, ...]
    entities: bool
    by_source: bool

    def make(self, item: Sequence[int]) -> dict[str, list[Any]]:
        """Make the part of keys[start:end], and return how often each surface occurs there."""
        start, end = item
        table = pa.concat_tables([self._entities(key) for key in self.keys[start:end]])
        if self.entities:
            for name, rows in _files(table, self.by_source):
                self.tagged.write(f"{ENTITIES}/{name}part-{self.keys[start]}.parquet", parquet(rows))
        return count(table, self._begun(start)).to_pydict()

    def _entities(self, key: str) -> pa.Table:
        passages = self.passages.read_columns(key, ["passage_id", "source"])
        return flat_table(self.tagged.read_chunk(key), passages)

    def _begun(self, start: int) -> pa.Table | None:
        """Return what the chunks before the part have of the document that it begins in."""
        ids = (doc_id for key in self.keys[start:] for doc_id in self._doc_ids(key))
        document = next(ids, None)
        found = []
        for key in reversed(self.keys[:start]):
            doc_ids = set(self._doc_ids(key))
            if document in doc_ids:
                found.append(self._entities(key))
            if doc_ids - {document}:
                break  # it began here, or before this there was another
        rows = pa.concat_tables(found) if found else None
        return rows.filter(pc.equal(rows["doc_id"], document)) if rows is not None else None

    def _doc_ids(self, key: str) -> list[str]:
        return self.tagged.read_columns(key, ["doc_id"])["doc_id"].unique().to_pylist()


def parts(rows: Sequence[int]) -> list[list[int]]:
    """Divide chunks, by their rows, into parts of about PART_PASSAGES: each one's first, and its last + 1."""
    found, start, size = [], 0, 0
    for place, passages in enumerate(rows):
        size += passages
        if size >= PART_PASSAGES or place + 1 == len(rows):
            found.append([start, place + 1])
            start, size = place + 1, 0
    return found


def flat_table(tagged: pa.Table, passages: pa.Table) -> pa.Table:
    """Lay a chunk's entities out, a row each. passages: passage_id and source of the same rows."""
    if not tagged["passage_id"].equals(passages["passage_id"]):
        raise ValueError("the tagged passages are not those of the chunk")
    entities = tagged["entities"].combine_chunks()
    of_passage, entity = pc.list_parent_indices(entities), pc.list_flatten(entities)
    columns = {
        "doc_id": tagged["doc_id"].take(of_passage),
        "passage_id": tagged["passage_id"].take(of_passage),
        "source": passages["source"].take(of_passage),
    }
    fields = {name: pc.struct_field(entity, name) for name in _ENTITIES.names if name not in columns}
    return pa.table(columns | fields, schema=_ENTITIES)


def fold(text: str) -> str:
    """Fold what makes no other surface: case and white space."""
    return " ".join(text.split()).casefold()


def count(entities: pa.Table, begun: pa.Table | None = None) -> pa.Table:
    """Count the mentions and the documents of each type's surfaces, folded; what is ungrounded counts not.

    begun: what of a document stands in other parts: there it was counted as a document.
    """
    found = _surfaces(entities).group_by(["type", "text", "doc_id"]).aggregate([([], "count_all")])
    before = (
        set() if begun is None else set(map(tuple, (row.values() for row in _surfaces(begun).to_pylist())))
    )
    new = [
        row not in before
        for row in zip(*(found[name].to_pylist() for name in ("type", "text", "doc_id")), strict=True)
    ]
    found = found.append_column("documents", pa.array(new).cast(pa.int64()))
    return _added(found.rename_columns({"count_all": "mentions"}))


class Surfaces:
    """Adds parts up and keeps each type's most frequent surfaces, in bounded memory.

    Exact as long as no type has more than `limit` surfaces; beyond, the rarest are let go from time to time,
    and `understated` has by how many mentions, at most, a surface of a type may be too low (lossy counting,
    Manku and Motwani 2002). mentions: of each type, always exact.
    """

    def __init__(self, limit: int, waiting_rows: int = 500_000):
        self._limit, self._waiting_rows = limit, waiting_rows
        self._standing = _SURFACES.empty_table()
        self._waiting: list[pa.Table] = []
        self.mentions: Counter[str] = Counter()
        self.understated: Counter[str] = Counter()

    def add(self, part: Mapping[str, list[Any]]) -> None:
        """Add a part's counts."""
        self._waiting.append(pa.table(dict(part), schema=_SURFACES))
        if sum(table.num_rows for table in self._waiting) > self._waiting_rows:
            self._merge()

    def top(self, most: int) -> pa.Table:
        """Return the most frequent surfaces of each type, the most frequent type first."""
        self._merge()
        ranked, rank = self._ranked()
        chosen = ranked.filter(pa.array(rank < most))
        order = {name: place for place, (name, _) in enumerate(self.mentions.most_common())}
        places = [order[name] for name in chosen["type"].to_pylist()]
        return chosen.take(pa.array(np.argsort(places, kind="stable"), pa.int64()))

    def _merge(self) -> None:
        waiting, self._waiting = self._waiting, []
        for table in waiting:
            by_type = table.group_by("type").aggregate([("mentions", "sum")])
            self.mentions.update(
                dict(zip(by_type["type"].to_pylist(), by_type["mentions_sum"].to_pylist(), strict=True))
            )
        self._standing = _added(pa.concat_tables([self._standing, *waiting]))
        ranked, rank = self._ranked()
        (first_gone,) = np.nonzero(rank == self._limit)
        for row in ranked.take(pa.array(first_gone)).to_pylist():
            self.understated[row["type"]] += row["mentions"]
        self._standing = ranked.filter(pa.array(rank < self._limit))

    def _ranked(self) -> tuple[pa.Table, np.ndarray]:
        """Return what stands, type by type and the most frequent first, and each row's rank in its type."""
        order = [("type", "ascending"), ("mentions", "descending"), ("text", "ascending")]
        ranked = self._standing.sort_by(order)
        types = ranked["type"].combine_chunks().dictionary_encode().indices.to_numpy()
        first = np.searchsorted(types, types, side="left")
        return ranked, np.arange(len(types)) - first


def write_top(folder: Folder, surfaces: Surfaces, most: int) -> None:
    """Write the table of the most frequent surfaces."""
    folder.write(AGGREGATE, parquet(surfaces.top(most)))


def _surfaces(entities: pa.Table) -> pa.Table:
    located = entities.filter(pc.greater_equal(entities["start"], 0)).select(["type", "text", "doc_id"])
    encoded = located["text"].combine_chunks().dictionary_encode()
    folded = pa.array(map(fold, encoded.dictionary.to_pylist()), pa.string()).take(encoded.indices)
    return located.set_column(1, "text", folded)


def _added(table: pa.Table) -> pa.Table:
    """Add up the rows of the same type and text."""
    added = table.group_by(["type", "text"]).aggregate([("mentions", "sum"), ("documents", "sum")])
    names = ["type", "text", "mentions_sum", "documents_sum"]
    return added.select(names).rename_columns(_SURFACES.names).cast(_SURFACES)


def _files(table: pa.Table, by_source: bool) -> Iterator[tuple[str, pa.Table]]:
    if not by_source:
        yield "", table
        return
    for source in table["source"].unique().to_pylist():
        rows = table.filter(pc.equal(table["source"], source)).drop_columns(["source"])
        yield f"source={quote(source, safe='') or _NO_SOURCE}/", rows
