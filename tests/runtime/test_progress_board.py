"""Rows of chunks in work: counted as they are done, told by actors, and never counted twice."""

import asyncio
import threading

import pyarrow as pa
import pytest

from uniner.progress import Progress
from uniner.runtime import chunk_actor
from uniner.runtime.progress_board import ChunksInWork, ProgressBoard
from uniner.runtime.work_count import ActorReport, EngineRoom, WorkCount, expect_work, work_done
from uniner.storage.stage_folder import Chunk, StageFolder


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_share_of_the_units_is_a_share_of_the_rows():
    count = WorkCount(rows=10)
    assert count.rows_done() == 0
    with count.counting():
        expect_work(4)
        assert count.rows_done() == 0
        work_done(3)
        assert count.rows_done() == 7
        expect_work(2)  # windows of passages that were too long
        assert count.rows_done() == 5
        work_done(4)
        assert count.rows_done() == 10, "never more than there are"
    assert count.rows_done() == 10


def test_tasks_and_threads_count_for_the_chunk_that_they_work_on():
    async def work(count, units):
        with count.counting():
            expect_work(10)
            async with asyncio.TaskGroup() as group:
                for _ in range(units):
                    group.create_task(asyncio.to_thread(work_done))
            return count.rows_done()

    async def two_chunks():
        return await asyncio.gather(work(WorkCount(10), 3), work(WorkCount(100), 5))

    assert asyncio.run(two_chunks()) == [3, 50]
    work_done()  # without a count nothing happens


def test_an_actor_tells_how_far_its_chunks_are_until_none_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_actor, "_TELL_S", 0.01)
    monkeypatch.setattr(chunk_actor, "waiting_share", lambda: 0.25)
    told = []

    async def scenario():
        go_on, heard = asyncio.Event(), asyncio.Event()

        class Worker:
            async def __call__(self, chunk):
                expect_work(4)
                work_done(1)
                await go_on.wait()
                return chunk

        async def tell(actor, report):
            told.append((actor, report))
            heard.set()

        def read(key):
            return Chunk("a name of the reader's", pa.table({"outcome": ["ok"] * 8}))

        actor = chunk_actor.ChunkActor(Worker, read, StageFolder(str(tmp_path)), tell=tell)
        work = asyncio.gather(actor("a"), actor("b"))
        while not told or sum(told[-1][1].rows.values()) < 4:
            heard.clear()
            await heard.wait()
        go_on.set()
        await work
        while told[-1][1].rows:
            heard.clear()
            await heard.wait()
        seen = len(told)
        await asyncio.sleep(0.05)  # longer than several reports take
        assert len(told) == seen, "an idle actor says nothing"
        go_on.set()
        await actor("c")
        heard.clear()
        await asyncio.wait_for(heard.wait(), 5)

    asyncio.run(scenario())
    assert ActorReport(rows={"a": 2, "b": 2}, waiting_share=0.25) in [report for _, report in told]
    assert len({actor for actor, _ in told}) == 1


def test_the_waiting_share_is_that_of_the_empty_room_since_the_last_look():
    clock = Clock()
    room = EngineRoom(4, clock)
    for _ in range(6):
        room.enter()  # two more than it has room for, so that none of it is empty
    clock.now += 10
    for _ in range(5):
        room.leave()
    clock.now += 10  # three of four places are empty
    assert room.waiting_share() == pytest.approx((10 * 0 + 10 * 0.75) / 20)
    clock.now += 1
    room.leave()
    clock.now += 3
    assert room.waiting_share() == pytest.approx((1 * 0.75 + 3 * 1) / 4)
    assert room.waiting_share() == 0, "no time has passed"


def test_a_chunk_that_another_actor_begins_anew_counts_once_and_a_dead_actor_is_forgotten():
    clock = Clock()
    board = ProgressBoard(clock)
    board.report("tag", "first", ActorReport(rows={"a": 90, "b": 5}, waiting_share=0.5))
    clock.now += 50
    board.report("tag", "second", ActorReport(rows={"a": 10}, waiting_share=0.1))
    assert board.read("tag") == ActorReport(rows={"a": 10, "b": 5}, waiting_share=pytest.approx(0.3))
    clock.now += 20
    assert board.read("tag") == ActorReport(rows={"a": 10}, waiting_share=0.1)
    board.report("other work", "x", ActorReport(rows={"a": 1}))
    board.report("tag", "second", ActorReport(rows={}, waiting_share=1.0))
    assert board.read("tag") == ActorReport()
    board.forget("tag")
    assert board.read("tag") == ActorReport() and board.read("other work").rows == {"a": 1}


def test_a_report_that_is_read_after_its_chunk_is_finished_does_not_count():
    clock, on_board = Clock(), {"a": 7, "b": 2}
    chunks = ChunksInWork(lambda: ActorReport(rows=on_board, waiting_share=0.5), clock)
    assert chunks.look() == (9, 0.5)
    chunks.finished("a")
    assert chunks.look() == (2, 0.5)
    clock.now += 59
    assert chunks.look() == (2, 0.5)
    clock.now += 2
    del on_board["a"]
    assert chunks.look() == (2, 0.5) and not chunks._finished, "a million keys are not kept"


def test_the_progress_line_has_the_rows_in_work_and_finished_chunks_are_exact(monkeypatch):
    monkeypatch.setattr("uniner.progress._LOOK_SECONDS", 0.01)
    in_work, looked = [40], threading.Event()

    def look():
        looked.set()
        return in_work[0]

    def rows(progress):
        looked.clear()
        assert looked.wait(5)
        looked.clear()
        assert looked.wait(5)  # what the first of two looks found is shown
        return int(progress.line().split(": ")[1].split("/")[0])

    with Progress("tag", 100, "rows", in_work=look) as progress:
        assert rows(progress) == 40
        in_work[0] = 10  # begun anew
        assert rows(progress) == 10
        in_work[0] = 0
        progress.add(50)
        assert rows(progress) == 50
        in_work[0] = 70  # stale for a moment
        assert rows(progress) == 100, "never more than there are"
