"""A row that crashes its worker is found and set aside; chunks worked on beside it are not."""

import asyncio
from dataclasses import replace

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.runtime.chunk_actor import ChunkActor
from uniner.runtime.crash_log import CrashHistory, CrashLog, remove_crash_logs
from uniner.storage.manifest import ChunkEntry, Identity
from uniner.storage.stage_folder import Chunk, StageFolder


class Death(BaseException):
    """The end of the process: nothing after it runs."""


class Worker:
    """Crashes on the given rows; records its calls and how many chunks were in hand."""

    def __init__(self, deadly, calls, seconds=0.01):
        self.deadly, self.calls, self.seconds, self.in_hand = deadly, calls, seconds, 0

    async def __call__(self, chunk):
        rows = chunk.table.column("text").to_pylist()
        self.in_hand += 1
        await asyncio.sleep(self.seconds)
        self.calls.append((rows, self.in_hand))
        if self.deadly(rows):
            raise Death
        self.in_hand -= 1
        return Chunk(
            chunk.key, pa.table({"text": rows, "outcome": ["ok"] * len(rows)}), figures={"n": len(rows)}
        )

    def set_aside(self, chunk, reason):
        rows = chunk.table.column("text").to_pylist()
        rejects = [{"row": row, "reason": reason} for row in rows]
        return Chunk(chunk.key, pa.table({"text": rows, "outcome": ["poison"] * len(rows)}), rejects=rejects)


def run(folder, chunks, deadly, max_crashes, driver="d", lives=50):
    """Work on all chunks, with a new actor after each crash, as Ray does. Returns calls and crashes."""
    calls = []

    async def live(left):
        actor = make_actor(folder, Worker(deadly, calls), chunks, max_crashes, driver)
        await asyncio.gather(*(actor(chunk.key) for chunk in left))

    for deaths in range(lives):
        left = [chunk for chunk in chunks if chunk.key not in folder.chunk_keys()]
        try:
            asyncio.run(live(left))
        except Death:
            continue
        remove_crash_logs(folder)
        return calls, deaths
    raise AssertionError("the run does not end")


@pytest.fixture
def folder(tmp_path):
    return StageFolder(str(tmp_path))


def make_actor(folder, worker, chunks, max_crashes, driver="d"):
    tables = {chunk.key: chunk for chunk in chunks}
    return ChunkActor(lambda: worker, tables.__getitem__, folder, driver, max_crashes)


def chunk(key, *rows):
    return Chunk(key, pa.table({"text": list(rows)}))


def outcomes(folder, key):
    return [tuple(row.values()) for row in folder.read_chunk(key).table.to_pylist()]


@pytest.mark.parametrize("max_crashes", [1, 3])
def test_two_rows_that_kill_are_set_aside_and_all_others_are_worked_on(folder, max_crashes):
    chunks = [chunk("a", "a0", "a1"), chunk("b", "b0", "BAD1", "b2", "BAD3", "b4"), chunk("c", "c0")]
    calls, deaths = run(folder, chunks, lambda rows: any("BAD" in row for row in rows), max_crashes)
    assert outcomes(folder, "a") == [("a0", "ok"), ("a1", "ok")]
    assert outcomes(folder, "b") == [
        ("b0", "ok"), ("BAD1", "poison"), ("b2", "ok"), ("BAD3", "poison"), ("b4", "ok"),
    ]  # fmt: skip
    assert [reject["row"] for reject in folder.read_rejects("b")] == ["BAD1", "BAD3"]
    assert "died 2 times" in folder.read_rejects("b")[0]["reason"]
    assert folder.read_summary("b").figures == {"n": 3}
    assert not [name for name in folder.sizes() if name.startswith("crashes-")]
    assert deaths == (5 if max_crashes == 1 else max_crashes + 2 + max_crashes - 1 + 2)
    assert {in_hand for rows, in_hand in calls if len(rows) == 1 and "c0" not in rows} == {1}


def test_an_engine_that_dies_of_every_row_ends_the_run_and_is_not_the_rows_fault(folder):
    rows = chunk("a", *map(str, range(12)))
    with pytest.raises(UserError, match=r"crashed on every row tried in chunk a.*max_num_seqs"):
        run(folder, [rows], lambda rows: True, 1)
    assert not folder.chunk_keys() and not folder.sizes(), "with other settings it is tried anew"
    run(folder, [rows], lambda rows: any(row in ("0", "1", "9") for row in rows), 1)
    assert folder.read_summary("a").outcomes == {"ok": 9, "poison": 3}


