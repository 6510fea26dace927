"""Filter single passages: too short, another language, or text shared with a benchmark.

Benchmark text is found by n-grams of words. A word is a run of letters and digits, case-folded, so that white
space, quotes and detached punctuation do not hide a text. N-grams are 64-bit hashes in a sorted array: 8
bytes each, and one search looks up a whole passage. With ten million n-grams, a chance collision drops about
one passage in 10 billion.
"""

import functools
import io
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_WORD = re.compile(r"[^\W_]+")
_ODD = np.uint64(0x9E3779B97F4A7C15)


class FilterResult(NamedTuple):
    """A passage's first fault (short, language or contaminated), and the benchmarks that share its text."""

    fault: str | None
    benchmarks: list[str]


@dataclass(frozen=True)
class BenchmarkNgrams:
    """The n-grams of benchmarks: sorted hashes, and for each the index of its benchmark in names."""

    names: tuple[str, ...]
    words: int
    hashes: np.ndarray
    owners: np.ndarray

    def shared_with(self, text: str) -> list[str]:
        """Return the names of the benchmarks that share an n-gram with a text."""
        wanted = np.unique(ngrams(text, self.words))
        first = np.searchsorted(self.hashes, wanted, "left")
        after = np.searchsorted(self.hashes, wanted, "right")
        owners = {
            int(owner)
            for start, end in zip(first[after > first], after[after > first], strict=True)
            for owner in self.owners[start:end]
        }
        return [self.names[owner] for owner in sorted(owners)]

    def to_bytes(self) -> bytes:
        """Serialise the n-grams for `from_bytes`."""
        sink = io.BytesIO()
        np.savez(sink, names=np.array(self.names), words=self.words, hashes=self.hashes, owners=self.owners)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "BenchmarkNgrams":
        """Read the output of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["names"])
            return cls(names, int(arrays["words"]), arrays["hashes"], arrays["owners"])


@dataclass(frozen=True, kw_only=True)
class BenchmarkTexts:
    """The number of a benchmark's texts, and of those shorter than an n-gram, whose copies go unnoticed."""

    texts: int
    too_short: int


def collect_ngrams(
    texts: Mapping[str, Iterable[str]], words: int
) -> tuple[BenchmarkNgrams, dict[str, BenchmarkTexts]]:
    """Return the n-grams of all benchmarks' texts, and each benchmark's number of texts."""
    hashes, owners, counts = [np.empty(0, np.uint64)], [np.empty(0, np.uint16)], {}
    for owner, (name, benchmark) in enumerate(texts.items()):
        per_text = [ngrams(text, words) for text in benchmark]
        too_short = sum(not len(text_hashes) for text_hashes in per_text)
        counts[name] = BenchmarkTexts(texts=len(per_text), too_short=too_short)
        distinct = np.unique(np.concatenate([np.empty(0, np.uint64), *per_text]))
        hashes.append(distinct)
        owners.append(np.full(len(distinct), owner, np.uint16))
    all_hashes, all_owners = np.concatenate(hashes), np.concatenate(owners)
    order = np.argsort(all_hashes, kind="stable")
    return BenchmarkNgrams(tuple(texts), words, all_hashes[order], all_owners[order]), counts


def ngrams(text: str, words: int) -> np.ndarray:
    """Return the 64-bit hashes of a text's n-grams of words, in order; empty if it has fewer words."""
    tokens = _WORD.findall(text.casefold())
    count = len(tokens) - words + 1
    if count < 1:
        return np.empty(0, np.uint64)
    hashes = _mixed(np.fromiter((zlib.crc32(token.encode()) for token in tokens), np.uint64, len(tokens)))
    total = np.zeros(count, np.uint64)
    for offset in range(words):
        total = total * _ODD + hashes[offset : offset + count]
    return _mixed(total)


def _mixed(values: np.ndarray) -> np.ndarray:
    # The finaliser of splitmix64: every bit of the input affects every bit of the output.
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class PassageFilter:
    """Finds a passage's first fault. The defaults accept every passage."""

    def __init__(
        self, min_tokens: int = 1, languages: Collection[str] = (), ngrams: BenchmarkNgrams | None = None
    ):
        self._min_tokens = min_tokens
        self._languages = frozenset(languages)
        self._ngrams = ngrams

    def check(self, text: str, n_tokens: int) -> FilterResult:
        """Return a passage's first fault, in the order length, language, benchmarks."""
        if n_tokens < self._min_tokens:
            return FilterResult("short", [])
        if self._languages and language(text) not in self._languages:
            return FilterResult("language", [])
        shared = self._ngrams.shared_with(text) if self._ngrams else []
        return FilterResult("contaminated" if shared else None, shared)


def language(text: str) -> str:
    """Return the most probable language of a text as an ISO 639 code (py3langid's model)."""
    return _identifier().classify(text)[0]


def languages() -> set[str]:
    """Return the codes that `language` can return."""
    return set(_identifier().labels)


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads 100 MB: only on demand

    return LanguageIdentifier.from_model_file(MODEL_FILE)
