"""A reply about a type becomes its description or an outcome; the most frequent types are asked about."""

import asyncio
import json
from collections import Counter

import pytest

from uniner.describe.describer import PROMPT, Describer, TypesToDescribe, count_mentions, judge_description
from uniner.quickstart.corpus import types_of
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.type_replies import type_replies
from uniner.records import Annotation, DescribedType, Entity, from_table
from uniner.storage.folder import Folder
from uniner.teacher.batch.pending_requests import PendingRequests
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Rejection, Teacher
from uniner.teacher.reply_cache import CachedReply, ReplyCache
from uniner.type_descriptions import TypeDescription

GOOD = '{"description": "a work of cinema.", "synonyms": ["Film", "movie", "motion picture", "film"]}'
READ = TypeDescription(description="a work of cinema", synonyms=("film", "motion picture"))


@pytest.mark.parametrize(
    ("reply", "finish", "refusal", "outcome"),
    [
        (GOOD, "stop", None, "ok"),
        (f"```json\n{GOOD}\n```", "stop", None, "ok"),
        (f"```JSON\n{GOOD}\n```", "stop", None, "ok"),
        (GOOD.replace("cinema", "\\ud83d"), "stop", None, "unparseable"),
        (GOOD.replace("Film", "\\ud83d"), "stop", None, "unparseable"),
        (f"<think>a film</think>\n{GOOD}", "stop", None, "ok"),
        (f"Here you are: {GOOD}", "stop", None, "unparseable"),
        (GOOD[:-1], "stop", None, "unparseable"),
        (GOOD, "length", None, "too_long"),
        (GOOD, "content_filter", None, "filtered"),
        ("", "stop", "I will not", "refused"),
        ("I'm sorry, but I can't help with that.", "stop", None, "refused"),
        ('{"description": "", "synonyms": []}', "stop", None, "unparseable"),
        ('{"description": "a film"}', "stop", None, "unparseable"),
        ('{"description": "a film", "synonyms": "movie"}', "stop", None, "unparseable"),
        ('{"description": "a film", "synonyms": [], "more": 1}', "stop", None, "unparseable"),
        ('["a film"]', "stop", None, "unparseable"),
    ],
)
def test_a_reply_is_a_description_or_an_outcome(reply, finish, refusal, outcome):
    assert judge_description("movie", reply, finish, refusal) == (outcome, READ if outcome == "ok" else None)


def annotation(types, outcome="ok", start=0):
    entities = tuple(Entity(text="x", type=name, start=start, end=start + 1) for name in types)
    return Annotation(
        passage_id="p", doc_id="d", text="x", outcome=outcome, reply="", entities=entities, model="m",
        tokens_in=0, tokens_out=0, cost_usd=0.0, attempts=1,
    )  # fmt: skip


def test_the_most_frequent_types_with_a_meaning_are_asked_about():
    rows = [
        annotation(["Person", "city", "person", "misc"]),
        annotation(["city", "river"]),
        annotation(["river", "river", "lake"], start=-1),
        annotation(["lake"] * 9, outcome="too_long"),
    ]
    counts = count_mentions(rows, {"misc"})
    assert counts == {"person": 2, "city": 2, "river": 1}
    types = TypesToDescribe.of(counts, 3, chunk_types=2)
    assert [each.text for each in types.types] == ["city", "person", "river"]
    assert types.chunks() == {"000000": 2, "000002": 1}
    assert types.read_chunk("000002").table.to_pylist() == [{"text": "river", "mentions": 1}]
    assert TypesToDescribe.of(Counter(), 3, 2).chunks() == {}


class FakeTeacher:
    """Answers by type; a type without an answer fails."""

    fields_of = CachedTeacher.fields_of

    def __init__(self, replies):
        self.teacher = Teacher(model="m", prompt=PROMPT, usd_per_million_in=1e6)
        self.replies = replies

    async def ask_about(self, rows, record_of):
        return [record_of(row, self._answer(row.text)) for row in rows], {}

    def _answer(self, name):
        if name not in self.replies:
            return Rejection(outcome="failed", reason="HTTP 500", attempts=3)
        return CachedReply(
            key="k", run="", text=self.replies[name], finish_reason="stop", refusal="", tokens_in=2,
            tokens_out=3, attempts=1,
        )  # fmt: skip


def test_types_may_be_asked_about_in_batches(tmp_path):
    types = TypesToDescribe.of(Counter(movie=3, song=2, poem=1), 3, 2)
    teacher = Teacher(model="m", prompt=PROMPT)
    pending = PendingRequests(
        teacher=teacher, parent=types, cache=ReplyCache.of(Folder(str(tmp_path)), teacher), run="r"
    )
    requests = [pending.requests for pending in pending.unanswered([*types.chunks()], {})]
    assert [len(each) for each in requests] == [2, 1]
    asked = [request["messages"][-1]["content"] for each in requests for request in each.values()]
    assert [text.rsplit("\n\n", 1)[-1] for text in asked] == ["Type: movie", "Type: song", "Type: poem"]


def test_each_type_keeps_its_place_with_an_outcome():
    types = TypesToDescribe.of(Counter(movie=3, song=2, poem=1), 3, 8)
    describer = Describer(FakeTeacher({"movie": GOOD, "song": "no"}))
    chunk = asyncio.run(describer(types.read_chunk("000000")))
    rows = from_table(chunk.table, DescribedType)
    assert [(row.type, row.mentions, row.outcome) for row in rows] == [
        ("movie", 3, "ok"), ("song", 2, "unparseable"), ("poem", 1, "failed"),
    ]  # fmt: skip
    assert (rows[0].description, rows[0].synonyms) == (READ.description, READ.synonyms)
    assert (rows[0].cost_usd, rows[1].reply, rows[2].reply) == (2.0, "no", "HTTP 500")
    assert chunk.figures["synonyms"] == 2
    aside = from_table(describer.set_aside(types.read_chunk("000000"), "it died").table, DescribedType)
    assert {row.outcome for row in aside} == {"poison"}


def test_the_quickstart_s_teacher_describes_each_of_its_types():
    replies = dict(type_replies())
    assert set(replies) == {f"Type: {name}" for name in types_of(DOMAINS)}
    for name in types_of(DOMAINS):
        question = PROMPT.messages(name)[-1]["content"].rsplit("\n\n", 1)[-1]
        outcome, found = judge_description(name, replies[question], "stop", None)
        assert outcome == "ok" and len(found.synonyms) == 2, name
        assert json.loads(replies[question])["description"] == found.description
