"""A paid reply is never paid for again: in other runs, in other chunks, after a crash."""

import asyncio
import contextlib
import threading

import pytest
from aiohttp import web

from uniner.errors import UserError
from uniner.runtime.connection import user_error_in
from uniner.runtime.rate_limits import Meter, RateLimits, local_meter
from uniner.runtime.work_count import WorkCount
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import most_tokens
from uniner.teacher.prompts import published_prompt
from uniner.teacher.replay_server import ReplayServer
from uniner.teacher.reply_cache import ReplyCache, request_key, requests_digest

TEXTS = [f"Ann {n} met Bob." for n in range(40)]
REPLIES = {text: f'[("{text[:6]}", "person")]' for text in TEXTS}


def total(figures, name):
    return sum(figure[name] for figure in figures)


def test_another_run_pays_nothing_whatever_its_chunks(teacher_at, annotate, root):
    cache = StageFolder(f"{root}/cache")
    with ReplayServer(REPLIES) as server:
        rows, figures = annotate(teacher_at(server), TEXTS, cache=cache, chunk_rows=10)
        assert (server.asked, total(figures, "cache_hits"), total(figures, "cache_misses")) == (40, 0, 40)
        assert total(figures, "cost_usd") == pytest.approx(sum(row.cost_usd for row in rows)) != 0
        for texts, chunk_rows in ((TEXTS, 10), (TEXTS, 7), (TEXTS[::-1], 40)):
            again, figures = annotate(
                teacher_at(server), texts, cache=cache, chunk_rows=chunk_rows, run="other", actors=2
            )
            assert server.asked == 40
            assert (total(figures, "cache_hits"), total(figures, "cache_misses")) == (40, 0)
            assert (total(figures, "requests"), total(figures, "cost_usd")) == (0, 0)
            assert total(figures, "saved_usd") == pytest.approx(sum(row.cost_usd for row in rows))
            expected = {row.text: (row.outcome, row.entities, row.cost_usd, row.attempts) for row in rows}
            assert {
                row.text: (row.outcome, row.entities, row.cost_usd, row.attempts) for row in again
            } == expected


def test_each_answer_counts_as_work_done_and_those_of_the_cache_at_once(teacher_at, annotate, tmp_path):
    cache, count, seen = StageFolder(str(tmp_path)), WorkCount(rows=100), []

    class Watching(ReplayServer):
        async def _complete(self, request):
            seen.append(count.rows_done())
            return await super()._complete(request)

    with Watching(REPLIES) as server:
        annotate(teacher_at(server), TEXTS[:5], cache=cache)
        with count.counting():
            annotate(teacher_at(server, in_flight=1), TEXTS[:10], cache=cache)
    assert seen == [0] * 5 + [50, 60, 70, 80, 90]


def test_another_model_prompt_or_parameter_asks_again(teacher_at, annotate, tmp_path):
    cache = StageFolder(str(tmp_path))
    with ReplayServer(REPLIES) as server:
        annotate(teacher_at(server), TEXTS, cache=cache)
        for asked, changes in enumerate(
            [
                {"model": "n"},
                {"temperature": 0.5},
                {"max_reply_tokens": 51},
                {"prompt": published_prompt("definition")},
            ],
            2,
        ):
            annotate(teacher_at(server, **changes), TEXTS, cache=cache)
            assert server.asked == asked * 40
        annotate(teacher_at(server, timeout_s=9.0, usd_per_million_in=2.0), TEXTS, cache=cache)
        assert server.asked == 5 * 40, "time-outs and prices are not part of the key"


def test_only_replies_are_cached(teacher_at, annotate, tmp_path):
    with ReplayServer({**REPLIES, TEXTS[1]: "no list"}) as server:
        for _ in range(2):
            rows, _ = annotate(teacher_at(server), [*TEXTS[:5], "unknown"], cache=StageFolder(str(tmp_path)))
            assert [row.outcome for row in rows] == ["ok", "unparseable", "ok", "ok", "ok", "rejected"]
        assert server.asked == 6 + 1 + 1, (
            "a rejection is not cached: the server may accept the passage another day"
        )


