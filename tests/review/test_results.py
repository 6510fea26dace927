"""Majority, agreement, what became of the entities, and the estimate with its interval."""

from dataclasses import replace

import numpy as np
import pytest

from uniner.gold.records import GoldEntity
from uniner.review.estimate import difference, estimate, share
from uniner.review.merge import EntityChanges, agreement, changes, merge_reviews
from uniner.review.read_back import latest
from uniner.review.tasks import Review, ReviewTask, TaskEntity

TEXT = "Ann met Bo in Rome"
ANN, BO, ROME = (
    GoldEntity(0, 3, "Ann", "person"),
    GoldEntity(8, 10, "Bo", "person"),
    GoldEntity(14, 18, "Rome", "city"),
)


def task(*entities, own_end=18):
    found = [TaskEntity(start=e.start, end=e.end, text=e.text, type=e.type, score=1) for e in entities]
    return ReviewTask(
        passage_id="p", doc_id="d", source="", text=TEXT, part="random", own_end=own_end,
        entities=tuple(found),
    )  # fmt: skip


def review(reviewer, *entities, **other):
    return Review(passage_id="p", reviewer=reviewer, entities=entities, **other)


def test_an_entity_stays_where_more_than_half_of_the_reviewers_have_it():
    reviews = [review("a", ANN, BO), review("b", ANN, ROME), review("c", ANN, ROME)]
    (merged,) = merge_reviews(reviews, {"p": task()})
    assert merged.entities == (ANN, ROME) and merged.tied == 0 and merged.reviewers == ("a", "b", "c")
    (merged,) = merge_reviews(reviews[:2], {"p": task()})
    assert merged.entities == (ANN,) and merged.tied == 2
    assert merge_reviews([review("a", ANN, outcome="skipped")], {"p": task()}) == []


def test_agreement_is_f1_over_pairs_of_reviewers():
    reviews = [review("a", ANN, BO), review("b", ANN, ROME), review("c", ANN)]
    # Right in both: 1 + 1 + 1; marked in all: 4 + 3 + 3.
    assert agreement(reviews).f1 == pytest.approx(2 * 3 / 10)
    assert agreement(reviews[:1]).f1 is None
    assert agreement([review("a"), review("b")]).f1 == 1.0


def test_changes_count_what_was_kept_dropped_added_and_given_another_type():
    city = GoldEntity(0, 3, "Ann", "city")
    assert changes(task(ANN, BO), [city, ROME]) == EntityChanges(kept=0, dropped=1, added=1, retyped=1)
    assert changes(task(ANN, BO), [ANN, BO]) == EntityChanges(kept=2)
    # The text from 13 on belongs to the next passage, whose entities are counted there.
    assert changes(task(ANN, own_end=13), [ANN, ROME]) == EntityChanges(kept=1)


def test_the_last_review_of_a_person_counts():
    first, last = review("a", ANN, at="2026-01-01T10:00:00Z"), review("a", BO, at="2026-01-02T10:00:00Z")
    assert latest([last, first]) == [last]
    assert latest([review("a", ANN), review("a", BO)]) == [review("a", BO)]


def test_the_estimate_of_all_right_passages_is_no_certainty():
    found = estimate([(3, 3, 4)] * 10)
    assert found.precision.value == 1 and 0.85 < found.precision.low < 0.9 and found.precision.high == 1
    assert found.recall.value == 0.75 and found.recall.of == 40
    assert str(estimate([(0, 0, 0)]).precision) == "not known (no entities)"


def test_the_interval_has_the_truth_in_95_of_100_samples_though_entities_of_a_passage_go_together():
    random = np.random.default_rng(0)
    held = alone = 0
    for _ in range(400):
        wholes = random.integers(1, 9, 60)
        parts = np.where(random.random(60) < 0.8, wholes, 0)  # a passage is right or wrong as a whole
        interval = share(parts.astype(float), wholes.astype(float))
        held += interval.low <= 0.8 <= interval.high
        narrow = share(np.array([float(parts.sum())]), np.array([float(wholes.sum())]))
        alone += narrow.low <= 0.8 <= narrow.high
    assert 0.91 < held / 400 < 0.985
    assert alone / 400 < 0.8  # counting each entity alone would be too sure


def test_a_difference_is_certain_only_with_enough_passages():
    few, many = estimate([(9, 10, 10)] * 5), estimate([(9, 10, 10)] * 500)
    worse = estimate([(8, 10, 10)] * 5), estimate([(8, 10, 10)] * 500)
    assert (
        difference(few.precision, worse[0].precision).low
        < 0
        < difference(many.precision, worse[1].precision).low
    )
    assert str(difference(many.precision, worse[1].precision)).startswith("+0.100 (+0.0")


def test_the_last_review_is_by_the_clock_and_a_wrong_span_takes_no_good_one_s_place():
    earlier = replace(review("a", ANN), at="2026-11-27T03:00:00+02:00")
    later = replace(review("a", BO), at="2026-11-27T02:00:00Z")
    assert latest([later, earlier]) == latest([earlier, later]) == [later]
    wrong = replace(review("a"), at="2026-11-28T02:00:00Z", outcome="bad_span")
    assert latest([earlier, wrong]) == [earlier] and latest([wrong]) == [wrong]
