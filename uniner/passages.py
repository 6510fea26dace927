"""Cut a document into passages of at most N tokens, at paragraph, sentence or word ends, with exact offsets.

A long document is first divided into sections by characters, and each section is cut by itself. Memory does
not grow with the document, and sampling tokenises only the sections that contain a sampled passage.

Tokenizing is nearly all of ingest's work. A section is tokenized once; counting the tokens of a passage then
needs only the passage's two ends.
"""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from uniner.records import Passage

_SECTION_CHARACTERS = 16_384
# An upper bound for nearly all tokens.
_TOKEN_CHARACTERS = 16
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+|\n")
_WORD_END = re.compile(r"\s+")
_WORD_START = re.compile(r"(?<!\S)\S")
_NOT_BLANK = re.compile(r"\S")
# Two words in one token. Byte-level vocabularies write a blank as Ġ, others as ▁ or a space.
_TWO_WORDS = {blank: re.compile(rf"[^\W_]{blank}[^\W_]") for blank in "Ġ▁ "}


class PassageSpan(msgspec.Struct, frozen=True):
    """A passage's place: text[start:end] of its document, without blanks around it, and its token count.

    index rises through the document, and within a section without gaps from 0. The span shares overlap_before
    characters with the previous span and overlap_after with the next one.
    """

    start: int
    end: int
    n_tokens: int
    index: int
    overlap_before: int = 0
    overlap_after: int = 0

    def passage(self, document: str, passage_id: str, doc_id: str = "", source: str = "") -> Passage:
        """Return the passage at this place of its document."""
        return Passage(
            passage_id=passage_id,
            doc_id=doc_id,
            passage_index=self.index,
            char_start=self.start,
            char_end=self.end,
            text=document[self.start : self.end],
            n_tokens=self.n_tokens,
            source=source,
            overlap_before=self.overlap_before,
            overlap_after=self.overlap_after,
        )


def cut_passages(
    text: str,
    tokenizer: Any,
    max_tokens: int,
    overlap_tokens: int = 0,
    wanted: Callable[[int, int], bool] = lambda start, end: True,  # noqa: ARG005
) -> Iterator[PassageSpan]:
    """Yield the passages of a text in order; together they cover all of it except blanks between passages.

    tokenizer: a fast tokenizer of transformers. n_tokens counts its tokens of the passage alone, without
    special tokens. A passage ends at the last paragraph end in its second half, else the last sentence end
    there, else the last word end; it ends inside a word only if the word itself is too long. It begins with
    the last words of the previous passage, at most overlap_tokens, if there is room; overlap_tokens is at
    most half of max_tokens. wanted(start, end): whether passages that start between two characters are
    wanted; without overlap, unwanted sections are skipped.
    """
    size = max(_SECTION_CHARACTERS, _TOKEN_CHARACTERS * max_tokens)
    cutter = _Cutter(text, tokenizer, max_tokens, overlap_tokens)
    previous: PassageSpan | None = None
    for number, (start, end) in enumerate(_sections(text, size)):
        if not overlap_tokens and not wanted(start, end):
            continue
        for index, span in enumerate(cutter.cut_section(start, end, previous)):
            shared = max(0, previous.end - span.start) if previous else 0
            if previous:
                yield msgspec.structs.replace(previous, overlap_after=shared)
            previous = msgspec.structs.replace(span, index=number * size + index, overlap_before=shared)
    if previous:
        yield previous


def owns(passage: Passage, start: int, end: int) -> bool:
    """Tell whether a passage owns the entity document[start:end], which lies inside the passage.

    Exactly one of the passages that contain a span owns it: the one whose own part contains the span's
    middle. A span that only one passage contains belongs to that passage.
    """
    own_start, own_end = own_span(passage)
    return own_start <= (start + end) // 2 < own_end


def own_span(passage: Passage) -> tuple[int, int]:
    """Return a passage's own part of its document, (start, end): from middle to middle of its overlaps."""
    return (
        passage.char_start + (passage.overlap_before + 1) // 2,
        passage.char_end - passage.overlap_after // 2,
    )


class TokenizedText:
    """A text's tokens by a fast tokenizer of transformers, without special tokens."""

    def __init__(self, text: str, tokenizer: Any):
        self._text = text
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._encoding = self._encode(text)
        self._word_by_word = _splits_at_words(tokenizer)

    def __len__(self) -> int:
        return len(self._encoding)

    def first_from(self, position: int) -> int:
        """Return the index of the first token that starts at or after a character."""
        for character in range(position, len(self._text)):
            token = self._encoding.char_to_token(character)
            if token is not None:  # some tokenizers drop blanks
                while token < len(self) and self.start_of(token) < position:
                    token += 1
                return token
        return len(self)

    def start_of(self, token: int) -> int:
        """Return the character at which a token starts."""
        return self._encoding.token_to_chars(token)[0]

    def count(self, start: int, end: int) -> int:
        """Return the number of tokens of text[start:end] alone.

        The surrounding text affects only the tokens of the part's first and last words: a space between two
        letters or digits always separates tokens, unless the vocabulary has tokens of two words. So only the
        part's two ends are tokenized again.
        """
        if start == 0 and end == len(self._text):
            return len(self)
        if self._word_by_word:
            head, tail = self._word_space(start, end), self._word_space(start, end, last=True)
            first, last = self._token_at(head), self._token_at(tail)
            if head < tail and first is not None and last is not None:
                return len(self._encode(self._text[start:head] + self._text[tail:end])) + last - first
        return len(self._encode(self._text[start:end]))

    def _encode(self, text: str) -> Any:
        return self._backend.encode(text, add_special_tokens=False)

    def _word_space(self, start: int, end: int, last: bool = False) -> int:
        """Return the first or last space between two letters or digits of text[start:end], or -1."""
        text = self._text
        position = text.rfind(" ", start + 1, end - 1) if last else text.find(" ", start + 1, end - 1)
        while position > 0 and not (text[position - 1].isalnum() and text[position + 1].isalnum()):
            position = text.rfind(" ", start + 1, position) if last else text.find(" ", position + 1, end - 1)
        return position

    def _token_at(self, space: int) -> int | None:
        """Return the index of the token that starts with a space or the next word; None inside a token."""
        if space < 0:
            return None
        token = self._encoding.char_to_token(space)
        if token is None:
            token = self._encoding.char_to_token(space + 1)
        return None if token is None or self.start_of(token) < space else token


