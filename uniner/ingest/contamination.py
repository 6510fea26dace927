"""Find passages that share an n-gram of words with benchmark texts.

A word is a run of letters and digits, case folded, so that white space, quotes and detached punctuation do
not hide a text. N-grams stand as 64-bit hashes in a sorted array: 8 bytes each, and a passage is looked up in
one go. At ten million n-grams a passage is dropped by a chance collision about once in 10 billion.
"""

import io
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

_WORD = re.compile(r"[^\W_]+")
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Benchmarks:
    """The n-grams of benchmarks: sorted hashes, and beside each the number of its benchmark in names."""

    names: tuple[str, ...]
    words: int
    hashes: np.ndarray
    owners: np.ndarray

    def shared_with(self, text: str) -> list[str]:
        """Return the names of the benchmarks that a text shares an n-gram with."""
        wanted = np.unique(ngrams(text, self.words))
        first = np.searchsorted(self.hashes, wanted, "left")
        after = np.searchsorted(self.hashes, wanted, "right")
        found = {
            int(owner)
            for start, end in zip(first[after > first], after[after > first], strict=True)
            for owner in self.owners[start:end]
        }
        return [self.names[owner] for owner in sorted(found)]

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads."""
        sink = io.BytesIO()
        np.savez(sink, names=np.array(self.names), words=self.words, hashes=self.hashes, owners=self.owners)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Benchmarks":
        """Read what `to_bytes` made."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["names"])
            return cls(names, int(arrays["words"]), arrays["hashes"], arrays["owners"])


def collect(texts: Mapping[str, Iterable[str]], words: int) -> tuple[Benchmarks, dict[str, dict[str, int]]]:
    """Gather the n-grams of each benchmark's texts.

    Returns them and, for each benchmark, its number of texts and of those that have fewer words than an
    n-gram: what repeats only these cannot be noticed.
    """
    hashes, owners, report = [np.empty(0, np.uint64)], [np.empty(0, np.uint16)], {}
    for owner, (name, benchmark) in enumerate(texts.items()):
        found = [ngrams(text, words) for text in benchmark]
        report[name] = {"texts": len(found), "too_short": sum(not len(some) for some in found)}
        distinct = np.unique(np.concatenate([np.empty(0, np.uint64), *found]))
        hashes.append(distinct)
        owners.append(np.full(len(distinct), owner, np.uint16))
    together, beside = np.concatenate(hashes), np.concatenate(owners)
    order = np.argsort(together, kind="stable")
    return Benchmarks(tuple(texts), words, together[order], beside[order]), report


def ngrams(text: str, words: int) -> np.ndarray:
    """Return the 64-bit hashes of a text's n-grams of words, in order; none where it has fewer words."""
    found = _WORD.findall(text.casefold())
    count = len(found) - words + 1
    if count < 1:
        return np.empty(0, np.uint64)
    each = _mixed(np.fromiter((zlib.crc32(word.encode()) for word in found), np.uint64, len(found)))
    total = np.zeros(count, np.uint64)
    for place in range(words):
        total = total * _ODD + each[place : place + count]
    return _mixed(total)


def _mixed(values: np.ndarray) -> np.ndarray:
    # The finaliser of splitmix64: every bit of the input moves every bit of the output.
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
