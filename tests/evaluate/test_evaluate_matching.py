"""One question at a time, against counts worked by hand."""

from itertools import permutations

import pytest

from uniner.metrics.counts import Counts
from uniner.metrics.matching import (
    normalise,
    normalised,
    overlap,
    pairs,
    partial,
    released,
    released_gold,
    spans_of,
    strict,
)


@pytest.mark.parametrize(
    ("mention", "folded"),
    [
        ("The  Beatles", "beatles"),
        ("U.S.A.", "usa"),
        ("Theodore's an apple\na day", "theodores apple day"),
        ("A", ""),
        ("Łódź-Górna", "łódźgórna"),
        ("another", "another"),
    ],
)
def test_normalisation_folds_case_punctuation_articles_and_space(mention, folded):
    assert normalise(mention) == folded


def test_strict_compares_sets_of_normalised_strings():
    said, true = normalised(["The Beatles", "beatles", "Queen"]), normalised(["Beatles", "Abba"])
    assert strict(said, true) == Counts(1, 1, 1)
    assert strict(frozenset(), frozenset()) == Counts()


def test_shares_of_nothing_are_nothing():
    assert (Counts().precision, Counts().recall, Counts().f1) == (0, 0, 0)
    total = Counts(1, 1, 0) + Counts(1, 0, 3)
    assert (total.precision, total.recall, total.f1) == (2 / 3, 2 / 5, 4 / 8)


@pytest.mark.parametrize(
    ("said", "true", "counts"),
    [
        (["New York City"], ["New York"], Counts(0.5, 0.5, 0.5)),  # a word too many
        (["York"], ["New York City"], Counts(0.5, 0.5, 0.5)),  # words too few
        (["York"], ["Yorkshire"], Counts(0, 1, 1)),  # letters are no words
        (["the Hague"], ["Hague"], Counts(1, 0, 0)),  # equal when normalised
        (["the"], ["the Hague"], Counts(0, 1, 1)),  # an article is no word
        # Equal ones first: New York is its own, so York City finds no gold of its own.
        (["New York", "York City"], ["New York"], Counts(1, 1, 0)),
        # One to one: two pieces of one gold mention are one half.
        (["Ann", "Lee"], ["Ann Lee"], Counts(0.5, 1.5, 0.5)),
        (["Ann Lee"], ["Ann", "Lee"], Counts(0.5, 0.5, 1.5)),
        # As many pairs as can be: Ann takes Ann Bo though Ann Lee comes first, as Lee has only that.
        (["Ann", "Lee"], ["Ann Lee", "Ann Bo"], Counts(1, 1, 1)),
        (["Oslo"], [], Counts(0, 1, 0)),
        ([], ["Oslo"], Counts(0, 0, 1)),
        ([], [], Counts()),
    ],
)
def test_partial_pairs_mentions_that_share_a_word_one_to_one_for_a_half(said, true, counts):
    assert partial(normalised(said), normalised(true)) == counts


def test_partial_gives_half_a_true_positive_in_precision_and_recall():
    # One right, one half right, one wrong of three predictions; two gold mentions and one missed.
    found = partial(normalised(["Rome", "Ann Lee", "Mars"]), normalised(["Rome", "Ann", "Bonn"]))
    assert (found.precision, found.recall, found.f1) == (0.5, 0.5, 0.5)


def test_the_largest_matching_hangs_on_no_order():
    said, true = ["a b", "a", "b c", "c", "d"], ["a x", "b x", "c x", "c y"]
    # a -> a x, a b -> b x, b c and c -> c x and c y; d overlaps nothing.
    for some in permutations(said):
        for others in permutations(true):
            assert pairs(some, others) == 4
    assert overlap("new york", "york city") and not overlap("", "")


def test_hundreds_of_mentions_of_one_word_are_paired_at_once():
    assert pairs([f"x {n}" for n in range(600)], [f"x y{n}" for n in range(400)]) == 400


def test_spans_of_mentions_are_all_their_places_and_one_for_each_that_has_none():
    assert spans_of([[(0, 2), (5, 7)], [(5, 7)], [], []]) == {(0, 2), (5, 7), (-1, -1), (-2, -2)}
    assert strict(spans_of([[(0, 2), (5, 7)], []]), frozenset([(0, 2), (9, 11)])) == Counts(1, 2, 1)


@pytest.mark.parametrize(
    ("reply", "with_break", "without"),
    [
        ('["Ann", "the Bo"]', {"ann", "bo"}, None),
        ('  ["Ann"] and so on', {"ann"}, None),
        ('ASSISTANT: ["Ann"]', {"ann"}, None),
        ('["Ann", "ann."]', {"ann"}, None),
        ("[]", set(), None),
        ("", set(), None),
        ("none", set(), None),
        ('It is ["Ann"]', set(), None),  # the list must come first
        ('["Ann", "Bo', set(), None),
        ('["Ann", 3]', set(), None),
        ('["Ann", null]', set(), None),
        ('{"person": ["Ann"]}', set(), None),
        ('[["Ann", "person"]]', set(), None),
        ("['Ann']", set(), None),
        ('["Ann", "Smith [1]"]', set(), {"ann", "smith 1"}),  # the known break
        ('["Ann",\n "Bo"]', set(), {"ann", "bo"}),  # nor does it reach over a line end
    ],
)
def test_a_reply_is_read_as_the_released_scorer_does_with_its_break_as_a_switch(reply, with_break, without):
    assert released(reply) == with_break
    assert released(reply, bracket_break=False) == (with_break if without is None else without)


def test_gold_with_a_bracket_breaks_too():
    assert released_gold(["Ann", "Smith [1]"]) == set()
    assert released_gold(["Ann", "Smith [1]"], bracket_break=False) == {"ann", "smith 1"}
