"""Logs of the summaries of a stage's chunks: `summaries/<random name>.parquet`, each of 1,000 chunks.

A summary lies in its chunk's footer. With the logs, a driver that goes on reads a file for 1,000 chunks, and
footers only of the chunks that no log has. A log is a copy and may be stale or missing, so an entry counts
only if the chunk has the same size and was not modified after the log was written, by the storage's own
clock. A missing or damaged log costs time and changes nothing.
"""

import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniner.errors import printable
from uniner.storage.folder import Folder
from uniner.storage.manifest import Summary
from uniner.storage.sealed_json import BrokenFileError
from uniner.storage.sealed_parquet import open_sealed, sealed_parquet

LOGS = "summaries"
CHUNKS_A_LOG = 1_000
_READERS = 16
_LOG = pa.schema(
    [
        ("key", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("seconds", pa.float64()),
        ("digest", pa.string()),
        ("counts", pa.string()),  # JSON of outcomes, figures, position and, if there are any, examples
    ]
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ChunkFiles:
    """The chunks in a folder as columns: key, size in bytes, and when modified in nanoseconds, 0: unknown."""

    keys: pa.Array
    bytes: np.ndarray
    modified: np.ndarray

    def among(self, keys: pa.ChunkedArray) -> "ChunkFiles":
        """Return the chunks with one of these keys."""
        places = np.flatnonzero(pc.is_in(self.keys, value_set=keys).to_numpy(zero_copy_only=False))
        return ChunkFiles(
            keys=self.keys.take(pa.array(places)), bytes=self.bytes[places], modified=self.modified[places]
        )


class SummaryLog:
    """Writes the logs of a stage. Holds less than a log's chunks back: their footers tell as much."""

    def __init__(self, stage: Folder):
        self._folder = stage / LOGS
        self._waiting: list[Summary] = []

    def add(self, summary: Summary) -> None:
        """Log a chunk that the stage will not make again."""
        self._waiting.append(summary)
        if len(self._waiting) == CHUNKS_A_LOG:
            self._folder.write(f"{uuid.uuid4().hex}.parquet", sealed_parquet(_to_table(self._waiting)))
            self._waiting = []


def logged_summaries(stage: Folder, chunks: ChunkFiles, left: np.ndarray) -> Iterator[Summary]:
    """Yield the summaries of the chunks that the stage's logs have, once each, and clear their place in left.

    left: for each chunk, whether it is wanted.
    """
    folder = stage / LOGS
    listing = folder.listing()
    logs = list(zip(listing.names, listing.modified, strict=True))
    for start in range(0, len(logs), 4 * _READERS):
        tables = _read(folder, logs[start : start + 4 * _READERS])
        if not tables:
            continue
        table = pa.concat_tables(tables)
        places = pc.fill_null(pc.index_in(table["key"], value_set=chunks.keys), -1).to_numpy()
        known = np.flatnonzero(places >= 0)
        found = places[known]
        modified = chunks.modified[found]
        right = left[found] & (table["bytes"].to_numpy()[known] == chunks.bytes[found])
        right &= (modified > 0) & (modified <= table["logged"].to_numpy()[known])
        # Logs that agree with a chunk agree with each other: any of them will do.
        found, first = np.unique(found[right], return_index=True)
        left[found] = False
        yield from _summaries(table.take(pa.array(known[right][first], pa.int64())))


def _read(folder: Folder, logs: Sequence[tuple[str, int]]) -> list[pa.Table]:
    """Return the logs that are not damaged, each with the time it was written."""

    def read(entry: tuple[str, int]) -> pa.Table | None:
        name, modified = entry
        try:
            table = open_sealed(folder.read(name)).cast(_LOG)
        except (BrokenFileError, FileNotFoundError, pa.ArrowInvalid, ValueError) as error:
            url = printable(folder.path(name))
            log.warning(f"{url}: is damaged ({error}); its chunks' own footers are read instead")
            return None
        return table.append_column("logged", pa.array(np.full(table.num_rows, modified, np.int64)))

    with ThreadPoolExecutor(_READERS) as pool:
        return [table for table in pool.map(read, logs) if table is not None]


def footers(read: Callable[[str], Summary], keys: Sequence[str]) -> Iterator[Summary]:
    """Yield the chunks' summaries from their footers, several read at once."""
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(keys), CHUNKS_A_LOG):  # a million waiting calls would fill memory
            yield from pool.map(read, keys[start : start + CHUNKS_A_LOG])


def _to_table(summaries: Iterable[Summary]) -> pa.Table:
    rows = []
    for summary in summaries:
        counts: list[Any] = [summary.outcomes, summary.figures, summary.position]
        counts += [summary.examples] if summary.examples else []
        rows.append({**vars(summary), "counts": json.dumps(counts, separators=(",", ":"))})
    return pa.Table.from_pylist(rows, schema=_LOG)


def _summaries(table: pa.Table) -> Iterator[Summary]:
    for batch in table.to_batches():
        for row in batch.to_pylist():
            outcomes, figures, position, *examples = json.loads(row["counts"])
            yield Summary(
                key=row["key"],
                rows=row["rows"],
                bytes=row["bytes"],
                seconds=row["seconds"],
                outcomes=outcomes,
                figures=figures,
                position=position,
                digest=row["digest"],
                examples=examples[0] if examples else {},
            )
