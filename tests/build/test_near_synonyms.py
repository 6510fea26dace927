"""Types that get the same words in different passages are near-synonyms, and no negatives of each other."""

from collections import Counter

import numpy as np

from uniner.build.card import CardFacts, TeacherFacts, render
from uniner.build.conversations import NegativeSampler
from uniner.build.near_synonyms import find_near_synonyms, merged, neighbours, words_of

COUNTRIES = [f"Country{number}" for number in range(8)]
PLACES = [f"Place{number}" for number in range(60)]


def passages():
    yield {"country": COUNTRIES, "person": [f"Person{number}" for number in range(300)]}
    yield {"location": [*COUNTRIES[:6], *PLACES], "river": ["Tarn"]}
    yield {"river": ["tarn"], "drug": [f"Drug{number}" for number in range(50)]}


def found(passages, renamed=()):
    return find_near_synonyms(merged([words_of(passages)], dict(renamed)))


def test_types_that_share_many_of_their_words_are_found_with_the_evidence():
    (pair,) = found(passages())
    assert (pair.first, pair.second, pair.shared, pair.share) == ("country", "location", 6, 0.75)
    assert pair.expected < 2


def test_few_words_or_as_many_as_by_chance_are_no_evidence():
    few = [{"country": COUNTRIES}, {"location": [*COUNTRIES[:3], *PLACES]}]
    assert found(few) == []
    everything = [f"Word{number}" for number in range(1000)]
    chance = [{"concept": everything[:700]}, {"trait": everything[500:800]}, {"rest": everything}]
    pairs = {(pair.first, pair.second) for pair in found(chance)}
    assert ("trait", "concept") not in pairs


def test_parts_and_plurals_come_to_the_same():
    whole = list(passages())
    parts = [words_of([passage]) for passage in whole]
    assert find_near_synonyms(merged(parts, {})) == found(whole)
    halves = [{"countries": COUNTRIES[:4]}, {"country": COUNTRIES[4:], "person": whole[0]["person"]}]
    (pair,) = found([*halves, *whole[1:]], {"countries": "country"})
    assert (pair.first, pair.shared) == ("country", 6)
    assert find_near_synonyms({}) == []


def test_a_near_synonym_is_never_drawn_as_a_negative():
    near = neighbours(found(passages()))
    counts = {"country": 8, "location": 100, "person": 300, "drug": 50}
    random = np.random.default_rng(0)
    for sampling in ("uniform", "frequency"):
        apart = NegativeSampler(counts, sampling, near)
        for _ in range(20):
            assert sorted(apart.sample(["country"], 9, random)) == ["drug", "person"]
            assert sorted(apart.sample(["location"], 9, random)) == ["drug", "person"]
            assert "location" in apart.sample(["person"], 9, random)
        assert "location" in NegativeSampler(counts, sampling).sample(["country"], 9, random)


def test_the_card_lists_them_with_the_evidence_and_what_became_of_them():
    counts = Counter(country=8, location=66)
    for skipped, said in (
        (True, "None of them is asked for as a negative"),
        (False, "They may be asked for"),
    ):
        facts = CardFacts(
            run="r",
            seed=0,
            negatives="frequency",
            near_synonyms=tuple(found(passages())),
            near_synonyms_skipped=skipped,
            teacher=TeacherFacts(model="m", temperature=0.0, prompt="p"),
        )
        text = render(facts, {"conversations": 2}, counts, counts)
        assert "| country | location | 6 | 75% |" in text and said in text


def test_words_of_very_many_types_tell_nothing_and_cost_nothing():
    things = ["thing", *(f"thing {number}" for number in range(5))]
    slips = {f"type {number}": things for number in range(5000)}
    assert len(found([*passages(), slips])) == 1
