"""One question's answer held against its gold, in the ways that protocols do. Pure.

Sets of mentions are sets of normalised strings; a matcher returns the question's counts.
"""

import json
import re
import string
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from uniner.metrics.counts import Counts

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_TO_FIRST_BRACKET = re.compile(r"\[.*?\]")
_NOTHING: frozenset[str] = frozenset()
_KEPT = 1 << 14
"""Mentions and replies come again and again; so many are remembered."""


@lru_cache(_KEPT)
def normalise(mention: str) -> str:
    """Fold what does not count: case, punctuation, articles, white space, in this order."""
    return " ".join(_ARTICLE.sub(" ", mention.lower().translate(_PUNCTUATION)).split())


def normalised(mentions: Iterable[str]) -> frozenset[str]:
    """Return the set of normalised mentions."""
    return frozenset(map(normalise, mentions))


def strict(said: frozenset[Any], true: frozenset[Any]) -> Counts:
    """Count what is in both sets, in the first alone, and in the second alone."""
    both = len(said & true)
    return Counts(both, len(said) - both, len(true) - both)


def overlap(one: str, other: str) -> bool:
    """Tell whether two normalised mentions share a word."""
    return not set(one.split()).isdisjoint(other.split())


def pairs(said: Sequence[str], true: Sequence[str]) -> int:
    """Return how many predictions find a gold mention of their own that they overlap: as many as can.

    A largest matching, by augmenting paths, so that the order of the mentions plays no part.
    """
    having: dict[str, list[int]] = {}
    for gold, mention in enumerate(true):
        for word in set(mention.split()):
            having.setdefault(word, []).append(gold)
    edges = [sorted({gold for word in one.split() for gold in having.get(word, ())}) for one in said]
    holder: dict[int, int] = {}  # gold mention to the prediction that has it
    held: dict[int, int] = {}  # the other way round
    closed: set[int] = set()  # gold from which no free one can be reached, now and later
    for first in range(len(said)):
        came: dict[int, int] = {}  # gold to the prediction that it was reached from
        free = _reach(first, edges, holder, closed, came)
        if free is None:
            closed |= came.keys()
        while free is not None:
            place = came[free]
            holder[free], before = place, held.get(place)
            held[place] = free
            free = before
    return len(holder)


def _reach(
    first: int, edges: Sequence[Sequence[int]], holder: dict[int, int], closed: set[int], came: dict[int, int]
) -> int | None:
    """Go from a prediction by overlaps and holders to a gold mention that is free, noting the way."""
    queue = [first]
    for place in queue:  # which grows
        for gold in edges[place]:
            if gold in came or gold in closed:
                continue
            came[gold] = place
            if gold not in holder:
                return gold
            queue.append(holder[gold])
    return None


def partial(said: frozenset[str], true: frozenset[str]) -> Counts:
    """Count equal mentions whole, then pair the others one to one by a shared word, each pair a half.

    As many pairs are made as can be. Precision is what was right of the predictions, recall of the gold.
    """
    right = len(said & true) + pairs(sorted(said - true), sorted(true - said)) / 2
    return Counts(right, len(said) - right, len(true) - right)


def spans_of(located: Iterable[Sequence[tuple[int, int]]]) -> frozenset[tuple[int, int]]:
    """Return the spans of mentions, each given by its places; (-n, -n) for the n-th that has none."""
    found: set[tuple[int, int]] = set()
    absent = 0
    for spans in located:
        found.update(spans)
        if not spans:
            absent += 1
            found.add((-absent, -absent))
    return frozenset(found)


def released(reply: str, bracket_break: bool = True) -> frozenset[str]:
    """Read a reply as the released scorer (universal-ner `src/eval/evaluate.py`) does.

    That is after the last `ASSISTANT:`, without white space around. What does not begin with a JSON list of
    strings is no entities. bracket_break: the list ends at the first `]`, even one inside a mention, which
    makes it none; without it the list ends where it ends.
    """
    return _NOTHING if reply == "[]" else _released(reply, bracket_break)


@lru_cache(_KEPT)
def _released(reply: str, bracket_break: bool) -> frozenset[str]:
    said = reply.rsplit("ASSISTANT:", 1)[-1].strip()
    try:
        if bracket_break:
            found = _TO_FIRST_BRACKET.match(said)
            value = json.loads(found.group()) if found else []
        else:
            value = json.JSONDecoder().raw_decode(said)[0] if said.startswith("[") else []
    except (ValueError, RecursionError):
        return _NOTHING
    return normalised(value) if all(isinstance(each, str) for each in value) else _NOTHING


def released_gold(gold: Sequence[str], bracket_break: bool = True) -> frozenset[str]:
    """Return the gold mentions as the released scorer reads them from the answer that a test file has."""
    if bracket_break and any("]" in mention for mention in gold):
        return _NOTHING
    return normalised(gold)


@lru_cache(_KEPT)
def is_list_of_strings(reply: str) -> bool:
    """Tell whether a reply is one question's own: a JSON list of strings and nothing else."""
    try:
        value = json.loads(reply)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
