"""A row that kills whoever works on it is found and set aside; chunks that were in hand beside it are not."""

import asyncio
from dataclasses import replace

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.runtime.chunk_actor import Actor
from uniner.runtime.crash_log import Record, Tries, forget_tries
from uniner.storage.stage_folder import Chunk, Folder


class Death(BaseException):
    """Stands for the end of the process: nothing after it runs."""


class Worker:
    """Dies of the rows that it is told to die of; notes what it was given and what else was in hand."""

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


def run(folder, chunks, deadly, tries, driver="d", lives=50):
    """Work on all chunks together, with a new actor after each death, as Ray does. Returns calls, deaths."""
    calls = []

    async def live(left):
        actor = Actor(lambda: Worker(deadly, calls), folder, driver, tries)
        await asyncio.gather(*(actor(chunk) for chunk in left))

    for deaths in range(lives):
        left = [chunk for chunk in chunks if chunk.key not in folder.chunk_keys()]
        try:
            asyncio.run(live(left))
        except Death:
            continue
        forget_tries(folder)
        return calls, deaths
    raise AssertionError("the run does not end")


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path))


def chunk(key, *rows):
    return Chunk(key, pa.table({"text": list(rows)}))


def outcomes(folder, key):
    return [tuple(row.values()) for row in folder.read_chunk(key).to_pylist()]


@pytest.mark.parametrize("tries", [1, 3])
def test_two_rows_that_kill_are_set_aside_and_all_others_are_worked_on(folder, tries):
    chunks = [chunk("a", "a0", "a1"), chunk("b", "b0", "BAD1", "b2", "BAD3", "b4"), chunk("c", "c0")]
    calls, deaths = run(folder, chunks, lambda rows: any("BAD" in row for row in rows), tries)
    assert outcomes(folder, "a") == [("a0", "ok"), ("a1", "ok")]
    assert outcomes(folder, "b") == [
        ("b0", "ok"), ("BAD1", "poison"), ("b2", "ok"), ("BAD3", "poison"), ("b4", "ok"),
    ]  # fmt: skip
    assert [reject["row"] for reject in folder.read_rejects("b")] == ["BAD1", "BAD3"]
    assert "died 2 times" in folder.read_rejects("b")[0]["reason"]
    assert folder.read_summary("b").figures == {"n": 3}
    assert not [name for name in folder.sizes() if name.startswith("try-")]
    assert deaths == (5 if tries == 1 else tries + 2 + tries - 1 + 2)
    assert {in_hand for rows, in_hand in calls if len(rows) == 1 and "c0" not in rows} == {1}


def test_an_engine_that_dies_of_every_row_ends_the_run_and_is_not_the_rows_fault(folder):
    rows = chunk("a", *map(str, range(12)))
    with pytest.raises(UserError, match=r"dies of each row of chunk a.*max_num_seqs"):
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
    Record(folder, "a").write(Tries("d"))  # an actor died of it: it is tried by itself
    blamed = []

    async def both():
        worker = Worker(lambda rows: rows == ["a0"] and blamed.append(folder.exists("try-b.json")), [], 0.3)
        actor = Actor(lambda: worker, folder, "d", 3)
        first = asyncio.create_task(actor(chunk("a", "a0")))
        while not worker.in_hand:
            await asyncio.sleep(0.01)
        await asyncio.gather(first, actor(chunk("b", "b0")))

    asyncio.run(both())
    assert blamed == [False] and folder.chunk_keys() == {"a", "b"}


def test_a_chunk_whose_actor_died_before_it_told_of_it_is_not_done_again(folder):
    worked = []
    worker = Worker(lambda rows: worked.append(rows), [])
    first = asyncio.run(Actor(lambda: worker, folder, "d", 3)(chunk("a", "a0")))
    Record(folder, "a").write(Tries("d"))
    again = asyncio.run(Actor(lambda: worker, folder, "d", 3)(chunk("a", "a0")))
    assert again == first and worked == [["a0"]] and not folder.exists("try-a.json")


def test_what_the_driver_did_not_survive_does_not_count(folder):
    record = Record(folder, "a")
    record.write(Tries("first", deaths=2, row=1, suspects={"1": 1}))
    assert record.read("second") == Tries("second", deaths=2, suspects={"1": 1})
    assert record.read("first") == Tries("first", deaths=1, poison=(1,))
    record.write(replace(record.read("second"), row=None))
    assert record.read("second").deaths == 3


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
    parent.finish({}, [parent.write_chunk(each) for each in chunks])
    pool = chunk_pipeline.Pool(make, actors=1, cpus=1, poison_tries=1)
    manifest = chunk_pipeline.run_stage("stage", folder / "stage", {}, parent, pool=pool)
    assert manifest["outcomes"] == {"ok": 4, "poison": 1}
    assert outcomes(folder / "stage", "a") == [("a0", "ok"), ("BAD", "poison"), ("a2", "ok")]
    # A process that dies while it writes leaves its unfinished file, which no reader takes for a file.
    assert {name for name in (folder / "stage").sizes() if not name.endswith(".tmp")} == {
        "plan.json", "manifest.json", "rejects-a.jsonl", *(f"chunk-{key}.parquet" for key in "abc"),
    }  # fmt: skip
