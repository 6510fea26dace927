"""Cut a document into passages of at most N tokens, at paragraph, sentence or word ends, offsets exact.

A long document is first divided into sections, by its characters alone, and each is cut by itself: memory
does not grow with the document, and of a sampled one only the sections with a sampled passage are tokenised.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from uniner.ingest.tokens import Tokens
from uniner.records import Passage

_SECTION_CHARACTERS = 16_384
_TOKEN_CHARACTERS = 16
"""More than a token has, but for the odd one."""
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+|\n")
_WORD_END = re.compile(r"\s+")
_WORD_START = re.compile(r"(?<!\S)\S")
_NOT_BLANK = re.compile(r"\S")


class Cut(msgspec.Struct, frozen=True):
    """A piece: text[start:end] of its document, without blanks around it, and its tokens.

    index rises through the document, from 0 and without gaps in a section. The piece shares overlap_before
    characters with the piece before it, overlap_after with the next.
    """

    start: int
    end: int
    n_tokens: int
    index: int
    overlap_before: int = 0
    overlap_after: int = 0


def cut(
    text: str,
    tokenizer: Any,
    max_tokens: int,
    overlap_tokens: int = 0,
    wanted: Callable[[int, int], bool] = lambda start, end: True,  # noqa: ARG005
) -> Iterator[Cut]:
    """Yield the pieces of a text in order: together, all of it but blanks between pieces.

    tokenizer is a fast one of transformers; n_tokens counts what it makes of the piece alone, without
    special tokens. A piece ends at the last paragraph end of its second half, else the last sentence end
    there, else the last word end; within a word only where the word itself is too long. It begins with the
    last words, of at most overlap_tokens together, of the piece before it, where there is room for them;
    overlap_tokens is at most half of max_tokens. `wanted` tells whether pieces are wanted that start between
    two characters; without overlap, sections where none is are left out.
    """
    size = max(_SECTION_CHARACTERS, _TOKEN_CHARACTERS * max_tokens)
    before: Cut | None = None
    for number, (start, end) in enumerate(_sections(text, size)):
        if not overlap_tokens and not wanted(start, end):
            continue
        for index, piece in enumerate(
            _cut_section(text, start, end, before, tokenizer, max_tokens, overlap_tokens)
        ):
            shared = max(0, before.end - piece.start) if before else 0
            if before:
                yield msgspec.structs.replace(before, overlap_after=shared)
            before = msgspec.structs.replace(piece, index=number * size + index, overlap_before=shared)
    if before:
        yield before


def owns(passage: Passage, start: int, end: int) -> bool:
    """Tell whether what stands at document[start:end], inside a passage, belongs to it.

    Of the passages that have it whole, exactly one owns it: each passage's own are those whose middle lies
    between the middles of its two overlaps. A span that one passage alone has whole is always that one's.
    """
    own_start, own_end = own_span(passage)
    return own_start <= (start + end) // 2 < own_end


def own_span(passage: Passage) -> tuple[int, int]:
    """Return where a passage's own part of its document begins and ends: in the middles of its overlaps."""
    return (
        passage.char_start + (passage.overlap_before + 1) // 2,
        passage.char_end - passage.overlap_after // 2,
    )


def _sections(text: str, size: int) -> Iterator[tuple[int, int]]:
    start = _skip_blanks(text, 0)
    while start < len(text):
        end = len(text) if len(text) - start <= size else _best_end(text, start, start + size, start)
        end = start + size if end is None else end
        yield start, end
        start = _skip_blanks(text, end)


def _cut_section(
    text: str, start: int, end: int, before: Cut | None, tokenizer: Any, max_tokens: int, overlap_tokens: int
) -> Iterator[Cut]:
    """Yield the pieces that end in text[start:end]; the first may begin in the piece before."""
    base = before.start if before and overlap_tokens else start
    tokens = Tokens(text[base:end], tokenizer)
    position, floor = start, start  # each piece ends behind the floor, which is where the one before ended
    if before and overlap_tokens:
        floor = before.end
        position = _overlap_start(text, base, floor, tokens, overlap_tokens)
    while position < end:
        piece = _piece(text, position, end, floor, base, tokens, max_tokens)
        if piece is None:  # no room for the overlap and a word
            position = _skip_blanks(text, floor)
            continue
        yield piece
        position, floor = _skip_blanks(text, piece.end), piece.end
        if overlap_tokens and position < end:
            position = max(piece.start, _overlap_start(text, base, floor, tokens, overlap_tokens))


def _piece(
    text: str, position: int, end: int, floor: int, base: int, tokens: Tokens, max_tokens: int
) -> Cut | None:
    """Return the piece that starts at position; None where it could only repeat what is before the floor.

    tokens are those of text[base:end].
    """
    after = tokens.first_from(position - base) + max_tokens
    if after < len(tokens):
        limit = base + tokens.start_of(after)
        best = _best_end(text, position, limit, max(position, floor))
        if best is None and floor > position:
            return None
        end = max(limit, position + 1) if best is None else best
    end = position + len(text[position:end].rstrip())
    n_tokens = tokens.count(position - base, end - base)
    while n_tokens > max_tokens:  # a word may be more tokens at the start of a text than inside it
        end = _shorter(text, position, end, n_tokens - max_tokens)
        if end <= floor and floor > position:
            return None
        end = position + len(text[position:end].rstrip())
        n_tokens = tokens.count(position - base, end - base)
    return Cut(position, end, n_tokens, 0)


def _overlap_start(text: str, base: int, end: int, tokens: Tokens, overlap_tokens: int) -> int:
    """Return where the next piece begins: with the last words before end, of at most so many tokens.

    tokens are those of the text from base on, beyond end.
    """
    if not text[end].isspace():
        return end  # within a word
    token = tokens.first_from(end - base) - overlap_tokens
    first = base + tokens.start_of(token) if token >= 0 else base
    found = _WORD_START.search(text, first, end)
    return found.start() if found else _skip_blanks(text, end)


def _skip_blanks(text: str, position: int) -> int:
    found = _NOT_BLANK.search(text, position)
    return found.start() if found else len(text)


def _best_end(text: str, position: int, limit: int, floor: int) -> int | None:
    """Return the best end behind the floor and at most at the limit; None where no word ends there."""
    half = position + (limit - position) // 2
    for boundary, lowest in ((_PARAGRAPH_END, half), (_SENTENCE_END, half), (_WORD_END, position)):
        # A boundary's blanks may reach past the limit: what counts is where they begin.
        ends = [
            match.start() + len(match[0].rstrip())
            for match in boundary.finditer(text, max(lowest, floor), limit + 1)
        ]
        # Blanks that began before `lowest` end nothing here.
        ends = [end for end in ends if floor < end <= limit and not text[end - 1].isspace()]
        if ends:
            return ends[-1]
    return None


def _shorter(text: str, position: int, end: int, tokens_over: int) -> int:
    """Return an end that leaves out the last words, at least a word for every token that is too many."""
    words = [match.start() for match in _WORD_END.finditer(text, position, end)]
    words = [word for word in words if word > position and text[position:word].strip()]
    while words and not text[words[-1] : end].strip():
        words.pop()
    if words:
        return words[-min(tokens_over, len(words))]
    return max(position + 1, end - tokens_over)
