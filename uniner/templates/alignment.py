"""Align the words that a model wrote with the passage's: a longest common subsequence.

Bit-parallel (Hyyrö 2004; Crochemore et al. 2001): a row of the usual table is one whole number, so that two
texts of 1,000 words take about a millisecond, whatever they repeat. Longer texts are aligned piece by piece:
time and memory of the whole table grow with the square (20,000 Chinese characters: seconds, 270 MB).
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

_MOST_CHANGED = 3
"""Words in a row that a model may change."""
_MOST_AT_ONCE = 2_000
"""Words of the passage whose common subsequence with the answer is looked for at once."""


def align(words: Sequence[str], written: Sequence[str]) -> list[int]:
    """Return for each word its place in `written`; -1 where the word was not written.

    Places rise. Between two words that stand in both, up to three words that were written for as many others
    stand for them, one for one: the model changed them.
    """
    first = 0
    while first < min(len(words), len(written)) and words[first] == written[first]:
        first += 1
    last = 0
    most = min(len(words), len(written)) - first
    while last < most and words[-1 - last] == written[-1 - last]:
        last += 1
    common = [
        (first + word, first + place)
        for word, place in _common_in_pieces(
            words[first : len(words) - last], written[first : len(written) - last]
        )
    ]
    tail = [(len(words) - number, len(written) - number) for number in range(last, 0, -1)]
    anchors = [*((number, number) for number in range(first)), *common, *tail]
    places = [-1] * len(words)
    for word, place in anchors:
        places[word] = place
    for (word, place), (next_word, next_place) in pairwise([(-1, -1), *anchors, (len(words), len(written))]):
        if next_word - word == next_place - place <= _MOST_CHANGED + 1:
            places[word + 1 : next_word] = range(place + 1, next_place)
    return places


def _common_in_pieces(words: Sequence[str], written: Sequence[str]) -> list[tuple[int, int]]:
    """Return the places, in both, of a common subsequence: the longest, if there are few enough words.

    Of more, each piece is aligned with twice as many written words. Its first half is kept, which the words
    beyond the piece do not change, unless the model skipped or added about as many as a piece has.
    """
    pairs: list[tuple[int, int]] = []
    first = place = 0
    while len(words) - first > _MOST_AT_ONCE and place < len(written):
        piece = _common(words[first : first + _MOST_AT_ONCE], written[place : place + 2 * _MOST_AT_ONCE])
        kept = [(first + word, place + at) for word, at in piece if word < _MOST_AT_ONCE // 2]
        pairs += kept
        first += _MOST_AT_ONCE // 2
        place = kept[-1][1] + 1 if kept else place
    rest = _common(words[first:], written[place:])
    return pairs + [(first + word, place + at) for word, at in rest]


def _common(words: Sequence[str], written: Sequence[str]) -> list[tuple[int, int]]:
    """Return the places, in both, of a longest common subsequence."""
    bits_of: defaultdict[str, int] = defaultdict(int)
    for number, word in enumerate(words):
        bits_of[word] |= 1 << number
    everything = (1 << len(words)) - 1
    row = everything
    rows = []  # a bit is 0 where the common subsequence up to this word is longer than without the word
    for word in written:
        equal = row & bits_of.get(word, 0)
        row = ((row + equal) | (row - equal)) & everything
        rows.append(row)
    pairs = []
    left, right = len(words), len(written)
    while left and right:
        if rows[right - 1] >> (left - 1) & 1:
            left -= 1
        elif right > 1 and not rows[right - 2] >> (left - 1) & 1:
            right -= 1
        else:
            left, right = left - 1, right - 1
            pairs.append((left, right))
    return pairs[::-1]
