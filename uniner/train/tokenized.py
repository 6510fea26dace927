"""The conversations as samples of token ids, in a file of the stage's folder.

Worker 0 makes them once. The other workers, and all workers that are started again, read them: tokenising
takes minutes, in which the GPUs would wait.
"""

import io
from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch.distributed as dist

from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.sealed_json import BrokenFileError
from uniner.storage.sealed_parquet import read_sealed, sealed_parquet
from uniner.train import SAMPLES
from uniner.train.collective import run_on_all
from uniner.train.packing import FitCounts, FittedSamples, Sample

_SPLITS = ("train", "validation")


class TokenizedSplits(NamedTuple):
    """The samples to train on, and those to validate with."""

    training: FittedSamples
    validation: FittedSamples


def tokenized_once(folder: Folder, source: str, make: Callable[[], TokenizedSplits]) -> TokenizedSplits:
    """Return the samples of the file, or make and write it; every worker must call this.

    source: digest of what decides the samples. A file of another source, or a broken one, is made again.
    """

    def read_or_make() -> TokenizedSplits | None:
        if dist.get_rank() != 0:
            return None
        splits = _read(folder, source)
        if splits is None:
            splits = make()
            with explained(folder.url):
                folder.write(SAMPLES, _to_parquet(splits, source))
        return splits

    made = run_on_all(read_or_make)
    splits = run_on_all(lambda: made or _read(folder, source))
    assert splits, "worker 0 has written the file"
    return splits


def _to_parquet(splits: TokenizedSplits, source: str) -> bytes:
    samples = [sample for split in splits for sample in split.samples]
    ends = np.cumsum([0, *map(len, samples)])
    pieces = [pieces for split in splits for pieces in split.per_conversation]
    numbers = np.repeat(np.arange(len(pieces)), pieces)
    ids, loss = (
        np.concatenate([getattr(sample, name) for sample in samples] or [np.zeros(0, kind)])
        for name, kind in (("ids", np.int32), ("loss", np.bool_))
    )
    table = pa.table(
        {
            "passage_id": [sample.passage_id for sample in samples],
            "conversation": numbers,
            "ids": pa.LargeListArray.from_arrays(ends, ids),
            "loss": pa.LargeListArray.from_arrays(ends, loss),
        }
    )
    counts = {name: asdict(split.counts) for name, split in zip(_SPLITS, splits, strict=True)}
    return sealed_parquet(table, {"source": source, "counts": counts})


def _read(folder: Folder, source: str) -> TokenizedSplits | None:
    with explained(folder.url):
        data = folder.read_if_exists(SAMPLES)
    if data is None:
        return None
    try:
        table, seal = read_sealed(io.BytesIO(data))
    except BrokenFileError:
        return None
    if seal.note["source"] != source:
        return None
    columns = {name: table.column(name).combine_chunks() for name in table.schema.names}
    ends = columns["ids"].offsets.to_numpy()
    ids, loss = (columns[name].flatten().to_numpy(zero_copy_only=False) for name in ("ids", "loss"))
    samples = [
        Sample(passage_id, ids[start:end], loss[start:end])
        for passage_id, start, end in zip(columns["passage_id"].to_pylist(), ends, ends[1:], strict=False)
    ]
    pieces = np.bincount(columns["conversation"].to_numpy()).tolist() if samples else []
    first, splits = 0, []
    for name in _SPLITS:
        counts = FitCounts(**seal.note["counts"][name])
        own, pieces = pieces[: counts.conversations], pieces[counts.conversations :]
        splits.append(FittedSamples(samples[first : first + counts.samples], own, counts))
        first += counts.samples
    return TokenizedSplits(*splits)
