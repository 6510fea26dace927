"""A passage's words with BIO tags: which mentions they hold, and how the tags are written and read.

An answer is the passage's words, each followed by its tag, all separated by blanks:

    Ada B-person Lovelace I-person lived O in O London B-city . O

A word is a run of letters, their marks and digits, or another single sign, so that no word has a hyphen and a
letter: a passage that contains "B-person" has three words there, and cannot be taken for a tag. A type's
blanks are written as `_`, so that a tag has none.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from uniner.grounding import UNSPACED, locate
from uniner.overlaps import settle
from uniner.templates.interface import Mentions, Offsets, Spans

OUTSIDE = "O"
# Marks belong to their letter. In scripts without blanks each letter is a word, so that a mention can end
# anywhere. \x1c to \x1f are white space to Python, by whose split answers are read.
_WORD = regex.compile(rf"(?V1)[[\w\p{{No}}]--[{UNSPACED}]]+|[^\s\x1c-\x1f]\p{{M}}*")
_ESCAPED = re.compile(r"[\\_]|[^\S ]")


def find_words(text: str) -> list[Offsets]:
    """Return the places of a text's words."""
    return [match.span() for match in _WORD.finditer(text)]


def type_in_tags(name: str) -> str:
    """Return a type's name as it stands in tags: without white space, and no two alike."""
    return _ESCAPED.sub(_escape, name).replace(" ", "_")


def names_in_tags(types: Sequence[str]) -> dict[str, str]:
    """Return each type of a question as it stands in tags, no two alike.

    A type that is asked for with a description, "person (a human being)", is tagged by its name alone, else
    each word of a mention would repeat the description; but by the whole where two types would be one.
    """
    short = {name: name.split(" (", 1)[0] or name for name in types}
    counts = Counter(short.values())
    return {name: type_in_tags(short[name] if counts[short[name]] == 1 else name) for name in types}


def _escape(match: re.Match[str]) -> str:
    letter = match[0]
    return f"\\{letter}" if letter in "\\_" else f"\\{ord(letter):x};"


@dataclass(frozen=True)
class TypedPlace:
    """A mention's place in the passage, and its type's number in the question. score: none is better."""

    start: int
    end: int
    number: int
    score: float = 1.0


@dataclass(frozen=True)
class HeldMentions:
    """The places that words can hold, in the order of the text, and how many others there are, by reason."""

    places: list[TypedPlace]
    unheld: Counter[str]


def hold(
    passage: str, words: Sequence[Offsets], types: Sequence[str], answers: Mentions, spans: Spans | None
) -> HeldMentions:
    """Choose the mentions that tags can hold: a word has one tag.

    Of mentions that share words the longest stays, then the first in the text, then that of the type which is
    asked first. Left out, by reason: not_in_text; off_boundary (begins or ends inside a word); second_type
    (another type has the same place); nested (inside another); crossing (shares a part with another).
    """
    unheld: Counter[str] = Counter()
    starts, ends = {start for start, _ in words}, {end for _, end in words}
    wanted: dict[TypedPlace, None] = {}
    for number, name in enumerate(types):
        for place in _places(passage, answers[name], None if spans is None else spans.get(name, ())):
            if place is None:
                unheld["not_in_text"] += 1
            elif place[0] not in starts or place[1] not in ends:
                unheld["off_boundary"] += 1
            else:
                wanted[TypedPlace(*place, number)] = None
    ordered = sorted(wanted, key=lambda place: (place.start, place.number))
    kept = sorted(settle(ordered, "longest"), key=lambda place: place.start)
    chosen, covered = set(kept), _Cover(kept)
    unheld.update(covered.reason(place) for place in ordered if place not in chosen)
    return HeldMentions(kept, unheld)


class _Cover:
    """Tells why a place gives way to those that were kept."""

    def __init__(self, kept: Sequence[TypedPlace]):
        self._kept = {(place.start, place.end) for place in kept}

    def reason(self, place: TypedPlace) -> str:
        if (place.start, place.end) in self._kept:
            return "second_type"
        inside = any(start <= place.start and place.end <= end for start, end in self._kept)
        return "nested" if inside else "crossing"


def _places(passage: str, mentions: Sequence[str], known: Sequence[Offsets] | None) -> list[Offsets | None]:
    """Return the places of a type's mentions; None for one that the passage lacks.

    known: those that are given; None: all occurrences of each mention count.
    """
    places: list[Offsets | None] = []
    if known is not None:
        shown = {passage[start:end] for start, end in known}
        return [*known, *(None for mention in mentions if mention not in shown)]
    for mention in mentions:
        places += locate(passage, mention).spans or [None]
    return places


def write_tags(
    passage: str, words: Sequence[Offsets], types: Sequence[str], places: Sequence[TypedPlace]
) -> str:
    """Return the answer: each word and its tag. places: of mentions, of which no two share a word."""
    tags = [OUTSIDE] * len(words)
    number_of = {start: number for number, (start, _) in enumerate(words)}
    names = names_in_tags(types)
    for place in places:
        number, name = number_of[place.start], names[types[place.number]]
        tags[number] = f"B-{name}"
        while words[number][1] < place.end:
            number += 1
            tags[number] = f"I-{name}"
    return " ".join(f"{passage[start:end]} {tag}" for (start, end), tag in zip(words, tags, strict=True))


@dataclass(frozen=True)
class WrittenWord:
    """A word of an answer with its tag. kind: B, I or O; "" where the word has no tag that was asked for.

    place: of the tag in the answer.
    """

    word: str
    kind: str
    type: str
    place: Offsets


def read_tags(answer: str, types: Sequence[str]) -> list[WrittenWord]:
    """Return the words of an answer with their tags.

    Where a tag or a word is missing, reading goes on with the next word.
    """
    tags: dict[str, tuple[str, str]] = {OUTSIDE: (OUTSIDE, "")}
    for name, tag in names_in_tags(types).items():
        tags.update({f"{kind}-{tag}": (kind, name) for kind in "BI"})
    chunks = [(match[0], match.span()) for match in re.finditer(r"\S+", answer)]
    written: list[WrittenWord] = []
    number = 0
    while number < len(chunks):
        text, span = chunks[number]
        follower, place = chunks[number + 1] if number + 1 < len(chunks) else ("", span)
        if text != OUTSIDE and text in tags:  # a tag whose word is missing
            number += 1
            continue
        has_tag = follower == OUTSIDE or follower.startswith(("B-", "I-"))
        kind, name = tags.get(follower, ("", "")) if has_tag else ("", "")
        written += _split(text, kind, name, place)
        number += 2 if has_tag else 1
    return written


def _split(text: str, kind: str, name: str, place: Offsets) -> list[WrittenWord]:
    """Return a written word as the passage has it: a model may join several, such as a word and its comma."""
    parts = _WORD.findall(text)
    inner = "I" if kind == "B" else kind
    return [WrittenWord(part, inner if number else kind, name, place) for number, part in enumerate(parts)]