def test_a_passage_of_two_chunks_is_paid_for_and_counted_once(teacher_at, annotate, tmp_path):
    texts = [*TEXTS[:10], *TEXTS[5:15]]
    with ReplayServer(REPLIES) as server:
        rows, figures = annotate(teacher_at(server), texts, cache=StageFolder(str(tmp_path)), chunk_rows=10)
        assert [row.text for row in rows] == texts and {row.outcome for row in rows} == {"ok"}
        assert (server.asked, total(figures, "requests"), total(figures, "cache_hits")) == (15, 15, 5)
        paid, saved = total(figures, "cost_usd"), total(figures, "saved_usd")
        assert paid == pytest.approx(sum(row.cost_usd for row in [*rows[:10], *rows[15:]]))
        assert saved == pytest.approx(sum(row.cost_usd for row in rows[10:15]))


def test_a_passage_that_repeats_in_a_chunk_is_paid_for_once(teacher_at, annotate):
    with ReplayServer(REPLIES) as server:
        rows, figures = annotate(teacher_at(server), [TEXTS[0], TEXTS[1], TEXTS[0]])
    assert [row.text for row in rows] == [TEXTS[0], TEXTS[1], TEXTS[0]]
    assert rows[0].entities == rows[2].entities
    assert (server.asked, figures[0]["requests"]) == (2, 2)


def test_replies_before_a_fatal_error_are_cached(teacher_at, annotate, tmp_path):
    class Locked(ReplayServer):
        async def _complete(self, request):
            if self.asked >= 20:
                self.asked += 1
                return web.json_response({"error": {"message": "no"}}, status=401)
            return await super()._complete(request)

    cache = StageFolder(str(tmp_path))
    with Locked(REPLIES) as server, pytest.raises(ExceptionGroup):
        annotate(teacher_at(server, in_flight=1), TEXTS, cache=cache)
    with ReplayServer(REPLIES) as server:
        rows, _ = annotate(teacher_at(server), TEXTS, cache=cache)
    assert {row.outcome for row in rows} == {"ok"}
    assert server.asked == 20


def test_replies_are_saved_within_a_second_though_the_chunk_is_not_done(
    teacher_at, annotate, tmp_path, wait_until
):
    class Half(ReplayServer):
        async def _complete(self, request):
            if self.asked >= 20:
                self.asked += 1
                await self.gate.wait()
            return await super()._complete(request)

    with Half(REPLIES) as server:
        server.gate = asyncio.Event()
        served, cache = teacher_at(server, timeout_s=60.0), StageFolder(str(tmp_path))
        running = threading.Thread(target=annotate, args=(served, TEXTS), kwargs={"cache": cache})
        running.start()
        requests = [request_key(served.teacher.request(text)) for text in TEXTS]
        reader = ReplyCache(cache, served.teacher.request(""))
        try:
            wait_until(lambda: len(reader.find(requests_digest(requests), requests)) == 20, 30)
            assert running.is_alive()
        finally:
            server._loop.call_soon_threadsafe(server.gate.set)
            running.join()
        assert len(reader.find(requests_digest(requests), requests)) == 40


def test_replies_are_kept_until_they_are_written(teacher_at, annotate, tmp_path, monkeypatch):
    """Storage fails while replies come in, and is well again before its own patience ends."""
    save, fails = ReplyCache.save, [1]

    def failing_save(cache, digest, replies):
        if fails[0]:
            fails[0] -= 1
            raise ConnectionError("500 from the store")
        save(cache, digest, replies)

    monkeypatch.setattr(ReplyCache, "save", failing_save)
    cache, meter = StageFolder(str(tmp_path)), Meter(RateLimits())
    with ReplayServer(REPLIES) as server:
        with contextlib.suppress(ExceptionGroup):  # the save at the end succeeds, also where the run fails
            annotate(teacher_at(server, in_flight=4), TEXTS, cache=cache, meter=meter)
        asked = server.asked
        served = teacher_at(server)
        requests = [request_key(served.teacher.request(text)) for text in TEXTS]
        kept = ReplyCache(cache, served.teacher.request("")).find(requests_digest(requests), requests)
        assert len(kept) == asked, "every reply that was paid for is kept"
        annotate(served, TEXTS, cache=cache)
        assert server.asked == len(TEXTS)
    assert meter.state().in_flight == 0


