"""What becomes of answers: outcomes, offsets into the document, counts. No engine."""

import asyncio
import contextlib
import math

import pytest

from uniner.inference.engine import Answer
from uniner.inference.mention_scores import Piece
from uniner.inference.questions import Asker, Reply, judge
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.storage.stage_folder import Chunk
from uniner.tag.entity_rules import Rules
from uniner.tag.tagger import Tagger, tagged
from uniner.tag.types import Types
from uniner.templates import SINGLE_TYPE, MultiTypeTemplate

DOCUMENT = "Head. Ann Lee met ANN  LEE in Łódź; Łódź is a city. İstanbul too."


def passage(start: int = 6, text: str | None = None) -> Passage:
    text = DOCUMENT[start:] if text is None else text
    return Passage(
        passage_id="d-0",
        doc_id="d",
        passage_index=0,
        char_start=start,
        char_end=start + len(text),
        text=text,
        n_tokens=9,
        source="",
    )


def ok(type_name: str, *mentions: str, score: float = 0.5) -> Reply:
    return Reply(type_name, "ok", dict.fromkeys(mentions, score))


def said(text: str, finish: str = "stop", probability: float = 0.9) -> Answer:
    """An answer that is one token."""
    return Answer(text, finish, (Piece(text, math.log(probability)),), 4, 5)


def entities(*replies: Reply, every: bool = True) -> list[tuple[str, str, str]]:
    row = tagged(passage(), replies, every)
    for entity in row.entities:
        if entity.grounding != "ungrounded":
            assert DOCUMENT[entity.start : entity.end] == entity.text
    return [(entity.text, entity.type, entity.grounding) for entity in row.entities]


def test_every_occurrence_or_one_with_the_documents_own_text():
    assert entities(ok("city", "Łódź")) == [("Łódź", "city", "exact")] * 2
    assert entities(ok("city", "Łódź"), every=False) == [("Łódź", "city", "exact")]


@pytest.mark.parametrize(
    ("text", "mentions", "stands"),
    [
        ("Paris Hilton left Paris.", ["Paris", "Paris Hilton"], 18),  # not where it is part of another
        ("Paris Hilton, Paris Metro", ["Paris", "Paris Hilton", "Paris Metro"], 0),  # it is everywhere
        ("Paris, then Paris again", ["Paris"], 0),
        ("Parisian PARIS, Paris", ["Paris"], 16),  # exact before normalized
        ("Parisian PARIS", ["Paris"], 9),  # a word of its own before a part of one
        ("Parisian", ["Paris"], 0),
    ],
)
def test_the_most_likely_occurrence(text, mentions, stands):
    row = tagged(passage(0, text), [ok("city", mentions[0]), ok("other", *mentions[1:])], False)
    assert [entity.start for entity in row.entities if entity.type == "city"] == [stands]


def test_the_most_likely_occurrence_is_one_of_those_that_the_passage_owns():
    right = Passage(
        passage_id="d-1",
        doc_id="d",
        passage_index=1,
        char_start=18,
        char_end=len(DOCUMENT),
        text=DOCUMENT[18:],
        n_tokens=9,
        source="",
        overlap_before=36,
        overlap_after=0,
    )  # to the end of Łódź; Łódź
    row = tagged(right, [ok("city", "Łódź")], every_occurrence=False)
    assert [entity.start for entity in row.entities] == [36]


def test_offsets_count_characters_of_the_document():
    row = tagged(passage(), [ok("city", "Łódź")], every_occurrence=True)
    assert [(entity.start, entity.end) for entity in row.entities] == [(30, 34), (36, 40)]
    assert row.char_start == 6


