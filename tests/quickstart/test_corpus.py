"""The quickstart corpus: sizes, exact offsets, splits without common names, the teacher's flaw rates."""

import ast
from collections import Counter
from random import Random

import pytest

from uniner.quickstart import replies
from uniner.quickstart.base_domains import BASE_DOMAINS
from uniner.quickstart.corpus import MadeUpDocument, Mention, documents, slots_of, types_of
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.names import SHAPES, SPLITS, name
from uniner.quickstart.replies import reply

BOTH = pytest.mark.parametrize("domains", [DOMAINS, BASE_DOMAINS], ids=["quickstart", "base"])


def frames_of(domains) -> list[str]:
    return [frame for domain in domains for frame in domain.frames]


@pytest.fixture(scope="module")
def train() -> list[MadeUpDocument]:
    return list(documents(DOMAINS, 1200, seed=3, split="train"))


@BOTH
def test_there_is_enough_text_to_learn_from(domains):
    assert len(domains) >= 8
    assert len(types_of(domains)) >= 30
    assert len(frames_of(domains)) >= 150
    assert all(len(domain.fillers) >= 6 for domain in domains)


@BOTH
def test_no_sentence_occurs_twice(domains):
    sentences = frames_of(domains) + [filler for domain in domains for filler in domain.fillers]
    assert [sentence for sentence, count in Counter(sentences).items() if count > 1] == []


@BOTH
def test_each_type_occurs_in_five_frames(domains):
    counts = Counter(type for frame in frames_of(domains) for type in set(slots_of(frame)))
    assert {type: count for type, count in counts.items() if count < 5} == {}


@BOTH
def test_frames_are_short_and_fillers_have_no_slot(domains):
    for frame in frames_of(domains):
        assert 1 <= len(slots_of(frame)) <= 3, frame
        assert frame.endswith(".") and len(frame) < 110, frame
    assert not any("{" in filler for domain in domains for filler in domain.fillers)


def test_slots_are_types_that_have_names():
    assert set(types_of(DOMAINS)) == set(SHAPES)


def test_the_base_shares_few_types_and_no_frame():
    assert len(set(types_of(DOMAINS)) & set(types_of(BASE_DOMAINS))) <= 6
    assert not set(frames_of(DOMAINS)) & set(frames_of(BASE_DOMAINS))
    assert not {domain.name for domain in DOMAINS} & {domain.name for domain in BASE_DOMAINS}


def test_no_name_is_in_two_splits():
    random = Random(1)
    drawn = {
        split: {name(type, random, split).lower() for type in SHAPES for _ in range(150)} for split in SPLITS
    }
    assert not drawn["train"] & drawn["heldout"]
    assert not drawn["base"] & (drawn["train"] | drawn["heldout"])


def test_no_invented_word_is_in_two_splits():
    random = Random(2)
    # The first word of these names is invented: the split holds for the word too, not for the name alone.
    drawn = {
        split: {name(type, random, split).split()[0] for type in ("team", "hotel", "law") for _ in range(500)}
        for split in ("train", "heldout")
    }
    assert not drawn["train"] & drawn["heldout"]


def test_names_are_many_and_short():
    random = Random(3)
    for type in ("person", "company", "city", "drug", "gene", "software"):
        names = [name(type, random, "heldout") for _ in range(300)]
        assert len(set(names)) > 250, type
        assert sum(len(candidate) <= 20 for candidate in names) > 270, type
        assert all(
            candidate.isascii() and candidate == candidate.strip() and len(candidate.split()) <= 3
            for candidate in names
        ), type


def test_unknown_types_and_splits_are_refused():
    with pytest.raises(KeyError):
        name("no such type", Random(1), "train")
    with pytest.raises(ValueError, match="split must be one of train, heldout, base, not 'test'"):
        name("person", Random(1), "test")


def test_offsets_are_exact_and_mentions_in_order(train):
    for document in train:
        assert document.mentions
        end = 0
        for mention in document.mentions:
            assert document.text[mention.start : mention.end] == mention.text
            assert mention.start >= end
            end = mention.end
        assert "{" not in document.text


def test_a_name_has_one_type_in_a_document(train):
    for document in train:
        pairs = {(mention.text, mention.type) for mention in document.mentions}
        assert len({text for text, _ in pairs}) == len(pairs)


