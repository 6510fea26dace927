"""The generator: outcomes, cached replies, briefs that crash the engine."""

import asyncio
from collections import Counter
from functools import partial

import pytest

from uniner.generate.briefs import PROMPT
from uniner.generate.generator import Generator, judge_passage
from uniner.records import BRIEF, Brief, GeneratedPassage, from_table, to_table
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Teacher
from uniner.teacher.openai_client import OpenAIClient, OpenAIServer
from uniner.teacher.reply_cache import ReplyCache

TEACHER = Teacher(
    model="m",
    prompt=PROMPT,
    temperature=1.0,
    max_reply_tokens=500,
    usd_per_million_in=1.0,
    usd_per_million_out=2.0,
)


def generate(server, briefs, cache, run="run"):
    """Have all chunks written as an actor would. Returns the passages and each chunk's figures."""
    connection = OpenAIServer(base_url=server.base_url, api_key="key", in_flight=4, retries=2)

    async def work():
        make_client = partial(OpenAIClient, TEACHER, connection)
        reply_cache = ReplyCache(cache, TEACHER.request(""))
        worker = Generator(CachedTeacher(TEACHER, make_client, cache=reply_cache, run=run))
        return [await worker(briefs.read_chunk(key)) for key in briefs.chunks()]

    done = asyncio.run(work())
    return [row for chunk in done for row in from_table(chunk.table, GeneratedPassage)], [
        chunk.figures for chunk in done
    ]


def test_a_brief_that_crashes_the_engine_keeps_its_place_and_the_reason(make_briefs):
    chunk = make_briefs().read_chunk(min(make_briefs().chunks()))
    teacher = CachedTeacher(TEACHER, make_client=lambda gate: None)
    done = Generator(teacher).set_aside(chunk, "the reason")
    rows = from_table(done.table, GeneratedPassage)
    assert len(rows) == chunk.table.num_rows
    assert {(row.outcome, row.reply, row.text) for row in rows} == {("poison", "the reason", "")}


def test_a_bad_reply_is_an_outcome_without_a_passage(make_briefs, writing_server, tmp_path):
    sorry = "I'm sorry, but I cannot write that."
    replies = {
        ("contract law", 2): ("length", "In the year"),
        ("contract law", 3): ("stop", sorry),
        ("contract law", 4): ("content_filter", "In the"),
        ("contract law", 5): ("rejected", "not this one"),
        ("contract law", 6): ("stop", "<think>A passage. How?</think>\n "),
        ("contract law", 7): ("stop", "<think>A passage. How?</think>\nThe court of Bonn."),
    }
    with writing_server(replies) as server:
        briefs = make_briefs(domains={"contract law": 8})
        rows, figures = generate(server, briefs, StageFolder(str(tmp_path)))
    passages = {int(row.doc_id[-7:]): (row.outcome, row.text, row.reply) for row in rows}
    written = "In contract law, Ann Smith met {} people of Acme in Bonn on that day."
    assert passages[1] == ("ok", written.format(1), f"  {written.format(1)}\n")
    assert passages[2] == ("too_long", "", "In the year")
    assert passages[3] == ("refused", "", sorry)
    assert passages[4][:2] == ("filtered", "")
    assert passages[5][:2] == ("rejected", "")
    assert "not this one" in passages[5][2]
    assert passages[6][:2] == ("empty", "")
    assert passages[7][:2] == ("ok", "The court of Bonn.")
    assert {row.source for row in rows} == {"generated:contract law"}
    assert sum(row.cost_usd for row in rows) == pytest.approx(figures[0]["cost_usd"]) != 0
    long_letter = "I am sorry to tell you that the hive is lost. " * 9
    assert judge_passage(long_letter, "stop", "", 100) == ("ok", long_letter.strip())
    assert judge_passage("Text.", "stop", "No.", 100) == ("refused", "")


def test_passages_before_a_fatal_error_are_not_paid_for_again(
    make_briefs, texts_of, writing_server, tmp_path
):
    briefs, cache = make_briefs(), StageFolder(str(tmp_path))
    with writing_server(free=20) as server, pytest.raises(ExceptionGroup):
        generate(server, briefs, cache)
    with writing_server() as again:
        rows, figures = generate(again, briefs, cache)
        assert server.briefs + again.briefs == Counter(dict.fromkeys(texts_of(briefs), 1))
        assert len(server.briefs) == 20
        assert sum(figure["requests"] for figure in figures) == len(rows) == 55, "paid for by the same run"
        # At temperature 1 another reply would differ: only cached ones can be equal.
        assert generate(again, briefs, cache, "other")[0] == rows
        assert again.asked == 35


def test_a_slow_reply_keeps_no_other_request_waiting(work_beside_a_request):
    teacher = CachedTeacher(TEACHER, make_client=lambda gate: None)
    brief = Brief(doc_id="d", source="generated:law", text="Domain: law", words=2)
    chunk, judge = Chunk("c", to_table([brief], BRIEF)), "uniner.generate.generator.judge_passage"
    written = work_beside_a_request(Generator(teacher), teacher, chunk, "Ann left.", judge)
    assert [row.text for row in from_table(written.table, GeneratedPassage)] == ["Ann left."]
