"""Find types that mean nearly the same: those that teachers give the same words in different passages, and
those whose names a text encoder finds close.

A type asked for as a negative beside its near-synonym ("location" where the passage has a "country") is a
question with a wrong answer. A teacher that is free in its types calls Berlin a city here and a location
there, so the words tell which types are close.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from uniner.inference.type_names import NameEncoder, close_pairs

_MOST_TYPES = 200
"""Words of more types tell nothing about two of them, and the pairs of 5,000 types would fill the memory."""
_MOST_NAMES = 20_000
"""Types whose names are compared, those with the most words first: the time grows with the square."""
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
    expected: words that two types of these frequencies share by chance. likeness: of their names, a cosine;
    None where it was not measured or is low.
    """

    first: str
    second: str
    shared: int
    share: float
    expected: float
    likeness: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as near-synonyms.json has it."""
        digits = {"share": 3, "expected": 2, "likeness": 3}
        stated = {name: value for name, value in asdict(self).items() if value is not None}
        return {
            name: round(value, digits[name]) if name in digits else value for name, value in stated.items()
        }


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
        if 1 < end - start <= _MOST_TYPES:
            pairs.update(combinations(types[start:end].tolist(), 2))
    total = max(1, len(ends))
    found = (_pair(names[one], names[other], words, shared, total) for (one, other), shared in pairs.items())
    return _ordered(
        pair
        for pair in found
        if pair.shared >= LEAST_SHARED
        and pair.share >= LEAST_SHARE
        and (pair.shared - pair.expected) / pair.expected**0.5 >= LEAST_SURPRISE
    )


def with_close_names(
    found: Iterable[NearSynonyms], words: MergedWords, encoder: NameEncoder, least: float
) -> list[NearSynonyms]:
    """Return the pairs, and those whose names have at least this likeness, with their evidence."""
    pairs = {frozenset((pair.first, pair.second)): pair for pair in found}
    total = len(np.unique(np.concatenate([*words.values()]))) if words else 1
    names = sorted(words, key=lambda name: (-len(words[name]), name))[:_MOST_NAMES]
    for one, other, likeness in close_pairs(encoder.vectors(names), least):
        both = frozenset((names[one], names[other]))
        if both not in pairs:
            shared = len(np.intersect1d(words[names[one]], words[names[other]], assume_unique=True))
            pairs[both] = _pair(names[one], names[other], words, shared, total)
        pairs[both] = replace(pairs[both], likeness=likeness)
    return _ordered(pairs.values())


def _pair(one: str, other: str, words: MergedWords, shared: int, total: int) -> NearSynonyms:
    """total: distinct words of all types."""
    first, second = sorted((one, other), key=lambda name: (len(words[name]), name))
    return NearSynonyms(
        first=first,
        second=second,
        shared=shared,
        share=shared / len(words[first]),
        expected=len(words[first]) * len(words[second]) / total,
    )


def _ordered(pairs: Iterable[NearSynonyms]) -> list[NearSynonyms]:
    return sorted(
        pairs, key=lambda pair: (-pair.share, -pair.shared, -(pair.likeness or 0.0), pair.first, pair.second)
    )


def neighbours(pairs: Iterable[NearSynonyms]) -> dict[str, frozenset[str]]:
    """Return each type's near-synonyms."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        found[pair.first].add(pair.second)
        found[pair.second].add(pair.first)
    return {name: frozenset(near) for name, near in found.items()}
