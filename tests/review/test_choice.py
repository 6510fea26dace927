"""What is chosen: the best of each stratum in turn, a random share, in bounded memory, by the seed alone."""

import math
from collections import Counter

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.records import TAGGED_PASSAGE, TaggedEntity, TaggedPassage, to_table
from uniner.review import choice, signals
from uniner.review.choice import Chooser, divide


def signal(*rows):
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(dict(zip(("row", "type", "priority"), map(list, columns), strict=True)))


def chunk(number, size=10, types=("person",), source="web"):
    """A chunk whose later rows have more of a reason, and its ids and sources."""
    ids = [f"p{number * size + row:05d}" for row in range(size)]
    rows = [(row, types[row % len(types)], 1.0 + number + row / size) for row in range(size)]
    return f"{number:05d}", ids, [source] * size, {"unsure": signal(*rows)}


def chosen_ids(chooser, part=None):
    return [each.candidate.passage_id for each in chooser.choose() if part in (None, each.part)]


def test_the_best_passages_are_chosen_whatever_chunk_they_are_in():
    chooser = Chooser({"random": 0, "unsure": 3}, seed=0)
    for number in (2, 0, 1):
        chooser.add(*chunk(number))
    assert chosen_ids(chooser) == ["p00029", "p00028", "p00027"]


def test_types_and_sources_are_taken_from_in_turn():
    chooser = Chooser({"random": 0, "unsure": 6}, seed=0)
    for number in range(20):
        chooser.add(*chunk(number, types=("person",), source="web"))
    chooser.add("a", ["a1", "a2"], ["news", "news"], {"unsure": signal((0, "drug", 0.2), (1, "drug", 0.1))})
    chooser.add("b", ["b1", "b2"], ["law", "law"], {"unsure": signal((0, "court", 0.2), (1, "person", 0.1))})
    found = chooser.choose()
    assert Counter(each.type for each in found) == {"person": 3, "drug": 2, "court": 1}
    assert {"a1", "a2", "b1", "b2"} <= {each.candidate.passage_id for each in found}


def test_the_random_share_is_the_same_for_a_seed_and_goes_on_in_a_later_round():
    def draw(count, seed=0, **earlier):
        chooser = Chooser({"random": count, "unsure": 0}, seed=seed, **earlier)
        for number in range(30):
            chooser.add(*chunk(number))
        return chosen_ids(chooser, "random")

    assert draw(8) == draw(8) != draw(8, seed=1)
    assert draw(8, drawn=draw(4)) == draw(12)[4:]
    # A passage that another part of an earlier round had may be drawn: without it the share were biased.
    assert draw(8, reviewed=draw(4)) == draw(8)


def test_every_passage_has_the_same_chance_in_the_random_share():
    counts = Counter()
    for seed in range(200):
        chooser = Chooser({"random": 10}, seed=seed)
        for number in range(4):
            chooser.add(*chunk(number)[:3], {})
        counts.update(chosen_ids(chooser))
    # 200 draws of 10 of 40: 50 each, with a standard deviation of 6.
    assert len(counts) == 40 and all(abs(count - 50) < 5 * 6.2 for count in counts.values())


def test_a_passage_is_in_one_part_and_what_a_part_lacks_the_last_takes_over():
    chooser = Chooser({"random": 2, "rules": 2, "unsure": 2}, seed=0, reviewed={"p00009"})
    key, ids, sources, found = chunk(0)
    chooser.add(key, ids, sources, {**found, "rules": signal((9, "person", 1.0), (8, "person", 1.0))})
    ids = chosen_ids(chooser)
    assert len(ids) == len(set(ids)) == 6 and "p00009" not in chosen_ids(chooser, "rules")
    assert len(chosen_ids(chooser, "rules")) <= 1


def test_memory_is_bounded_however_many_strata_there_are(monkeypatch):
    monkeypatch.setattr(choice, "_MOST_STRATA", 50)
    monkeypatch.setattr(choice, "_MOST_KEPT", 200)
    chooser = Chooser({"random": 0, "unsure": 100}, seed=0)
    for number in range(200):
        key, ids, _, found = chunk(number)
        chooser.add(key, ids, [f"source {number}-{row}" for row in range(10)], found)
    strata = chooser._strata["unsure"]._best
    assert len(strata) <= 51 and sum(map(len, strata.values())) <= 200 + 51
    assert "p01999" in chosen_ids(chooser)


def test_parts_divide_a_round_evenly_after_the_random_share():
    assert divide(100, 0.2, ("random", "rules", "disagree", "unsure")) == {
        "random": 20,
        "rules": 27,
        "disagree": 27,
        "unsure": 26,
    }
    assert divide(5, 0, ("random", "unsure")) == {"random": 0, "unsure": 5}


def tagged(*rows):
    return to_table(
        [
            TaggedPassage(
                doc_id="d", passage_id=f"p{number}", char_start=0, outcome="ok", failed_types=(),
                entities=tuple(
                    TaggedEntity(text="x", type=name, start=start, end=end, score=score, grounding=grounding)
                    for name, start, end, score, grounding in entities
                ),
            )
            for number, entities in enumerate(rows)
        ],
        TAGGED_PASSAGE,
    )  # fmt: skip


def found(table):
    return {(row["row"], row["type"]): round(row["priority"], 3) for row in table.to_pylist()}


def test_an_unsure_student_adds_a_bit_for_each_even_chance():
    table = tagged(
        [("person", 0, 1, 0.5, "exact"), ("person", 2, 3, 0.5, "exact"), ("city", 4, 5, 1.0, "exact")],
        [],
        [("city", 0, 1, 0.9, "exact"), ("city", -1, -1, 0.5, "ungrounded")],
    )
    entropy = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert found(signals.unsure(table)) == {
        (0, "person"): 2.0,
        (0, "city"): 0.0,
        (2, "city"): round(entropy, 3),
    }


def test_runs_disagree_where_only_one_has_an_entity():
    first = tagged([("person", 0, 1, 0.9, "exact"), ("city", 2, 3, 0.4, "exact")], [])
    second = tagged([("person", 0, 1, 0.2, "exact")], [("drug", 5, 6, 0.7, "exact")])
    assert found(signals.disagree(first, second)) == {(0, "city"): 0.4, (1, "drug"): 0.7}


def test_a_rule_conflicts_with_an_overlapping_entity_of_the_model_that_differs():
    table = tagged(
        [("city", 0, 4, 1.0, "rule"), ("person", 2, 6, 0.9, "exact")],
        [("city", 0, 4, 1.0, "rule"), ("city", 0, 4, 0.9, "exact")],
        [("city", 0, 4, 1.0, "rule"), ("city", 4, 6, 0.9, "exact")],
        [("drug", 0, 4, 0.9, "retyped"), ("city", 6, 9, 0.9, "exact")],
    )
    assert found(signals.rule_conflicts(table)) == {(0, "city"): 1.0, (3, "drug"): 1.0}
    assert found(signals.rule_conflicts(tagged([("city", 0, 4, 0.9, "exact")]))) == {}


def test_tables_are_cut_to_the_other_runs_chunks():
    rows = pa.table({"n": list(range(10))})
    cut = signals.aligned([rows.slice(0, 3), rows.slice(3, 4), rows.slice(7)], [0, 2, 5, 3, 0])
    assert [table["n"].to_pylist() for table in cut] == [[], [0, 1], [2, 3, 4, 5, 6], [7, 8, 9], []]
    with pytest.raises(UserError, match="fewer passages"):
        list(signals.aligned([rows], [6, 6]))
