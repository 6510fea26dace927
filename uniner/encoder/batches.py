"""Texts and types as the encoder's arrays: windows of long texts, passes over many types, even batches.

Nothing is cut: a text with more words or tokens than the encoder reads becomes windows that overlap, and more
types than fit beside it become several passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uniner.encoder.words import TokenizedWords, WordTokenizer
from uniner.errors import UserError

_TEXT_SHARE = 0.5  # of the tokens that the encoder reads, what the types leave to the text
_OVERLAP_SHARE = 0.25  # of a window, the most that it shares with the next


@dataclass(frozen=True, kw_only=True)
class ReadingLimits:
    """What the encoder reads at once.

    tokens: at most, types and text together. words: at most, as in its training. types: asked in a pass.
    overlap: words that two windows share at least, so that a mention at a cut is whole in one of them.
    """

    tokens: int
    words: int
    types: int
    overlap: int


@dataclass(frozen=True)
class TypePrompt:
    """Types as ids, with the places of those that stand for a type. numbers: the types' numbers."""

    ids: npt.NDArray[np.int32]
    places: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A text's words from `first`; it owns the mentions that begin with words own_first up to own_last.

    cut: tokens left out of a single word that is longer than a window.
    """

    words: TokenizedWords
    first: int
    own_first: int
    own_last: int
    cut: int = 0


@dataclass(frozen=True)
class Piece:
    """A window and a prompt: a row of a batch. text: the number of the window's text."""

    text: int
    window: Window
    prompt: TypePrompt


@dataclass(frozen=True)
class EncoderBatch:
    """The model's inputs, see `model.EncoderModel.forward`, and the pieces they were made of.

    type_counts: (b,), the types of each row; places beyond are 0.
    """

    pieces: Sequence[Piece]
    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    type_places: npt.NDArray[np.int64]
    type_counts: npt.NDArray[np.int64]
    word_places: npt.NDArray[np.int64]
    word_counts: npt.NDArray[np.int64]


