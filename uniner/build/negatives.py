"""Draw types that a passage has not, to be answered with [] (paper §3.2: what makes students say no)."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np

How = Literal["none", "uniform", "frequency"]


class Sampler:
    """Draws absent types, evenly or in proportion to their mentions in the whole data set."""

    def __init__(self, mentions: Mapping[str, int], how: How):
        self._how = how
        self._types = sorted(mentions)
        self._place = {name: place for place, name in enumerate(self._types)}
        weights = [mentions[name] if how == "frequency" else 1 for name in self._types]
        self._log_weights = np.log(np.array(weights, dtype=float))

    def draw(self, present: Collection[str], count: float, random: np.random.Generator) -> list[str]:
        """Return about `count` types that are not present, none twice; the whole part is certain, the
        fraction a chance. Fewer where there are not enough types.

        Without replacement and in proportion to the weights: the largest of log weight plus Gumbel noise.
        """
        if self._how == "none":
            return []
        wanted = int(count + random.random())
        keys = self._log_weights + random.gumbel(size=len(self._types))
        keys[[self._place[name] for name in present if name in self._place]] = -np.inf
        best = np.argsort(-keys, kind="stable")[: min(wanted, int(np.isfinite(keys).sum()))]
        return [self._types[place] for place in best]


def generator(seed: int, passage_id: str) -> np.random.Generator:
    """Return a passage's own random generator: the same whatever the order of work."""
    digest = hashlib.blake2b(f"{seed}/{passage_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest))
