"""The teacher's replies: what parses, what is unparseable, and that the two never look alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniner.annotate.annotator import entities_of
from uniner.annotate.prompts import messages, passage_in
from uniner.annotate.replies import parse_reply
from uniner.records import Entity


@pytest.mark.parametrize(
    ("reply", "pairs"),
    [
        ('[("Ann", "person"), ("Bonn", "city")]', [("Ann", "person"), ("Bonn", "city")]),
        ("[('Ann', 'person')]", [("Ann", "person")]),
        ('[["Ann", "person"]]', [("Ann", "person")]),
        ('```python\n[("Ann", "person")]\n```', [("Ann", "person")]),
        ('Here they are: [("Ann", "person")]. Anything else?', [("Ann", "person")]),
        ('[("Ann O\'Hara", "person"),]', [("Ann O'Hara", "person")]),
        ('[("the \\"Ritz\\"", "hotel")]', [('the "Ritz"', "hotel")]),
        ("[]", []),
        ("There are none.", None),
        ("", None),
        ('[("Ann", "person"), ("Bo', None),
        ('[("Ann", "person", "extra")]', None),
        ('["Ann"]', None),
        ('[("Ann", 3)]', None),
        ("[__import__('os')]", None),
        ("[" * 2000, None),
    ],
)
def test_shapes_of_replies(reply, pairs):
    assert parse_reply(reply) == pairs


@given(st.text())
def test_no_reply_raises_and_nothing_is_invented(reply):
    for mention, type_name in parse_reply(reply) or []:
        assert mention in reply
        assert type_name in reply


@given(st.lists(st.tuples(st.text(), st.text())))
def test_what_python_writes_comes_back(pairs):
    assert parse_reply(repr(pairs)) == pairs


def test_entities_are_located_or_marked_as_absent():
    text = "Ann met ann in Bonn. Anna left."
    assert entities_of(text, [("Ann", "person"), ("BONN", "city"), ("Rome", "city")]) == (
        Entity("Ann", "person", 0, 3),
        Entity("Bonn", "city", 15, 19),
        Entity("Rome", "city", -1, -1),
    )


def test_the_prompts_are_the_papers():
    system, user = messages("type", "Ann lives.")
    assert system["content"] == "You are a helpful information extraction system."
    assert user["content"] == (
        "Given a passage, your task is to extract all entities and identify their entity types. The output "
        'should be in a list of tuples of the following format: [("entity 1", "type of entity 1"), ... ].'
        "\n\nPassage: Ann lives."
    )
    assert "define their type using a short sentence" in messages("definition", "x")[1]["content"]
    assert passage_in(user["content"]) == "Ann lives."
