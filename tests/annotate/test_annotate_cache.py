"""What was paid for once is never asked again: other runs, other chunks, a crash in the middle."""

import asyncio
import threading
from dataclasses import replace

import pytest
from aiohttp import web

from uniner.storage.stage_folder import StageFolder
from uniner.teacher.completion import Reply
from uniner.teacher.prompts import published
from uniner.teacher.replay_server import RecordedTeacher
from uniner.teacher.reply_cache import Kept, ReplyCache, digest_of, key_of

TEXTS = [f"Ann {n} met Bob." for n in range(40)]
REPLIES = {text: f'[("{text[:6]}", "person")]' for text in TEXTS}


def total(figures, name):
    return sum(figure[name] for figure in figures)


def kept(number, run="run"):
    return Kept.of(key_of({"n": number}), Reply(f"reply {number}", "stop", "", 10, 1, 1), run)


def test_replies_come_back_from_parts_from_the_whole_and_through_the_index(root):
    scope = {"model": "m"}
    cache, replies = ReplyCache(StageFolder(root), scope), {kept(n).key: kept(n) for n in range(6)}
    keys = list(replies)
    digest = digest_of(keys)
    assert cache.find(digest, keys) == {}
    cache.save(digest, [replies[key] for key in keys[:2]])
    cache.save(digest, [replies[key] for key in keys[2:4]])
    assert cache.find(digest, keys) == {key: replies[key] for key in keys[:4]}
    cache.fold(digest)
    assert len(StageFolder(root).tree()) == 1, "one file is in the place of the parts"
    assert cache.find(digest, keys) == {key: replies[key] for key in keys[:4]}
    other = digest_of(keys[3:])
    assert ReplyCache(StageFolder(root), scope).find(other, keys[3:]) == {}
    index = ReplyCache(StageFolder(root), scope).read_index("run")
    assert index.tokens_paid == (40, 4)
    assert ReplyCache(StageFolder(root), scope, index).find(other, keys[3:]) == {
        keys[3]: replace(replies[keys[3]], run="")
    }
    assert ReplyCache(StageFolder(root), scope).read_index("another").tokens_paid == (0, 0)
    assert ReplyCache(StageFolder(root), {"model": "n"}).find(digest, keys) == {}


def test_a_part_that_goes_while_it_is_read_is_found_in_the_whole(tmp_path, monkeypatch):
    cache, digest = ReplyCache(StageFolder(str(tmp_path)), {}), digest_of([kept(1).key, kept(2).key])
    cache.save(digest, [kept(1)])
    cache.save(digest, [kept(2)])
    read, folded = cache._read, threading.Event()

    def read_late(name, columns=None):
        if not folded.is_set():
            folded.set()
            ReplyCache(StageFolder(str(tmp_path)), {}).fold(digest)
        return read(name, columns)

    monkeypatch.setattr(cache, "_read", read_late)
    assert len(cache.find(digest, [kept(1).key, kept(2).key])) == 2


def test_another_run_pays_nothing_whatever_its_chunks(teacher, annotate, root):
    cache = StageFolder(f"{root}/cache")
    with RecordedTeacher(REPLIES) as server:
        rows, figures = annotate(teacher(server), TEXTS, cache=cache, chunk_rows=10)
        assert (server.asked, total(figures, "cache_hits"), total(figures, "cache_misses")) == (40, 0, 40)
        assert total(figures, "cost_usd") == pytest.approx(sum(row.cost_usd for row in rows)) != 0
        for texts, chunk_rows in ((TEXTS, 10), (TEXTS, 7), (TEXTS[::-1], 40)):
            again, figures = annotate(
                teacher(server), texts, cache=cache, chunk_rows=chunk_rows, run="other", actors=2
            )
            assert server.asked == 40
            assert (total(figures, "cache_hits"), total(figures, "cache_misses")) == (40, 0)
            assert (total(figures, "requests"), total(figures, "cost_usd")) == (0, 0)
            assert total(figures, "saved_usd") == pytest.approx(sum(row.cost_usd for row in rows))
            said = {row.text: (row.outcome, row.entities, row.cost_usd, row.attempts) for row in rows}
            assert {
                row.text: (row.outcome, row.entities, row.cost_usd, row.attempts) for row in again
            } == said


