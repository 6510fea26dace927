"""Each filter drops its mentions, counts them, and can be switched off."""

from dataclasses import replace

import pytest

from uniner.build.filters import MentionFilters, filter_mentions, is_latin, plural_types
from uniner.records import Entity

FILTERS = MentionFilters(frozenset({"misc", "none"}))
MENTIONS = (
    Entity(text="Bob", type="Person", start=8, end=11),
    Entity(text="Ann", type=" person ", start=0, end=3),
    Entity(text="Ann", type="person", start=30, end=33),
    Entity(text="Bonn", type="MISC", start=15, end=19),
    Entity(text="Rome", type="city", start=-1, end=-1),
    Entity(text="北京大学", type="university", start=40, end=44),
    Entity(text="word " * 21, type="speech", start=50, end=155),
)


def test_each_filter_drops_and_counts_its_mentions():
    filtered = filter_mentions(MENTIONS, FILTERS)
    assert filtered.mentions == {"person": ("Ann", "Bob")}
    assert filtered.dropped == {"else_type": 1, "not_in_passage": 1, "not_english": 1, "long_mention": 1}


@pytest.mark.parametrize(
    ("change", "type_name"),
    [
        ({"drop_types": frozenset()}, "misc"),
        ({"in_passage": False}, "city"),
        ({"latin": False}, "university"),
        ({"max_words": 21}, "speech"),
    ],
)
def test_each_filter_can_be_switched_off(change, type_name):
    filtered = filter_mentions(MENTIONS, replace(FILTERS, **change))
    assert set(filtered.mentions) == {"person", type_name}
    assert sum(filtered.dropped.values()) == 3


def test_plurals_are_renamed_if_their_singular_is_a_type():
    types = ["city", "cities", "dish", "dishes", "species", "programming language", "gene", "genes", "news"]
    assert plural_types(types) == {"cities": "city", "dishes": "dish", "genes": "gene"}
    filtered = filter_mentions(
        [
            Entity(text="Bonn", type="Cities", start=0, end=4),
            Entity(text="Rome", type="city", start=8, end=12),
        ],
        replace(FILTERS, renamed=plural_types(types)),
    )
    assert filtered.mentions == {"city": ("Bonn", "Rome")}


@pytest.mark.parametrize(
    ("text", "latin"),
    [("São Paulo", True), ("42 %", True), ("Москва", False), ("β-catenin", True), ("東京", False)],
)
def test_latin(text, latin):
    assert is_latin(text) is latin
