"""Cut a document into passages of at most N tokens, at paragraph, sentence or word ends, offsets exact."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# A long document is tokenised in windows, so that memory does not grow with it.
_WINDOW_CHARACTERS = 100_000
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+|\n")
_WORD_END = re.compile(r"\s+")
_NOT_BLANK = re.compile(r"\S")


@dataclass(frozen=True)
class Cut:
    """A piece: text[start:end] of its document, without blanks around it, and its tokens."""

    start: int
    end: int
    n_tokens: int


def cut(text: str, tokenizer: Any, max_tokens: int) -> Iterator[Cut]:
    """Yield the pieces of a text in order: together, all of it but blanks between pieces.

    tokenizer is a fast one of transformers; n_tokens counts what it makes of the piece alone, without
    special tokens. A piece ends at the last paragraph end of its second half, else the last sentence end
    there, else the last word end; within a word only where the word itself is too long.
    """
    start = _skip_blanks(text, 0)
    while start < len(text):
        window_end = min(len(text), start + max(_WINDOW_CHARACTERS, 16 * max_tokens))
        window = text[start:window_end]
        token_starts = [first for first, _ in _offsets(window, tokenizer)]
        position = 0
        while position < len(window):
            end = _end(window, position, token_starts, max_tokens, last=window_end == len(text))
            if end is None:  # the window's rest may go on in the next window
                break
            piece = window[position:end].rstrip()
            n_tokens = _count(piece, tokenizer)
            while n_tokens > max_tokens:  # a word may be more tokens at the start of a text than inside it
                end = _shorter(window, position, end, n_tokens - max_tokens)
                piece = window[position:end].rstrip()
                n_tokens = _count(piece, tokenizer)
            yield Cut(start + position, start + position + len(piece), n_tokens)
            position = _skip_blanks(window, end)
        start = _skip_blanks(text, start + position)


def _offsets(text: str, tokenizer: Any) -> list[tuple[int, int]]:
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping


def _count(text: str, tokenizer: Any) -> int:
    return len(tokenizer(text, add_special_tokens=False).input_ids)


def _skip_blanks(text: str, position: int) -> int:
    found = _NOT_BLANK.search(text, position)
    return found.start() if found else len(text)


def _end(window: str, position: int, token_starts: list[int], max_tokens: int, last: bool) -> int | None:
    """Return where the piece that starts at position ends; None where the window is too short to tell."""
    after = bisect_left(token_starts, position) + max_tokens
    if after >= len(token_starts):
        return len(window) if last else (None if position else _best_end(window, 0, len(window)))
    return _best_end(window, position, token_starts[after])


def _best_end(window: str, position: int, limit: int) -> int:
    """Return the best end after position and at most limit."""
    half = position + (limit - position) // 2
    for boundary, lowest in ((_PARAGRAPH_END, half), (_SENTENCE_END, half), (_WORD_END, position)):
        # A boundary's blanks may reach past the limit: what counts is where they begin.
        ends = [
            match.start() + len(match[0].rstrip()) for match in boundary.finditer(window, lowest, limit + 1)
        ]
        ends = [end for end in ends if position < end <= limit]
        if ends:
            return ends[-1]
    return max(limit, position + 1)


def _shorter(window: str, position: int, end: int, tokens_over: int) -> int:
    """Return an end that leaves out the last words, at least a word for every token that is too many."""
    words = [match.start() for match in _WORD_END.finditer(window, position, end)]
    words = [word for word in words if word > position and window[position:word].strip()]
    while words and not window[words[-1] : end].strip():
        words.pop()
    if words:
        return words[-min(tokens_over, len(words))]
    return max(position + 1, end - tokens_over)
