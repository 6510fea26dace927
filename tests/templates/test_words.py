"""The template words: what it writes is read back at its place, and a broken answer is not empty."""

import gzip
import json
import time
import tracemalloc
from functools import lru_cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import SHARED
from uniner.templates import AnsweredSpan, ParsedAnswer, WordsTemplate
from uniner.templates.alignment import align
from uniner.templates.word_tags import find_words, type_in_tags

WORDS = WordsTemplate(3)
LETTERS = st.characters(exclude_categories=["Cs"])
NAMES = st.text(st.one_of(st.sampled_from("ab _\\-O)(\t"), LETTERS), max_size=6)
TEXTS = st.lists(
    st.sampled_from(["O", "B-a", "I-a b", "B-", "a(B-b)", "Ann", "Ann O"]) | st.text(LETTERS, max_size=8),
    max_size=12,
).map(" ".join)


@st.composite
def asked_passages(draw):
    """A passage, and types with places of whole words, which may overlap."""
    passage = draw(TEXTS)
    words = find_words(passage)
    names = draw(st.lists(NAMES, unique=True, min_size=1, max_size=5))
    spans = dict.fromkeys(names, ())
    if words:
        place = st.integers(0, len(words) - 1)
        for name in names:
            ends = draw(st.lists(st.tuples(place, place).map(sorted), max_size=3))
            spans[name] = tuple(dict.fromkeys((words[first][0], words[last][1]) for first, last in ends))
    return passage, spans


def texts(passage, spans):
    return {name: tuple(passage[start:end] for start, end in places) for name, places in spans.items()}


def places(parsed):
    return {name: [(span.start, span.end) for span in spans] for name, spans in parsed.spans.items()}


@settings(max_examples=100)
@given(asked_passages())
def test_what_is_written_is_read_back_at_its_place(asked):
    passage, spans = asked
    pairs = WORDS.render(passage, texts(passage, spans), spans)
    groups = WORDS.groups(list(spans))
    assert [WORDS.types_of(question) for question, _ in pairs] == groups
    read = 0
    for group, (_, answer) in zip(groups, pairs, strict=True):
        parsed = WORDS.parse(group, answer, passage)
        assert parsed.unread == 0 and list(parsed.mentions) == list(group)
        found = {(name, *place) for name, own in places(parsed).items() for place in own}
        wanted = {(name, *place) for name in group for place in spans[name]}
        assert found <= wanted
        taken = sorted((start, end) for _, start, end in found)
        assert all(end <= start for (_, end), (start, _) in pairwise(taken))
        for _, start, end in wanted - found:  # it gave way to one that shares words with it
            assert any(start < last and first < end for first, last in taken)
        read += len(found)
    unheld = WORDS.unheld(passage, texts(passage, spans), spans)
    assert read + sum(unheld.values()) == sum(map(len, spans.values()))


@settings(max_examples=100)
@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_words_are_aligned_by_a_longest_common_subsequence(words, written):
    longest = [[0] * (len(written) + 1) for _ in range(len(words) + 1)]
    for row, word in enumerate(words):
        for column, other in enumerate(written):
            longest[row + 1][column + 1] = (
                longest[row][column] + 1
                if word == other
                else max(longest[row][column + 1], longest[row + 1][column])
            )
    aligned = align(words, written)
    taken = [place for place in aligned if place >= 0]
    assert taken == sorted(set(taken)) and len(aligned) == len(words)
    same = sum(place >= 0 and written[place] == word for word, place in zip(words, aligned, strict=True))
    assert same == longest[-1][-1]


def test_repeated_words_cost_no_more():
    words = ["the", "of"] * 2_000
    written = [*words[1_001:], *["of", "the", "x"] * 1_000]
    started = time.process_time()
    align(words, written)
    assert time.process_time() - started < 2


def test_a_long_text_is_aligned_in_pieces_past_skipped_added_and_changed_words():
    words = [str(number) for number in range(9_000)]
    written = ["x", *words[1:2_500], *["y"] * 300, *words[2_500:5_000], *words[5_700:]]
    aligned = align(words, written)
    assert [written[place] for place in aligned[1:5_000]] == words[1:5_000]
    assert aligned[0] == 0 and set(aligned[5_000:5_700]) == {-1}
    assert [written[place] for place in aligned[5_700:]] == words[5_700:]


