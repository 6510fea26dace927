"""Texts as words and token ids: what of a text the encoder reads, with offsets to find its words again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
# GLiNER's words: letters and digits, joined by - or _, else single signs.
_WORD = re.compile(r"\w+(?:[-_]\w+)*|\S")
_MOST_KEPT = 300_000  # words whose ids are kept: some 100 MB


@dataclass(frozen=True)
class TokenizedWords:
    """The words of a text: their character offsets, their numbers of tokens (n,), and all token ids."""

    starts: Ints
    ends: Ints
    sizes: Ints
    ids: Ints

    def __len__(self) -> int:
        return len(self.starts)

    def token_bounds(self) -> Ints:
        """Return where each word's tokens begin in `ids`, and their number at the end: (n + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int32)

    def part(self, first: int, last: int) -> "TokenizedWords":
        """Return the words from `first` up to, without, `last`."""
        begin = int(self.sizes[:first].sum())
        end = begin + int(self.sizes[first:last].sum())
        words = slice(first, last)
        return TokenizedWords(self.starts[words], self.ends[words], self.sizes[words], self.ids[begin:end])


class WordTokenizer:
    """Tokenises words each by itself, as GLiNER does, and keeps the ids of those it has seen."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._numbers: dict[str, int] = {}
        self._bounds, self._ids = np.zeros(1, np.int64), np.zeros(0, np.int32)
        with_special = list(tokenizer("a")["input_ids"])
        plain = self.ids("a")
        begin = next(
            place for place in range(len(with_special)) if with_special[place : place + len(plain)] == plain
        )
        self.prefix: list[int] = with_special[:begin]
        """The ids before every text, such as that of [CLS]."""
        self.suffix: list[int] = with_special[begin + len(plain) :]
        """The ids after every text, such as that of [SEP]."""

    def ids(self, word: str) -> list[int]:
        """Return the ids of a word, or of a type's name, which counts as one word."""
        return self._new_ids([word])[0]

    def texts(self, texts: Sequence[str]) -> list[TokenizedWords]:
        """Return the words of texts."""
        found = [_WORD.findall(text) for text in texts]
        starts, ends = _offsets(texts, found)
        numbers = self._numbers_of([word for words in found for word in words])
        sizes = (self._bounds[numbers + 1] - self._bounds[numbers]).astype(np.int32)
        ids = self._ids[_ranges(self._bounds[numbers], sizes)]
        bounds = np.cumsum([0, *map(len, found)])
        tokens = np.concatenate([[0], np.cumsum(sizes)])[bounds]
        return [
            TokenizedWords(starts[first:last], ends[first:last], sizes[first:last], ids[begin:end])
            for first, last, begin, end in zip(bounds, bounds[1:], tokens, tokens[1:], strict=False)
        ]

    def _new_ids(self, words: Sequence[str]) -> list[list[int]]:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:  # a tokenizer in Python
            # verbose=False: no warning of words longer than the model's window, which `Collator` looks after.
            found: list[list[int]] = self._tokenizer(words, add_special_tokens=False, verbose=False)[
                "input_ids"
            ]
            return found
        # What transformers makes of a word besides its ids costs as much as the ids, and warns of long ones.
        backend.no_padding()
        backend.no_truncation()
        return [encoding.ids for encoding in backend.encode_batch_fast(words, add_special_tokens=False)]

    def _numbers_of(self, words: Sequence[str]) -> npt.NDArray[np.int64]:
        if len(self._numbers) > _MOST_KEPT:
            self._numbers = {}
            self._bounds, self._ids = np.zeros(1, np.int64), np.zeros(0, np.int32)
        known = self._numbers
        new = [word for word in dict.fromkeys(words) if word not in known]
        if new:
            found = self._new_ids(new)
            known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
            ends = self._bounds[-1] + np.cumsum([len(ids) for ids in found])
            self._bounds = np.concatenate([self._bounds, ends])
            self._ids = np.concatenate([self._ids, np.array([id for ids in found for id in ids], np.int32)])
        return np.fromiter(map(known.__getitem__, words), np.int64, len(words))


def _offsets(texts: Sequence[str], found: Sequence[Sequence[str]]) -> tuple[Ints, Ints]:
    """Return where the words found in texts begin and end.

    The gaps between words say it too, and cost a third of a match object a word.
    """
    total = sum(map(len, found))
    words = np.fromiter(map(len, chain.from_iterable(found)), np.int64, total)
    gaps = np.fromiter(
        map(len, chain.from_iterable(_WORD.split(text)[:-1] for text in texts)), np.int64, total
    )
    ends = np.cumsum(gaps + words)
    counts = np.array([len(own) for own in found], np.int64)
    before = np.concatenate([[0], ends])[np.cumsum(counts) - counts]
    ends -= np.repeat(before, counts)
    return (ends - words).astype(np.int32), ends.astype(np.int32)


def _ranges(starts: npt.NDArray[np.int64], sizes: Ints) -> npt.NDArray[np.int64]:
    """Return the numbers start, start + 1, ... of each range, one range after the other."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - sizes), sizes)
