"""A stage on Ray: an actor's trouble with the storage ends the stage in one line, and what exists stays."""

import asyncio
import errno
import json
import os
import signal
import time

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.runtime import chunk_actor, chunk_pipeline, progress_board, windows
from uniner.runtime.work_count import expect_work, work_done
from uniner.storage.manifest import ChunkEntry, Identity
from uniner.storage.stage_folder import Chunk, StageFolder

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("ray_session")
def test_a_disk_that_fills_up_in_an_actor_is_one_line_and_the_same_command_goes_on(tmp_path):
    folder, identity = StageFolder(str(tmp_path / "stage")), Identity(stage="stage", settings={})
    sources = [ChunkEntry(key=key, rows=1, bytes=1) for key in "ab"]

    def read(key):
        return Chunk(key, pa.table({"outcome": ["ok"]}))

    def make(full):
        class Worker:
            async def __call__(self, chunk):
                if full and chunk.key == "b":
                    os.fsync = fail
                return chunk

        def fail(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return Worker

    def run(full):
        pool = chunk_pipeline.Pool(make_worker=make(full), chunks_in_flight=1)
        return chunk_pipeline.run_stage(folder, identity, sources, read=read, pool=pool)

    with pytest.raises(UserError, match=r"chunk-[ab]\.parquet: no space .* run the same command again"):
        run(full=True)
    assert not any(name.endswith(".tmp") for name in folder.sizes()) and folder.manifest() is None
    assert run(full=False).rows == 2


@pytest.mark.usefixtures("ray_session")
def test_what_waits_for_a_machine_is_the_work_by_its_own_name(tmp_path, monkeypatch):
    """evaluate's folder is a system's, such as `student`; its work is "evaluate student"."""
    names, placed = [], chunk_pipeline.placed
    monkeypatch.setattr(
        chunk_pipeline,
        "placed",
        lambda name, *rest, **more: names.append(name) or placed(name, *rest, **more),
    )

    class Worker:
        async def __call__(self, chunk):
            return chunk

    def read(key):
        return Chunk(key, pa.table({"outcome": ["ok"]}))

    chunk_pipeline.run_stage(
        StageFolder(str(tmp_path / "student")),
        Identity(stage="evaluate", settings={}),
        [ChunkEntry(key="a", rows=1, bytes=1)],
        read=read,
        pool=chunk_pipeline.Pool(make_worker=Worker),
        name="evaluate student",
    )
    assert names == ["evaluate student"]


@pytest.mark.usefixtures("ray_session")
def test_a_window_whose_opener_is_killed_is_opened_again_and_each_chunk_is_made_once(tmp_path, monkeypatch):
    folder, identity = StageFolder(str(tmp_path / "stage")), Identity(stage="stage", settings={})
    keys = [f"{number:02d}" for number in range(10)]
    killed, made = tmp_path / "killed", tmp_path / "made"
    first_of_second_window = tmp_path / "stage/chunk-04.parquet"

    open_window = windows._open_window

    def open_and_die(row, counter):
        """Die in the middle of the second window, once its first chunk is written."""
        for opened in open_window(row, counter):
            if json.loads(opened["item"]) == "06" and not killed.exists():
                while not first_of_second_window.exists():
                    time.sleep(0.05)
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield opened

    monkeypatch.setattr(windows, "WINDOW", 4)
    monkeypatch.setattr(windows, "_open_window", open_and_die)

    def read(key):
        with made.open("a") as file:
            file.write(f"{key}\n")
        return Chunk(key, pa.table({"outcome": ["ok"]}))

    class Worker:
        async def __call__(self, chunk):
            return chunk

    sources = [ChunkEntry(key=key, rows=1, bytes=1) for key in keys]
    pool = chunk_pipeline.Pool(make_worker=Worker)
    manifest = chunk_pipeline.run_stage(folder, identity, sources, read=read, pool=pool)
    assert killed.exists() and manifest.chunks.keys.to_pylist() == keys
    assert sorted(made.read_text().split()) == keys


@pytest.mark.usefixtures("ray_session")
def test_the_rows_of_a_chunk_in_work_are_told_and_those_of_a_dead_actor_do_not_count_twice(
    tmp_path, monkeypatch
):
    folder, identity = StageFolder(str(tmp_path / "stage")), Identity(stage="stage", settings={})
    seen = [tmp_path / "seen-first", tmp_path / "seen-second"]

    class Worker:
        def __init__(self):
            chunk_actor._TELL_S = 0.1

        async def __call__(self, chunk):
            """Do half of the rows and die; the second time, do a fifth of them and wait to be seen."""
            attempt = int(seen[0].exists())
            expect_work(10)
            work_done([5, 2][attempt])
            while not seen[attempt].exists():
                await asyncio.sleep(0.05)
            if not attempt:
                os.kill(os.getpid(), signal.SIGKILL)
            return chunk

    def read(key):
        return Chunk(key, pa.table({"outcome": ["ok"] * 100}))

    shown = []

    def rows(self):
        shown.append(progress_board.StageBoard.real_rows(self))
        for count, file in zip((50, 20), seen, strict=True):
            if shown[-1] == count:
                file.touch()
        return shown[-1]

    monkeypatch.setattr("uniner.progress._LOOK_SECONDS", 0.1)
    monkeypatch.setattr(progress_board.StageBoard, "real_rows", progress_board.StageBoard.rows, raising=False)
    monkeypatch.setattr(progress_board.StageBoard, "rows", rows)
    sources = [ChunkEntry(key="a", rows=100, bytes=1)]
    pool = chunk_pipeline.Pool(make_worker=Worker, chunks_in_flight=1)
    manifest = chunk_pipeline.run_stage(folder, identity, sources, read=read, pool=pool)
    assert manifest.rows == 100
    assert max(shown) == 50 and shown.index(20) > shown.index(50)
