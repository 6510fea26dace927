"""Words and case as all rules see them: what a word is, and which texts are the same without case."""

import regex

# A word is letters with the marks on them (accents, the vowel signs of Hindi and Arabic), digits and "_".
# Characters without width inside it, such as the joiners of Persian, do not end it.
_WORD = r"(?!\p{M})\w(?:[\w\p{M}]|[\u00ad\u200c\u200d\u2060]+(?=\w))*"
_WORDS = regex.compile(_WORD)
_WORDS_AND_SIGNS = regex.compile(rf"{_WORD}|[^\w\s]\p{{M}}*")


def words_of(text: str) -> tuple[str, ...]:
    """Return a text's words, without the signs between them."""
    return tuple(_WORDS.findall(text))


def word_starts(text: str) -> list[int]:
    """Return where a text's words begin; a sign between them counts as one."""
    return [match.start() for match in _WORDS_AND_SIGNS.finditer(text)]


def without_case(text: str) -> str:
    """Return a text by which texts are compared without case: Unicode's full case folding."""
    return text.casefold()


class TextWithoutCase:
    """Finds phrases in a text without case, with offsets into the text as it is.

    Folding makes some letters longer: "ß" is "ss". A match has both or none of them.
    """

    def __init__(self, text: str):
        self._folded = without_case(text)
        self._place: dict[int, int] | None = None
        if len(self._folded) != len(text):  # no letter becomes shorter, so equal lengths mean equal offsets
            self._place, length = {}, 0
            for number, letter in enumerate(text):
                self._place[length] = number
                length += len(without_case(letter))
            self._place[length] = len(text)

    def places(self, phrase: str) -> list[tuple[int, int]]:
        """Return all places of a phrase that `without_case` returned, overlapping ones too."""
        found, start = [], self._folded.find(phrase)
        while start >= 0:
            found.append((start, start + len(phrase)))
            start = self._folded.find(phrase, start + 1)
        place = self._place
        if place is None:
            return found
        return [(place[start], place[end]) for start, end in found if start in place and end in place]