def test_a_machine_that_is_lost_again_and_again_makes_no_row_poison(folder):
    """Three times with the chunk in hand, and once more while a row is tried alone: all rows come out ok."""
    lost = iter([True] * 4)
    run(folder, [chunk("a", *map(str, range(20)))], lambda rows: next(lost, False) and rows != ["0"], 3)
    assert outcomes(folder, "a") == [(str(n), "ok") for n in range(20)]


def test_a_chunk_that_waits_for_its_turn_is_not_blamed(folder):
    CrashLog(folder, "a").write(CrashHistory(driver="d"))  # an actor crashed on it: it is tried alone
    blamed = []

    async def both():
        worker = Worker(
            lambda rows: rows == ["a0"] and blamed.append(folder.exists("crashes-b.json")), [], 0.3
        )
        actor = make_actor(folder, worker, [chunk("a", "a0"), chunk("b", "b0")], 3)
        first = asyncio.create_task(actor("a"))
        while not worker.in_hand:
            await asyncio.sleep(0.01)
        await asyncio.gather(first, actor("b"))

    asyncio.run(both())
    assert blamed == [False] and folder.chunk_keys() == {"a", "b"}


def test_a_chunk_whose_actor_died_before_it_told_of_it_is_not_done_again(folder):
    worked = []
    worker = Worker(lambda rows: worked.append(rows), [])
    chunks = [chunk("a", "a0")]
    first = asyncio.run(make_actor(folder, worker, chunks, 3)("a"))
    CrashLog(folder, "a").write(CrashHistory(driver="d"))
    again = asyncio.run(make_actor(folder, worker, chunks, 3)("a"))
    assert again == first and worked == [["a0"]] and not folder.exists("crashes-a.json")


def test_what_the_driver_did_not_survive_does_not_count(folder):
    crash_log = CrashLog(folder, "a")
    crash_log.write(CrashHistory(driver="first", crashes=2, row=1, suspects={"1": 1}))
    assert crash_log.read("second") == CrashHistory(driver="second", crashes=2, suspects={"1": 1})
    assert crash_log.read("first") == CrashHistory(driver="first", crashes=1, poison=(1,))
    crash_log.write(replace(crash_log.read("second"), row=None))
    assert crash_log.read("second").crashes == 3


@pytest.mark.ray
def test_ray_starts_the_actor_again_only_until_the_row_is_found(folder, ray_session):
    from uniner.runtime import chunk_pipeline

    def make():
        import os

        class Mortal:
            """Really dies."""

            async def __call__(self, chunk):
                if "BAD" in chunk.table.column("text").to_pylist():
                    os._exit(1)
                return Chunk(chunk.key, chunk.table.append_column("outcome", [["ok"] * chunk.table.num_rows]))

            def set_aside(self, chunk, reason):
                table = chunk.table.append_column("outcome", [["poison"] * chunk.table.num_rows])
                return Chunk(chunk.key, table, rejects=[{"reason": reason}])

        return Mortal()

    parent = folder / "parent"
    chunks = [chunk("a", "a0", "BAD", "a2"), chunk("b", "b0"), chunk("c", "c0")]
    sources = [ChunkEntry(key=part.key, rows=part.table.num_rows, bytes=1) for part in chunks]
    for part in chunks:
        parent.write_chunk(part)
    pool = chunk_pipeline.Pool(make_worker=make, max_chunk_crashes=1)
    identity = Identity(stage="stage", settings={})
    manifest = chunk_pipeline.run_stage(
        folder / "stage", identity, sources, read=parent.read_chunk, pool=pool
    )
    assert manifest.outcomes == {"ok": 4, "poison": 1}
    assert outcomes(folder / "stage", "a") == [("a0", "ok"), ("BAD", "poison"), ("a2", "ok")]
    # A process that dies while it writes leaves its unfinished file, which no reader takes for a file.
    assert {name for name in (folder / "stage").sizes() if not name.endswith(".tmp")} == {
        "chunks.parquet", "identity.json", "manifest.json", "rejects-a.jsonl",
        *(f"chunk-{key}.parquet" for key in "abc"),
    }  # fmt: skip