def test_an_entity_in_an_overlap_is_given_by_one_of_the_two_passages():
    left = Passage(
        passage_id="d-0",
        doc_id="d",
        passage_index=0,
        char_start=0,
        char_end=34,
        text=DOCUMENT[:34],
        n_tokens=9,
        source="",
        overlap_before=0,
        overlap_after=16,
    )
    right = Passage(
        passage_id="d-1",
        doc_id="d",
        passage_index=1,
        char_start=18,
        char_end=len(DOCUMENT),
        text=DOCUMENT[18:],
        n_tokens=9,
        source="",
        overlap_before=16,
        overlap_after=0,
    )
    replies = [ok("city", "Łódź"), ok("person", "ANN LEE", "Ann Lee")]
    found = [
        (passage.passage_id, entity.start)
        for passage in (left, right)
        for entity in tagged(passage, replies, every_occurrence=True).entities
    ]
    assert found == [("d-0", 6), ("d-0", 18), ("d-1", 30), ("d-1", 36)]


def test_case_and_white_space_fold_and_say_so():
    assert entities(ok("person", "ann lee")) == [
        ("Ann Lee", "person", "normalized"),
        ("ANN  LEE", "person", "normalized"),
    ]
    # Folded in length by str.lower(): what stands behind it keeps its place.
    assert entities(ok("word", "TOO.")) == [("too.", "word", "normalized")]


def test_a_span_of_a_type_appears_once_whatever_the_spelling_and_overlaps_stay():
    found = entities(ok("person", "Ann Lee", "ann lee", "Ann"), ok("name", "Ann Lee"))
    assert found.count(("Ann Lee", "person", "exact")) == 1
    assert ("Ann", "person", "exact") in found
    assert ("Ann Lee", "name", "exact") in found


def test_a_mention_that_is_not_there_is_kept_without_offsets_and_last():
    row = tagged(passage(), [ok("city", "Paris"), ok("person", "Ann Lee")], every_occurrence=True)
    assert [(entity.text, entity.start, entity.end) for entity in row.entities] == [
        ("Ann Lee", 6, 13),
        ("Paris", -1, -1),
    ]
    assert row.outcome == "ok"


def test_a_broken_answer_never_looks_like_an_empty_one():
    empty = tagged(passage(), [ok("a"), ok("b")], every_occurrence=True)
    assert (empty.outcome, empty.failed_types, empty.entities) == ("ok", (), ())
    broken = tagged(
        passage(),
        [Reply("a", "unparseable", {}), ok("person", "Ann Lee"), Reply("b", "too_long", {})],
        every_occurrence=True,
    )
    assert (broken.outcome, broken.failed_types) == ("too_long", ("a", "b"))
    assert [entity.type for entity in broken.entities] == ["person"]


@pytest.mark.parametrize(
    ("text", "finish", "outcome", "mentions"),
    [
        ('["a", "b"]', "stop", "ok", ("a", "b")),
        ("[]", "stop", "ok", ()),
        ('["a"', "stop", "unparseable", ()),
        ('["a"', "length", "too_long", ()),
        ('["a"]', "length", "too_long", ()),  # the end token is missing: what would have followed?
        ("[1]", "stop", "unparseable", ()),
        ('["\\ud83d"]', "stop", "unparseable", ()),  # half a character: no file could hold it
        ("", "stop", "unparseable", ()),
    ],
)
def test_an_answer_is_judged(text, finish, outcome, mentions):
    (reply,) = judge(SINGLE_TYPE, ["t"], said(text, finish))
    assert (reply.outcome, reply.mentions) == (outcome, mentions)


class Parrot:
    """An engine that finds the passage's first word for the type `first`, and nothing else."""

    max_prompt_tokens = 150

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.together: list[int] = []
        self.admissions = 0

    @contextlib.asynccontextmanager
    async def admitted(self, questions):
        self.admissions += questions
        yield

    async def ask(self, prompts):
        self.together.append(len(prompts))
        assert all(len(prompt) <= self.max_prompt_tokens for prompt in prompts)
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        await asyncio.sleep(0.01 * ("slow" in texts[0]))
        first = texts[0].split("USER: Text: ")[1].split()[0]
        return [said(f'["{first}"]' if "describes first" in text else "[]") for text in texts]


