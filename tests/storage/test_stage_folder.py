"""Stage folders: identities, chunks, summaries and manifests, on disk and on a real S3 server alike."""

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk, StageFolder

TABLE = pa.table({"outcome": ["ok", "ok", "refused"], "n": [1, 2, 3]})


def identity(**settings):
    return Identity(stage="stage", settings={"section": settings})


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


def test_the_manifest_adds_up_the_chunks_and_comes_last(folder):
    assert folder.begin(identity(a=1)) is None
    summaries = [folder.write_chunk(Chunk(key, TABLE, 0, {"cost_usd": 1})) for key in ("b", "a")]
    assert folder.manifest() is None
    with pytest.raises(UserError, match="is not complete"):
        folder.digest()
    manifest = folder.write_manifest(Manifest.of(identity(a=1), summaries, seconds=1.0))
    assert (manifest.rows, manifest.outcomes) == (6, {"ok": 4, "refused": 2})
    assert [chunk.key for chunk in manifest.chunks] == ["a", "b"]
    assert folder.begin(identity(a=1)) == manifest == folder.manifest()
    assert folder.read_rows().num_rows == 6


def test_other_settings_are_refused_by_name_once_something_exists(folder):
    folder.begin(identity(a=1, b={"c": 2}))
    folder.begin(identity(a=1, b={"c": 4}))
    folder.write_chunk(Chunk("a", TABLE))
    with pytest.raises(UserError, match=r"section\.b\.c was 4, now 3; take another run\.name"):
        folder.begin(identity(a=1, b={"c": 3}))


def test_a_folder_of_an_earlier_version_is_refused(folder):
    folder.write_json("plan.json", {"stage": "stage", "config": {}, "parents": {}})
    with pytest.raises(UserError, match=r"another version of uniner made this folder.*run\.name=my-run-2"):
        folder.begin(identity())
    folder.write_json("manifest.json", {"stage": "stage", "rows": 3})
    with pytest.raises(UserError, match="another version of uniner made this folder"):
        folder.manifest()
