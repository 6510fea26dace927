"""Find documents that share an id: what tag says of one of them could be of the other.

Two equal ids have the same digest. So the ids with a small digest are a share of all ids, and each repeated
one among them is found. Memory stays bounded whatever the corpus; up to `MAX_DOCUMENTS` documents the share
is all.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from uniner.storage.stage_folder import StageFolder

MAX_DOCUMENTS = 10_000_000
"""Documents whose ids are compared, in 16 bytes of memory each; of a larger corpus, a share of the ids."""
_CHUNKS_PER_TASK = 2_000
# A passage's id begins with its document's place: the numbers of the part and the row.
_PLACE = len("00000-000000000")
_PART_ROWS = 10**9


@dataclass(frozen=True, kw_only=True)
class RepeatedIds:
    """The documents that have the id of an earlier one.

    share: of the ids that were compared. documents: those of them with an earlier one's id. example: the
    places (part, row) of the first of these documents and of the earlier one.
    """

    share: float
    documents: int
    example: tuple[tuple[int, int], tuple[int, int]] | None = None


def divide_chunks(keys: Sequence[str], documents: float) -> list[dict[str, Any]]:
    """Divide a corpus's chunks among tasks (`collect_digests`)."""
    share = min(1.0, MAX_DOCUMENTS / max(1.0, documents))
    starts = range(0, len(keys), _CHUNKS_PER_TASK)
    return [{"keys": list(keys[start : start + _CHUNKS_PER_TASK]), "share": share} for start in starts]


def collect_digests(task: dict[str, Any], folder: StageFolder) -> str:
    """Return the digests of the ids of a task's documents and then their places, for `find_repeated`."""
    limit = int(task["share"] * 2**64)
    found: dict[str, int] = {}  # by place, as a document may have several passages
    for key in task["keys"]:
        table = folder.read_columns(key, ["doc_id", "passage_id"])
        for doc_id, passage_id in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if (place := passage_id[:_PLACE]) not in found:
                digest = int.from_bytes(hashlib.blake2b(doc_id.encode(), digest_size=8).digest())
                if digest < limit:
                    found[place] = digest
    places = [int(part) * _PART_ROWS + int(row) for part, row in (place.split("-") for place in found)]
    return base64.b64encode(np.array([*found.values(), *places], np.uint64).tobytes()).decode()


def find_repeated(collected: Iterable[str], share: float) -> RepeatedIds:
    """Compare the documents of all tasks."""
    arrays = [np.frombuffer(base64.b64decode(some), np.uint64).reshape(2, -1) for some in collected]
    digests, places = np.concatenate([np.zeros((2, 0), np.uint64), *arrays], axis=1)
    order = np.lexsort((places, digests))
    digests, places = digests[order], places[order]
    same = digests[1:] == digests[:-1]
    later = same & (places[1:] != places[:-1])  # a document with passages in chunks of two tasks is one
    if not later.any():
        return RepeatedIds(share=share, documents=0)
    first = np.flatnonzero(later)[np.argmin(places[1:][later])]
    earlier, repeated = (divmod(int(places[number]), _PART_ROWS) for number in (first, first + 1))
    return RepeatedIds(share=share, documents=int(later.sum()), example=(repeated, earlier))