def test_where_storage_fails_for_good_the_run_fails_and_the_money_counts(
    teacher_at, annotate, tmp_path, monkeypatch
):
    def fail(cache, digest, replies):
        raise UserError("s3://b/c: cannot be reached")

    monkeypatch.setattr(ReplyCache, "save", fail)
    meter = Meter(RateLimits())
    with ReplayServer(REPLIES) as server:
        served = teacher_at(server)
        with pytest.raises((ExceptionGroup, UserError)) as caught:
            annotate(served, TEXTS, cache=StageFolder(str(tmp_path)), meter=meter)
        assert "cannot be reached" in str(user_error_in(caught.value))
        most = sum(served.teacher.usd(*most_tokens(served.teacher.request(text))) for text in TEXTS)
        assert meter.finish("ended") == pytest.approx(most), "nothing counts as unpaid"


@pytest.mark.parametrize("stop", ["the run stops", "another request fails"])
def test_requests_in_flight_come_back_and_are_kept(stop, teacher_at, annotate, tmp_path, wait_until):
    """No request is sent any more, none is lost, and nothing is left in flight."""

    class Slow(ReplayServer):
        def __init__(self):
            super().__init__(REPLIES)
            self.open = asyncio.Event()

        async def _complete(self, request):
            if stop == "another request fails" and self.asked == 7:
                self.asked += 1
                return web.json_response({"error": {"message": "no"}}, status=401)
            response = await super()._complete(request)
            await self.open.wait()
            return response

    class StoppedMeter(Meter):
        def ask(self, *call):
            grant = super().ask(*call)
            if self._stopping:
                heard.set()
            return grant

    heard = threading.Event()
    meter, cache, errors = StoppedMeter(RateLimits()), StageFolder(str(tmp_path)), []
    with Slow() as server:
        served = teacher_at(server, in_flight=8)

        def work():
            try:
                annotate(served, TEXTS, cache=cache, meter=meter)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: server.asked >= 8, 20)
        if stop == "the run stops":
            meter.stop("stopped by SIGTERM")
            assert heard.wait(20), "the actor hears of it while it waits for replies"
        assert thread.is_alive()
        server._loop.call_soon_threadsafe(server.open.set)
        thread.join(20)
        assert not thread.is_alive()
        asked = server.asked
    (error,) = errors
    message = "stopped by SIGTERM" if stop == "the run stops" else "refuses the key"
    assert message in str(error.exceptions[0])
    assert asked < len(TEXTS)
    requests = [request_key(served.teacher.request(text)) for text in TEXTS]
    kept = ReplyCache(cache, served.teacher.request("")).find(requests_digest(requests), requests)
    assert len(kept) == (asked if stop == "the run stops" else asked - 1)
    assert meter.state().in_flight == 0
    usd = sum(served.teacher.usd(reply.tokens_in, reply.tokens_out) for reply in kept.values())
    assert meter.state().spent_usd == pytest.approx(usd)


class RefusingLaterServer(ReplayServer):
    """Refuses the key for one passage once all others are being answered, which takes it half a second."""

    async def _complete(self, request):
        body = await request.json()
        if TEXTS[0] in body["messages"][-1]["content"]:
            while self.asked < 20:
                await asyncio.sleep(0.01)
            return web.json_response({"error": {"message": "key revoked"}}, status=401)
        reply = await super()._complete(request)
        await asyncio.sleep(0.5)
        return reply


def test_an_error_in_one_actor_waits_for_the_paid_replies_of_the_others(teacher_at, tmp_path):
    """Ray ends all actors at the first error."""
    cache, meter = StageFolder(str(tmp_path)), Meter(RateLimits())

    async def ask(served):
        cache_of = ReplyCache(cache, served.teacher.request(""))
        actors = [
            CachedTeacher(served.teacher, served.make_client, local_meter(meter), cache_of, "run")
            for _ in range(2)
        ]
        asked = [
            asyncio.create_task(actor.ask(t))
            for actor, t in zip(actors, (TEXTS[:1], TEXTS[1:21]), strict=True)
        ]
        done, running = await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for actor in actors:
            await actor.close()
        errors = {str(user_error_in(error)) for task in done if (error := task.exception())}
        requests = {request_key(served.teacher.request(text)): None for text in TEXTS[1:21]}
        return errors, len(cache_of.find(requests_digest(requests), requests))

    with RefusingLaterServer(REPLIES) as server:
        errors, kept = asyncio.run(ask(teacher_at(server)))
    assert kept == 20
    assert len(errors) == 1 and "key revoked" in errors.pop()
