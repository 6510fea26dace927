"""Answers that tag each word: places with scores, room in the window, conflicts. No engine."""

import asyncio
import contextlib
import math

import pytest

from uniner.evaluate.systems.windows import WindowedSystem
from uniner.inference.engine import EngineAnswer
from uniner.inference.mention_scores import AnswerPiece
from uniner.inference.questions import QuestionAsker, parse_answer
from uniner.records import Passage
from uniner.tag.tagger import tag_passage
from uniner.templates import Renderer, WordsTemplate

PASSAGE = "Ann left Ann for Bonn"
ANSWER = "Ann B-person left O Ann O for O Bonn B-city"


def answer(text, finish="stop", unsure=None):
    """An answer of a token a word, each sure but those in `unsure`."""
    pieces = tuple(
        AnswerPiece(f" {chunk}", math.log((unsure or {}).get(number, 1.0)))
        for number, chunk in enumerate(text.split())
    )
    return EngineAnswer(text, finish, pieces, len(pieces))


def test_each_place_has_the_probability_of_its_tags_and_of_the_tag_that_ends_it():
    unsure = {0: 0.1, 1: 0.5, 3: 0.8, 5: 0.3, 9: 0.6}  # words do not count, nor does the O of another word
    person, city = parse_answer(WordsTemplate(), ["person", "city"], answer(ANSWER, unsure=unsure), PASSAGE)
    assert (person.spans, person.span_scores) == (((0, 3),), pytest.approx((0.4,)))
    assert person.scores == {"Ann": pytest.approx(0.4)} and person.mentions == ("Ann",)
    assert (city.spans, city.span_scores) == (((17, 21),), pytest.approx((0.6,)))
    assert person.text == city.text == ANSWER


@pytest.mark.parametrize(
    ("text", "finish", "outcome"),
    [(ANSWER, "length", "too_long"), ("Ann B-person", "stop", "unparseable"), ("", "stop", "unparseable")],
)
def test_a_cut_or_broken_answer_is_not_empty(text, finish, outcome):
    answers = parse_answer(WordsTemplate(), ["person", "city"], answer(text, finish), PASSAGE)
    assert [(each.outcome, each.mentions) for each in answers] == [(outcome, ())] * 2


def test_tagging_takes_the_places_that_the_answer_gives():
    document = f"Head. {PASSAGE}"
    passage = Passage(
        passage_id="d-0", doc_id="d", passage_index=0, char_start=6, char_end=len(document),
        text=PASSAGE, n_tokens=9, source="",
    )  # fmt: skip
    row = tag_passage(passage, parse_answer(WordsTemplate(), ["person", "city"], answer(ANSWER), PASSAGE))
    assert [(each.type, each.start, each.end) for each in row.entities] == [
        ("person", 6, 9), ("city", 23, 27)
    ]  # fmt: skip
    assert all(document[each.start : each.end] == each.text for each in row.entities)


class TagEngine:
    """Tags the words that `tags` names, and keeps the limits it was given."""

    def __init__(self, tokenizer, tags, window=600):
        self.tokenizer, self.tags, self.window = tokenizer, tags, window
        self.max_prompt_tokens, self.asked = 512, []

    @contextlib.asynccontextmanager
    async def admitted(self, questions):
        yield

    async def ask(self, prompts, *, answer_limit):
        self.asked += [(len(prompt), answer_limit) for prompt in prompts]
        return [self.answer(self.tokenizer.decode(prompt)) for prompt in prompts]

    def answer(self, prompt):
        passage = prompt.split("Text: ")[1].split(" ASSISTANT:")[0]
        question = prompt.rsplit("USER: ", 1)[1]
        chunks, unsure = [], {}
        for word in passage.split():
            name, score = self.tags.get(word, ("", 1.0))
            if name and f'"{name}"' not in question:
                name, score = "", 1.0
            chunks += [word, f"B-{name}" if name else "O"]
            unsure[len(chunks) - 1] = score
        return answer(" ".join(chunks), unsure=unsure)


class TwoMinds(TagEngine):
    """Takes Ann for whatever it is asked: surest of a city."""

    def answer(self, prompt):
        name, score = ("city", 0.9) if '"city"' in prompt else ("person", 0.7)
        return answer(f"Ann B-{name} left O", unsure={1: score})


def test_places_that_answers_to_several_questions_give_go_to_the_surest(tokenizer):
    reply = asyncio.run(
        QuestionAsker(TwoMinds(tokenizer, {}), WordsTemplate(2)).ask("Ann left", ["person", "x", "city", "y"])
    )
    assert [each.mentions for each in reply.answers] == [(), (), ("Ann",), ()]
    assert [each.spans for each in reply.answers] == [(), (), ((0, 3),), ()]
    assert [each.outcome for each in reply.answers] == ["ok"] * 4 and reply.figures["questions"] == 2


def test_an_answer_has_room_for_the_passage_and_a_passage_without_room_is_not_asked_about(tokenizer):
    passage = " ".join(["Ann", "left"] * 12)
    size = Renderer(tokenizer).answer_size(WordsTemplate(), passage)
    engine = TagEngine(tokenizer, {"Ann": ("person", 0.9)})
    reply = asyncio.run(QuestionAsker(engine, WordsTemplate()).ask(passage, ["person"]))
    ((prompt, limit),) = engine.asked
    assert limit == size.longest > 2 * len(tokenizer(passage).input_ids) and reply.answers[0].outcome == "ok"
    exact = TagEngine(tokenizer, {}, window=prompt + size.usual)
    assert asyncio.run(QuestionAsker(exact, WordsTemplate()).ask(passage, ["x"])).answers[0].outcome == "ok"
    small = TagEngine(tokenizer, {}, window=prompt + size.usual - 4)
    reply = asyncio.run(QuestionAsker(small, WordsTemplate()).ask(passage, ["person"]))
    assert reply.answers[0].outcome == "overlong" and not small.asked


def test_a_long_passage_in_windows_keeps_the_places(tokenizer):
    passage = " ".join(f"then Ann came by {number} times" for number in range(60))
    engine = TagEngine(tokenizer, {"Ann": ("person", 0.9)})
    asker = WindowedSystem(QuestionAsker(engine, WordsTemplate()))
    ((found,),) = [reply.answers for reply in asyncio.run(asker.ask_all([(passage, ["person"])]))]
    places = [place for place in range(len(passage)) if passage.startswith("Ann", place)]
    assert found.outcome == "ok" and len(engine.asked) > 2
    assert found.spans == tuple((place, place + 3) for place in places)
    assert found.span_scores == pytest.approx([0.9] * 60) and found.mentions == ("Ann",)


def test_words_that_an_answer_leaves_out_are_counted(tokenizer):
    class Skips(TagEngine):
        def answer(self, prompt):
            return answer("Ann B-person left O for O Bonn O")

    reply = asyncio.run(QuestionAsker(Skips(tokenizer, {}), WordsTemplate()).ask(PASSAGE, ["person"]))
    assert reply.figures["unread_words"] == 1 and reply.answers[0].spans == ((0, 3),)
