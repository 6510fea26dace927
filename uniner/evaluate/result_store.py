"""The cells of evaluate's table: one system's answers to the questions of one data set, in chunks.

A data set's questions lie in a folder named after the data set and a digest of its file and of how it is cut.
The keys of a system's chunks begin with that name, followed by a digest of the training data where the system
is trained for the data set. So cells are added over many runs, each chunk is answered once, and a change of
the input makes a new cell.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uniner.records import Prediction, from_table
from uniner.storage.stage_folder import Chunk, StageFolder


@dataclass(frozen=True, kw_only=True)
class ResultCell:
    """A system's answers to the questions of a data set.

    gold: the folder of the questions. rows: number of questions by key of the gold chunk. trained: digest of
    the model that was trained for this data set alone; "" for other systems.
    """

    dataset: str
    gold: StageFolder
    rows: dict[str, int]
    trained: str = ""

    def gold_keys(self) -> dict[str, str]:
        """Return the key of the gold chunk by the cell's own chunk keys."""
        name = self.gold.name
        if self.trained:
            name = f"{name}-{short_digest(self.trained)}"
        return {f"{name}-{key.rsplit('-', 1)[-1]}": key for key in self.rows}

    def questions(self) -> dict[str, int]:
        """Return the number of questions by the cell's own chunk keys."""
        return {key: self.rows[gold_key] for key, gold_key in self.gold_keys().items()}

    def digest(self, chunks: Mapping[str, str]) -> str:
        """Return the digest of the cell's answers, from those of its system's chunks by key."""
        return short_digest({key: chunks[key] for key in self.gold_keys()})

    def predictions(self, system: StageFolder) -> Iterator[Prediction]:
        """Yield the answers in a system's folder, in the order of the questions."""
        for key in sorted(self.gold_keys()):
            yield from from_table(system.read_chunk(key).table, Prediction)


def short_digest(value: Any) -> str:
    """Return a short digest of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


class CellQuestions:
    """Reads the questions of a system's chunks by the chunk's key."""

    def __init__(self, cells: Sequence[ResultCell]):
        """`cells` are all cells of the system."""
        self._places = {
            key: (cell.gold, gold_key) for cell in cells for key, gold_key in cell.gold_keys().items()
        }

    def __call__(self, key: str) -> Chunk:
        """Return the chunk with this key."""
        gold, gold_key = self._places[key]
        return Chunk(key, gold.read_chunk(gold_key).table)
