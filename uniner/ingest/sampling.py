"""Select passages: a sample that is decided before a document is cut, then duplicates and a fixed number.

The sample divides a document into slots of about a passage's length. The seed and the document's place alone
select slots, and a passage is in the sample if it starts in a selected slot. So every passage of the corpus
has the same chance, whatever the number of workers; a long document is neither taken nor left out as a whole;
and a document without a selected slot (nearly all, in a small sample) is never tokenised. Smaller slots would
not be fairer, and most of them would contain no passage start.

Duplicates and the final number are decided over all passages at once, by the digests of their texts: 16 bytes
of memory per passage, so a sample of 10 million takes 160 MB in one process.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np


class SampledSlots(msgspec.Struct, frozen=True):
    """A document's sampled slots of `characters` characters each; None means all. False if there are none."""

    slots: frozenset[int] | None
    characters: int

    def __bool__(self) -> bool:
        return self.slots is None or bool(self.slots)

    def contains(self, start: int) -> bool:
        """Tell whether a passage that starts at this character is in the sample."""
        return self.slots is None or start // self.characters in self.slots

    def any_between(self, start: int, end: int) -> bool:
        """Tell whether a passage that starts at a character in [start, end) may be in the sample."""
        between = range(start // self.characters, (end - 1) // self.characters + 1)
        return self.slots is None or not self.slots.isdisjoint(between)


@dataclass(frozen=True)
class Sampling:
    """The sampled share of the passages, with other shares for some sources."""

    seed: int
    share: float
    of_source: Mapping[str, float] = field(default_factory=dict)
    slot_characters: int = 1_024

    def sample(self, place: str, length: int, source: str) -> SampledSlots:
        """Return a document's sampled slots; length is in characters."""
        share = self.of_source.get(source, self.share)
        slots = None
        if share < 1:
            count = -(-length // self.slot_characters)
            slots = frozenset(_sampled_slots(f"{self.seed}/{place}", count, share) if share > 0 else ())
        return SampledSlots(slots, self.slot_characters)


def _sampled_slots(key: str, slots: int, share: float) -> Iterator[int]:
    """Yield each slot with probability `share`, at a cost proportional to the sampled slots.

    A Poisson process puts points on the slots, dense enough that a slot gets one with this probability. The
    distances between points are drawn, instead of a number for every slot.
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


def text_digest(text: str, seed: int) -> int:
    """Return a 64-bit digest of a passage's text; case and white space are ignored.

    The seed is part of it, so that digests give a random order of the texts, a different one for each seed.
    """
    normalized = " ".join(text.casefold().split()).encode()
    key = str(seed).encode()[:64]
    return int.from_bytes(hashlib.blake2b(normalized, digest_size=8, key=key).digest())


def duplicates(digests: np.ndarray) -> np.ndarray:
    """Mark the passages, in corpus order, whose text occurs before. Returns booleans of the same shape."""
    later = np.ones(len(digests), bool)
    later[np.unique(digests, return_index=True)[1]] = False
    return later


def smallest_per_stratum(digests: np.ndarray, strata: np.ndarray, count: int) -> np.ndarray:
    """Mark `count` passages: those with the smallest digests of each stratum. Returns booleans.

    All strata get the same number, as far as they have it; the others get what small strata lack. A single
    stratum gives a plain sample. Every passage of a stratum has the same chance.
    """
    names, members = np.unique(strata, return_inverse=True)
    sizes = np.bincount(members, minlength=len(names))
    quotas, left = np.zeros(len(names), np.int64), count
    for done, stratum in enumerate(np.argsort(sizes, kind="stable")):
        quotas[stratum] = min(sizes[stratum], left // (len(names) - done))
        left -= quotas[stratum]
    order = np.lexsort((digests, members))
    rank_in_stratum = np.arange(len(digests)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = np.zeros(len(digests), bool)
    kept[order] = rank_in_stratum < quotas[members[order]]
    return kept