def test_every_type_occurs(train):
    assert {mention.type for document in train for mention in document.mentions} == set(types_of(DOMAINS))


def test_base_documents_can_be_written():
    base = list(documents(BASE_DOMAINS, 400, seed=3, split="base"))
    assert {mention.type for document in base for mention in document.mentions} == set(types_of(BASE_DOMAINS))
    for document in base:
        assert all(
            document.text[mention.start : mention.end] == mention.text for mention in document.mentions
        )


def test_documents_depend_on_seed_and_number_alone(train):
    assert list(documents(DOMAINS, 50, seed=3, split="train")) == train[:50]
    assert list(documents(DOMAINS, 50, seed=4, split="train")) != train[:50]


def test_identifiers_are_unique_over_splits(train):
    heldout = list(documents(DOMAINS, 100, seed=3, split="heldout"))
    identifiers = [document.doc_id for document in train + heldout]
    assert len(set(identifiers)) == len(identifiers)


def test_some_documents_are_long_and_some_have_paragraphs(train):
    lengths = [document.text.count(".") for document in train]
    assert 0.01 < sum(length >= 12 for length in lengths) / len(train) < 0.08
    assert 0.1 < sum("\n\n" in document.text for document in train) / len(train) < 0.4
    assert any(
        len(document.mentions) > len({mention.text for mention in document.mentions}) for document in train
    )


MENTIONS = (
    Mention(30, 36, "Kelmor", "city"),
    Mention(0, 12, 'Mirel "Tasko', "person"),
    Mention(40, 46, "Kelmor", "city"),
)


def test_a_reply_without_flaws_lists_each_pair_once_in_order(monkeypatch):
    for share in [constant for constant in vars(replies) if constant.endswith("_SHARE")]:
        monkeypatch.setattr(replies, share, 0.0)
    assert reply("", MENTIONS, Random(1)) == r'[("Mirel \"Tasko", "person"), ("Kelmor", "city")]'
    assert reply("", (), Random(1)) == "[]"


def test_replies_are_deterministic(train):
    document = train[0]
    answers = {reply(document.text, document.mentions, Random(5)) for _ in range(3)}
    assert len(answers) == 1


def test_flaws_are_as_frequent_as_they_say(train):
    random = Random(6)
    counts: Counter[str] = Counter()
    missed = mentions = 0
    for document in train * 3:
        answer = reply(document.text, document.mentions, random)
        try:
            pairs = ast.literal_eval(answer)
        except (SyntaxError, ValueError):
            counts["unparseable"] += 1
            continue
        true = {(mention.text.lower(), mention.type) for mention in document.mentions}
        given = {(mention.lower(), type.lower()) for mention, type in pairs}
        missed += len(true - given)
        mentions += len(true)
        counts["useless type"] += any(type.lower() == replies.USELESS_TYPE for _, type in pairs)
        counts["absent mention"] += any(mention not in document.text.lower() for mention, _ in given)
        counts["odd type capitals"] += any(type != type.lower() for _, type in pairs)
    shares = {flaw: count / (3 * len(train)) for flaw, count in counts.items()}
    assert shares["unparseable"] == pytest.approx(replies.UNPARSEABLE_SHARE, abs=0.012)
    assert shares["useless type"] == pytest.approx(replies.USELESS_TYPE_SHARE, abs=0.02)
    assert shares["absent mention"] == pytest.approx(replies.ABSENT_MENTION_SHARE, abs=0.015)
    assert shares["odd type capitals"] == pytest.approx(replies.ODD_TYPE_CAPITALS_SHARE, abs=0.015)
    assert missed / mentions == pytest.approx(replies.MISSED_MENTION_SHARE, abs=0.006)


def test_some_mentions_have_odd_capitals(monkeypatch):
    for share in [constant for constant in vars(replies) if constant.endswith("_SHARE")]:
        monkeypatch.setattr(replies, share, 0.0)
    monkeypatch.setattr(replies, "ODD_MENTION_CAPITALS_SHARE", 1.0)
    answer = reply("", MENTIONS[2:], Random(1))
    assert answer == '[("KELMOR", "city")]'
