"""Which passages of a document are in the sample, told before the document is cut.

A document is divided into slots of about a passage's length. Each slot is chosen or not by the seed and the
document's place alone, and a passage is in the sample when the slot that it starts in is chosen. So every
passage of the corpus has the same chance, whatever the number of workers; a long document does not come whole
or not at all; and one without a chosen slot (nearly all, in a small sample) is never tokenised. Smaller slots
would be no fairer, and most would be chosen in vain, for no passage starts in them.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec


class Chosen(msgspec.Struct, frozen=True):
    """A document's chosen slots, each of so many characters; slots of None are all. False where none is."""

    slots: frozenset[int] | None
    characters: int

    def __bool__(self) -> bool:
        return self.slots is None or bool(self.slots)

    def has(self, start: int) -> bool:
        """Tell whether the passage that starts at a character is in the sample."""
        return self.slots is None or start // self.characters in self.slots

    def any_between(self, start: int, end: int) -> bool:
        """Tell whether a passage that starts from one character up to another may be in the sample."""
        between = range(start // self.characters, (end - 1) // self.characters + 1)
        return self.slots is None or not self.slots.isdisjoint(between)


@dataclass(frozen=True)
class Sampling:
    """The share of the passages that is taken, of some sources another one."""

    seed: int
    share: float
    of_source: Mapping[str, float] = field(default_factory=dict)
    slot_characters: int = 1_024

    def choose(self, place: str, length: int, source: str) -> Chosen:
        """Return a document's chosen slots; length is in characters."""
        share = self.of_source.get(source, self.share)
        slots = None
        if share < 1:
            count = -(-length // self.slot_characters)
            slots = frozenset(_hits(f"{self.seed}/{place}", count, share) if share > 0 else ())
        return Chosen(slots, self.slot_characters)


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
