"""A passage's questions: answers are parsed, conflicts are settled. No engine."""

import asyncio
import contextlib
import math

import pytest

from uniner.inference.engine import EngineAnswer
from uniner.inference.mention_scores import AnswerPiece
from uniner.inference.questions import PassageAnswers, QuestionAsker, ask_concurrently, parse_answer
from uniner.runtime.work_count import WorkCount
from uniner.templates import SINGLE_TYPE, MultiTypeTemplate


def engine_answer(text: str, finish: str = "stop", probability: float = 0.9) -> EngineAnswer:
    """An answer that is one token."""
    return EngineAnswer(text, finish, (AnswerPiece(text, math.log(probability)),), 4, 5)


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
def test_an_answer_is_parsed_and_has_an_outcome(text, finish, outcome, mentions):
    (answer,) = parse_answer(SINGLE_TYPE, ["t"], engine_answer(text, finish), "a b")
    assert (answer.outcome, answer.mentions) == (outcome, mentions)


class StandInEngine:
    """Answers that Zoe is a person and a city, until it is asked which of the two is right."""

    max_prompt_tokens = 150

    def __init__(self, tokenizer, settling_answer, sure_of=""):
        self.tokenizer = tokenizer
        self._settling_answer, self._sure_of = settling_answer, sure_of
        self.calls: list[int] = []
        self.admissions = 0

    @contextlib.asynccontextmanager
    async def admitted(self, questions):
        self.admissions += questions
        yield

    async def ask(self, prompts):
        self.calls.append(len(prompts))
        return [self._answer(self.tokenizer.decode(prompt).split("USER: ")[-1]) for prompt in prompts]

    def _answer(self, question):
        if question.startswith("Which of these"):
            assert question.startswith('Which of these describe "Zoe" in the text? ["person", "city"]')
            return engine_answer(self._settling_answer)
        known = {"person": '{"person": ["Zoe"]}', "city": '{"city": ["Zoe", "Rome"]}', "river": "{}"}
        name, text = next((name, text) for name, text in known.items() if name in question)
        return engine_answer(text, probability=0.9 if name == self._sure_of else 0.6)


@pytest.mark.parametrize(
    ("settling_answer", "cities", "figure"),
    [
        ('["person"]', ("Rome",), "settled"),
        ('["person", "city"]', ("Zoe", "Rome"), "settled"),
        ('["somebody"]', ("Zoe", "Rome"), "unsettled"),
    ],
)
def test_conflicting_types_of_a_mention_are_settled_by_another_question(
    tokenizer, settling_answer, cities, figure
):
    engine = StandInEngine(tokenizer, settling_answer)
    types = ["person", "x", "city", "y", "river"]
    (reply,) = asyncio.run(QuestionAsker(engine, MultiTypeTemplate(2)).ask_all([("Zoe in Rome", types)]))
    assert [answer.type for answer in reply.answers] == types
    assert [answer.mentions for answer in reply.answers] == [("Zoe",), (), cities, (), ()]
    assert engine.calls == [3, 1] and engine.admissions == 4
    assert reply.figures["questions"] == 4 and reply.figures[figure] == 1


@pytest.mark.parametrize(
    ("sure_of", "mentions"),
    [("person", [("Zoe",), ("Rome",)]), ("city", [(), ("Zoe", "Rome")]), ("", [("Zoe",), ("Zoe", "Rome")])],
)
def test_what_no_question_settles_the_score_settles_not_the_order(tokenizer, sure_of, mentions):
    engine = StandInEngine(tokenizer, "?", sure_of)
    types = ["person", "x", "city", "y"]
    (reply,) = asyncio.run(QuestionAsker(engine, MultiTypeTemplate(2)).ask_all([("Zoe in Rome", types)]))
    assert [reply.answers[number].mentions for number in (0, 2)] == mentions
    assert reply.figures["unsettled"] == 1


def test_passages_count_as_done_one_by_one():
    count = WorkCount(rows=20)
    seen = []

    async def ask(passage, types):
        for _ in range(int(passage)):
            await asyncio.sleep(0)
        seen.append(count.rows_done())
        return PassageAnswers((), {})

    with count.counting():
        asyncio.run(ask_concurrently(ask, [("1", ["a", "b"]), ("50", ["a", "b"])]))
    assert seen == [0, 10]


def test_a_broken_answer_breaks_only_the_types_of_its_question():
    answers = parse_answer(MultiTypeTemplate(2), ["a", "b"], engine_answer('{"c": ["d"]}'), "d")
    assert [(answer.type, answer.outcome, answer.mentions) for answer in answers] == [
        ("a", "unparseable", ()),
        ("b", "unparseable", ()),
    ]


def test_each_type_of_a_group_has_the_scores_of_its_own_mentions():
    pieces = (
        AnswerPiece('{"a": ["x', math.log(0.9)),
        AnswerPiece('"], "b": ["x', math.log(0.5)),
        AnswerPiece('"]}', 0.0),
    )
    text = "".join(piece.text for piece in pieces)
    a, b = parse_answer(MultiTypeTemplate(2), ["a", "b"], EngineAnswer(text, "stop", pieces, 3), "x")
    assert a.scores == {"x": pytest.approx(0.45)} and b.scores == {"x": pytest.approx(0.5)}
