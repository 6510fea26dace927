"""A stage on Ray: an actor's trouble with the storage ends the stage in one line, and what exists stays."""

import errno
import os

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.runtime import chunk_pipeline
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

    with pytest.raises(UserError, match=r"chunk-b\.parquet: no space is left .* run the same command again"):
        run(full=True)
    assert not any(name.endswith(".tmp") for name in folder.sizes()) and folder.manifest() is None
    assert run(full=False).rows == 2
