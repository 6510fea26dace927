"""The entities that the rules keep: by score, by grounding, without overlaps; dropped ones are counted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniner.records import Passage, TaggedEntity, TaggedPassage
from uniner.tag.tagger import EntityRules, apply_rules

TEXT = "abcdefghijklmnopqrstuvwxyz" * 4


def passage(start: int = 0, end: int = 100, before: int = 0, after: int = 0, doc: str = "d") -> Passage:
    return Passage(
        passage_id=f"{doc}-{start}",
        doc_id=doc,
        passage_index=start,
        char_start=start,
        char_end=end,
        text=TEXT[start:end],
        n_tokens=9,
        source="",
        overlap_before=before,
        overlap_after=after,
    )


def entity(start: int, end: int, score: float = 0.5, type_name: str = "t") -> TaggedEntity:
    if start < 0:
        return TaggedEntity(
            text="gone", type=type_name, start=-1, end=-1, score=score, grounding="ungrounded"
        )
    return TaggedEntity(
        text=TEXT[start:end], type=type_name, start=start, end=end, score=score, grounding="exact"
    )


def kept(rules: EntityRules, *tagged: tuple[Passage, list[TaggedEntity]]):
    passages = [passage for passage, _ in tagged]
    rows = [
        TaggedPassage(
            doc_id=passage.doc_id,
            passage_id=passage.passage_id,
            char_start=passage.char_start,
            entities=tuple(entities),
            outcome="ok",
            failed_types=(),
        )
        for passage, entities in tagged
    ]
    rows, counts, _ = apply_rules(passages, rows, rules)
    return [[(e.start, e.end, e.type) for e in row.entities] for row in rows], counts


def test_all_entities_are_kept_by_default_and_counted():
    entities = [entity(0, 5), entity(3, 8), entity(3, 8, type_name="u"), entity(-1, -1)]
    (row,), counts = kept(EntityRules(), (passage(), entities))
    assert row == [(0, 5, "t"), (3, 8, "t"), (3, 8, "u"), (-1, -1, "t")]
    assert (counts["entities"], counts["ungrounded"], counts["dropped_overlapping"]) == (4, 1, 0)


def test_low_scores_and_ungrounded_entities_are_dropped_and_each_is_counted_once():
    entities = [entity(0, 5, 0.3), entity(6, 8, 0.31), entity(-1, -1, 0.2), entity(-1, -1, 0.9)]
    (row,), counts = kept(EntityRules(min_score=0.31, keep_ungrounded=False), (passage(), entities))
    assert row == [(6, 8, "t")]
    assert counts == {
        "entities": 1, "ungrounded": 0,
        "dropped_low_score": 2, "dropped_ungrounded": 1, "dropped_overlapping": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entities", "stays"),
    [
        ([entity(0, 9, 0.4), entity(3, 5, 0.6)], [(3, 5, "t")]),  # the score first
        ([entity(3, 5), entity(3, 9)], [(3, 9, "t")]),  # then the length
        ([entity(0, 4), entity(3, 7)], [(0, 4, "t")]),  # then the position
        ([entity(3, 5, type_name="b"), entity(3, 5, type_name="a")], [(3, 5, "b")]),  # then the order asked
        ([entity(3, 5, 0.5, "b"), entity(3, 5, 0.6, "a")], [(3, 5, "a")]),
        ([entity(0, 4, 0.9), entity(3, 7, 0.8), entity(6, 9, 0.7)], [(0, 4, "t"), (6, 9, "t")]),
        ([entity(0, 4), entity(4, 7), entity(-1, -1)], [(0, 4, "t"), (4, 7, "t"), (-1, -1, "t")]),
    ],
)
def test_flat_keeps_the_highest_score_then_the_longest_then_the_earliest(entities, stays):
    (row,), counts = kept(EntityRules(overlaps="flat"), (passage(), entities))
    assert row == stays
    assert counts["dropped_overlapping"] == len(entities) - len(stays)


def test_scores_are_calibrated_before_they_are_compared():
    entities = [entity(0, 5, 0.9), entity(6, 8, 0.6), entity(7, 9, 0.5)]
    (row,), counts = kept(EntityRules(min_score=0.5, calibration=(0.5, -0.5)), (passage(), entities))
    assert (row, counts["dropped_low_score"]) == ([(0, 5, "t")], 2)  # sigmoid(0.5 * logit(0.9) - 0.5) = 0.65


def test_an_entity_dropped_for_its_score_displaces_no_other():
    (row,), _ = kept(
        EntityRules(min_score=0.5, overlaps="flat"), (passage(), [entity(0, 9, 0.4), entity(3, 5, 0.6)])
    )
    assert row == [(3, 5, "t")]


def test_passages_that_share_text_have_no_overlapping_entities_and_others_are_independent():
    left, right = passage(0, 60, after=20), passage(40, 100, before=20)
    rules = EntityRules(overlaps="flat")
    rows, _ = kept(rules, (left, [entity(44, 52, 0.5)]), (right, [entity(50, 56, 0.6)]))
    assert rows == [[], [(50, 56, "t")]]
    # A passage of another document at the same offsets is not a neighbour.
    other = passage(40, 100, before=20, doc="e")
    rows, _ = kept(rules, (left, [entity(30, 50, 0.5)]), (other, [entity(50, 56, 0.6)]))
    assert rows == [[(30, 50, "t")], [(50, 56, "t")]]


def test_no_entity_reaches_into_the_text_of_a_neighbour_in_another_chunk():
    left, right = passage(0, 60, after=20), passage(40, 100, before=20)
    rows, counts = kept(EntityRules(overlaps="flat"), (left, [entity(44, 52, 0.9), entity(41, 50)]))
    assert (rows, counts["dropped_overlapping"]) == ([[(41, 50, "t")]], 1)
    rows, _ = kept(EntityRules(overlaps="flat"), (right, [entity(49, 56, 0.9), entity(50, 52)]))
    assert rows == [[(50, 52, "t")]]


spans = st.tuples(
    st.integers(0, 88), st.integers(1, 12), st.sampled_from([0.25, 0.5, 0.75]), st.sampled_from("ab")
)


@settings(max_examples=150, deadline=None)
@given(st.lists(spans, max_size=25, unique_by=lambda span: (span[0], span[1], span[3])))
def test_flat_leaves_no_overlap_and_drops_only_entities_that_overlap_a_better_one(drawn):
    entities = [entity(start, start + length, score, name) for start, length, score, name in drawn]
    (row,), _ = kept(
        EntityRules(overlaps="flat"), (passage(), sorted(entities, key=lambda e: (e.start, e.end)))
    )
    covered = [position for start, end, _ in row for position in range(start, end)]
    assert len(covered) == len(set(covered))
    scores = {(e.start, e.end, e.type): e.score for e in entities}
    for e in entities:
        if (e.start, e.end, e.type) not in row:
            beaten_by = [s for s in row if s[0] < e.end and e.start < s[1]]
            assert any(scores[s] >= e.score for s in beaten_by)
