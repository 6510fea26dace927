"""The tables that people query: all entities, flat, and each type's most frequent surfaces. Arrow, no Ray.

Both are made in parts of the stage's chunks. A part is named by its first chunk, so a part that is made again
replaces itself.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniner.storage.folder import Folder
from uniner.storage.joined_chunks import read_joined_columns
from uniner.storage.sealed_parquet import sealed_parquet
from uniner.storage.stage_folder import StageFolder

AGGREGATE, ENTITIES = "aggregate.parquet", "entities"
TABLES = "tables.json"
"""The tables' own manifest, written last."""
PART_PASSAGES = 20_000
_NO_SOURCE = "(none)"  # Spark cannot read an empty partition name, pandas cannot read Hive's name for null
_LONGEST_SOURCE = 160
ENTITY_COLUMNS = pa.schema(
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


@dataclass(frozen=True, kw_only=True)
class TablePartWriter:
    """Makes parts of the tables from tagged chunks and their passages, which the chunks' keys name.

    keys: of all chunks, in the order of the corpus. entity_table: write the flat table too; by_source: in a
    folder for each source.
    """

    tagged: StageFolder
    passages: StageFolder
    keys: tuple[str, ...]
    entity_table: bool
    by_source: bool

    def write(self, part: Sequence[int]) -> dict[str, list[Any]]:
        """Make the part (start, end) of the keys, and return its surface counts as columns."""
        start, end = part
        entities = pa.concat_tables([self._entities(key) for key in self.keys[start:end]])
        if self.entity_table:
            for folder, rows in _partitions(entities, self.by_source):
                self.tagged.write(f"{ENTITIES}/{folder}part-{self.keys[start]}.parquet", sealed_parquet(rows))
        return count_surfaces(entities, self._earlier_entities(start)).to_pydict()

    def _entities(self, key: str) -> pa.Table:
        passages = read_joined_columns(self.passages, key, ["passage_id", "source"])
        return entity_rows(self.tagged.read_chunk(key).table, passages)

    def _earlier_entities(self, start: int) -> pa.Table | None:
        """Return the entities in earlier parts of the document in which the part begins."""
        ids = (doc_id for key in self.keys[start:] for doc_id in self._doc_ids(key))
        document = next(ids, None)
        tables = []
        for key in reversed(self.keys[:start]):
            doc_ids = set(self._doc_ids(key))
            if document in doc_ids:
                tables.append(self._entities(key))
            if doc_ids - {document}:
                break  # the document begins here or later
        rows = pa.concat_tables(tables) if tables else None
        return rows.filter(pc.equal(rows["doc_id"], document)) if rows is not None else None

    def _doc_ids(self, key: str) -> list[str]:
        return self.tagged.read_columns(key, ["doc_id"])["doc_id"].unique().to_pylist()


def divide_into_parts(rows: Sequence[int]) -> list[list[int]]:
    """Divide chunks, by their rows, into parts [start, end] of about PART_PASSAGES rows."""
    parts, start, size = [], 0, 0
    for number, passages in enumerate(rows):
        size += passages
        if size >= PART_PASSAGES or number + 1 == len(rows):
            parts.append([start, number + 1])
            start, size = number + 1, 0
    return parts


def entity_rows(tagged: pa.Table, passages: pa.Table) -> pa.Table:
    """Return a chunk's entities, one row each. passages: passage_id and source of the same rows."""
    if not tagged["passage_id"].equals(passages["passage_id"]):
        raise ValueError("the tagged passages are not those of the chunk")
    entities = tagged["entities"].combine_chunks()
    parents, entity = pc.list_parent_indices(entities), pc.list_flatten(entities)
    columns = {
        "doc_id": tagged["doc_id"].take(parents),
        "passage_id": tagged["passage_id"].take(parents),
        "source": passages["source"].take(parents),
    }
    fields = {name: pc.struct_field(entity, name) for name in ENTITY_COLUMNS.names if name not in columns}
    return pa.table(columns | fields, schema=ENTITY_COLUMNS)


def count_surfaces(entities: pa.Table, earlier: pa.Table | None = None) -> pa.Table:
    """Count the mentions and documents of each type's surfaces. Ungrounded mentions are skipped.

    Surfaces that differ only in case and white space count as one. earlier: entities of the first document in
    other parts, where the document was already counted.
    """
    keys = ["type", "text", "doc_id"]
    surfaces = _surfaces(entities).group_by(keys).aggregate([([], "count_all")])
    counted = set() if earlier is None else {tuple(row.values()) for row in _surfaces(earlier).to_pylist()}
    rows = zip(*(surfaces[name].to_pylist() for name in keys), strict=True)
    new_documents = pa.array([row not in counted for row in rows]).cast(pa.int64())
    return _summed(
        surfaces.append_column("documents", new_documents).rename_columns({"count_all": "mentions"})
    )


class SurfaceCounts:
    """Adds up the parts' counts and keeps each type's most frequent surfaces, in bounded memory.

    Exact as long as no type has more than `limit` surfaces. Beyond that the rarest surfaces are dropped from
    time to time, and `understated` bounds by how many mentions a surface of a type may be too low (lossy
    counting, Manku and Motwani 2002). mentions: of each type, always exact.
    """

    def __init__(self, limit: int, max_pending_rows: int = 500_000):
        self._limit, self._max_pending_rows = limit, max_pending_rows
        self._surfaces = _SURFACES.empty_table()
        self._pending: list[pa.Table] = []
        self.mentions: Counter[str] = Counter()
        self.understated: Counter[str] = Counter()

    def add(self, part: Mapping[str, list[Any]]) -> None:
        """Add a part's counts."""
        self._pending.append(pa.table(dict(part), schema=_SURFACES))
        if sum(table.num_rows for table in self._pending) > self._max_pending_rows:
            self._merge()

    def top(self, count: int) -> pa.Table:
        """Return the most frequent surfaces of each type, the most frequent type first."""
        self._merge()
        ranked, ranks = self._ranked()
        top = ranked.filter(pa.array(ranks < count))
        type_ranks = {name: rank for rank, (name, _) in enumerate(self.mentions.most_common())}
        order = np.argsort([type_ranks[name] for name in top["type"].to_pylist()], kind="stable")
        return top.take(pa.array(order, pa.int64()))

    def _merge(self) -> None:
        pending, self._pending = self._pending, []
        for table in pending:
            by_type = table.group_by("type").aggregate([("mentions", "sum")])
            self.mentions.update(
                dict(zip(by_type["type"].to_pylist(), by_type["mentions_sum"].to_pylist(), strict=True))
            )
        self._surfaces = _summed(pa.concat_tables([self._surfaces, *pending]))
        ranked, ranks = self._ranked()
        (first_dropped,) = np.nonzero(ranks == self._limit)
        for row in ranked.take(pa.array(first_dropped)).to_pylist():
            self.understated[row["type"]] += row["mentions"]
        self._surfaces = ranked.filter(pa.array(ranks < self._limit))

    def _ranked(self) -> tuple[pa.Table, np.ndarray]:
        """Return the surfaces by type, most frequent first, and each row's rank in its type."""
        order = [("type", "ascending"), ("mentions", "descending"), ("text", "ascending")]
        ranked = self._surfaces.sort_by(order)
        types = ranked["type"].combine_chunks().dictionary_encode().indices.to_numpy()
        first = np.searchsorted(types, types, side="left")
        return ranked, np.arange(len(types)) - first


def write_top(folder: Folder, surfaces: SurfaceCounts, count: int) -> None:
    """Write the table of the most frequent surfaces."""
    folder.write(AGGREGATE, sealed_parquet(surfaces.top(count)))


def _surfaces(entities: pa.Table) -> pa.Table:
    """Return type, normalised text and doc_id of the grounded entities."""
    grounded = entities.filter(pc.greater_equal(entities["start"], 0)).select(["type", "text", "doc_id"])
    encoded = grounded["text"].combine_chunks().dictionary_encode()
    normalised = [" ".join(text.split()).casefold() for text in encoded.dictionary.to_pylist()]
    return grounded.set_column(1, "text", pa.array(normalised, pa.string()).take(encoded.indices))


def _summed(table: pa.Table) -> pa.Table:
    """Add up the rows of the same type and text."""
    summed = table.group_by(["type", "text"]).aggregate([("mentions", "sum"), ("documents", "sum")])
    names = ["type", "text", "mentions_sum", "documents_sum"]
    return summed.select(names).rename_columns(_SURFACES.names).cast(_SURFACES)


def _partitions(entities: pa.Table, by_source: bool) -> Iterator[tuple[str, pa.Table]]:
    """Yield the folder and rows of each file of a part."""
    if not by_source:
        yield "", entities
        return
    for source in entities["source"].unique().to_pylist():
        rows = entities.filter(pc.equal(entities["source"], source)).drop_columns(["source"])
        yield f"source={source_folder(source)}/", rows


def source_folder(source: str) -> str:
    """Return a source as a part of a folder's name: quoted; one that is too long is cut, with a digest.

    File systems allow names of 255 bytes.
    """
    quoted = quote(source, safe="")
    if len(quoted) <= _LONGEST_SOURCE:
        return quoted or _NO_SOURCE
    digest = hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()[:16]
    ending = f"...{digest}"
    cut = source[:_LONGEST_SOURCE]
    while len(quote(cut, safe="") + ending) > _LONGEST_SOURCE:
        cut = cut[:-1]
    return quote(cut, safe="") + ending
