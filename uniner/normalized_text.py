"""A text in the form in which mentions are compared, with the offsets of the text as it is.

Letters that mean the same look the same: NFKC (so a decomposed letter is the composed one, a ligature is its
letters, and a full-width letter is a plain one), without case, one kind of dash, of quotation mark and of
blank. Characters without width all become `ZERO_WIDTH`.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from functools import lru_cache

ZERO_WIDTH = "\u200b"
"""The normalised form of each character without width."""
# Soft hyphen, joiners, direction marks, byte-order mark, variation selectors.
_WITHOUT_WIDTH = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]"
)
_SINGLE_QUOTES, _DOUBLE_QUOTES = (
    "'\u2018\u2019\u201a\u201b\u02bc`\u00b4\u2032",
    '"\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033',
)
_MARKS = {
    **dict.fromkeys(_SINGLE_QUOTES, "'"),
    **dict.fromkeys(_DOUBLE_QUOTES, '"'),
    **dict.fromkeys("\u2010\u2212\u2043", "-"),
}
_MARK_TABLE = str.maketrans(_MARKS)
# Vowels and final consonants of decomposed Korean; they have no combining class.
_JAMO = re.compile("[\u1160-\u11ff\ud7b0-\ud7ff]")
# What does not stay one character: runs of blanks, other blanks than a space, and letters beyond ASCII, with
# the letter before them, which they may belong to.
_SPECIAL = re.compile(r"\s\s+|[^\S ]|[!-~]?[^\x00-\x7f\s]+")


def extends_letter(letter: str) -> bool:
    """Tell whether a character is part of the letter before it: an accent, or the rest of a syllable."""
    return not letter.isascii() and (unicodedata.combining(letter) > 0 or bool(_JAMO.match(letter)))


@lru_cache(1 << 14)
def _normalized_letter(letter: str) -> str:
    """Return the normalised form of a character with the ones that extend it. Never empty."""
    if letter in _MARKS:
        return _MARKS[letter]
    if _WITHOUT_WIDTH.fullmatch(letter):
        return ZERO_WIDTH
    if unicodedata.category(letter[0]) == "Pd":
        return "-" + letter[1:]
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", letter).casefold())
    # Turkish has two letters i, which other languages write as one.
    plain = plain.replace("i\u0307", "i").replace("\u0131", "i").translate(_MARK_TABLE)
    return plain if plain and not plain[0].isspace() else letter  # a mark such as ¨ would begin with a blank


@dataclass
class NormalizedText:
    """A normalised text: its letters, and pieces that lead back to the text as it is.

    A piece is a run in which each character stands for one of the text, or a unit that has no parts: ß is ss,
    and s is not half of it.
    """

    text: str = ""
    _starts: list[int] = field(default_factory=list)
    _sources: list[int] = field(default_factory=list)
    _is_run: list[bool] = field(default_factory=list)

    def source_start(self, position: int) -> int | None:
        """Return the offset in the text of the letter that begins here; None inside a unit."""
        piece = bisect_right(self._starts, position) - 1
        inside = position - self._starts[piece]
        return self._sources[piece] + inside if self._is_run[piece] or not inside else None

    def source_end(self, position: int) -> int | None:
        """Return the offset in the text of the end of the letter that ends here; None inside a unit."""
        piece = bisect_left(self._starts, position) - 1
        if self._is_run[piece]:
            return self._sources[piece] + position - self._starts[piece]
        return self._sources[piece + 1] if position == self._starts[piece + 1] else None

    def _add(self, start: int, source: int, is_run: bool) -> None:
        if not (is_run and self._is_run and self._is_run[-1]):
            self._starts.append(start)
            self._sources.append(source)
            self._is_run.append(is_run)


def normalize_text(text: str) -> NormalizedText:
    """Normalise a text, in time linear in its length."""
    result = NormalizedText()
    pieces: list[str] = []
    length = position = 0
    for special in _SPECIAL.finditer(text):
        if special.start() > position:
            pieces.append(_plain(text[position : special.start()]))
            result._add(length, position, is_run=True)
            length += special.start() - position
        for start, end in _letters(text, *special.span()):
            piece = " " if text[start].isspace() else _normalized_letter(text[start:end])
            pieces.append(piece)
            result._add(length, start, is_run=len(piece) == end - start == 1)
            length += len(piece)
        position = special.end()
    if position < len(text):
        pieces.append(_plain(text[position:]))
        result._add(length, position, is_run=True)
        length += len(text) - position
    result._add(length, len(text), is_run=False)
    result.text = "".join(pieces)
    return result


def _plain(text: str) -> str:
    """Normalise letters of ASCII."""
    return text.lower().replace("`", "'")


def _letters(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Divide a part of a text into blanks and letters, each with the characters that extend it."""
    if text[start].isspace():
        return [(start, end)]
    starts = [at for at in range(start, end) if at == start or not extends_letter(text[at])]
    return list(zip(starts, [*starts[1:], end], strict=True))
