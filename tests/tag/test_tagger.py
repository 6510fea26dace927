"""Answers become entities with outcomes, offsets into the document and counts. No engine."""

import asyncio
import contextlib
import math
from dataclasses import replace

import pytest

from uniner.inference.engine import EngineAnswer
from uniner.inference.mention_scores import AnswerPiece
from uniner.inference.questions import QuestionAsker, TypeAnswer
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.storage.stage_folder import Chunk
from uniner.tag.tagger import EntityRules, Tagger, tag_passage
from uniner.tag.types import TypeSelection
from uniner.templates import SINGLE_TYPE

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


def ok(type_name: str, *mentions: str, score: float = 0.5) -> TypeAnswer:
    return TypeAnswer(type_name, "ok", dict.fromkeys(mentions, score))


def engine_answer(text: str, finish: str = "stop", probability: float = 0.9) -> EngineAnswer:
    """An answer that is one token."""
    return EngineAnswer(text, finish, (AnswerPiece(text, math.log(probability)),), 4, 5)


def entities(*answers: TypeAnswer, occurrences: str = "all") -> list[tuple[str, str, str]]:
    row = tag_passage(passage(), answers, occurrences)
    for entity in row.entities:
        if entity.grounding != "ungrounded":
            assert DOCUMENT[entity.start : entity.end] == entity.text
    return [(entity.text, entity.type, entity.grounding) for entity in row.entities]


def test_all_occurrences_or_the_best_one_with_the_documents_own_text():
    assert entities(ok("city", "Łódź")) == [("Łódź", "city", "exact")] * 2
    assert entities(ok("city", "Łódź"), occurrences="best") == [("Łódź", "city", "exact")]


@pytest.mark.parametrize(
    ("text", "mentions", "start"),
    [
        ("Paris Hilton left Paris.", ["Paris", "Paris Hilton"], 18),  # not where it is part of another
        ("Paris Hilton, Paris Metro", ["Paris", "Paris Hilton", "Paris Metro"], 0),  # it always is
        ("Paris, then Paris again", ["Paris"], 0),
        ("Parisian PARIS, Paris", ["Paris"], 16),  # as written before normalised
        ("Parisian PARIS", ["Paris"], 9),  # a word of its own before a part of one
        ("Parisian", ["Paris"], 0),
    ],
)
def test_the_most_likely_occurrence(text, mentions, start):
    row = tag_passage(passage(0, text), [ok("city", mentions[0]), ok("other", *mentions[1:])], "best")
    assert [entity.start for entity in row.entities if entity.type == "city"] == [start]


def test_the_most_likely_occurrence_is_one_of_those_that_the_passage_owns():
    # The overlap goes to the end of Łódź; Łódź.
    right = replace(passage(18), passage_id="d-1", passage_index=1, overlap_before=36)
    row = tag_passage(right, [ok("city", "Łódź")], "best")
    assert [entity.start for entity in row.entities] == [36]


def test_an_occurrence_inside_a_longer_mention_gives_way_to_it():
    text = "Paris Hilton left Paris for the Rome Opera."
    row = tag_passage(
        passage(0, text), [ok("city", "Paris", "Rome"), ok("other", "Paris Hilton", "Rome Opera")]
    )
    assert [entity.start for entity in row.entities if entity.type == "city"] == [18, 32]


def test_offsets_count_characters_of_the_document():
    row = tag_passage(passage(), [ok("city", "Łódź")])
    assert [(entity.start, entity.end) for entity in row.entities] == [(30, 34), (36, 40)]
    assert row.char_start == 6


def test_an_entity_in_an_overlap_belongs_to_one_of_the_two_passages():
    left = replace(passage(0, DOCUMENT[:34]), overlap_after=16)
    right = replace(passage(18), passage_id="d-1", passage_index=1, overlap_before=16)
    answers = [ok("city", "Łódź"), ok("person", "ANN LEE", "Ann Lee")]
    owned = [
        (passage.passage_id, entity.start)
        for passage in (left, right)
        for entity in tag_passage(passage, answers).entities
    ]
    assert owned == [("d-0", 6), ("d-0", 18), ("d-1", 30), ("d-1", 36)]


