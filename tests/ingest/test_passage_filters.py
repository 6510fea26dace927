"""Passage filters: faults, benchmark n-grams and languages."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniner.ingest.passage_filters import (
    BenchmarkNgrams,
    BenchmarkTexts,
    PassageFilter,
    collect_ngrams,
    language,
    languages,
    ngrams,
)

WORDS = [f"word{number}" for number in range(400)]


def text_of(seed, count=40):
    return " ".join(random.Random(seed).choices(WORDS, k=count))


@pytest.fixture(scope="module")
def benchmarks():
    texts = {"news": ["Too short.", text_of(1), text_of(2)], "law": [text_of(3), text_of(2)], "none": []}
    return collect_ngrams(texts, 12)


def test_twelve_shared_words_in_a_row_are_found_with_anything_between_them(benchmarks):
    benchmark_ngrams, _ = benchmarks
    shared = text_of(1).split()[5:17]
    for between in (" ", "  \n", ", ", " - ", ' "', "..."):
        passage = f"Something else before {between.join(shared).upper()} and after"
        assert benchmark_ngrams.shared_with(passage) == ["news"]
    assert benchmark_ngrams.shared_with("Something else " + " ".join(shared[:11]) + " and after") == []
    assert benchmark_ngrams.shared_with(" ".join([*shared[:6], "other", *shared[6:]])) == []
    assert benchmark_ngrams.shared_with(text_of(2)) == ["news", "law"]
    assert benchmark_ngrams.shared_with(text_of(9)) == benchmark_ngrams.shared_with("") == []


def test_texts_shorter_than_an_ngram_are_counted(benchmarks):
    _, texts = benchmarks
    assert texts == {
        "news": BenchmarkTexts(texts=3, too_short=1),
        "law": BenchmarkTexts(texts=2, too_short=0),
        "none": BenchmarkTexts(texts=0, too_short=0),
    }


def test_ngrams_are_serialised_and_read_back(benchmarks):
    benchmark_ngrams, _ = benchmarks
    read_back = BenchmarkNgrams.from_bytes(benchmark_ngrams.to_bytes())
    assert (read_back.names, read_back.words) == (("news", "law", "none"), 12)
    assert read_back.shared_with(text_of(2)) == ["news", "law"]
    assert len(read_back.hashes) == 4 * 29


@given(
    before=st.lists(st.sampled_from(WORDS[:30])),
    after=st.lists(st.sampled_from(WORDS[:30])),
    shared=st.lists(st.sampled_from(WORDS[:30]), min_size=3, max_size=3),
)
def test_an_ngram_has_the_same_hash_in_any_context(before, after, shared):
    inside = ngrams(" ".join([*before, *shared, *after]), 3)
    assert ngrams(" ".join(shared), 3)[0] == inside[len(before)]
    words = [*before, *shared, *after]
    distinct = {tuple(words[start : start + 3]) for start in range(len(words) - 2)}
    assert len(np.unique(inside)) == len(distinct)


def test_the_first_fault_counts(benchmarks):
    passage_filter = PassageFilter(5, ["en"], benchmarks[0])
    german = "Das ist ein Satz in deutscher Sprache, der nicht übersehen werden kann. " + text_of(1)[:20]
    english = "This is a sentence in the English language, which is easily seen to be so."
    assert passage_filter.check(german, 4) == ("short", [])
    assert passage_filter.check(german, 5) == ("language", [])
    assert passage_filter.check(english, 5) == (None, [])
    assert passage_filter.check(f"{english} {english} {text_of(2)}", 5) == ("contaminated", ["news", "law"])
    assert PassageFilter().check("x", 1) == (None, [])


def test_languages_are_identified_by_their_codes():
    assert language("Ceci est une phrase en français, écrite pour un essai.") == "fr"
    assert {"en", "de", "fr", "zh"} <= languages()
