"""Folders, chunks and manifests, on disk and on a real S3 server alike."""

import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.storage.stage_folder import Chunk, Identity, Manifest, StageFolder

TABLE = pa.table({"outcome": ["ok", "ok", "refused"], "n": [1, 2, 3]})


@pytest.fixture
def folder(root):
    return StageFolder(root) / "run" / "stage"


def test_a_chunk_comes_back_with_its_summary(folder):
    written = folder.write_chunk(Chunk("00001-00002", TABLE, 1.5, {"cost_usd": 0.25}, {"line": 7}))
    assert folder.read_chunk("00001-00002").table.equals(TABLE)
    assert folder.read_summary("00001-00002") == written
    assert (written.rows, written.outcomes, written.figures) == (
        3,
        {"ok": 2, "refused": 1},
        {"cost_usd": 0.25},
    )
    assert written.bytes == folder.sizes()["chunk-00001-00002.parquet"]
    assert folder.chunk_keys() == {"00001-00002"}


def identity(**settings):
    return Identity(stage="stage", settings=settings)


def test_the_manifest_adds_the_chunks_up_and_comes_last(folder):
    begun = identity(stage={"a": 1})
    assert folder.begin(begun) is None
    summaries = [folder.write_chunk(Chunk(key, TABLE, 0, {"cost_usd": 1})) for key in ("b", "a")]
    assert folder.manifest() is None
    with pytest.raises(UserError, match="is not complete"):
        folder.digest()
    manifest = folder.write_manifest(Manifest.of(begun, summaries, 1.23, results={"types": 3}))
    assert (manifest.rows, manifest.outcomes, manifest.seconds) == (6, {"ok": 4, "refused": 2}, 1.2)
    assert [chunk.key for chunk in manifest.chunks] == ["a", "b"]
    assert folder.begin(begun) == folder.manifest() == manifest
    assert folder.read_rows().num_rows == 6


def test_other_settings_are_refused_by_name(folder):
    folder.begin(identity(tag={"a": 1, "b": {"c": 2}}))
    folder.write_chunk(Chunk("a", TABLE))
    with pytest.raises(UserError, match=r"tag\.b\.c was 2, now 3; take another run\.name"):
        folder.begin(identity(tag={"a": 1, "b": {"c": 3}}))
    with pytest.raises(UserError, match=r"tag\.d was None, now 4"):
        folder.check_identity(identity(tag={"a": 1, "b": {"c": 2}, "d": 4}))


def test_another_parent_is_refused_by_name_but_a_parent_may_come_to_be(folder):
    begun = replace(identity(), parents={"ingest": "123"})
    folder.begin(begun)
    folder.write_chunk(Chunk("a", TABLE))
    folder.check_identity(identity())
    with pytest.raises(UserError, match="the output of ingest was '123', now '456'"):
        folder.begin(replace(begun, parents={"ingest": "456"}))


def test_an_identity_binds_only_once_something_exists(folder):
    folder.begin(identity(tag={"a": 1}))
    assert folder.begin(identity(tag={"a": 2})) is None
    assert folder.read_identity() == identity(tag={"a": 2})


@pytest.mark.parametrize("file", ["plan.json", "identity.json", "manifest.json"])
def test_a_folder_of_an_earlier_version_is_refused_in_one_line(folder, file):
    """Before this layout a stage began with plan.json, and its manifest had no format number."""
    folder.write_json(file, {"stage": "stage", "config": {"a": 1}, "parents": {}, "chunks": []})
    read = folder.manifest if file == "manifest.json" else lambda: folder.begin(identity())
    with pytest.raises(UserError, match="another version of uniner made this folder") as caught:
        read()
    assert "\n" not in str(caught.value) and "take another run.name" in str(caught.value)


def test_a_writer_killed_in_the_middle_leaves_no_partial_file(tmp_path, wait_until):
    """SIGKILL while a big file is written again and again: a file under its final name is whole."""
    code = (
        "import sys; from uniner.storage.stage_folder import StageFolder\n"
        "folder = StageFolder(sys.argv[1])\n"
        "while True: folder.write('file', b'x' * 30_000_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "f")])
    wait_until(lambda: writer.poll() is not None or list((tmp_path / "f").glob(".*.tmp")), 60)
    assert writer.poll() is None, "the writer ended by itself"
    writer.kill()
    writer.wait()
    folder = StageFolder(str(tmp_path / "f"))
    assert folder.sizes().get("file", 30_000_000) == 30_000_000
    folder.begin(identity())
    assert not list((tmp_path / "f").glob(".*.tmp"))