def test_case_and_white_space_are_normalised_and_the_grounding_tells():
    assert entities(ok("person", "ann lee")) == [
        ("Ann Lee", "person", "normalized"),
        ("ANN  LEE", "person", "normalized"),
    ]
    # str.lower() changes the length of a letter before it; the offsets stay right.
    assert entities(ok("word", "TOO.")) == [("too.", "word", "normalized")]


def test_a_span_of_a_type_appears_once_whatever_the_spelling_and_overlaps_stay():
    rows = entities(ok("person", "Ann Lee", "ann lee", "Ann"), ok("name", "Ann Lee"))
    assert rows.count(("Ann Lee", "person", "exact")) == 1
    assert ("Ann", "person", "exact") in rows
    assert ("Ann Lee", "name", "exact") in rows


def test_an_ungrounded_mention_is_kept_without_offsets_and_comes_last():
    row = tag_passage(passage(), [ok("city", "Paris"), ok("person", "Ann Lee")])
    assert [(entity.text, entity.start, entity.end) for entity in row.entities] == [
        ("Ann Lee", 6, 13),
        ("Paris", -1, -1),
    ]
    assert row.outcome == "ok"


def test_a_broken_answer_never_looks_like_an_empty_one():
    empty = tag_passage(passage(), [ok("a"), ok("b")])
    assert (empty.outcome, empty.failed_types, empty.entities) == ("ok", (), ())
    broken = tag_passage(
        passage(),
        [TypeAnswer("a", "unparseable", {}), ok("person", "Ann Lee"), TypeAnswer("b", "too_long", {})],
    )
    assert (broken.outcome, broken.failed_types) == ("too_long", ("a", "b"))
    assert [entity.type for entity in broken.entities] == ["person"]


class StandInEngine:
    """An engine that finds the passage's first word for the type `first`, and nothing else."""

    max_prompt_tokens = 150

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.calls: list[int] = []

    @contextlib.asynccontextmanager
    async def admitted(self, questions):
        yield

    async def ask(self, prompts):
        self.calls.append(len(prompts))
        assert all(len(prompt) <= self.max_prompt_tokens for prompt in prompts)
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        await asyncio.sleep(0.01 * ("slow" in texts[0]))
        first = texts[0].split("USER: Text: ")[1].split()[0]
        return [engine_answer(f'["{first}"]' if "describes first" in text else "[]") for text in texts]


def test_the_tagger_keeps_the_order_asks_a_passage_at_once_and_never_sends_a_long_one(tokenizer):
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
    engine = StandInEngine(tokenizer)
    worker = Tagger(
        QuestionAsker(engine, SINGLE_TYPE), TypeSelection(("first", "second"), {"code": ()}), EntityRules()
    )
    done = asyncio.run(worker(Chunk("k", to_table(passages, PASSAGE))))
    rows = from_table(done.table, TaggedPassage)
    assert done.key == "k"
    assert [row.passage_id for row in rows] == ["d-0", "d-1", "d-2", "d-3", "d-4"]
    assert [row.outcome for row in rows] == ["ok", "overlong", "ok", "ok", "ok"]
    assert rows[1].failed_types == ("first", "second")
    assert [[(entity.text, entity.start) for entity in row.entities] for row in rows] == [
        [("Zoe", 0)],
        [],
        [("Kim", 2000)],
        [("Bo", 3000)],
        [],  # its source is asked for nothing
    ]
    assert engine.calls == [2, 2, 2]
    assert done.figures["questions"] == 6
    assert done.figures["answer_tokens"] == 24
    assert done.figures["cached_tokens"] == 30
    assert (done.figures["entities"], done.figures["ungrounded"]) == (3, 0)
