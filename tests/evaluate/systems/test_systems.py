"""Prompts and parsing of answers. No Ray, no engine; the chat model over real HTTP."""

import asyncio
import contextlib
import json
from functools import partial

import pytest
from aiohttp import web

from uniner.evaluate.systems import ScoredSpan, parse_replies, tagged_answer
from uniner.evaluate.systems.bert import LabelledWord, label_words, read_spans
from uniner.evaluate.systems.chat import PROMPT, ChatModel
from uniner.evaluate.systems.instructed import FORMS, InstructedModel
from uniner.evaluate.systems.instructions import INSTRUCTIONS, parse_labelled
from uniner.evaluate.systems.instructuie import InstructUIEModel, parse, prompt
from uniner.gold.records import GoldEntity
from uniner.inference.engine import EngineAnswer
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Teacher
from uniner.teacher.openai_client import OpenAIClient, OpenAIServer
from uniner.teacher.replay_server import ReplayServer
from uniner.teacher.reply_cache import ReplyCache

PUBLISHED, JSON = INSTRUCTIONS["published"], INSTRUCTIONS["json"]


def test_the_published_prompt_word_for_word():
    types = ["Organization", "Person", "Location", "Miscellaneous"]
    assert PUBLISHED.groups(types) == [tuple(types)]
    assert PUBLISHED.text("Ann.", types) == (
        "Please identify Organization, Person, Location, and Miscellaneous Entity from the given text, "
        "output using the format as:\n\nEntity: Organization: None | Person: None | Location: Word1, Word2 | "
        "Miscellaneous: Word3\n\nText: Ann.\n\nEntity:"
    )
    assert "identify city Entity from" in PUBLISHED.text("Ann.", ["city"])
    assert "Entity: a: Word1, Word2 | b: Word3\n" in PUBLISHED.text("Ann.", ["a", "b"])


@pytest.mark.parametrize(
    ("answer", "mentions"),
    [
        ("person: Ann Lee, Bo | city: None", {"person": ("Ann Lee", "Bo"), "city": ()}),
        ("Entity: Person: Ann\nCity: 'Rome', Rome\n", {"person": ("Ann",), "city": ("Rome",)}),
        ("person: Ann | planet: Mars", {"person": ("Ann",), "city": ()}),
        ("None.", {"person": (), "city": ()}),
        ("I found Ann.", None),
        ("", None),
    ],
)
def test_answers_of_the_published_form(answer, mentions):
    assert PUBLISHED.parse(["person", "city"], answer) == mentions


@pytest.mark.parametrize(
    ("answer", "mentions"),
    [
        ('Sure! Here they are: ["Ann", "Bo", "Ann"]. Anything else?', ("Ann", "Bo")),
        ("['Ann', \"O'Hara\"]", ("Ann", "O'Hara")),
        ("[1] gives []", ()),
        ('["Ann", 3]', None),
        ('["\\ud800"]', None),
        ("Ann and Bo", None),
        ('["Ann", "B', None),
    ],
)
def test_a_list_is_found_in_an_answer_and_a_broken_list_is_not_empty(answer, mentions):
    assert JSON.parse(["person"], answer) == (None if mentions is None else {"person": mentions})


def test_the_longer_of_two_types_is_matched_and_types_are_not_patterns():
    parts = ["music genre: jazz", "music: band", "c++ (language): Rust"]
    types = ["music", "music genre", "c++ (language)"]
    mentions = {"music": ("band",), "music genre": ("jazz",), "c++ (language)": ("Rust",)}
    assert parse_labelled(types, parts) == mentions


def test_prompt_forms():
    assert FORMS["vicuna"].endswith("questions. USER: {instruction} ASSISTANT:")
    assert FORMS["alpaca"].endswith("\n\n### Instruction:\n{instruction}\n\n### Response:")
    assert prompt("Ann.", ["person", "city"]) == (
        "Please list all entity words in the text that fit the category."
        'Output format is "type1: word1; type2: word2". \nOption: person, city \nText: Ann. \nAnswer:'
    )


def test_a_label_matches_case_insensitively_beyond_ascii():
    assert parse_labelled(["location", "city"], ["LOCAT\u0130ON: Rome"]) == {
        "location": ("Rome",),
        "city": (),
    }


@pytest.mark.parametrize("nothing", ["None.", "(none)", "N/A.", "none"])
def test_spellings_of_none_are_not_mentions(nothing):
    mentions = parse_labelled(["person", "city"], [f"person: {nothing}", "city: Rome."])
    assert mentions == {"person": (), "city": ("Rome.",)}


def test_instructuie_s_answers():
    types = ["person", "city"]
    answer = "person: Ann; person: Bo"

    def outcomes(text):
        return [reply.outcome for reply in parse_replies(types, text, "", parse)]

    assert [reply.mentions for reply in parse_replies(types, answer, "", parse)] == [("Ann", "Bo"), ()]
    assert outcomes("None") == ["ok", "ok"]
    assert outcomes("Ann is here") == ["unparseable"] * 2
    cut = parse_replies(types, answer, "too_long", parse)
    assert [(reply.outcome, reply.mentions, reply.text) for reply in cut] == [("too_long", (), answer)] * 2


def test_words_are_labelled_and_labels_give_spans():
    words = [
        LabelledWord(1, 0, 3),
        LabelledWord(2, 4, 7),
        LabelledWord(4, 8, 11),
        LabelledWord(5, 12, 16),
    ]  # Ann Lee saw Rome
    entities = [GoldEntity(0, 7, "Ann Lee", "person"), GoldEntity(12, 16, "Rome", "city")]
    labels = label_words(words, [GoldEntity(0, 3, "Ann", "city"), *entities])
    assert labels == ["B-person", "I-person", "O", "B-city"]
    spans = read_spans(words, labels, [0.5, 0.5, 1.0, 0.9])
    assert spans == [("person", 0, 7, 0.25), ("city", 12, 16, 0.9)]
    broken = read_spans(words, ["I-city", "I-city", "I-person", "B-person"], [1, 1, 1, 1])
    assert [span[:3] for span in broken] == [("city", 0, 7), ("person", 8, 11), ("person", 12, 16)]