def test_the_memory_of_a_long_answer_does_not_grow_with_its_square():
    def peak(size):
        words = [str(number) for number in range(size)]
        tracemalloc.start()
        align(words, words[::-1])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(20_000) < 6 * peak(5_000)


PASSAGE = "Ann Lee left Bonn . Ann went to New York City ."
TYPES = ("person", "city")
ANSWER = (
    "Ann B-person Lee I-person left O Bonn B-city . O "
    "Ann B-person went O to O New B-city York I-city City I-city . O"
)
RIGHT = {"person": [(0, 7), (20, 23)], "city": [(13, 17), (32, 45)]}
OTHER = {"person": [(0, 7), (20, 23), (36, 40)], "city": [(13, 17), (32, 35), (41, 45)]}
JOINED = {**RIGHT, "city": [(13, 19), (32, 45)]}
NO_BONN = {**RIGHT, "city": [(32, 45)]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(ANSWER, RIGHT, id="as-trained"),
        pytest.param(ANSWER.replace("left O ", ""), RIGHT, id="a-word-skipped"),
        pytest.param(ANSWER.replace("left O", "left O left O left O"), RIGHT, id="a-word-repeated"),
        pytest.param(ANSWER.replace("Bonn", "Berlin"), RIGHT, id="a-word-changed"),
        pytest.param(ANSWER.replace("Ann", "ANN"), RIGHT, id="another-case"),
        pytest.param(ANSWER.replace("left O", "left"), RIGHT, id="a-tag-missing"),
        pytest.param(ANSWER.replace("left O", "O"), RIGHT, id="a-word-missing-before-its-tag"),
        pytest.param(ANSWER.replace("Bonn B-city . O", "Bonn. B-city"), JOINED, id="words-joined"),
        pytest.param(ANSWER.replace("Bonn B-city", "Bonn I-city"), RIGHT, id="I-without-B"),
        pytest.param(ANSWER.replace("York I-city", "York I-person"), OTHER, id="I-of-another-type"),
        pytest.param(ANSWER.replace("York I-city ", ""), RIGHT, id="skipped-within-a-mention"),
        pytest.param(ANSWER.replace("Bonn B-city", "Bonn B-river"), NO_BONN, id="a-type-not-asked"),
        pytest.param(ANSWER.replace(" ", "\n"), RIGHT, id="other-white-space"),
    ],
)  # fmt: skip
def test_an_answer_that_differs_is_read_by_the_words_that_it_shares(answer, expected):
    parsed = WORDS.parse(TYPES, answer, PASSAGE)
    assert places(parsed) == expected
    assert parsed.mentions == {
        name: tuple(dict.fromkeys(PASSAGE[start:end] for start, end in own)) for name, own in expected.items()
    }


@pytest.mark.parametrize(
    "answer",
    [
        "", "[]", '["Ann Lee"]', "O O O O O O O O O O O O", "nothing", PASSAGE,
        ANSWER[:60], ANSWER[-60:], ANSWER.replace("-city", "-river").replace("-person", "-river"),
        "x O " * 12, "Ann B-person", "B-person " * 12,
    ],
)  # fmt: skip
def test_an_answer_with_too_few_words_is_broken(answer):
    assert WORDS.parse(TYPES, answer, PASSAGE) is None


def test_a_passage_without_mentions_is_not_broken():
    empty = WORDS.empty_answer(PASSAGE)
    assert empty == " ".join(f"{word} O" for word in PASSAGE.split())
    assert WORDS.parse(TYPES, empty, PASSAGE) == ParsedAnswer({"person": (), "city": ()})


def test_a_passage_cannot_inject_a_tag():
    passage = "He wrote Ann B-person O B-city(B-city) and Lee I-person O"
    ((_, answer),) = WORDS.render(passage, {"person": ["Lee"], "city": []})
    parsed = WORDS.parse(("person", "city"), answer, passage)
    assert parsed.mentions == {"person": ("Lee",), "city": ()} and parsed.unread == 0


@given(NAMES, NAMES)
def test_types_in_tags_have_no_blanks_and_differ(first, second):
    assert not type_in_tags(first).split()[1:] and (first == second) == (
        type_in_tags(first) == type_in_tags(second)
    )


