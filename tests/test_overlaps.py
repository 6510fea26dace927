"""Overlaps are settled as each rule says, and as a plain comparison of all pairs would settle them."""

import random
from typing import NamedTuple

import pytest

from uniner.overlaps import settle


class Spanned(NamedTuple):
    start: int
    end: int
    type: str
    score: float


SPANS = [
    Spanned(0, 8, "city", 0.6),  # New York City
    Spanned(0, 5, "city", 0.9),  # New York
    Spanned(3, 8, "person", 0.7),  # crosses it
    Spanned(0, 8, "person", 0.5),  # a second type
    Spanned(9, 12, "city", 0.4),
]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [("keep", [0, 1, 2, 3, 4]), ("flat", [1, 4]), ("longest", [0, 4]), ("nested", [0, 1, 4])],
)
def test_each_rule_settles_overlaps(rule, kept):
    assert sorted(settle(SPANS, rule)) == sorted(SPANS[number] for number in kept)


def excludes(rule, one, other):
    if one.end <= other.start or other.end <= one.start:
        return False
    inside = one.start <= other.start and other.end <= one.end
    around = other.start <= one.start and one.end <= other.end
    return rule != "nested" or (one[:2] == other[:2]) or not (inside or around)


@pytest.mark.parametrize("rule", ["flat", "longest", "nested"])
@pytest.mark.parametrize("seed", range(20))
def test_it_settles_as_a_comparison_of_all_pairs_does(rule, seed):
    made = random.Random(seed)
    spans = [
        Spanned(start, start + made.randint(1, 12), made.choice("ab"), made.randint(0, 6) / 6)
        for start in (made.randint(0, 60) for _ in range(40))
    ]
    if rule == "longest":
        ordered = sorted(spans, key=lambda span: (span.start - span.end, -span.score))
    else:
        ordered = sorted(spans, key=lambda span: -span.score)
    expected = []
    for span in ordered:
        if not any(excludes(rule, span, other) for other in expected):
            expected.append(span)
    assert settle(spans, rule) == expected
