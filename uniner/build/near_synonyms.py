"""Find types that mean nearly the same: those that teachers give the same words in different passages.

A type asked for as a negative beside its near-synonym ("location" where the passage has a "country") is a
question with a wrong answer. A teacher that is free in its types calls Berlin a city here and a location
there, so the words tell which types are close.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_SHARED, LEAST_SHARE, LEAST_SURPRISE = 4, 0.15, 4.0
"""Judged by eye on 2,049 Pile passages with ChatGPT's types: with less, chance names pairs that are none,
such as "concept" beside every other type."""

Words = Mapping[str, Sequence[int]]
"""By type the digests of the distinct words that it was given to, which JSON takes."""
MergedWords = Mapping[str, npt.NDArray[np.uint64]]
"""The same of all chunks."""


@dataclass(frozen=True, kw_only=True)
class NearSynonyms:
    """A pair of types, and its evidence.

    first has the fewer words. shared: distinct words with both types. share: of the words of first.
    expected: words that two types of these frequencies share by chance.
    """

    first: str
    second: str
    shared: int
    share: float
    expected: float

    def to_json(self) -> dict[str, Any]:
        """Return it as near-synonyms.json has it."""
        return asdict(self)


def words_of(mentions: Iterable[Mapping[str, Sequence[str]]]) -> dict[str, list[int]]:
    """Return the words of some passages' types. mentions: of each passage, by type."""
    words: defaultdict[str, set[int]] = defaultdict(set)
    for by_type in mentions:
        for name, texts in by_type.items():
            words[name].update(map(_digest, texts))
    return {name: sorted(found) for name, found in words.items()}


def _digest(text: str) -> int:
    normal = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def merged(parts: Iterable[Words], renamed: Mapping[str, str]) -> MergedWords:
    """Return the words of all parts. renamed: types to those that they count as."""
    found: defaultdict[str, list[npt.NDArray[np.uint64]]] = defaultdict(list)
    for part in parts:
        for name, words in part.items():
            found[renamed.get(name, name)].append(np.array(words, np.uint64))
    return {name: np.unique(np.concatenate(words)) for name, words in found.items()}


def find_near_synonyms(words: MergedWords) -> list[NearSynonyms]:
    """Return the pairs of types that share many of their words, the closest first."""
    names = sorted(words)
    digests = np.concatenate([words[name] for name in names]) if names else np.zeros(0, np.uint64)
    types = np.repeat(np.arange(len(names)), [len(words[name]) for name in names])
    order = np.argsort(digests, kind="stable")
    digests, types = digests[order], types[order]
    ends = np.flatnonzero(np.append(digests[1:] != digests[:-1], True)) + 1
    starts = np.append(0, ends[:-1])
    pairs: Counter[tuple[int, int]] = Counter()
    for start, end in zip(starts, ends, strict=True):
        if end - start > 1:
            pairs.update(combinations(types[start:end].tolist(), 2))
    total = max(1, len(ends))
    found = []
    for (one, other), shared in pairs.items():
        first, second = sorted((names[one], names[other]), key=lambda name: (len(words[name]), name))
        share = shared / len(words[first])
        expected = len(words[first]) * len(words[second]) / total
        surprise = (shared - expected) / expected**0.5
        if shared >= LEAST_SHARED and share >= LEAST_SHARE and surprise >= LEAST_SURPRISE:
            found.append(
                NearSynonyms(
                    first=first, second=second, shared=shared, share=round(share, 3),
                    expected=round(expected, 2),
                )
            )  # fmt: skip
    return sorted(found, key=lambda pair: (-pair.share, -pair.shared, pair.first, pair.second))


def neighbours(pairs: Iterable[NearSynonyms]) -> dict[str, frozenset[str]]:
    """Return each type's near-synonyms."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        found[pair.first].add(pair.second)
        found[pair.second].add(pair.first)
    return {name: frozenset(near) for name, near in found.items()}
