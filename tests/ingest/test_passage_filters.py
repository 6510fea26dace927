"""Hygiene: what is dropped, why, and that the counts add up to what was found."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniner.ingest.contamination import Benchmarks, collect, ngrams
from uniner.ingest.dedup_sample import digest, repeated
from uniner.ingest.passage_filters import Hygiene, language, languages

WORDS = [f"word{number}" for number in range(400)]


def text_of(seed, count=40):
    return " ".join(random.Random(seed).choices(WORDS, k=count))


@pytest.fixture(scope="module")
def benchmarks():
    texts = {
        "news": ["Too short.", text_of(1), text_of(2)],
        "law": [text_of(3), text_of(2)],
        "none": [],
    }
    return collect(texts, 12)


def test_a_passage_that_shares_twelve_words_in_a_row_is_found_whatever_stands_between_them(benchmarks):
    found, _ = benchmarks
    shared = text_of(1).split()[5:17]
    for between in (" ", "  \n", ", ", " - ", ' "', "..."):
        passage = f"Something else before {between.join(shared).upper()} and after"
        assert found.shared_with(passage) == ["news"]
    assert found.shared_with("Something else " + " ".join(shared[:11]) + " and after") == []
    assert found.shared_with(" ".join([*shared[:6], "other", *shared[6:]])) == []
    assert found.shared_with(text_of(2)) == ["news", "law"]
    assert found.shared_with(text_of(9)) == found.shared_with("") == []


def test_the_report_says_what_could_not_be_looked_for(benchmarks):
    _, report = benchmarks
    assert report == {
        "news": {"texts": 3, "too_short": 1},
        "law": {"texts": 2, "too_short": 0},
        "none": {"texts": 0, "too_short": 0},
    }


def test_benchmarks_travel_as_bytes(benchmarks):
    found, _ = benchmarks
    again = Benchmarks.from_bytes(found.to_bytes())
    assert (again.names, again.words) == (("news", "law", "none"), 12)
    assert again.shared_with(text_of(2)) == ["news", "law"]
    assert len(again.hashes) == 4 * 29


@given(
    before=st.lists(st.sampled_from(WORDS[:30])),
    after=st.lists(st.sampled_from(WORDS[:30])),
    shared=st.lists(st.sampled_from(WORDS[:30]), min_size=3, max_size=3),
)
def test_an_ngram_has_the_same_hash_wherever_it_stands(before, after, shared):
    inside = ngrams(" ".join([*before, *shared, *after]), 3)
    assert ngrams(" ".join(shared), 3)[0] == inside[len(before)]
    words = [*before, *shared, *after]
    distinct = {tuple(words[place : place + 3]) for place in range(len(words) - 2)}
    assert len(np.unique(inside)) == len(distinct)


def test_the_first_fault_counts(benchmarks):
    hygiene = Hygiene(5, ["en"], benchmarks[0])
    german = "Das ist ein Satz in deutscher Sprache, der nicht übersehen werden kann. " + text_of(1)[:20]
    english = "This is a sentence in the English language, which is easily seen to be so."
    assert hygiene.fault(german, 4) == ("short", [])
    assert hygiene.fault(german, 5) == ("language", [])
    assert hygiene.fault(english, 5) == (None, [])
    assert hygiene.fault(f"{english} {english} {text_of(2)}", 5) == ("contaminated", ["news", "law"])
    assert Hygiene().fault("x", 1) == (None, [])


def test_languages_are_told_by_their_codes():
    assert language("Ceci est une phrase en français, écrite pour un essai.") == "fr"
    assert {"en", "de", "fr", "zh"} <= languages()


def test_texts_that_differ_in_case_and_white_space_alone_have_one_digest():
    assert digest("Ann  met\nBob ", 1) == digest("ann met bob", 1)
    assert digest("ann met bob", 1) != digest("ann met bob.", 1)
    assert digest("ann met bob", 1) != digest("ann met bob", 2)


def test_all_but_the_first_are_repeated():
    assert repeated(np.array([5, 3, 5, 9, 3, 5], np.uint64)).tolist() == [
        False, False, True, False, True, True,
    ]  # fmt: skip
    assert repeated(np.array([], np.uint64)).tolist() == []
