"""Sampling: the same chance for every passage, by seed and place alone; n of them, over strata if asked."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniner.ingest.dedup_sample import smallest
from uniner.ingest.sampling import Sampling

PLACES = [f"00000-{number:09d}" for number in range(4_000)]


def starts_of(place):
    """Where a made-up document's passages start: 1 to 60 of them, of uneven lengths."""
    random = Random(place)
    position, starts = 0, []
    for _ in range(random.choice([1, 1, 1, 2, 5, 60])):
        starts.append(position)
        position += random.randint(70, 2_000)
    return starts, position


def sampled(sampling, places=PLACES, source=""):
    found = []
    for place in places:
        starts, length = starts_of(place)
        chosen = sampling.choose(place, length, source)
        found += [(place, index, len(starts)) for index, at in enumerate(starts) if chosen.has(at)]
        assert all(chosen.any_between(at, at + 1) == chosen.has(at) for at in starts)
        assert chosen.any_between(0, length) >= any(chosen.has(at) for at in starts)
    return found


@pytest.mark.parametrize("slot", [64, 1_024])
def test_every_passage_has_the_same_chance_wherever_it_stands(slot):
    total = Counter(len(starts_of(place)[0]) for place in PLACES)
    found = [hit for seed in range(10) for hit in sampled(Sampling(seed, 0.03, slot_characters=slot))]
    for passages, documents in total.items():  # documents with one passage, two, five, sixty
        expected = 10 * 0.03 * passages * documents
        count = sum(1 for hit in found if hit[2] == passages)
        assert abs(count - expected) < 5 * expected**0.5
    for index in (0, 30, 59):
        count = sum(1 for hit in found if hit[1:] == (index, 60))
        assert abs(count - 10 * 0.03 * total[60]) < 5 * (10 * 0.03 * total[60]) ** 0.5


def test_long_documents_do_not_come_whole():
    found = Counter(place for place, _, passages in sampled(Sampling(0, 0.03)) if passages == 60)
    assert max(found.values()) < 15


def test_the_sample_depends_on_seed_and_place_alone():
    first = sampled(Sampling(1, 0.1))
    assert sorted(sampled(Sampling(1, 0.1), PLACES[::-1])) == sorted(first)
    assert sampled(Sampling(2, 0.1)) != first


def test_all_or_none_and_shares_of_sources():
    sampling = Sampling(0, 1.0, {"web": 0.05, "spam": 0.0})
    assert sampling.choose("p", 10, "books").slots is None
    assert not sampling.choose("p", 10**9, "spam")
    slots = 10**7 // sampling.slot_characters
    assert 0.8 < len(sampling.choose("p", 10**7, "web").slots) / (0.05 * slots) < 1.2


SAMPLES = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 4)), max_size=60)


@given(sample=SAMPLES, count=st.integers(0, 70))
def test_strata_get_the_same_number_as_far_as_they_have_it(sample, count):
    digests = np.array([digest for digest, _ in sample], np.uint64)
    strata = np.array([stratum for _, stratum in sample], np.int64)
    kept = smallest(digests, strata, count)
    assert kept.sum() == min(count, len(sample))
    sizes, taken = Counter(strata.tolist()), Counter(strata[kept].tolist())
    cut_short = [taken[stratum] for stratum in sizes if taken[stratum] < sizes[stratum]]
    if cut_short:
        assert max(cut_short) - min(cut_short) <= 1
        assert max(taken.values(), default=0) <= max(cut_short) + 1
    for stratum in sizes:
        inside, outside = digests[kept & (strata == stratum)], digests[~kept & (strata == stratum)]
        assert not len(inside) or not len(outside) or inside.max() <= outside.min()
