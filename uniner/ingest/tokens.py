"""How many tokens the parts of a text have, told from one tokenization of the whole text.

Tokenizing is nearly all of the work of ingest, so of a part only the ends are tokenized again.
"""

import functools
import re
from typing import Any

# Two words in one token, by how a vocabulary writes a blank: byte-level ones Ġ, others ▁ or a space.
_TWO_WORDS = {blank: re.compile(rf"[^\W_]{blank}[^\W_]") for blank in "Ġ▁ "}


class Tokens:
    """A text's tokens, those of a fast tokenizer of transformers, without special tokens."""

    def __init__(self, text: str, tokenizer: Any):
        self._text = text
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._encoding = self._encode(text)
        self._word_by_word = _word_by_word(tokenizer)

    def __len__(self) -> int:
        return len(self._encoding)

    def first_from(self, position: int) -> int:
        """Return the number of the first token that starts at a character or behind it."""
        for character in range(position, len(self._text)):
            token = self._encoding.char_to_token(character)
            if token is not None:  # some tokenizers leave blanks out
                while token < len(self) and self.start_of(token) < position:
                    token += 1
                return token
        return len(self)

    def start_of(self, token: int) -> int:
        """Return the character at which a token starts."""
        return self._encoding.token_to_chars(token)[0]

    def count(self, start: int, end: int) -> int:
        """Return how many tokens the tokenizer makes of text[start:end] alone.

        What is left and right of the part can change the tokens of its first and last word, no others: a
        space between two letters or digits always parts tokens, where no token of the vocabulary has two
        words. So the part's two ends are tokenized, and the tokens between them are already known.
        """
        if start == 0 and end == len(self._text):
            return len(self)
        if self._word_by_word:
            head, tail = self._space(start, end), self._space(start, end, last=True)
            first, last = self._token_at(head), self._token_at(tail)
            if head < tail and first is not None and last is not None:
                return len(self._encode(self._text[start:head] + self._text[tail:end])) + last - first
        return len(self._encode(self._text[start:end]))

    def _encode(self, text: str) -> Any:
        return self._backend.encode(text, add_special_tokens=False)

    def _space(self, start: int, end: int, last: bool = False) -> int:
        """Return the first or last space between two letters or digits of text[start:end]; -1 without one."""
        text = self._text
        position = text.rfind(" ", start + 1, end - 1) if last else text.find(" ", start + 1, end - 1)
        while position > 0 and not (text[position - 1].isalnum() and text[position + 1].isalnum()):
            position = text.rfind(" ", start + 1, position) if last else text.find(" ", position + 1, end - 1)
        return position

    def _token_at(self, space: int) -> int | None:
        """Return the number of the token that a space begins, or the word behind it; None within a token."""
        if space < 0:
            return None
        token = self._encoding.char_to_token(space)
        if token is None:
            token = self._encoding.char_to_token(space + 1)
        return None if token is None or self.start_of(token) < space else token


@functools.lru_cache(maxsize=4)
def _word_by_word(tokenizer: Any) -> bool:
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    blank = next((blank for blank in "▁Ġ" if blank in vocabulary), " ")
    return not any(map(_TWO_WORDS[blank].search, vocabulary))
