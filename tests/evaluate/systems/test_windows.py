"""Passages longer than a model's window: asked about in overlapping windows, each mention once."""

import asyncio
import json
import re

import pytest

from uniner.evaluate.systems.windows import WindowedSystem
from uniner.inference.engine import EngineAnswer
from uniner.inference.mention_scores import AnswerPiece
from uniner.inference.questions import PassageAnswers, QuestionAsker, TypeAnswer
from uniner.passages import TokenizedText
from uniner.templates import MultiTypeTemplate, SingleTypeTemplate


class NameFinder:
    """A system that finds capitalised words and the longest prompt's rest; types that end in ! are long."""

    max_prompt_tokens = 80

    def __init__(self, tokenizer):
        self.tokenizer, self.sent = tokenizer, []

    async def ask_all(self, questions):
        return [self.answer(passage, types) for passage, types in questions]

    def answer(self, passage, types):
        size = len(TokenizedText(passage, self.tokenizer))
        answers = []
        for name in types:
            if size + (40 if name.endswith("!") else 20) > self.max_prompt_tokens:
                answers.append(TypeAnswer(name, "overlong", {}))
                continue
            self.sent.append((passage, name))
            names = re.findall(r"[A-Z]\w+(?: [A-Z]\w+)*", passage)
            broken = "BROKEN" in passage
            scores = {} if broken else {mention: len(passage) / 1000 for mention in names}
            answers.append(TypeAnswer(name, "unparseable" if broken else "ok", scores, json.dumps(names)))
        return PassageAnswers(tuple(answers), {"questions": len(types)})


def ask(system, *questions):
    return asyncio.run(WindowedSystem(system).ask_all(questions))


LONG = " ".join(f"then some words about Ann{number} Lee{number} came along." for number in range(40))
NAMES = {f"Ann{number} Lee{number}" for number in range(40)}


def test_a_long_passage_is_answered_as_a_whole_each_mention_once(tokenizer):
    system = NameFinder(tokenizer)
    short, long, other = ask(system, ("Bo left.", ["a"]), (LONG, ["a", "b!"]), ("Cy.", ["a", "b!"]))
    assert short.answers[0].mentions == ("Bo",)
    assert other.answers[1].mentions == ("Cy",)
    assert [answer.type for answer in long.answers] == ["a", "b!"]
    for answer in long.answers:
        assert answer.outcome == "ok"
        assert set(answer.mentions) >= {f"Ann{number} Lee{number}" for number in range(40)}, (
            "none is cut in two"
        )
    assert max(len(passage) for passage, name in system.sent if name == "b!") < max(
        len(passage) for passage, name in system.sent if name == "a"
    ), "each question has the longest windows that fit it"
    assert long.figures["windows"] > 5
    windows = [passage for passage, name in system.sent if name == "a" and "Ann7 Lee7" in passage]
    assert long.answers[0].scores["Ann7 Lee7"] == max(map(len, windows)) / 1000, "the highest of its windows"


def test_a_broken_window_breaks_the_answer_and_a_long_question_stays_overlong(tokenizer):
    system = NameFinder(tokenizer)
    (broken,) = ask(system, (f"{LONG} BROKEN", ["a"]))
    assert (broken.answers[0].outcome, broken.answers[0].mentions) == ("unparseable", ())
    system.max_prompt_tokens = 20
    (overlong,) = ask(system, (LONG, ["a"]))
    assert [answer.outcome for answer in overlong.answers] == ["overlong"]


class Engine:
    """Answers each question with the names in its prompt, by the student's own rendering."""

    def __init__(self, tokenizer, max_prompt_tokens):
        self.tokenizer, self.max_prompt_tokens = tokenizer, max_prompt_tokens

    def admitted(self, questions):
        class Room:
            async def __aenter__(self): ...
            async def __aexit__(self, *_): ...

        return Room()

    async def ask(self, prompts):
        assert all(len(prompt) <= self.max_prompt_tokens for prompt in prompts)
        answers = []
        for prompt in prompts:
            names = re.findall(r"Ann\d+ Lee\d+", self.tokenizer.decode(prompt))
            text = json.dumps({"person": names} if "these" in self.tokenizer.decode(prompt) else names)
            answers.append(EngineAnswer(text, "stop", (AnswerPiece(text, -0.1),), 4, 5))
        return answers


@pytest.mark.parametrize("template", [SingleTypeTemplate(), MultiTypeTemplate()])
def test_a_student_is_never_asked_more_than_its_window(tokenizer, template):
    asker = QuestionAsker(Engine(tokenizer, 150), template)
    (answer,) = ask(asker, (LONG, ["person"]))
    assert answer.answers[0].outcome == "ok"
    assert set(answer.answers[0].mentions) == NAMES
