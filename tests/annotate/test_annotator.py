"""The annotator: where entities are located, and passages that crash the engine."""

from types import SimpleNamespace

import pytest

from uniner.annotate.annotator import Annotator, locate_entities
from uniner.records import Annotation, Entity, Passage, from_table
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Teacher
from uniner.teacher.prompts import published_prompt


def test_entities_are_located_or_marked_as_absent():
    text = "Ann met ann in Bonn. Anna left."
    assert locate_entities(text, [("Ann", "person"), ("BONN", "city"), ("Rome", "city")]) == (
        Entity(text="Ann", type="person", start=0, end=3),
        Entity(text="Bonn", type="city", start=15, end=19),
        Entity(text="Rome", type="city", start=-1, end=-1),
    )


def test_only_the_most_likely_occurrence_is_an_option():
    entities = locate_entities("Ann met Ann.", (("Ann", "person"),), occurrences="best")
    assert entities == (Entity(text="Ann", type="person", start=0, end=3),)
    pairs = (("Paris", "city"), ("Paris Hilton", "person"))
    entities = locate_entities("Paris Hilton left Paris.", pairs, occurrences="best")
    assert entities == (
        Entity(text="Paris", type="city", start=18, end=23),
        Entity(text="Paris Hilton", type="person", start=0, end=12),
    )


def test_an_occurrence_inside_a_longer_mention_gives_way_to_it():
    pairs = (("東京", "city"), ("東京都", "prefecture"), ("大阪", "city"), ("大阪府", "prefecture"))
    entities = locate_entities("東京都の東京、東京と大阪府。", pairs)
    assert [(entity.text, entity.start) for entity in entities] == [
        ("東京", 4),
        ("東京", 7),
        ("東京都", 0),
        ("大阪", 10),  # nowhere else
        ("大阪府", 10),
    ]


def test_a_mention_is_read_as_its_passage_has_it(passage_chunks):
    teacher = CachedTeacher(
        Teacher(model="m", prompt=published_prompt("type")), make_client=lambda gate: None
    )
    (chunk,) = passage_chunks([r"We gave \beta-carotene."])
    (passage,) = from_table(chunk.table, Passage)
    reply = SimpleNamespace(
        text=r'[("\beta-carotene", "chemical")]', finish_reason="stop", refusal=None,
        tokens_in=1, tokens_out=1, attempts=1,
    )  # fmt: skip
    annotation = Annotator(teacher)._annotation(passage, reply)
    assert annotation.entities == (Entity(text=r"\beta-carotene", type="chemical", start=8, end=22),)


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("at O\u2019Hare today", "O'Hare"),
        ("at O'Hare today", "O\u2019HARE"),
        ("the \u201cRitz\u201d burns", '"ritz"'),
        ("rock `n\u00b4 roll", "rock 'n' roll"),
    ],
)
def test_kinds_of_quotation_marks_are_normalized(text, mention):
    (entity,) = locate_entities(text, ((mention, "thing"),))
    assert entity.start >= 0 and entity.text == text[entity.start : entity.end]
    assert len(entity.text) == len(mention)


def test_a_passage_that_crashes_the_engine_keeps_its_place_and_the_reason(passage_chunks):
    teacher = CachedTeacher(
        Teacher(model="m", prompt=published_prompt("type")), make_client=lambda gate: None
    )
    (chunk,) = passage_chunks(["deadly"])
    (row,) = from_table(Annotator(teacher).set_aside(chunk, "the reason").table, Annotation)
    assert (row.text, row.outcome, row.reply, row.entities) == ("deadly", "poison", "the reason", ())


def test_a_slow_reply_keeps_no_other_request_waiting(passage_chunks, work_beside_a_request):
    teacher = CachedTeacher(
        Teacher(model="m", prompt=published_prompt("type")), make_client=lambda gate: None
    )
    (chunk,) = passage_chunks(["Ann left."])
    judge, reply = "uniner.annotate.annotator.judge_reply", '[("Ann", "person")]'
    annotated = work_beside_a_request(Annotator(teacher), teacher, chunk, reply, judge)
    (row,) = from_table(annotated.table, Annotation)
    assert row.entities == (Entity(text="Ann", type="person", start=0, end=3),)
