"""Locate a model's mention in a text."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Grounding = Literal["exact", "normalized", "ungrounded"]
Offsets = tuple[int, int]

# Models often write plain marks where the text has typographic ones, and the other way round.
_QUOTATION_MARKS = ("'\u2018\u2019\u201a\u02bc`\u00b4", '"\u201c\u201d\u201e\u00ab\u00bb')


class Occurrences(NamedTuple):
    """The occurrences of a mention in a text, and how they match it."""

    spans: list[Offsets]
    grounding: Grounding


def locate(text: str, mention: str) -> Occurrences:
    """Find all occurrences of a mention in a text, in order and without overlap.

    Whole words come first, then matches inside words. Either match is `exact`, or `normalized`: case, white
    space and the kind of quotation mark are ignored. Without a match the grounding is `ungrounded`.
    """
    words = mention.split()
    if not words:
        return Occurrences([], "ungrounded")
    exact = _exact_occurrences(text, mention)
    whole = _without_overlap(span for span in exact if _is_whole_word(text, span))
    if whole:
        return Occurrences(whole, "exact")
    pattern = r"\s+".join("".join(map(_letter_pattern, word)) for word in words)
    anywhere = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
    if not anywhere:
        return Occurrences([], "ungrounded")
    whole = [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)]
    if whole:
        return Occurrences(whole, "normalized")
    return Occurrences(_without_overlap(exact), "exact") if exact else Occurrences(anywhere, "normalized")


def most_likely(spans: Sequence[Offsets], others: Iterable[Offsets]) -> Offsets:
    """Return the occurrence that a mention most likely means; models name no position.

    The first occurrence that is not inside a longer one: "Paris" does not mean part of "Paris Hilton". If all
    are inside longer ones, the first. others: occurrences of all mentions in the text.
    """
    longer = list(others)
    free = (
        (start, end)
        for start, end in spans
        if not any(
            other_start <= start and end <= other_end and other_end - other_start > end - start
            for other_start, other_end in longer
        )
    )
    return next(free, spans[0])


def _exact_occurrences(text: str, mention: str) -> list[Offsets]:
    """Return all exact occurrences, overlapping ones included.

    Without a regular expression: most mentions are exact, and compiling a pattern costs more than the search.
    """
    spans = []
    start = text.find(mention)
    while start >= 0:
        spans.append((start, start + len(mention)))
        start = text.find(mention, start + 1)
    return spans


def _is_whole_word(text: str, span: Offsets) -> bool:
    start, end = span
    return not (start and _in_word(text[start - 1])) and not (end < len(text) and _in_word(text[end]))


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _without_overlap(spans: Iterable[Offsets]) -> list[Offsets]:
    kept: list[Offsets] = []
    for start, end in spans:
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def _letter_pattern(letter: str) -> str:
    """Return the pattern of a letter; a quotation mark matches every mark of its kind."""
    marks = next((marks for marks in _QUOTATION_MARKS if letter in marks), None)
    return f"[{marks}]" if marks else re.escape(letter)
