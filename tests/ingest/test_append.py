"""A corpus that grows: shards keep their numbers, what exists is not read again, no other file gets in."""

import json
from pathlib import Path

import pytest

from uniner import cli
from uniner.errors import UserError
from uniner.ingest import stage
from uniner.ingest.corpus import arrange
from uniner.ingest.shards import ShardDigest, generated_parts, split_shards
from uniner.records import PASSAGE, to_table
from uniner.storage.manifest import Identity, StageTotals
from uniner.storage.stage_folder import Chunk, StageFolder


def digest(content):
    return ShardDigest(bytes=len(content), ends=content)


def corpus_of(files, begun=None, append=False):
    return arrange(list(files), [digest(content) for content in files.values()], begun, "runs/r", append)


def identity_of(corpus):
    return Identity(stage="ingest", settings={}, inputs=corpus.inputs())


def test_shards_keep_their_numbers_wherever_a_new_one_is_sorted():
    begun = identity_of(corpus_of({"x/b.jsonl": "b", "x/d.jsonl": "d"}))
    grown = {"x/a.jsonl": "a", "x/b.jsonl": "b", "x/c.jsonl": "c", "x/d.jsonl": "d"}
    with pytest.raises(UserError, match=r"\(a\.jsonl is new\); to add .* uniner ingest CONFIG --append"):
        corpus_of(grown, begun)
    corpus = corpus_of(grown, begun, append=True)
    assert [Path(file).stem for file in corpus.files] == ["b", "d", "a", "c"]
    assert (corpus.new, corpus.appended) == (2, (2,)) and identity_of(corpus.before()) == begun
    again = identity_of(corpus)
    assert list(again.inputs["ingest.shards"]) == ["00000 b.jsonl", "00001 d.jsonl", "00002 a.jsonl",
                                                    "00003 c.jsonl"]  # fmt: skip
    assert identity_of(corpus_of(grown, again)) == again, "the same files, with --append or without"
    assert corpus_of(grown, again, append=True).new == 0
    third = corpus_of({"0.jsonl": "0", **grown}, again, append=True)
    assert third.appended == (2, 4) and third.files[4] == "0.jsonl"
    assert identity_of(third.before()) == again


@pytest.mark.parametrize("append", [False, True])
def test_a_shard_that_changed_or_is_gone_is_named(append):
    begun = identity_of(corpus_of({"a.jsonl": "a", "b.jsonl": "bb"}))
    with pytest.raises(UserError, match=r"the shard b\.jsonl has changed since .*\(2 bytes then, 3 now\)"):
        corpus_of({"a.jsonl": "a", "b.jsonl": "new", "c.jsonl": "c"}, begun, append)
    with pytest.raises(UserError, match=r"\(a\.jsonl is gone\)"):
        corpus_of({"b.jsonl": "bb", "c.jsonl": "c"}, begun, append)


def test_files_of_one_name_in_two_folders_are_told_apart_by_content():
    begun = identity_of(corpus_of({"x/a.jsonl": "one", "y/a.jsonl": "two"}))
    corpus = corpus_of({"w/a.jsonl": "new", "y/a.jsonl": "two", "x/a.jsonl": "one"}, begun, append=True)
    assert list(corpus.files) == ["x/a.jsonl", "y/a.jsonl", "w/a.jsonl"]


