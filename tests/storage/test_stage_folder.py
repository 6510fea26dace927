"""Stage folders: identities, chunks, summaries and manifests, on disk and on a real S3 server alike."""

from dataclasses import replace

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.records import ANNOTATION, Annotation, to_table
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


def test_a_complete_stage_has_no_temporary_files_of_killed_workers(tmp_path):
    folder = StageFolder(str(tmp_path))
    folder.begin(identity(a=1))
    summary = folder.write_chunk(Chunk("a", TABLE))
    (tmp_path / ".chunk-b.parquet.0a1b.tmp").write_bytes(b"half")
    folder.write_manifest(Manifest.of(identity(a=1), [summary], seconds=1.0))
    assert not list(tmp_path.glob(".*.tmp"))


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
    other = folder / "format-2"
    other.write_json("identity.json", {"stage": "stage", "settings": {}, "format": 2})
    other.write_json(
        "manifest.json", {"identity": {"stage": "stage", "settings": {}, "format": 2}, "chunks": []}
    )
    for read in (other.read_identity, other.manifest, lambda: other.begin(identity())):
        with pytest.raises(UserError, match="another version of uniner made this folder"):
            read()


def test_deleting_a_bad_chunk_and_the_manifest_mends_a_stage_and_not_the_later_ones(folder):
    annotations = [
        Annotation(
            passage_id=f"p{number}", doc_id="d", text="Text.", outcome="ok", reply="[]", entities=(),
            model="teacher", tokens_in=5, tokens_out=5, cost_usd=0.1, attempts=1,
        )
        for number in range(2)
    ]  # fmt: skip
    again = [replace(each, reply="[ ]", model="teacher-2", cost_usd=0.3, attempts=2) for each in annotations]
    other = [replace(again[0], text="Other text."), again[1]]

    def run(rows, seconds):
        """Make what is missing, as a stage does."""
        if folder.begin(identity(a=1)) is None:
            if not folder.has_chunk("a"):
                folder.write_chunk(Chunk("a", to_table(rows, ANNOTATION), seconds, {"cost_usd": seconds}))
            folder.write_manifest(Manifest.of(identity(a=1), folder.read_summaries(["a"]), seconds))
        return folder.digest()

    digest = run(annotations, 1.0)
    later = folder / "later"
    following = Identity(stage="later", settings={}, parents={"stage": digest})
    later.begin(following)
    later.write_chunk(Chunk("a", TABLE))
    for rows, seconds in ((again, 2.0), (other, 3.0)):
        folder.remove(["chunk-a.parquet", "manifest.json"])
        run(rows, seconds)
        now = replace(following, parents={"stage": folder.digest()})
        if rows is again:
            assert folder.digest() == digest and folder.manifest().figures == {"cost_usd": 2.0}
            later.begin(now)
        else:
            with pytest.raises(UserError, match=r"the output of stage was .*, now "):
                later.begin(now)


def test_a_complete_manifest_is_not_rewritten_when_it_says_the_same(folder):
    summary = folder.write_chunk(Chunk("a", TABLE))
    first = folder.write_manifest(Manifest.of(identity(), [summary], 1.0))
    before = folder.read("manifest.json")
    assert folder.write_manifest(Manifest.of(identity(), [summary], 9.0)) == first
    assert folder.read("manifest.json") == before
    assert folder.write_manifest(Manifest.of(identity(), [summary], 9.0, results={"x": 1})) != first
    assert folder.manifest().results == {"x": 1}


@pytest.mark.parametrize(
    ("file", "binds"),
    [
        ("rejects-a.jsonl", False),
        ("packing.json.gz", False),
        ("run.json", False),
        ("batches/00001.json", False),
        ("lease.json", False),
        ("checkpoints/step-00000001-abc/__0_0.distcp", False),
        ("checkpoints/step-00000001-abc/state.json", True),
        ("candidates/chunk-a.parquet", True),
        ("models/news/manifest.json", True),
    ],
)
def test_an_identity_binds_once_there_is_a_chunk_a_checkpoint_or_a_result(folder, file, binds):
    folder.begin(identity(a=1))
    folder.write(file, b"x")
    if binds:
        with pytest.raises(UserError, match=r"section\.a was 1, now 2"):
            folder.begin(identity(a=2))
    else:
        folder.begin(identity(a=2))
        assert folder.read_identity() == identity(a=2)