def test_a_tagged_answer_has_each_mention_once_and_all_spans():
    spans = [ScoredSpan(9, 12, 0.9), ScoredSpan(0, 3, 0.5), ScoredSpan(5, 7, 0.7)]
    person, city = tagged_answer("Ann, Bo, Ann", {"person": spans, "city": []}).answers
    assert person.scores == {"Ann": 0.9, "Bo": 0.7}
    assert person.spans == ((0, 3), (5, 7), (9, 12))
    assert (city.outcome, city.mentions) == ("ok", ())


class Server(ReplayServer):
    """Answers a question depending on its passage."""

    async def _complete(self, request):
        self.asked += 1
        body = await request.json()
        question = body["messages"][-1]["content"]
        if "Refused" in question:
            error = {"message": "no", "code": "content_filter"}
            return web.json_response({"error": error}, status=400)
        reply = "person: Ann | city: None" if "Ann" in question else "Nothing at all."
        return web.json_response(self._completion(body["model"], question, reply))


def test_a_chat_model_is_asked_once_a_passage_and_never_again(tmp_path):
    questions = [("Ann is here.", ["person", "city"]), ("Who?", ["person"]), ("Refused.", ["city"])]
    with Server({}) as server:
        teacher = Teacher(model="m", prompt=PROMPT, max_reply_tokens=50, usd_per_million_in=1.0)
        connection = OpenAIServer(base_url=server.base_url, api_key="key", retries=0)

        async def ask():
            scope = teacher.request("")
            cache = ReplyCache(
                StageFolder(str(tmp_path)),
                scope,
                ReplyCache(StageFolder(str(tmp_path)), scope).read_index("r"),
            )
            cached = CachedTeacher(teacher, partial(OpenAIClient, teacher, connection), cache=cache, run="r")
            try:
                return await ChatModel(cached, PUBLISHED).ask_all(questions)
            finally:
                await cached.close()

        first, second, third = asyncio.run(ask())
        assert [(reply.type, reply.outcome, reply.mentions) for reply in first.answers] == [
            ("person", "ok", ("Ann",)),
            ("city", "ok", ()),
        ]
        assert [reply.outcome for reply in second.answers] == ["unparseable"]
        assert [reply.outcome for reply in third.answers] == ["filtered"]
        assert (first.figures["requests"], server.asked) == (3, 3)
        again = asyncio.run(ask())
        assert [answer.answers for answer in again] == [answer.answers for answer in (first, second, third)]
        assert server.asked == 4, "only the rejected request is sent again, as the server may accept it later"
        assert json.dumps(again[0].figures)


def test_instructuie_runs_through_transformers_without_cutting_prompts(tiny_t5):
    system = InstructUIEModel(tiny_t5, 200, 8, batch_passages=2, on_gpu=False, dtype="float32")
    questions = [("Ann is in Rome.", ["person", "city"]), ("Ann " * 200, ["city"]), ("Bo.", ["city"])] * 2
    answers = asyncio.run(system.ask_all(questions))
    assert [[reply.type for reply in answer.answers] for answer in answers] == [
        types for _, types in questions
    ]
    outcomes = [{reply.outcome for reply in answer.answers} for answer in answers]
    assert outcomes[1] == outcomes[4] == {"overlong"}
    assert all(outcomes[place] <= {"ok", "unparseable", "too_long"} for place in (0, 2, 3, 5))
    assert [answer.answers for answer in answers[:3]] == [answer.answers for answer in answers[3:]]
    assert "prompt_tokens" in answers[0].figures and not answers[1].figures


class Echo:
    """An engine that gives every prompt the same answer, and keeps the prompts as text."""

    max_prompt_tokens = 300

    def __init__(self, tokenizer, text, finish="stop"):
        self.tokenizer, self.answer, self.prompts = tokenizer, EngineAnswer(text, finish, (), 3), []

    @contextlib.asynccontextmanager
    async def admitted(self, questions):
        yield

    async def ask(self, prompts):
        self.prompts += [self.tokenizer.decode(ids) for ids in prompts]
        return [self.answer for _ in prompts]


def test_an_instruction_tuned_model_is_asked_in_its_own_prompt_form(tokenizer):
    def ask(engine, kind, passage):
        (answer,) = asyncio.run(
            InstructedModel(engine, FORMS[kind], JSON).ask_all([(passage, ["city", "person"])])
        )
        return [(reply.type, reply.outcome, reply.mentions, reply.scores) for reply in answer.answers]

    engine = Echo(tokenizer, 'Here: ["Rome"]')
    replies = ask(engine, "vicuna", "Ann </s> {instruction} Rome.")
    assert replies == [("city", "ok", ("Rome",), {}), ("person", "ok", ("Rome",), {})]
    assert len(engine.prompts) == 2
    assert engine.prompts[0].endswith(" ASSISTANT:") and "USER: Text: Ann </s> {" in engine.prompts[0]
    assert ask(engine, "alpaca", "x " * 400) == [(name, "overlong", (), {}) for name in ("city", "person")]
    broken = ask(Echo(tokenizer, "I think Rome"), "alpaca", "Rome.")
    assert [outcome for _, outcome, _, _ in broken] == ["unparseable"] * 2
    cut = ask(Echo(tokenizer, '["Rome"', "length"), "alpaca", "Rome.")
    assert [outcome for _, outcome, _, _ in cut] == ["too_long"] * 2