@pytest.mark.parametrize(
    ("answers", "answer", "unheld"),
    [
        ({"a": ["Ann Lee"], "b": ["Ann"]}, "Ann B-a Lee I-a met O Ann B-b", {"nested": 1}),
        ({"b": ["Ann Lee"], "a": ["Ann Lee"]}, "Ann B-b Lee I-b met O Ann O", {"second_type": 1}),
        ({"a": ["Ann Lee"], "b": ["Lee met"]}, "Ann B-a Lee I-a met O Ann O", {"crossing": 1}),
        ({"a": ["nn Le"], "b": ["Eve"]}, "Ann O Lee O met O Ann O", {"off_boundary": 1, "not_in_text": 1}),
    ],
)
def test_a_word_has_one_tag_and_what_gives_way_is_counted(answers, answer, unheld):
    ((_, rendered),) = WORDS.render("Ann Lee met Ann", answers)
    assert rendered == answer and WORDS.unheld("Ann Lee met Ann", answers) == unheld


@pytest.mark.parametrize(
    ("passage", "words"),
    [
        ("हिन्दी भाषा, 2½", ["हिन्दी", "भाषा", ",", "2½"]),
        ("Jose\u0301 e\u0301crit", ["Jose\u0301", "e\u0301crit"]),
        ("กรุงเทพ", ["ก", "รุ", "ง", "เ", "ท", "พ"]),
        ("❤\ufe0f!", ["❤\ufe0f", "!"]),
    ],
)
def test_marks_belong_to_their_letter(passage, words):
    assert [passage[start:end] for start, end in find_words(passage)] == words


def test_known_places_are_those_that_get_tags():
    ((_, answer),) = WORDS.render("Ann Lee met Ann", {"a": ["Ann"]}, {"a": [(12, 15)]})
    assert answer == "Ann O Lee O met O Ann B-a"


def test_a_mention_s_evidence_is_its_tags_and_what_ends_it():
    parsed = WORDS.parse(["a b"], "Ann B-a_b Lee I-a_b met O", "Ann Lee met")
    assert parsed.spans == {"a b": (AnsweredSpan(0, 7, ((4, 9), (14, 19), (24, 25))),)}


DATA_SETS = sorted(path.name for path in (SHARED / "data/ner").glob("*")) if SHARED.exists() else []


@lru_cache(maxsize=1)
def rows(name, most):
    path = SHARED / "data/ner" / name / "test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(most), lines, strict=False)]


@pytest.mark.skipif(not DATA_SETS, reason="../shared has no gold data")
@pytest.mark.parametrize(
    "most", [pytest.param(40, id="quick"), pytest.param(10**6, id="all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", DATA_SETS)
def test_of_a_gold_answer_the_entities_are_gold(name, most):
    template, held, wanted = WordsTemplate(50), 0, 0
    for row in rows(name, most):
        spans = {}
        for entity in row["entities"]:
            spans.setdefault(entity["type"], {})[entity["start"], entity["end"]] = None
        if not spans:
            continue
        answers = texts(row["text"], spans)
        ((_, answer),) = template.render(row["text"], answers, spans)
        parsed = template.parse(list(spans), answer, row["text"])
        found = {(kind, *place) for kind, own in places(parsed).items() for place in own}
        gold = {(kind, *place) for kind, own in spans.items() for place in own}
        unheld = template.unheld(row["text"], answers, spans)
        assert found <= gold and len(found) + sum(unheld.values()) == len(gold)
        if not unheld:
            assert found == gold
            assert {kind: set(own) for kind, own in parsed.mentions.items()} == {
                kind: set(own) for kind, own in answers.items()
            }
        held += len(found)
        wanted += len(gold)
    assert held >= 0.7 * wanted


def test_a_type_that_is_asked_for_with_a_description_is_tagged_by_its_name():
    template = WordsTemplate()
    described, other = "person (a human being, called by a name)", "city"
    ((question, answer),) = template.render("Ann left", {described: ["Ann"], other: []})
    assert described in question and answer == "Ann B-person left O"
    assert template.parse([described, other], answer, "Ann left").mentions == {described: ("Ann",), other: ()}


@pytest.mark.parametrize(
    "pair", [("person", "person (a man)"), ("bank (river)", "bank (money)"), (" (x)", "x")]
)
def test_two_types_of_one_name_have_two_tags(pair):
    template = WordsTemplate()
    answers = {pair[0]: ["Ann"], pair[1]: ["Bob"]}
    ((_, answer),) = template.render("Ann Bob", answers)
    read = template.parse(pair, answer, "Ann Bob").mentions
    assert read == {pair[0]: ("Ann",), pair[1]: ("Bob",)}