def test_parts_of_what_is_added_come_after_generated_passages_and_text_files_keep_their_ids(tmp_path):
    files = {}
    for name in ("b/1.txt", "c/1.txt", "c/rows.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"text": "t"}\n')
        files[str(path)] = name

    def parts_of(corpus):
        return corpus.split(
            lambda files, sizes, first, root: split_shards(files, sizes, "text", first=first, root=root),
            lambda first: generated_parts({"g/chunk-0.parquet": 1}, first),
        )

    before = corpus_of(files)
    (tmp_path / "a").mkdir()
    for name in ("a/1.txt", "a/2.txt"):
        (tmp_path / name).write_text("A text.")
        files[str(tmp_path / name)] = name
    after = corpus_of(files, identity_of(before), append=True)
    old, new = parts_of(before), parts_of(after)
    assert new[: len(old)] == old and [part.number for part in new] == [0, 1, 2, 3]
    assert [part.kind for part in new] == ["text", "lines", "generated", "text"]
    assert [new[3].place(row)[0] for row in (0, 1)] == ["a/1.txt", "a/2.txt"], "below the folder of the first"


def test_the_rejects_of_an_addition_are_compared_with_its_own_rows(tmp_path, complete_stage):
    """Against all of the corpus, an unreadable shard would pass and be part of the run for ever."""
    folder = StageFolder(str(tmp_path)) / "ingest"

    def chunk(key, **figures):
        return Chunk(key, to_table([], PASSAGE), figures=figures)

    first = complete_stage(folder, [chunk("00000-0000000", lines=995, rejected_not_json=5)])
    assert (
        folder.begin(Identity(stage="ingest", settings={}, inputs={"n": 1}, earlier=(first.identity,)))
        is None
    )
    folder.write_chunk(chunk("00001-0000000", lines=3, rejected_not_json=3))
    totals = StageTotals()
    for summary in folder.summaries():
        totals.add(summary)
    with pytest.raises(UserError, match=r"100\.00% of 3 rows of the new shards .*rejects-00001-.*--append"):
        stage._require_few_rejects(folder, totals, 0.01)
    stage._require_few_rejects(folder, totals, 1.0)


def test_a_corpus_without_passages_is_said_to_have_none():
    assert "has no passages (7 rows were read)" in stage._describe_nothing({"lines": 7})


def write(path, *numbers):
    rows = ({"text": f"The house number {number} has {number + 2} cats."} for number in numbers)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def config(tmp_path, base):
    (tmp_path / "shards").mkdir()
    write(tmp_path / "shards/b.jsonl", *range(8))
    path = tmp_path / "config.toml"
    path.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "r"\n[student]\nbase = "{base}"\n'
        f'[ingest]\nshards = ["{tmp_path}/shards/*.jsonl"]\nchunk_passages = 3\n'
    )
    return str(path)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_new_shards_are_added_and_a_killed_addition_goes_on(config, tmp_path, capsys, monkeypatch):
    folder = StageFolder(str(tmp_path / "runs/r/ingest"))
    assert cli.run(["ingest"], [config]) == 0
    first = folder.require_manifest()
    files = {path: path.stat().st_mtime_ns for path in Path(folder.url).glob("chunk-*")}
    assert cli.run(["ingest"], [config], append=True) == 0
    assert "no new shard to add; the run has all 1" in capsys.readouterr().err
    assert folder.require_manifest() == first

    write(tmp_path / "shards/a.jsonl", *range(20, 24))
    assert cli.run(["ingest"], [config]) == 2
    assert "a.jsonl is new); to add what is new to that run: uniner ingest CONFIG --append" in (
        capsys.readouterr().err
    )
    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "write_manifest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.run(["ingest"], [config], append=True)
    assert folder.require_manifest() == first, "later stages have the earlier corpus meanwhile"
    assert cli.run(["ingest"], [config]) == 0
    grown = folder.require_manifest()
    assert grown.rows == 12 and grown.grown_from == (first.digest,) and grown.digest != first.digest
    assert first.chunks.same_contents(grown.chunks)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert [part["shard"] for part in grown.results["parts"]] == ["b.jsonl", "a.jsonl"]
    texts = [row["text"] for row in folder.read_rows().to_pylist()]
    assert texts[:8] == [f"The house number {number} has {number + 2} cats." for number in range(8)]
    assert texts[8].startswith("The house number 20")
    assert cli.run(["ingest"], [config]) == 0 and folder.require_manifest() == grown

    write(tmp_path / "shards/c.jsonl", 30)
    for setting in ("ingest.max_passages=5", "ingest.dedupe=true"):
        assert cli.run(["ingest"], [config, setting], append=True) == 2
        assert f"ingest: {setting.split('=')[0]} chooses passages among all shards" in capsys.readouterr().err
    assert cli.run(["ingest"], [config, "ingest.min_tokens=4"], append=True) == 2
    assert "other settings: ingest.min_tokens was 1, now 4; " in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_bad_new_shard_can_be_corrected_or_left_out_and_the_finished_run_stays(config, tmp_path, capsys):
    folder = StageFolder(str(tmp_path / "runs/r/ingest"))
    shards = tmp_path / "shards"
    assert cli.run(["ingest"], [config]) == 0
    first = folder.require_manifest()

    write(shards / "c.jsonl", *range(20, 27))
    with (shards / "c.jsonl").open("a") as lines:
        lines.write("{not json\n")
    capsys.readouterr()
    assert cli.run(["ingest"], [config], append=True) == 1
    message = capsys.readouterr().err
    assert (
        "correct the new shards or leave them out, and run `uniner ingest CONFIG --append` again" in message
    )
    assert "delete" not in message and folder.require_manifest() == first
    assert folder.chunk_keys() > set(first.chunks.keys.to_pylist())

    bad = (shards / "c.jsonl").read_text()
    (shards / "c.jsonl").unlink()
    for append in (False, True):  # the finished run is complete without what was to be added
        assert cli.run(["ingest"], [config], append=append) == 0
    assert folder.require_manifest() == first

    (shards / "c.jsonl").write_text(bad.replace("{not json\n", ""))
    capsys.readouterr()
    assert cli.run(["ingest"], [config]) == 2
    assert "(c.jsonl is new); to add what is new to that run" in capsys.readouterr().err
    write(shards / "a.jsonl", 30)  # takes the number, and the chunks' keys, that the bad shard had
    assert cli.run(["ingest"], [config], append=True) == 0
    grown = folder.require_manifest()
    assert [part["shard"] for part in grown.results["parts"]] == ["b.jsonl", "a.jsonl", "c.jsonl"]
    texts = [row["text"] for row in folder.read_rows().to_pylist()]
    assert [text.split()[3] for text in texts] == [str(number) for number in [*range(8), 30, *range(20, 27)]]
    assert first.chunks.same_contents(grown.chunks) and grown.grown_from == (first.digest,)
    assert folder.chunk_keys() == set(grown.chunks.keys.to_pylist())
    assert not list(Path(folder.url).glob("rejects-*")), "those of the bad shard went with its chunks"