class Collator:
    """Makes prompts, windows and batches for a model.

    type_id, separator_id: the marks before each type and after the last. type_place: 0 if a type's mark
    stands for it, 1 if the token after it does. last_subtoken: a word's last token stands for it, not its
    first. pad_id: fills rows up.
    """

    def __init__(
        self,
        tokenizer: WordTokenizer,
        limits: ReadingLimits,
        *,
        type_id: int,
        separator_id: int,
        pad_id: int,
        type_place: int = 0,
        last_subtoken: bool = False,
    ):
        self.tokenizer, self.limits = tokenizer, limits
        self._type_id, self._separator_id, self._pad_id = type_id, separator_id, pad_id
        self._type_place, self._last_subtoken = type_place, last_subtoken
        self._prompts: dict[tuple[str, ...], list[TypePrompt]] = {}
        self._outer = len(tokenizer.prefix) + len(tokenizer.suffix)

    def prompts(self, types: Sequence[str]) -> list[TypePrompt]:
        """Return the passes over types: each asks as many as fit."""
        key = tuple(types)
        if key not in self._prompts:
            if len(self._prompts) > 1_000:
                self._prompts.clear()
            self._prompts[key] = self._make_prompts(key)
        return self._prompts[key]

    def _make_prompts(self, types: Sequence[str]) -> list[TypePrompt]:
        most = int((1 - _TEXT_SHARE) * (self.limits.tokens - self._outer)) - 1
        asked = [[self._type_id, *self.tokenizer.ids(name)] for name in types]
        longest = max(asked, key=len, default=[])
        if len(longest) > most:
            name = types[asked.index(longest)]
            raise UserError(
                f"the type {name[:60]!r}{'...' if len(name) > 60 else ''} has {len(longest):,} tokens, and "
                f"the encoder reads types of at most {most:,}; ask for it by a shorter name, such as person"
            )
        passes: list[list[int]] = []
        tokens = most + 1
        for number, ids in enumerate(asked):
            if tokens + len(ids) > most or len(passes[-1]) == self.limits.types:
                passes.append([])
                tokens = 0
            passes[-1].append(number)
            tokens += len(ids)
        return [self._prompt([asked[number] for number in numbers], numbers) for numbers in passes]

    def _prompt(self, asked: Sequence[list[int]], numbers: Sequence[int]) -> TypePrompt:
        ids = [id for ids in asked for id in ids] + [self._separator_id]
        places = np.cumsum([0, *map(len, asked)])[:-1] + self._type_place
        return TypePrompt(np.array(ids, np.int32), places.astype(np.int64), np.array(numbers, np.int64))

    def divide(self, words: TokenizedWords, types: Sequence[str]) -> tuple[list[Window], list[TypePrompt]]:
        """Return the windows of a text and the passes over types; each window is read in each pass."""
        prompts = self.prompts(types)
        return self.windows(words, max((len(prompt.ids) for prompt in prompts), default=0)), prompts

    def windows(self, words: TokenizedWords, prompt_tokens: int) -> list[Window]:
        """Cut a text's words into windows that fit beside a prompt. A word longer than a window is cut.

        Mentions that begin in the middle of an overlap belong to one of the two windows.
        """
        room = max(1, self.limits.tokens - self._outer - prompt_tokens)
        if len(words) <= self.limits.words and len(words.ids) <= room:
            return [Window(words, 0, 0, len(words))] if len(words) else []
        bounds = words.token_bounds()
        windows: list[Window] = []
        first = own_first = 0
        while True:
            last = int(np.searchsorted(bounds, bounds[first] + room, "right")) - 1
            last = min(max(last, first + 1), first + self.limits.words, len(words))
            end = last == len(words)
            shared = min(self.limits.overlap, int(_OVERLAP_SHARE * (last - first)))
            own_last = last if end else last - shared // 2
            part = words.part(first, last)
            cut = max(0, len(part.ids) - room)
            windows.append(Window(_at_most(part, room), first, own_first, own_last, cut))
            if end:
                return windows
            first, own_first = last - shared, own_last

    def batch(self, pieces: Sequence[Piece]) -> EncoderBatch:
        """Lay pieces out as rows, filled up to the longest."""
        prefix, suffix = self.tokenizer.prefix, self.tokenizer.suffix
        heads = [len(prefix) + len(piece.prompt.ids) for piece in pieces]
        sizes = [
            head + len(piece.window.words.ids) + len(suffix)
            for head, piece in zip(heads, pieces, strict=True)
        ]
        counts = [len(piece.window.words) for piece in pieces]
        types = [len(piece.prompt.places) for piece in pieces]
        rows = len(pieces)
        ids = np.full((rows, max(sizes)), self._pad_id, np.int64)
        word_places = np.full((rows, max(counts)), -1, np.int64)
        type_places = np.zeros((rows, max(types)), np.int64)
        for row, (piece, head, size) in enumerate(zip(pieces, heads, sizes, strict=True)):
            words = piece.window.words
            ids[row, : len(prefix)] = prefix
            ids[row, len(prefix) : head] = piece.prompt.ids
            ids[row, head : size - len(suffix)] = words.ids
            ids[row, size - len(suffix) : size] = suffix
            ends = np.cumsum(words.sizes)
            marked = ends - 1 if self._last_subtoken else ends - words.sizes
            word_places[row, : counts[row]] = np.where(words.sizes > 0, head + marked, -1)
            type_places[row, : types[row]] = len(prefix) + piece.prompt.places
        mask = (np.arange(ids.shape[1]) < np.array(sizes)[:, None]).astype(np.int64)
        return EncoderBatch(
            pieces, ids, mask, type_places, np.array(types, np.int64), word_places, np.array(counts, np.int64)
        )

    def tokens(self, piece: Piece) -> int:
        """Return the tokens of a piece's row."""
        return self._outer + len(piece.prompt.ids) + len(piece.window.words.ids)

    def batches(self, pieces: Sequence[Piece], tokens: int) -> list[list[Piece]]:
        """Group pieces of about the same length into batches of at most `tokens`, filled up; one at least."""
        groups = bucket(range(len(pieces)), [self.tokens(piece) for piece in pieces], tokens)
        return [[pieces[number] for number in group] for group in groups]


def bucket(
    chosen: Sequence[int], lengths: Sequence[int], row_tokens: int, _workers: int = 1
) -> list[list[int]]:
    """Divide what is chosen into rows of about the same length, of at most row_tokens with their padding.

    The rows do not depend on the number of workers: in training some may wait at the end of a step.
    """
    rows: list[list[int]] = []
    longest = 0
    for number in sorted(chosen, key=lambda number: -lengths[number]):
        if not rows or (len(rows[-1]) + 1) * longest > row_tokens:
            rows.append([])
            longest = lengths[number]
        rows[-1].append(number)
    return rows


def _at_most(words: TokenizedWords, tokens: int) -> TokenizedWords:
    """Cut the tokens of a single word that is longer than a window: its first tokens stand for it."""
    if len(words.ids) <= tokens:
        return words
    sizes = np.minimum(words.sizes, tokens).astype(np.int32)
    return TokenizedWords(words.starts, words.ends, sizes, words.ids[:tokens])