def test_the_tagger_keeps_the_order_asks_a_passage_at_once_and_never_sends_what_is_too_long(tokenizer):
    texts = ["Zoe is slow", "word " * 300, "Kim runs", "Bo naps", "Code 1"]
    passages = [
        Passage(
            passage_id=f"d-{number}",
            doc_id="d",
            passage_index=number,
            char_start=1000 * number,
            char_end=1000 * number + len(text),
            text=text,
            n_tokens=5,
            source=text[:4].lower(),
        )
        for number, text in enumerate(texts)
    ]
    engine = Parrot(tokenizer)
    worker = Tagger(Asker(engine, SINGLE_TYPE), Types(("first", "second"), {"code": ()}), True, Rules())
    done = asyncio.run(worker(Chunk("k", to_table(passages, PASSAGE))))
    rows = from_table(done.table, TaggedPassage)
    assert done.key == "k"
    assert [row.passage_id for row in rows] == ["d-0", "d-1", "d-2", "d-3", "d-4"]
    assert [row.outcome for row in rows] == ["ok", "overlong", "ok", "ok", "ok"]
    assert rows[1].failed_types == ("first", "second")
    assert [[(one.text, one.start) for one in row.entities] for row in rows] == [
        [("Zoe", 0)],
        [],
        [("Kim", 2000)],
        [("Bo", 3000)],
        [],  # its source is asked for nothing
    ]
    assert engine.together == [2, 2, 2]
    assert done.figures["questions"] == 6
    assert done.figures["answer_tokens"] == 24
    assert done.figures["cached_tokens"] == 30
    assert (done.figures["entities"], done.figures["ungrounded"]) == (3, 0)


class Confused(Parrot):
    """Knows that Zoe is a person, but takes her for a city where no other question tells it better."""

    def __init__(self, tokenizer, settles):
        super().__init__(tokenizer)
        self._settles = settles

    async def ask(self, prompts):
        self.together.append(len(prompts))
        return [self._answer(self.tokenizer.decode(prompt).split("USER: ")[-1]) for prompt in prompts]

    def _answer(self, question):
        if question.startswith("Which of these"):
            assert question.startswith('Which of these describe "Zoe" in the text? ["person", "city"]')
            return said(self._settles)
        known = {"person": '{"person": ["Zoe"]}', "city": '{"city": ["Zoe", "Rome"]}', "river": "{}"}
        return said(next(text for name, text in known.items() if name in question))


@pytest.mark.parametrize(
    ("settles", "cities", "figure"),
    [
        ('["person"]', ("Rome",), "settled"),
        ('["person", "city"]', ("Zoe", "Rome"), "settled"),
        ('["somebody"]', ("Zoe", "Rome"), "unsettled"),
    ],
)
def test_what_two_questions_say_of_a_mention_is_settled_by_another(tokenizer, settles, cities, figure):
    engine = Confused(tokenizer, settles)
    types = ["person", "x", "city", "y", "river"]
    (asked,) = asyncio.run(Asker(engine, MultiTypeTemplate(2)).ask_all([("Zoe in Rome", types)]))
    assert [reply.type for reply in asked.replies] == types
    assert [reply.mentions for reply in asked.replies] == [("Zoe",), (), cities, (), ()]
    assert engine.together == [3, 1] and engine.admissions == 4
    assert asked.figures["questions"] == 4 and asked.figures[figure] == 1


def test_a_broken_answer_breaks_the_types_that_it_was_asked_for_and_no_others(tokenizer):
    replies = judge(MultiTypeTemplate(2), ["a", "b"], said('{"c": ["d"]}'))
    assert [(reply.type, reply.outcome, reply.mentions) for reply in replies] == [
        ("a", "unparseable", ()),
        ("b", "unparseable", ()),
    ]


def test_each_type_of_a_group_has_its_own_mentions_scores():
    told = (Piece('{"a": ["x', math.log(0.9)), Piece('"], "b": ["x', math.log(0.5)), Piece('"]}', 0.0))
    text = "".join(piece.text for piece in told)
    a, b = judge(MultiTypeTemplate(2), ["a", "b"], Answer(text, "stop", told, 3))
    assert a.scores == {"x": pytest.approx(0.45)} and b.scores == {"x": pytest.approx(0.5)}
