"""Sampling: equal chances from seed and place alone; duplicates; a fixed number over strata."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniner.ingest.sampling import Sampling, duplicates, smallest_per_stratum, text_digest

PLACES = [f"00000-{number:09d}" for number in range(4_000)]


def starts_of(place):
    """Return the starts of 1 to 60 passages of uneven lengths in a synthetic document, and its length."""
    random = Random(place)
    position, starts = 0, []
    for _ in range(random.choice([1, 1, 1, 2, 5, 60])):
        starts.append(position)
        position += random.randint(70, 2_000)
    return starts, position


def sampled(sampling, places=PLACES, source=""):
    hits = []
    for place in places:
        starts, length = starts_of(place)
        slots = sampling.sample(place, length, source)
        hits += [(place, index, len(starts)) for index, start in enumerate(starts) if slots.contains(start)]
        assert all(slots.any_between(start, start + 1) == slots.contains(start) for start in starts)
        assert slots.any_between(0, length) >= any(slots.contains(start) for start in starts)
    return hits


@pytest.mark.parametrize("slot", [64, 1_024])
def test_every_passage_has_the_same_chance_at_any_position(slot):
    total = Counter(len(starts_of(place)[0]) for place in PLACES)
    hits = [hit for seed in range(10) for hit in sampled(Sampling(seed, 0.03, slot_characters=slot))]
    for passages, documents in total.items():  # documents with 1, 2, 5 and 60 passages
        expected = 10 * 0.03 * passages * documents
        count = sum(1 for hit in hits if hit[2] == passages)
        assert abs(count - expected) < 5 * expected**0.5
    for index in (0, 30, 59):
        count = sum(1 for hit in hits if hit[1:] == (index, 60))
        assert abs(count - 10 * 0.03 * total[60]) < 5 * (10 * 0.03 * total[60]) ** 0.5


def test_long_documents_are_not_taken_whole():
    hits = Counter(place for place, _, passages in sampled(Sampling(0, 0.03)) if passages == 60)
    assert max(hits.values()) < 15


def test_the_sample_depends_on_seed_and_place_alone():
    first = sampled(Sampling(1, 0.1))
    assert sorted(sampled(Sampling(1, 0.1), PLACES[::-1])) == sorted(first)
    assert sampled(Sampling(2, 0.1)) != first


def test_all_or_none_and_shares_of_sources():
    sampling = Sampling(0, 1.0, {"web": 0.05, "spam": 0.0})
    assert sampling.sample("p", 10, "books").slots is None
    assert not sampling.sample("p", 10**9, "spam")
    slots = 10**7 // sampling.slot_characters
    assert 0.8 < len(sampling.sample("p", 10**7, "web").slots) / (0.05 * slots) < 1.2


SAMPLES = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 4)), max_size=60)


@given(sample=SAMPLES, count=st.integers(0, 70))
def test_strata_get_equal_numbers_as_far_as_they_have_them(sample, count):
    digests = np.array([digest for digest, _ in sample], np.uint64)
    strata = np.array([stratum for _, stratum in sample], np.int64)
    kept = smallest_per_stratum(digests, strata, count)
    assert kept.sum() == min(count, len(sample))
    sizes, taken = Counter(strata.tolist()), Counter(strata[kept].tolist())
    cut_short = [taken[stratum] for stratum in sizes if taken[stratum] < sizes[stratum]]
    if cut_short:
        assert max(cut_short) - min(cut_short) <= 1
        assert max(taken.values(), default=0) <= max(cut_short) + 1
    for stratum in sizes:
        inside, outside = digests[kept & (strata == stratum)], digests[~kept & (strata == stratum)]
        assert not len(inside) or not len(outside) or inside.max() <= outside.min()


def test_texts_that_differ_in_case_and_white_space_alone_have_one_text_digest():
    assert text_digest("Ann  met\nBob ", 1) == text_digest("ann met bob", 1)
    assert text_digest("ann met bob", 1) != text_digest("ann met bob.", 1)
    assert text_digest("ann met bob", 1) != text_digest("ann met bob", 2)


def test_all_but_the_first_are_duplicates():
    assert duplicates(np.array([5, 3, 5, 9, 3, 5], np.uint64)).tolist() == [
        False, False, True, False, True, True,
    ]  # fmt: skip
    assert duplicates(np.array([], np.uint64)).tolist() == []
