"""Which passages of a document are in the sample, told before the document is cut.

A document is divided into slots of a few characters. Each slot is chosen or not by the seed and the
document's place alone, and a passage is in the sample when the slot that it starts in is chosen. So every
passage of the corpus has the same chance, whatever the number of workers; a long document does not come whole
or not at all; and one without a chosen slot (nearly all, in a small sample) is never tokenised.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SLOT_CHARACTERS = 64
"""Shorter than a passage: passages that start in the same slot would come together."""


@dataclass(frozen=True)
class Sampling:
    """The share of the passages that is taken, of some sources another one."""

    seed: int
    share: float
    of_source: Mapping[str, float] = field(default_factory=dict)

    def chosen(self, place: str, length: int, source: str) -> frozenset[int] | None:
        """Return a document's chosen slots: empty for none, None for all. length is in characters."""
        share = self.of_source.get(source, self.share)
        if share >= 1:
            return None
        if share <= 0:
            return frozenset()
        slots = -(-length // SLOT_CHARACTERS)
        return frozenset(_hits(f"{self.seed}/{place}", slots, share))


def in_sample(start: int, chosen: frozenset[int] | None) -> bool:
    """Tell whether the passage that starts at a character is in the sample."""
    return chosen is None or start // SLOT_CHARACTERS in chosen


def any_in_sample(chosen: frozenset[int], start: int, end: int) -> bool:
    """Tell whether a passage that starts between two characters may be in the sample."""
    return not chosen.isdisjoint(range(start // SLOT_CHARACTERS, (end - 1) // SLOT_CHARACTERS + 1))


def _hits(key: str, slots: int, share: float) -> Iterator[int]:
    """Yield the slots that are chosen, each with probability `share`, at the cost of the hits alone.

    Points fall on the slots like rain (a Poisson process), so densely that a slot is hit with that
    probability; the distances between them are drawn, not a number for every slot.
    """
    density = -math.log1p(-share)
    position = 0.0
    number = 0
    while True:
        digest = hashlib.blake2b(f"{key}/{number}".encode(), digest_size=8).digest()
        position -= math.log((int.from_bytes(digest) + 1) / 2**64) / density
        if position >= slots:
            return
        yield int(position)
        number += 1