@functools.lru_cache(maxsize=4)
def _splits_at_words(tokenizer: Any) -> bool:
    """Tell whether no token of the vocabulary spans two words."""
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    blank = next((blank for blank in "▁Ġ" if blank in vocabulary), " ")
    return not any(map(_TWO_WORDS[blank].search, vocabulary))


@dataclass(frozen=True)
class _Cutter:
    text: str
    tokenizer: Any
    max_tokens: int
    overlap_tokens: int

    def cut_section(self, start: int, end: int, previous: PassageSpan | None) -> Iterator[PassageSpan]:
        """Yield the spans that end in text[start:end]; the first may start in the previous span."""
        base = previous.start if previous and self.overlap_tokens else start
        tokens = TokenizedText(self.text[base:end], self.tokenizer)
        position, floor = start, start  # the floor is the end of the previous span; a span must end after it
        if previous and self.overlap_tokens:
            floor = previous.end
            position = self._overlap_start(base, floor, tokens)
        while position < end:
            span = self._span(position, end, floor, base, tokens)
            if span is None:  # no room for the overlap and another word
                position = _skip_blanks(self.text, floor)
                continue
            yield span
            position, floor = _skip_blanks(self.text, span.end), span.end
            if self.overlap_tokens and position < end:
                position = max(span.start, self._overlap_start(base, floor, tokens))

    def _span(
        self, position: int, end: int, floor: int, base: int, tokens: TokenizedText
    ) -> PassageSpan | None:
        """Return the span that starts at position; None if it would only repeat text before the floor.

        tokens: the tokens of text[base:end].
        """
        text = self.text
        after = tokens.first_from(position - base) + self.max_tokens
        if after < len(tokens):
            limit = base + tokens.start_of(after)
            best = _best_end(text, position, limit, max(position, floor))
            if best is None and floor > position:
                return None
            end = max(limit, position + 1) if best is None else best
        end = position + len(text[position:end].rstrip())
        n_tokens = tokens.count(position - base, end - base)
        while n_tokens > self.max_tokens:  # a word can have more tokens at the start of a text than inside it
            end = _shorter_end(text, position, end, n_tokens - self.max_tokens)
            if end <= floor and floor > position:
                return None
            end = position + len(text[position:end].rstrip())
            n_tokens = tokens.count(position - base, end - base)
        return PassageSpan(position, end, n_tokens, 0)

    def _overlap_start(self, base: int, end: int, tokens: TokenizedText) -> int:
        """Return the start of the next span: the last words before end, at most overlap_tokens.

        tokens: the tokens of the text from base on, beyond end.
        """
        if not self.text[end].isspace():
            return end  # inside a word
        token = tokens.first_from(end - base) - self.overlap_tokens
        first = base + tokens.start_of(token) if token >= 0 else base
        word = _WORD_START.search(self.text, first, end)
        return word.start() if word else _skip_blanks(self.text, end)


def _sections(text: str, size: int) -> Iterator[tuple[int, int]]:
    start = _skip_blanks(text, 0)
    while start < len(text):
        end = len(text) if len(text) - start <= size else _best_end(text, start, start + size, start)
        end = start + size if end is None else end
        yield start, end
        start = _skip_blanks(text, end)


def _skip_blanks(text: str, position: int) -> int:
    match = _NOT_BLANK.search(text, position)
    return match.start() if match else len(text)


def _best_end(text: str, position: int, limit: int, floor: int) -> int | None:
    """Return the best end after the floor, at most the limit; None if no word ends there."""
    half = position + (limit - position) // 2
    for boundary, lowest in ((_PARAGRAPH_END, half), (_SENTENCE_END, half), (_WORD_END, position)):
        # The blanks of a boundary may extend past the limit; only their start matters.
        ends = [
            match.start() + len(match[0].rstrip())
            for match in boundary.finditer(text, max(lowest, floor), limit + 1)
        ]
        # Blanks that started before `lowest` end nothing here.
        ends = [end for end in ends if floor < end <= limit and not text[end - 1].isspace()]
        if ends:
            return ends[-1]
    return None


def _shorter_end(text: str, position: int, end: int, excess_tokens: int) -> int:
    """Return an end without the last words, at least one word for each excess token."""
    words = [match.start() for match in _WORD_END.finditer(text, position, end)]
    words = [word for word in words if word > position and text[position:word].strip()]
    while words and not text[words[-1] : end].strip():
        words.pop()
    if words:
        return words[-min(excess_tokens, len(words))]
    return max(position + 1, end - excess_tokens)
