"""Matching the answer to one question, against counts worked out by hand and by brute force."""

from itertools import permutations, product
from random import Random

import pytest

from uniner.metrics.counts import Counts
from uniner.metrics.matching import (
    count_pairs,
    normalise,
    normalised,
    partial,
    released_gold,
    released_mentions,
    share_word,
    span_set,
    strict,
)


@pytest.mark.parametrize(
    ("mention", "expected"),
    [
        ("The  Beatles", "beatles"),
        ("U.S.A.", "usa"),
        ("Theodore's an apple\na day", "theodores apple day"),
        ("A", ""),
        ("Łódź-Górna", "łódźgórna"),
        ("another", "another"),
    ],
)
def test_normalisation_removes_case_punctuation_articles_and_space(mention, expected):
    assert normalise(mention) == expected


def test_strict_compares_sets_of_normalised_strings():
    predicted, gold = normalised(["The Beatles", "beatles", "Queen"]), normalised(["Beatles", "Abba"])
    assert strict(predicted, gold) == Counts(1, 1, 1)
    assert strict(frozenset(), frozenset()) == Counts()


def test_precision_recall_and_f1_without_mentions_are_zero():
    assert (Counts().precision, Counts().recall, Counts().f1) == (0, 0, 0)
    total = Counts(1, 1, 0) + Counts(1, 0, 3)
    assert (total.precision, total.recall, total.f1) == (2 / 3, 2 / 5, 4 / 8)


@pytest.mark.parametrize(
    ("predicted", "gold", "counts"),
    [
        (["New York City"], ["New York"], Counts(0.5, 0.5, 0.5)),  # a word too many
        (["York"], ["New York City"], Counts(0.5, 0.5, 0.5)),  # words too few
        (["York"], ["Yorkshire"], Counts(0, 1, 1)),  # shared letters are not a shared word
        (["the Hague"], ["Hague"], Counts(1, 0, 0)),  # equal when normalised
        (["the"], ["the Hague"], Counts(0, 1, 1)),  # an article is not a word
        # Equal mentions are matched first: New York takes the gold, and York City gets none.
        (["New York", "York City"], ["New York"], Counts(1, 1, 0)),
        # One to one: two parts of one gold mention count as one half.
        (["Ann", "Lee"], ["Ann Lee"], Counts(0.5, 1.5, 0.5)),
        (["Ann Lee"], ["Ann", "Lee"], Counts(0.5, 0.5, 1.5)),
        # As many pairs as possible: Ann takes Ann Bo, because Lee can only take Ann Lee.
        (["Ann", "Lee"], ["Ann Lee", "Ann Bo"], Counts(1, 1, 1)),
        (["Oslo"], [], Counts(0, 1, 0)),
        ([], ["Oslo"], Counts(0, 0, 1)),
        ([], [], Counts()),
    ],
)
def test_partial_pairs_mentions_that_share_a_word_one_to_one_for_a_half(predicted, gold, counts):
    assert partial(normalised(predicted), normalised(gold)) == counts


def test_partial_gives_half_a_true_positive_in_precision_and_recall():
    # One right, one half right, one wrong of three predictions; two gold mentions and one missed.
    counts = partial(normalised(["Rome", "Ann Lee", "Mars"]), normalised(["Rome", "Ann", "Bonn"]))
    assert (counts.precision, counts.recall, counts.f1) == (0.5, 0.5, 0.5)


def test_the_number_of_pairs_does_not_depend_on_the_order():
    predicted, gold = ["a b", "a", "b c", "c", "d"], ["a x", "b x", "c x", "c y"]
    # a -> a x, a b -> b x, b c and c -> c x and c y; d overlaps nothing.
    for rows in permutations(predicted):
        for columns in permutations(gold):
            assert count_pairs(rows, columns) == 4
    assert share_word("new york", "york city") and not share_word("", "")


def test_as_many_pairs_are_made_as_brute_force_finds():
    random = Random(0)
    for _ in range(200):
        predicted, gold = (
            [" ".join(random.choices("abcdef", k=random.randint(1, 2))) for _ in range(random.randint(0, 4))]
            for _ in range(2)
        )
        # Each prediction takes a gold mention or none.
        choices = product([None, *range(len(gold))], repeat=len(predicted))
        best = max(
            len(taken)
            for choice in choices
            if len(taken := [place for place in choice if place is not None]) == len(set(taken))
            and all(
                place is None or share_word(mention, gold[place])
                for mention, place in zip(predicted, choice, strict=True)
            )
        )
        assert count_pairs(predicted, gold) == best, (predicted, gold)


def test_hundreds_of_mentions_with_one_word_are_paired_fast():
    assert count_pairs([f"x {n}" for n in range(600)], [f"x y{n}" for n in range(400)]) == 400


def test_span_set_has_all_occurrences_and_a_placeholder_for_each_absent_mention():
    assert span_set([[(0, 2), (5, 7)], [(5, 7)], [], []]) == {(0, 2), (5, 7), (-1, -1), (-2, -2)}
    assert strict(span_set([[(0, 2), (5, 7)], []]), frozenset([(0, 2), (9, 11)])) == Counts(1, 2, 1)


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
        ('["Ann",\n "Bo"]', set(), {"ann", "bo"}),  # a list does not continue after a line end
    ],
)
def test_a_reply_is_read_as_the_released_scorer_does_with_its_break_as_a_switch(reply, with_break, without):
    assert released_mentions(reply) == with_break
    assert released_mentions(reply, bracket_break=False) == (with_break if without is None else without)


def test_gold_with_a_bracket_breaks_too():
    assert released_gold(["Ann", "Smith [1]"]) == set()
    assert released_gold(["Ann", "Smith [1]"], bracket_break=False) == {"ann", "smith 1"}
