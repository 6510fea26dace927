"""A stage whose input has grown goes on: it makes the new chunks alone, and its own history is kept."""

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.records import FAILED
from uniner.runtime import chunk_pipeline
from uniner.storage.manifest import Identity
from uniner.storage.stage_folder import Chunk, StageFolder


def chunk(key, rows=2, outcome="ok"):
    return Chunk(key, pa.table({"text": [key] * rows, "outcome": [outcome] * rows}))


@pytest.fixture
def parent(tmp_path, complete_stage):
    folder = StageFolder(str(tmp_path / "ingest"))
    complete_stage(folder, [chunk("a"), chunk("b")])
    return folder


@pytest.fixture
def run_child(tmp_path, monkeypatch, parent):
    """Return a function that runs a stage on the parent's chunks and returns the keys that it made."""

    def make_alone(folder, items, make):
        for item in items:
            yield from (folder.write_chunk(made) for made in make(item))

    monkeypatch.setattr(chunk_pipeline, "make_chunks", make_alone)
    folder = StageFolder(str(tmp_path / "annotate"))

    def run(failing=(), retry=False, **settings):
        manifest = parent.require_manifest()
        identity = Identity(stage="annotate", settings=settings, parents={"ingest": manifest.digest})
        identity = identity.with_earlier_parent("ingest", manifest.grown_from)
        if retry:
            chunk_pipeline.reopen_failed(folder, identity)
        made = []

        def read(key):
            made.append(key)
            return chunk(key, outcome=FAILED if key in failing else "ok")

        chunk_pipeline.run_stage(folder, identity, manifest.chunks, read=read)
        return made

    run.folder = folder
    return run


def test_only_new_chunks_are_made_and_the_history_names_the_earlier_states(parent, run_child, grow_stage):
    folder = run_child.folder
    assert run_child() == ["a", "b"] and run_child() == []
    first, first_parent = folder.require_manifest(), parent.require_manifest()
    grow_stage(parent, [chunk("c"), chunk("0")])
    assert parent.require_manifest().grown_from == (first_parent.digest,)
    assert run_child() == ["0", "c"] and run_child() == []
    second = folder.require_manifest()
    assert second.rows == 8 and second.grown_from == (first.digest,)
    assert second.identity.parents == {"ingest": parent.digest()}
    # A stage that missed an addition goes on all the same.
    grow_stage(parent, [chunk("d")])
    grow_stage(parent, [chunk("e")])
    assert run_child() == ["d", "e"]
    assert folder.require_manifest().grown_from == (first.digest, second.digest)
    assert len([name for name in folder.sizes() if name.startswith("chunks")]) == 1


def test_rows_that_failed_before_are_not_asked_again_unasked(parent, run_child, grow_stage):
    assert run_child(failing="ab") == ["a", "b"]
    first = run_child.folder.require_manifest()
    grow_stage(parent, [chunk("c")])
    assert chunk_pipeline.chunks_to_make_anew(run_child.folder) == set()
    assert run_child() == ["c"]
    assert run_child.folder.require_manifest().grown_from == (first.digest,)
    grow_stage(parent, [chunk("d")])
    assert run_child(retry=True) == ["a", "b", "d"]
    assert run_child.folder.require_manifest().grown_from == (), "chunks that later stages read have changed"


@pytest.mark.parametrize("killed_at", ["chunks-", "manifest.json"])
def test_a_driver_killed_while_it_replaces_the_manifest_goes_on(
    parent, run_child, grow_stage, monkeypatch, killed_at
):
    run_child()
    folder = run_child.folder
    first = folder.require_manifest()
    grow_stage(parent, [chunk("c")])
    write = StageFolder.write

    def die(self, name, data):
        if self.name == "annotate" and name.startswith(killed_at):
            raise KeyboardInterrupt
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "write", die)
        with pytest.raises(KeyboardInterrupt):
            run_child()
    assert folder.require_manifest() == first, "later stages still have the earlier state"
    assert run_child() == []
    assert folder.require_manifest().grown_from == (first.digest,)


def test_an_input_that_changed_otherwise_is_refused_as_ever(parent, run_child, complete_stage, grow_stage):
    run_child()
    with pytest.raises(UserError, match="other settings: tone was None, now 2"):
        run_child(tone=2)
    grow_stage(parent, [chunk("c")])
    with pytest.raises(UserError, match="other settings: tone was None, now 2"):
        run_child(tone=2)
    parent.remove(["manifest.json", "identity.json", "chunk-a.parquet"])
    complete_stage(parent, [chunk("a", rows=3), chunk("b")])
    with pytest.raises(UserError, match="other settings: the output of ingest was"):
        run_child()


def test_a_parent_whose_chunks_changed_while_it_grew_has_no_history(parent, grow_stage):
    parent.remove(["chunk-a.parquet"])
    grown = grow_stage(parent, [chunk("a", rows=5), chunk("c")])
    assert grown.grown_from == ()
