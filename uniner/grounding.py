"""Locate a model's mention in a text."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import lru_cache
from typing import Literal, NamedTuple

from uniner.normalized_text import ZERO_WIDTH, NormalizedText, extends_letter, normalize_text

Grounding = Literal["exact", "normalized", "ungrounded"]
Offsets = tuple[int, int]

# The usual ones, which need no closer look.
_BETWEEN_WORDS = frozenset(" \n.,;:!?()[]\"'/-")
# Characters without width that do not end a word: soft hyphen, joiners, variation selectors.
_JOINERS = re.compile("[\u00ad\u200c\u200d\u2060\ufe00-\ufe0f]")
UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Ranges of scripts without blanks between words: Thai to Myanmar, Khmer, Japanese, Chinese."""
_UNSPACED = re.compile(f"[{UNSPACED}]")
_KOREAN = re.compile("[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff]")
_GAPS = re.compile(f"[ {ZERO_WIDTH}]+|[^ {ZERO_WIDTH}]+")


class Occurrences(NamedTuple):
    """The occurrences of a mention in a text, and how they match it."""

    spans: list[Offsets]
    grounding: Grounding


def locate(text: str, mention: str) -> Occurrences:
    """Find all occurrences of a mention in a text, in order and without overlap.

    Whole words come first, then matches inside words. Either match is `exact`, or `normalized`: case, white
    space, the kind of dash and quotation mark, and the way a letter is encoded are ignored (see
    `normalized_text`), and a character without width matches nothing or a blank. A match never divides a
    letter from its accents. In scripts without blanks between words every match is a whole word. Without a
    match the grounding is `ungrounded`.
    """
    mention = mention.strip()
    if not mention:
        return Occurrences([], "ungrounded")
    exact = _positions(text, mention)
    if exact and not text.isascii():
        exact = [span for span in exact if not _divides_letter(text, span[1])]
    if whole := _whole_words(text, exact):
        return Occurrences(whole, "exact")
    anywhere = list(_normalized_positions(_normalized(text), normalize_text(mention).text))
    if whole := _whole_words(text, anywhere):
        return Occurrences(whole, "normalized")
    if exact:
        return Occurrences(_without_overlap(exact), "exact")
    return Occurrences(_without_overlap(anywhere), "normalized" if anywhere else "ungrounded")


def whole_word_spans(text: str, phrase: str | Sequence[Offsets]) -> list[Offsets]:
    """Return the places of a phrase, exactly as written, that divide no word, without overlap.

    phrase: or its places in the text. "+" divides no word of "C+": it is not a part of one itself.
    """
    spans = _positions(text, phrase) if isinstance(phrase, str) else phrase
    return _without_overlap(
        (start, end)
        for start, end in spans
        if not _divides_letter(text, end)
        and not (start and _in_word(text[start]) and _starts_inside(text, start))
        and not (end < len(text) and _in_word(text[end - 1]) and _ends_inside(text, end))
    )


def nested_spans(spans: Iterable[Offsets]) -> set[Offsets]:
    """Return the spans that lie inside a longer one: "Paris" in "Paris Hilton"."""
    nested, furthest = set(), -1
    for start, minus_end in sorted({(start, -end) for start, end in spans}):
        if -minus_end <= furthest:
            nested.add((start, -minus_end))
        else:
            furthest = -minus_end
    return nested


def without_nested(spans: Sequence[Offsets], nested: Set[Offsets]) -> Sequence[Offsets]:
    """Return a mention's occurrences without those inside a longer mention.

    "Paris" does not mean part of "Paris Hilton". Where all are inside longer ones, all are returned: the
    mention is meant, and is nowhere else. nested: `nested_spans` of all mentions in the text.
    """
    if nested.isdisjoint(spans):
        return spans
    return [span for span in spans if span not in nested] or spans


@lru_cache(16)  # a text's mentions are located one after another
def _normalized(text: str) -> NormalizedText:
    return normalize_text(text)


def _positions(text: str, mention: str) -> list[Offsets]:
    """Return all places of a string, overlapping ones included.

    Without a regular expression: most mentions are exact, and compiling a pattern costs more than the search.
    """
    spans, size = [], len(mention)
    start = text.find(mention)
    while start >= 0:
        spans.append((start, start + size))
        start = text.find(mention, start + 1)
    return spans


def _normalized_positions(text: NormalizedText, mention: str) -> Iterator[Offsets]:
    """Yield the offsets in the text as it is of the places where a normalised mention occurs."""
    mention = mention.strip(f" {ZERO_WIDTH}")
    if not mention:
        return
    if ZERO_WIDTH in mention or ZERO_WIDTH in text.text:
        places = [match.span(1) for match in re.finditer(f"(?=({_pattern(mention)}))", text.text)]
    else:
        places = _positions(text.text, mention)
    for start, end in places:
        first, last = text.source_start(start), text.source_end(end)
        if first is not None and last is not None:
            yield first, last


def _pattern(mention: str) -> str:
    """Return the pattern of a mention in which a character without width matches nothing or a blank."""
    parts = []
    for part in _GAPS.findall(mention):
        if part[0] in (" ", ZERO_WIDTH):
            parts.append(f"[ {ZERO_WIDTH}]{'+' if ' ' in part else '*'}")
        else:
            parts.append(f"{ZERO_WIDTH}*".join(map(re.escape, part)))
    return "".join(parts)


def _divides_letter(text: str, end: int) -> bool:
    return end < len(text) and extends_letter(text[end])


def _whole_words(text: str, spans: Sequence[Offsets]) -> list[Offsets]:
    """Return the spans that no word goes on from, without overlap."""
    size = len(text)
    whole = [
        (start, end)
        for start, end in spans
        if (not start or text[start - 1] in _BETWEEN_WORDS or not _starts_inside(text, start))
        and (end == size or text[end] in _BETWEEN_WORDS or not _ends_inside(text, end))
    ]
    return whole if len(whole) < 2 else _without_overlap(whole)


def _starts_inside(text: str, start: int) -> bool:
    """Tell whether the text goes on in the same word before a position."""
    before, first = text[start - 1], text[start]
    if before.isascii() and first.isascii():
        return before.isalnum() or before == "_"
    while _JOINERS.match(before) and start > 1:
        start -= 1
        before = text[start - 1]
    if not _in_word(before) or _UNSPACED.match(before) or _UNSPACED.match(first):
        return False
    return bool(_KOREAN.match(before)) == bool(_KOREAN.match(first))


def _ends_inside(text: str, end: int) -> bool:
    """Tell whether the text goes on in the same word after a position."""
    last, after = text[end - 1], text[end]
    if last.isascii() and after.isascii():
        return after.isalnum() or after == "_"
    if unicodedata.category(after)[0] == "M":
        return True
    while _JOINERS.match(after) and end + 1 < len(text):
        end += 1
        after = text[end]
    # Korean writes particles after a word without a blank.
    return _in_word(after) and not any(map(_UNSPACED.match, (last, after))) and not _KOREAN.match(after)


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_" or unicodedata.category(letter)[0] == "M"


def _without_overlap(spans: Iterable[Offsets]) -> list[Offsets]:
    kept, covered = [], 0
    for span in spans:
        if span[0] >= covered:
            kept.append(span)
            covered = span[1]
    return kept
