"""Negative types and conversations follow the paper's rules; a seed gives the same result in any order."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from uniner.build.conversations import (
    ConversationSettings,
    NegativeSampler,
    annotation_conversations,
    count_types,
    frequency_bands,
    gold_conversations,
    passage_generator,
    sample_passages,
)
from uniner.build.filters import MentionFilters
from uniner.build.stage import _corrected_texts
from uniner.config.schema import Build
from uniner.gold.catalogue import label_renamer
from uniner.gold.records import GoldEntity, GoldPassage, rename_types
from uniner.records import Annotation, Entity
from uniner.templates import WordsTemplate

SETTINGS = ConversationSettings(0, validation_share=0.1)
FILTERS = MentionFilters(frozenset({"misc", "none"}))


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


def test_frequency_sampling_follows_the_mentions_and_uniform_sampling_does_not():
    mentions = {"common": 900, "rare": 90, "rarest": 10, "present": 5000}
    frequency, uniform = NegativeSampler(mentions, "frequency"), NegativeSampler(mentions, "uniform")
    sampled = Counter(
        n for i in range(4000) for n in frequency.sample(["present"], 1, passage_generator(0, str(i)))
    )
    assert "present" not in sampled
    assert sampled["common"] / 4000 == pytest.approx(0.9, abs=0.02)
    assert sampled["rarest"] / 4000 == pytest.approx(0.01, abs=0.006)
    evenly = Counter(
        n for i in range(3000) for n in uniform.sample(["present"], 1, passage_generator(0, str(i)))
    )
    assert all(count / 3000 == pytest.approx(1 / 3, abs=0.04) for count in evenly.values())
    assert NegativeSampler(mentions, "none").sample([], 3, passage_generator(0, "x")) == []


def test_negatives_are_absent_and_distinct_and_a_fraction_is_a_chance():
    sampler = NegativeSampler({str(n): n + 1 for n in range(10)}, "frequency")
    for number in range(200):
        sampled = sampler.sample(["3", "4"], 20, passage_generator(1, str(number)))
        assert sorted(sampled) == sorted({str(n) for n in range(10)} - {"3", "4"})
    sizes = [len(sampler.sample([], 1.25, passage_generator(2, str(n)))) for n in range(2000)]
    assert set(sizes) == {1, 2}
    assert np.mean(sizes) == pytest.approx(1.25, abs=0.03)


def test_conversations_have_the_published_layout_and_counts_add_up():
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
    sampler = NegativeSampler(
        count_types(annotations, FILTERS)[0] + Counter(disease=50, film=20), "frequency"
    )
    conversations, counts = annotation_conversations(annotations, sampler, SETTINGS, FILTERS)
    assert [c.passage_id for c in conversations] == ["p0", "p3"]
    first = conversations[0]
    turns = [(turn["from"], turn["value"]) for turn in first.conversations]
    assert turns[:2] == [("human", "Text: Ann met Bob in Bonn."), ("gpt", "I've read this text.")]
    answers = {
        question[1].removeprefix("What describes ").removesuffix(" in the text?"): json.loads(answer[1])
        for question, answer in zip(turns[2::2], turns[3::2], strict=True)
    }
    assert answers == {"person": ["Ann"], "city": ["Bonn"]} | {name: [] for name in first.negative_types}
    assert len(first.negative_types) == 2
    assert counts["passages"] == 4
    assert counts["dropped_unparseable"] == counts["dropped_no_entities"] == counts["mentions_else_type"] == 1
    assert (counts["conversations"], counts["mentions"], counts["positives"], counts["negatives"]) == (
        2,
        3,
        3,
        3,
    )


def test_the_same_seed_gives_the_same_conversations_in_any_order():
    annotations = [annotation(n, [Entity(text="Ann", type="person", start=0, end=3)]) for n in range(300)]
    sampler = NegativeSampler(Counter(person=300, city=200, film=100, river=50), "frequency")
    forward, counts = annotation_conversations(annotations, sampler, SETTINGS, FILTERS)
    backward, _ = annotation_conversations(annotations[::-1], sampler, SETTINGS, FILTERS)
    assert forward == backward[::-1]
    assert 15 <= counts["validation"] <= 50
    other, _ = annotation_conversations(annotations, sampler, replace(SETTINGS, seed=1), FILTERS)
    assert [c.negative_types for c in other] != [c.negative_types for c in forward]


def test_bands_are_shares_of_the_mentions():
    mentions = Counter({f"t{n}": 1 for n in range(99)}, top=101)
    assert frequency_bands(mentions, mentions) == {
        "top_1_percent": 0.505,
        "1_to_10_percent": 0.045,
        "rest": 0.45,
    }
    evenly = Counter(dict.fromkeys(mentions, 3))
    assert frequency_bands(mentions, evenly) == {"top_1_percent": 0.01, "1_to_10_percent": 0.09, "rest": 0.9}
    assert frequency_bands(mentions, Counter()) == {"top_1_percent": 0.0, "1_to_10_percent": 0.0, "rest": 0.0}


def test_negatives_can_be_set_per_passage():
    annotations = [
        annotation(
            0,
            [
                Entity(text="Ann", type="person", start=0, end=3),
                Entity(text="Bonn", type="city", start=15, end=19),
            ],
        )
    ]
    sampler = NegativeSampler(Counter("abcdefgh"), "uniform")
    (conversation,), counts = annotation_conversations(
        annotations, sampler, replace(SETTINGS, negatives_per_passage=5), FILTERS
    )
    assert counts["negatives"] == len(conversation.negative_types) == 5


def test_a_weight_is_the_number_of_copies_and_a_fraction_is_a_chance():
    annotations = [annotation(n, [Entity(text="Ann", type="person", start=0, end=3)]) for n in range(1000)]
    sampler = NegativeSampler(Counter(person=300, city=200), "frequency")
    conversations, counts = annotation_conversations(
        annotations, sampler, replace(SETTINGS, weight=1.5), FILTERS
    )
    copies = Counter(c.passage_id for c in conversations if c.split == "train")
    assert set(copies.values()) == {1, 2}
    assert sum(copies.values()) / len(copies) == pytest.approx(1.5, abs=0.06)
    assert set(Counter(c.passage_id for c in conversations if c.split == "validation").values()) == {1}
    assert len({c.id for c in conversations}) == len(conversations) == counts["conversations"]


GOLD = [
    GoldPassage("Ann met Bob.", (GoldEntity(0, 3, "Ann", "PER"), GoldEntity(8, 11, "Bob", "PER")), "a"),
    GoldPassage("In Bonn.", (GoldEntity(3, 7, "Bonn", "LOC"),), "b"),
    GoldPassage("Nothing here.", (), "c"),
]


def test_gold_data_are_asked_for_their_own_types_in_plain_words():
    rename = label_renamer("news", {"PER": "person", "LOC": "place"})
    gold = [rename_types(passage, rename) for passage in GOLD]
    conversations, counts = gold_conversations(gold, "news", "frequency", SETTINGS, dataset_line=True)
    by_id = {c.passage_id: c for c in conversations}
    assert set(by_id) == {"news/a", "news/b", "news/c"}
    first = by_id["news/a"]
    assert first.conversations[0]["value"] == "Dataset: news\n Text: Ann met Bob."
    assert (first.positive_types, first.negative_types, first.dataset) == (("person",), ("place",), "news")
    answers = {t["value"] for t in first.conversations if t["from"] == "gpt"}
    assert answers == {"I've read this text.", '["Ann", "Bob"]', "[]"}
    assert by_id["news/c"].positive_types == () and len(by_id["news/c"].negative_types) == 1
    assert counts["conversations"] == counts["from_news"] == 3
    plain, _ = gold_conversations(GOLD, "news", "none", SETTINGS, dataset_line=False)
    assert [c.conversations[0]["value"] for c in plain] == ["Text: Ann met Bob.", "Text: In Bonn."]


def test_sampling_depends_on_the_seed_and_keeps_the_order():
    passages = [GoldPassage(f"text {n}", (), str(n)) for n in range(200)]
    sampled = sample_passages(passages, "news", 50, seed=1)
    assert len(sampled) == 50 and sampled == [p for p in passages if p in sampled]
    assert (
        sampled
        == sample_passages(passages, "news", 50, seed=1)
        != sample_passages(passages, "news", 50, seed=2)
    )
    assert sample_passages(passages, "news", 500, seed=1) == passages


def test_sampling_is_independent_of_the_split():
    passages = [GoldPassage("Ann.", (GoldEntity(0, 3, "Ann", "PER"),), f"{n}") for n in range(4000)]
    sampled = sample_passages(passages, "news", 400, 0)
    conversations, _ = gold_conversations(sampled, "news", "none", SETTINGS, dataset_line=False)
    assert 10 <= sum(conversation.split == "validation" for conversation in conversations) <= 80, (
        "a tenth of 400"
    )


def test_the_template_words_tags_the_places_that_are_known_and_counts_what_it_cannot_hold():
    settings = ConversationSettings(0, validation_share=0, template=WordsTemplate())
    text = "Ann Lee met Ann in Bonn."
    found = [
        Entity(text="Ann Lee", type="person", start=0, end=7),
        Entity(text="Ann", type="name", start=0, end=3),
        Entity(text="Bonn", type="city", start=19, end=23),
    ]
    sampler = NegativeSampler({"person": 1, "name": 1, "city": 1}, "none")
    (row,), counts = annotation_conversations([annotation(0, found, text=text)], sampler, settings, FILTERS)
    assert row.conversations[-1]["value"] == "Ann B-person Lee I-person met O Ann O in O Bonn B-city . O"
    assert counts["unheld_nested"] == 1 and counts["mentions"] == 3
    entities = (GoldEntity(12, 15, "Ann", "person"), GoldEntity(19, 22, "Bon", "city"))
    passages = [GoldPassage(text, entities, "1")]
    (row,), counts = gold_conversations(passages, "news", "none", settings, dataset_line=False)
    assert row.conversations[-1]["value"] == "Ann O Lee O met O Ann B-person in O Bonn O . O"
    assert counts["unheld_off_boundary"] == 1


def test_what_the_teacher_said_of_a_corrected_passage_is_dropped_and_counted():
    entities = [Entity(text="Ann", type="person", start=0, end=3)]
    annotations = [annotation(0, entities), annotation(1, entities, text="Ann left.")]
    sampler = NegativeSampler(Counter(person=2), "none")
    kept, counts = annotation_conversations(annotations, sampler, SETTINGS, FILTERS, {"Ann left."})
    assert [row.passage_id for row in kept] == ["p0"]
    assert (counts["passages"], counts["dropped_corrected"]) == (2, 1)


def test_only_the_passages_of_a_review_that_are_trained_on_count_as_corrected(tmp_path):
    entity = {"start": 0, "end": 3, "text": "Ann", "type": "person"}
    rows = [{"id": f"{n}", "text": f"Ann {n}", "entities": [entity]} for n in range(4)]
    reviewed = tmp_path / "train.jsonl"
    reviewed.write_text("".join(json.dumps({**row, "reviewers": ["Bo"]}) + "\n" for row in rows))
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({**row, "text": f"Ann p{n}"}) + "\n" for n, row in enumerate(rows)))
    gold = {"review": str(reviewed), "mine": str(plain)}
    assert _corrected_texts(gold, Build(), 0) == {f"Ann {n}" for n in range(4)}
    assert len(_corrected_texts(gold, Build(supervised_examples=3), 0)) == 3
    assert _corrected_texts(gold, Build(supervised_weight=0), 0) == set()
