"""The cells of evaluate's table: what a system said to the questions of a data set, in chunks of its own.

A data set's questions lie in a folder named after it and the digest of what decides them (file, cut). The
names of a system's chunks begin like that, with the digest of what it was trained on for that data set where
it was. So cells fill in over many runs, each chunk is answered once, and what changed is another cell.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from uniner.records import Prediction, from_table
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import Chunk


@dataclass(frozen=True)
class Cell:
    """A system's answers to the questions of a data set, whose chunks are `gold`'s.

    rows: the questions of each of the gold's chunks, by its key. trained: what the system learnt from for
    this data set alone; "" of one that did not.
    """

    dataset: str
    gold: Folder
    rows: dict[str, int]
    trained: str = ""

    def keys(self) -> dict[str, str]:
        """Return the keys of the cell's chunks, each with its gold chunk's."""
        name = self.gold.url.rsplit("/", 1)[-1]
        name = f"{name}-{digest_of(self.trained)}" if self.trained else name
        return {f"{name}-{key.rsplit('-', 1)[-1]}": key for key in self.rows}

    def questions(self) -> dict[str, int]:
        """Return the keys of the cell's chunks, each with its questions."""
        return {key: self.rows[gold_key] for key, gold_key in self.keys().items()}


def digest_of(said: Any) -> str:
    """Return a short digest of a JSON value."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class GoldOf:
    """Reads the questions that a cell's chunk answers."""

    places: dict[str, tuple[Folder, str]]

    @classmethod
    def all(cls, cells: list[Cell]) -> "GoldOf":
        """Return the reader of all cells of a system."""
        return cls({key: (cell.gold, gold_key) for cell in cells for key, gold_key in cell.keys().items()})

    def __call__(self, key: str) -> Iterator[Chunk]:
        """Yield the chunk of this key."""
        gold, gold_key = self.places[key]
        yield Chunk(key, gold.read_chunk(gold_key))


def predictions(system: Folder, cell: Cell) -> Iterator[Prediction]:
    """Yield what a system said to a data set's questions, in their order."""
    for key in sorted(cell.keys()):
        yield from from_table(system.read_chunk(key), Prediction)