def test_another_model_prompt_or_parameter_asks_again(teacher, annotate, tmp_path):
    cache = StageFolder(str(tmp_path))
    with RecordedTeacher(REPLIES) as server:
        annotate(teacher(server), TEXTS, cache=cache)
        for asked, changes in enumerate(
            [
                {"model": "n"},
                {"temperature": 0.5},
                {"max_reply_tokens": 51},
                {"prompt": published("definition")},
            ],
            2,
        ):
            annotate(teacher(server, **changes), TEXTS, cache=cache)
            assert server.asked == asked * 40
        annotate(teacher(server, timeout_s=9.0, usd_per_million_in=2.0), TEXTS, cache=cache)
        assert server.asked == 5 * 40, "where and how it is asked is no part of the key"


def test_only_replies_are_kept(teacher, annotate, tmp_path):
    with RecordedTeacher({**REPLIES, TEXTS[1]: "no list"}) as server:
        for _ in range(2):
            rows, _ = annotate(teacher(server), [*TEXTS[:5], "unknown"], cache=StageFolder(str(tmp_path)))
            assert [row.outcome for row in rows] == ["ok", "unparseable", "ok", "ok", "ok", "rejected"]
        assert server.asked == 6 + 1 + 1, "the server may take another day what it rejected, if it takes any"


def test_a_passage_of_two_chunks_is_paid_for_and_counted_once(teacher, annotate, tmp_path):
    texts = [*TEXTS[:10], *TEXTS[5:15]]
    with RecordedTeacher(REPLIES) as server:
        rows, figures = annotate(teacher(server), texts, cache=StageFolder(str(tmp_path)), chunk_rows=10)
        assert [row.text for row in rows] == texts and {row.outcome for row in rows} == {"ok"}
        assert (server.asked, total(figures, "requests"), total(figures, "cache_hits")) == (15, 15, 5)
        paid, saved = total(figures, "cost_usd"), total(figures, "saved_usd")
        assert paid == pytest.approx(sum(row.cost_usd for row in [*rows[:10], *rows[15:]]))
        assert saved == pytest.approx(sum(row.cost_usd for row in rows[10:15]))


def test_what_two_actors_paid_for_twice_counts_twice(tmp_path):
    cache = ReplyCache(StageFolder(str(tmp_path)), {})
    for others in (1, 2):
        cache.save(digest_of([kept(0).key, kept(others).key]), [kept(0), kept(others)])
    assert ReplyCache(StageFolder(str(tmp_path)), {}).read_index("run").tokens_paid == (40, 4)


def test_a_passage_that_comes_twice_in_a_chunk_is_paid_for_once(teacher, annotate):
    with RecordedTeacher(REPLIES) as server:
        rows, figures = annotate(teacher(server), [TEXTS[0], TEXTS[1], TEXTS[0]])
    assert [row.text for row in rows] == [TEXTS[0], TEXTS[1], TEXTS[0]]
    assert rows[0].entities == rows[2].entities
    assert (server.asked, figures[0]["requests"]) == (2, 2)


def test_where_the_stage_must_end_what_came_before_is_kept(teacher, annotate, tmp_path):
    class Locked(RecordedTeacher):
        async def _complete(self, request):
            if self.asked >= 20:
                self.asked += 1
                return web.json_response({"error": {"message": "no"}}, status=401)
            return await super()._complete(request)

    cache = StageFolder(str(tmp_path))
    with Locked(REPLIES) as server, pytest.raises(ExceptionGroup):
        annotate(teacher(server, in_flight=1), TEXTS, cache=cache)
    with RecordedTeacher(REPLIES) as server:
        rows, _ = annotate(teacher(server), TEXTS, cache=cache)
    assert {row.outcome for row in rows} == {"ok"}
    assert server.asked == 20


def test_replies_are_safe_a_second_later_though_the_chunk_is_not_done(
    teacher, annotate, tmp_path, wait_until
):
    class Half(RecordedTeacher):
        async def _complete(self, request):
            if self.asked >= 20:
                self.asked += 1
                await self.gate.wait()
            return await super()._complete(request)

    with Half(REPLIES) as server:
        server.gate = asyncio.Event()
        settings, cache = teacher(server, timeout_s=60.0), StageFolder(str(tmp_path))
        running = threading.Thread(target=annotate, args=(settings, TEXTS), kwargs={"cache": cache})
        running.start()
        requests = [key_of(settings.request(text)) for text in TEXTS]
        seen = ReplyCache(cache, settings.request(""))
        try:
            wait_until(lambda: len(seen.find(digest_of(requests), requests)) == 20, 30)
            assert running.is_alive()
        finally:
            server._loop.call_soon_threadsafe(server.gate.set)
            running.join()
        assert len(seen.find(digest_of(requests), requests)) == 40
