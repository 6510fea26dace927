"""Filters, negatives and conversations: the paper's rules, the same from a seed whatever the order."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from uniner.build.conversations import Recipe, bands, converse, count_types
from uniner.build.filters import Filters, filter_mentions, fold_type, is_latin, singulars
from uniner.build.negatives import Sampler, generator
from uniner.build.supervised import converse_gold, draw
from uniner.gold.catalogue import words_of
from uniner.gold.records import GoldEntity, GoldPassage, renamed
from uniner.records import Annotation, Entity

RECIPE = Recipe(0, validation_share=0.1)
FILTERS = Filters(frozenset({"misc", "none"}))


def annotation(number=0, entities=(), outcome="ok", text="Ann met Bob in Bonn."):
    return Annotation(
        passage_id=f"p{number}",
        doc_id="d",
        text=text,
        outcome=outcome,
        reply="",
        entities=tuple(entities),
        model="m",
        tokens_in=1,
        tokens_out=1,
        cost_usd=0.0,
        attempts=1,
    )


MENTIONS = (
    Entity(text="Bob", type="Person", start=8, end=11),
    Entity(text="Ann", type=" person ", start=0, end=3),
    Entity(text="Ann", type="person", start=30, end=33),
    Entity(text="Bonn", type="MISC", start=15, end=19),
    Entity(text="Rome", type="city", start=-1, end=-1),
    Entity(text="北京大学", type="university", start=40, end=44),
    Entity(text="word " * 21, type="speech", start=50, end=155),
)


def test_each_filter_drops_what_it_is_for_and_counts_it():
    kept = filter_mentions(MENTIONS, FILTERS)
    assert kept.mentions == {"person": ("Ann", "Bob")}
    assert kept.dropped == {"else_type": 1, "not_in_passage": 1, "not_english": 1, "long_mention": 1}


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
    kept = filter_mentions(MENTIONS, replace(FILTERS, **change))
    assert set(kept.mentions) == {"person", type_name}
    assert sum(kept.dropped.values()) == 3


def test_plurals_are_folded_where_their_singular_is_a_type_as_well():
    types = ["city", "cities", "dish", "dishes", "species", "programming language", "gene", "genes", "news"]
    assert singulars(types) == {"cities": "city", "dishes": "dish", "genes": "gene"}
    kept = filter_mentions(
        [
            Entity(text="Bonn", type="Cities", start=0, end=4),
            Entity(text="Rome", type="city", start=8, end=12),
        ],
        replace(FILTERS, renamed=singulars(types)),
    )
    assert kept.mentions == {"city": ("Bonn", "Rome")}


@pytest.mark.parametrize(
    ("raw", "folded"), [(" Programming  Language", "programming language"), ("City.", "city")]
)
def test_types_are_folded(raw, folded):
    assert fold_type(raw) == folded


@pytest.mark.parametrize(
    ("text", "latin"),
    [("São Paulo", True), ("42 %", True), ("Москва", False), ("β-catenin", True), ("東京", False)],
)
def test_latin(text, latin):
    assert is_latin(text) is latin


def test_frequency_negatives_follow_the_mentions_and_uniform_ones_do_not():
    mentions = {"common": 900, "rare": 90, "rarest": 10, "present": 5000}
    frequency, uniform = Sampler(mentions, "frequency"), Sampler(mentions, "uniform")
    drawn = Counter(n for i in range(4000) for n in frequency.draw(["present"], 1, generator(0, str(i))))
    assert "present" not in drawn
    assert drawn["common"] / 4000 == pytest.approx(0.9, abs=0.02)
    assert drawn["rarest"] / 4000 == pytest.approx(0.01, abs=0.006)
    evenly = Counter(n for i in range(3000) for n in uniform.draw(["present"], 1, generator(0, str(i))))
    assert all(count / 3000 == pytest.approx(1 / 3, abs=0.04) for count in evenly.values())
    assert Sampler(mentions, "none").draw([], 3, generator(0, "x")) == []


def test_negatives_are_never_present_never_twice_and_a_fraction_is_a_chance():
    sampler = Sampler({str(n): n + 1 for n in range(10)}, "frequency")
    for number in range(200):
        drawn = sampler.draw(["3", "4"], 20, generator(1, str(number)))
        assert sorted(drawn) == sorted({str(n) for n in range(10)} - {"3", "4"})
    counts = [len(sampler.draw([], 1.25, generator(2, str(n)))) for n in range(2000)]
    assert set(counts) == {1, 2}
    assert np.mean(counts) == pytest.approx(1.25, abs=0.03)


def test_conversations_are_the_published_layout_and_the_funnel_adds_up():
    entities = [
        Entity(text="Ann", type="person", start=0, end=3),
        Entity(text="Bonn", type="city", start=15, end=19),
    ]
    annotations = [
        annotation(0, entities),
        annotation(1, [Entity(text="Bonn", type="misc", start=15, end=19)]),
        annotation(2, outcome="unparseable"),
        annotation(3, [Entity(text="Bob", type="person", start=8, end=11)]),
    ]
    sampler = Sampler(count_types(annotations, FILTERS) + Counter(disease=50, film=20), "frequency")
    conversations, funnel = converse(annotations, sampler, RECIPE, FILTERS)
    assert [c.passage_id for c in conversations] == ["p0", "p3"]
    first = conversations[0]
    turns = [(turn["from"], turn["value"]) for turn in first.conversations]
    assert turns[:2] == [("human", "Text: Ann met Bob in Bonn."), ("gpt", "I've read this text.")]
    answers = {
        asked[1].removeprefix("What describes ").removesuffix(" in the text?"): json.loads(answered[1])
        for asked, answered in zip(turns[2::2], turns[3::2], strict=True)
    }
    assert answers == {"person": ["Ann"], "city": ["Bonn"]} | {name: [] for name in first.negative_types}
    assert len(first.negative_types) == 2
    assert funnel["passages"] == 4
    assert funnel["dropped_unparseable"] == funnel["dropped_no_entities"] == funnel["mentions_else_type"] == 1
    assert (funnel["conversations"], funnel["mentions"], funnel["positives"], funnel["negatives"]) == (
        2,
        3,
        3,
        3,
    )


def test_the_same_seed_gives_the_same_conversations_in_any_order():
    annotations = [annotation(n, [Entity(text="Ann", type="person", start=0, end=3)]) for n in range(300)]
    sampler = Sampler(Counter(person=300, city=200, film=100, river=50), "frequency")
    forward, funnel = converse(annotations, sampler, RECIPE, FILTERS)
    backward, _ = converse(annotations[::-1], sampler, RECIPE, FILTERS)
    assert forward == backward[::-1]
    assert 15 <= funnel["validation"] <= 50
    other, _ = converse(annotations, sampler, replace(RECIPE, seed=1), FILTERS)
    assert [c.negative_types for c in other] != [c.negative_types for c in forward]


def test_bands_are_shares_of_the_mentions():
    mentions = Counter({f"t{n}": 1 for n in range(99)}, top=101)
    assert bands(mentions, mentions) == {"top_1_percent": 0.505, "1_to_10_percent": 0.045, "rest": 0.45}
    evenly = Counter(dict.fromkeys(mentions, 3))
    assert bands(mentions, evenly) == {"top_1_percent": 0.01, "1_to_10_percent": 0.09, "rest": 0.9}
    assert bands(mentions, Counter()) == {"top_1_percent": 0.0, "1_to_10_percent": 0.0, "rest": 0.0}


def test_negatives_can_be_counted_a_passage():
    annotations = [
        annotation(
            0,
            [
                Entity(text="Ann", type="person", start=0, end=3),
                Entity(text="Bonn", type="city", start=15, end=19),
            ],
        )
    ]
    sampler = Sampler(Counter("abcdefgh"), "uniform")
    (conversation,), funnel = converse(
        annotations, sampler, replace(RECIPE, negatives_per_passage=5), FILTERS
    )
    assert funnel["negatives"] == len(conversation.negative_types) == 5


def test_a_weight_is_how_often_a_conversation_is_trained_on_and_a_fraction_a_chance():
    annotations = [annotation(n, [Entity(text="Ann", type="person", start=0, end=3)]) for n in range(1000)]
    sampler = Sampler(Counter(person=300, city=200), "frequency")
    conversations, funnel = converse(annotations, sampler, replace(RECIPE, weight=1.5), FILTERS)
    times = Counter(c.passage_id for c in conversations if c.split == "train")
    assert set(times.values()) == {1, 2}
    assert sum(times.values()) / len(times) == pytest.approx(1.5, abs=0.06)
    assert set(Counter(c.passage_id for c in conversations if c.split == "validation").values()) == {1}
    assert len({c.id for c in conversations}) == len(conversations) == funnel["conversations"]


GOLD = [
    GoldPassage("Ann met Bob.", (GoldEntity(0, 3, "Ann", "PER"), GoldEntity(8, 11, "Bob", "PER")), "a"),
    GoldPassage("In Bonn.", (GoldEntity(3, 7, "Bonn", "LOC"),), "b"),
    GoldPassage("Nothing here.", (), "c"),
]


def test_gold_data_are_asked_for_their_own_types_in_plain_words():
    words = words_of("news", {"PER": "person", "LOC": "place"})
    gold = [renamed(passage, words) for passage in GOLD]
    conversations, counts = converse_gold(gold, "news", "frequency", RECIPE, dataset_line=True)
    by_id = {c.passage_id: c for c in conversations}
    assert set(by_id) == {"news/a", "news/b", "news/c"}
    first = by_id["news/a"]
    assert first.conversations[0]["value"] == "Dataset: news\n Text: Ann met Bob."
    assert (first.positive_types, first.negative_types, first.dataset) == (("person",), ("place",), "news")
    answers = {t["value"] for t in first.conversations if t["from"] == "gpt"}
    assert answers == {"I've read this text.", '["Ann", "Bob"]', "[]"}
    assert by_id["news/c"].positive_types == () and len(by_id["news/c"].negative_types) == 1
    assert counts["conversations"] == counts["from_news"] == 3
    plain, _ = converse_gold(GOLD, "news", "none", RECIPE, dataset_line=False)
    assert [c.conversations[0]["value"] for c in plain] == ["Text: Ann met Bob.", "Text: In Bonn."]


def test_a_draw_is_the_seeds_and_keeps_the_order():
    passages = [GoldPassage(f"text {n}", (), str(n)) for n in range(200)]
    drawn = draw(passages, "news", 50, seed=1)
    assert len(drawn) == 50 and drawn == [p for p in passages if p in drawn]
    assert drawn == draw(passages, "news", 50, seed=1) != draw(passages, "news", 50, seed=2)
    assert draw(passages, "news", 500, seed=1) == passages


def test_what_is_drawn_says_nothing_of_the_split():
    passages = [GoldPassage("Ann.", (GoldEntity(0, 3, "Ann", "PER"),), f"{n}") for n in range(4000)]
    drawn = draw(passages, "news", 400, 0)
    made, _ = converse_gold(drawn, "news", "none", RECIPE, dataset_line=False)
    assert 10 <= sum(one.split == "validation" for one in made) <= 80, "a tenth, of 400"
