"""Compare the predicted mentions of one question with its gold mentions. Pure.

Sets of mentions are sets of normalised strings. `strict` and `partial` return the question's counts.
"""

import json
import re
import string
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from uniner.metrics.counts import Counts

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_TO_FIRST_BRACKET = re.compile(r"\[.*?\]")
_EMPTY: frozenset[str] = frozenset()
_CACHE_SIZE = 1 << 14
"""The same mentions and replies occur again and again."""


@lru_cache(_CACHE_SIZE)
def normalise(mention: str) -> str:
    """Remove case, punctuation, articles and surplus white space, in this order."""
    return " ".join(_ARTICLE.sub(" ", mention.lower().translate(_PUNCTUATION)).split())


def normalised(mentions: Iterable[str]) -> frozenset[str]:
    """Return the set of normalised mentions."""
    return frozenset(map(normalise, mentions))


def strict(predicted: frozenset[Any], gold: frozenset[Any]) -> Counts:
    """Count the elements of both sets, of `predicted` alone and of `gold` alone."""
    right = len(predicted & gold)
    return Counts(right, len(predicted) - right, len(gold) - right)


def share_word(mention: str, other: str) -> bool:
    """Return whether two normalised mentions share a word."""
    return not set(mention.split()).isdisjoint(other.split())


def count_pairs(predicted: Sequence[str], gold: Sequence[str]) -> int:
    """Return how many predictions can be paired one to one with a gold mention that shares a word.

    The pairing is a maximum bipartite matching, so the order of the mentions does not matter.
    """
    by_word: defaultdict[str, list[int]] = defaultdict(list)
    for column, mention in enumerate(gold):
        for word in mention.split():
            by_word[word].append(column)
    edges = {
        (row, column)
        for row, mention in enumerate(predicted)
        for word in mention.split()
        for column in by_word.get(word, ())
    }
    rows, columns = {row for row, _ in edges}, {column for _, column in edges}
    if min(len(rows), len(columns)) <= 1:
        return min(len(rows), len(columns))  # the usual case, without building a sparse matrix
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    shape = (len(predicted), len(gold))
    graph = csr_array((np.ones(len(edges)), tuple(zip(*edges, strict=True))), shape=shape)
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def partial(predicted: frozenset[str], gold: frozenset[str]) -> Counts:
    """Count an equal mention as 1; pair the others one to one by a shared word, and count a pair as 1/2.

    As many pairs as possible are made. Precision is the count over the predictions, recall over the gold.
    """
    right = len(predicted & gold) + count_pairs(sorted(predicted - gold), sorted(gold - predicted)) / 2
    return Counts(right, len(predicted) - right, len(gold) - right)


def span_set(occurrences: Iterable[Sequence[tuple[int, int]]]) -> frozenset[tuple[int, int]]:
    """Return the spans of all mentions' occurrences; the n-th mention without any gives (-n, -n)."""
    spans: set[tuple[int, int]] = set()
    absent = 0
    for places in occurrences:
        spans.update(places)
        if not places:
            absent += 1
            spans.add((-absent, -absent))
    return frozenset(spans)


def released_mentions(reply: str, bracket_break: bool = True) -> frozenset[str]:
    """Parse a reply as the released scorer (universal-ner `src/eval/evaluate.py`) does.

    It reads what follows the last `ASSISTANT:`, stripped of white space. A reply that does not begin with a
    JSON list of strings gives no mentions. bracket_break: the list ends at the first `]`, even inside a
    mention, which makes the list unreadable; without it the list ends at its closing bracket.
    """
    return _EMPTY if reply == "[]" else _released_mentions(reply, bracket_break)


@lru_cache(_CACHE_SIZE)
def _released_mentions(reply: str, bracket_break: bool) -> frozenset[str]:
    text = reply.rsplit("ASSISTANT:", 1)[-1].strip()
    try:
        if bracket_break:
            match = _TO_FIRST_BRACKET.match(text)
            value = json.loads(match.group()) if match else []
        else:
            value = json.JSONDecoder().raw_decode(text)[0] if text.startswith("[") else []
    except (ValueError, RecursionError):
        return _EMPTY
    return normalised(value) if all(isinstance(mention, str) for mention in value) else _EMPTY


def released_gold(gold: Sequence[str], bracket_break: bool = True) -> frozenset[str]:
    """Return the gold mentions that the released scorer reads from a test file's answer."""
    if bracket_break and any("]" in mention for mention in gold):
        return _EMPTY
    return normalised(gold)


@lru_cache(_CACHE_SIZE)
def is_list_of_strings(reply: str) -> bool:
    """Return whether a reply is a JSON list of strings and nothing else: the answer to one question alone."""
    try:
        value = json.loads(reply)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(isinstance(mention, str) for mention in value)
