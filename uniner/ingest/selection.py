"""Select the final passages among candidates, over all of them at once: duplicates and a fixed number.

The chunks of the selection are the candidates' chunks without the passages that are not selected. When the
stage resumes, the selection is computed again from all candidates, and is the same.
"""

import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from uniner.config.schema import Ingest
from uniner.ingest.chunk_reader import DIGEST
from uniner.ingest.sampling import duplicates, smallest_per_stratum
from uniner.records import PASSAGE
from uniner.runtime import chunk_pipeline
from uniner.storage.chunk_list import ChunkList
from uniner.storage.manifest import StageTotals
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.storage.summary_log import SummaryLog

_READERS = 16


def select_passages(
    folder: StageFolder, candidates: StageFolder, chunks: ChunkList, settings: Ingest
) -> StageTotals:
    """Write the selected passages of the candidates' chunks. Returns the sums over all chunks.

    settings: dedupe drops repeated texts; max_passages says how many to keep, stratified equally many of each
    source.
    """
    keys = chunks.keys.to_pylist()
    names = [DIGEST.name, "source"] if settings.stratified else [DIGEST.name]
    with ThreadPoolExecutor(_READERS) as pool:
        read = functools.partial(candidates.read_columns, names=names)
        columns = pa.concat_tables(pool.map(read, keys))
    digests = columns[DIGEST.name].to_numpy()
    duplicate = duplicates(digests) if settings.dedupe else np.zeros(len(digests), bool)
    unwanted = np.zeros(len(digests), bool)
    if settings.max_passages is not None:
        strata = np.zeros(len(digests), np.int64)
        if settings.stratified:
            strata = columns["source"].combine_chunks().dictionary_encode().indices.to_numpy()
        kept = smallest_per_stratum(digests[~duplicate], strata[~duplicate], settings.max_passages)
        unwanted[~duplicate] = ~kept
    bounds = itertools.pairwise(np.cumsum([0, *chunks.table["rows"].to_pylist()]))
    totals, summary_log = StageTotals(), SummaryLog(folder)
    for summary in folder.summaries(chunks, relog=summary_log):
        totals.add(summary)
    existing = set(totals.chunks().keys.to_pylist())
    with_neighbours = np.concatenate([[False], duplicate, [False]])
    items = [
        {
            "key": key,
            # Row numbers from 1; 0 and the last are the rows before and after the chunk.
            "duplicate": np.flatnonzero(with_neighbours[start : end + 2]).tolist(),
            "unwanted": np.flatnonzero(unwanted[start:end]).tolist(),
        }
        for key, (start, end) in zip(keys, bounds, strict=True)
        if key not in existing
    ]
    make = functools.partial(_selected, candidates=candidates)
    for summary in chunk_pipeline.make_chunks(folder, items, make):
        totals.add(summary)
        summary_log.add(summary)
    return totals


def _selected(item: dict[str, Any], candidates: StageFolder) -> Iterator[Chunk]:
    key = item["key"]
    table, summary = candidates.read_chunk(key).table, candidates.read_summary(key)
    with_neighbours, unwanted = np.zeros(table.num_rows + 2, bool), np.zeros(table.num_rows, bool)
    with_neighbours[item["duplicate"]], unwanted[item["unwanted"]] = True, True
    # The overlap with a dropped neighbour belongs to this passage alone.
    for name, dropped in (("overlap_before", with_neighbours[:-2]), ("overlap_after", with_neighbours[2:])):
        values = np.where(dropped, 0, table[name].to_numpy())
        table = table.set_column(table.schema.get_field_index(name), PASSAGE.field(name), [values])
    duplicate = with_neighbours[1:-1]
    counts = {"dropped_duplicate": int(duplicate.sum()), "dropped_unwanted": int(unwanted.sum())}
    yield Chunk(
        key,
        table.take(np.flatnonzero(~(duplicate | unwanted))).drop_columns([DIGEST.name]),
        figures={**summary.figures, **counts},
        rejects=candidates.read_rejects(key),
    )
