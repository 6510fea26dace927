"""Gold data sets become conversations about their own types, in plain words."""

from uniner.build.conversations import ConversationSettings
from uniner.build.supervised import gold_conversations, sample_passages
from uniner.gold.catalogue import label_renamer
from uniner.gold.records import GoldEntity, GoldPassage, rename_types

SETTINGS = ConversationSettings(0, validation_share=0.1)

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
