"""Folders, chunks and manifests, on disk and on a real S3 server alike."""

import subprocess
import sys

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.storage.stage_folder import Chunk, Folder

TABLE = pa.table({"outcome": ["ok", "ok", "refused"], "n": [1, 2, 3]})


@pytest.fixture
def folder(root):
    return Folder(root) / "run" / "stage"


def test_a_chunk_comes_back_with_its_summary(folder):
    written = folder.write_chunk(Chunk("00001-00002", TABLE, 1.5, {"cost_usd": 0.25}, {"line": 7}))
    assert folder.read_chunk("00001-00002").equals(TABLE)
    assert folder.read_summary("00001-00002") == written
    assert (written.rows, written.outcomes, written.figures) == (
        3,
        {"ok": 2, "refused": 1},
        {"cost_usd": 0.25},
    )
    assert written.bytes == folder.sizes()["chunk-00001-00002.parquet"]
    assert folder.chunk_keys() == {"00001-00002"}


def test_the_manifest_adds_the_chunks_up_and_comes_last(folder):
    plan = {"stage": "stage", "config": {"a": 1}, "parents": {}}
    assert folder.begin(plan) is False
    summaries = [folder.write_chunk(Chunk(key, TABLE, 0, {"cost_usd": 1})) for key in ("b", "a")]
    assert folder.manifest() is None
    with pytest.raises(UserError, match="is not done"):
        folder.digest()
    manifest = folder.finish(plan, summaries)
    assert (manifest["rows"], manifest["outcomes"]) == (6, {"ok": 4, "refused": 2})
    assert [chunk["key"] for chunk in manifest["chunks"]] == ["a", "b"]
    assert folder.begin(plan) is True
    assert folder.read_rows().num_rows == 6


def test_other_settings_are_refused_by_name(folder):
    folder.begin({"config": {"a": 1, "b": {"c": 2}}})
    with pytest.raises(UserError, match=r"config\.b\.c was 2, now 3; take another run\.name"):
        folder.begin({"config": {"a": 1, "b": {"c": 3}}})


def test_a_writer_killed_in_the_middle_leaves_no_partial_file(tmp_path, wait_until):
    """SIGKILL while a big file is written again and again: a file under its final name is whole."""
    code = (
        "import sys; from uniner.storage.stage_folder import Folder\n"
        "folder = Folder(sys.argv[1])\n"
        "while True: folder.write('file', b'x' * 30_000_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "f")])
    wait_until(lambda: writer.poll() is not None or list((tmp_path / "f").glob(".*.tmp")), 60)
    assert writer.poll() is None, "the writer ended by itself"
    writer.kill()
    writer.wait()
    folder = Folder(str(tmp_path / "f"))
    assert folder.sizes().get("file", 30_000_000) == 30_000_000
    folder.begin({})
    assert not list((tmp_path / "f").glob(".*.tmp"))
