"""The whole stage: kept and dropped passages of a corpus against an independent count."""

import json
from collections import Counter

import pytest

from uniner import cli
from uniner.ingest import stage
from uniner.ingest.chunk_reader import chunk_key
from uniner.ingest.sampling import text_digest
from uniner.ingest.shards import ShardPart
from uniner.storage.manifest import Summary
from uniner.storage.stage_folder import StageFolder

pytestmark = pytest.mark.ray
FRENCH = "Ceci est une longue phrase en français, écrite seulement pour cet essai de la langue."
TEST_TEXT = "the eight wise gardeners of the old town planted seven hundred tall trees last spring"


def sentence(number):
    return f"The inhabitants of house number {number} in the street live there with their {number + 2} cats."


@pytest.fixture
def config(tmp_path, base, write_shard):
    """Three shards with duplicates within and across them, French, benchmark text and short passages."""
    for shard in range(3):
        texts = [sentence(number) for number in range(shard * 20, shard * 20 + 30)]
        texts += [sentence(shard * 20).upper(), f"{FRENCH} {shard}", "Short."]
        texts += [f"They say that {TEST_TEXT.title()}! And {shard} more words."]
        write_shard(tmp_path / f"{shard}.jsonl.zst", [{"text": text, "meta": {}} for text in texts])
    (tmp_path / "bench.jsonl").write_text(json.dumps({"text": f"{TEST_TEXT} ."}) + "\n")
    path = tmp_path / "config.toml"
    path.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "clean"\n[student]\nbase = "{base}"\n'
        f'[ingest]\nshards = ["{tmp_path}/*.jsonl.zst"]\nchunk_passages = 7\nmin_tokens = 8\n'
        f'languages = ["en"]\ndedupe = true\ndecontaminate = {{bench = "{tmp_path}/bench.jsonl"}}\n'
        "[tag]\ntypes = ['person']\n"
    )
    return path


def test_dropped_passages_are_counted_and_the_rest_survives_an_interruption(config, ray_session, monkeypatch):
    folder = StageFolder(str(config.parent / "runs/clean/ingest"))
    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "write_manifest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.run(["ingest"], [str(config)])
    keys = sorted(folder.chunk_keys())
    before = {key: folder.read_chunk(key) for key in keys}
    for key in keys[1::2]:
        (config.parent / f"runs/clean/ingest/chunk-{key}.parquet").unlink()
    assert cli.run(["ingest"], [str(config)]) == 0
    assert {key: folder.read_chunk(key) for key in folder.chunk_keys()} == before
    assert not (folder / "candidates").sizes()
    assert [row["text"] for row in folder.read_rows().to_pylist()] == [
        sentence(number) for number in range(70)
    ]
    manifest = folder.require_manifest()
    figures = manifest.figures
    assert figures["passages_sampled"] == 3 * 34
    dropped = {name: count for name, count in figures.items() if name.startswith("dropped_")}
    assert dropped == {
        "dropped_short": 3,
        "dropped_language": 3,
        "dropped_contaminated": 3,
        "dropped_duplicate": 20 + 3,
        "dropped_unwanted": 0,
    }
    assert manifest.results["benchmarks"] == {"bench": {"texts": 1, "too_short": 0, "dropped": 3}}
    assert manifest.rows == 70 == figures["passages_sampled"] - sum(dropped.values())


def test_digests_alone_select_n_passages_and_strata_get_their_share(
    config, tmp_path, ray_session, write_shard, capsys
):
    def ingested(name, *words):
        assert cli.run(["ingest"], [str(config), f"run.name={name}", *words]) == 0
        return StageFolder(str(tmp_path / "runs" / name / "ingest")).read_rows().to_pylist()

    for seed in (0, 1):
        selected = ingested(f"seed-{seed}", "ingest.max_passages=20", f"run.seed={seed}")
        ordered = sorted(map(sentence, range(70)), key=lambda text: text_digest(text, seed))
        assert {row["text"] for row in selected} == set(ordered[:20])
    sizes = {"rare": 5, "common": 60, "usual": 30}
    rows = [
        {"text": f"{sentence(number)} Of {name}.", "meta": {"pile_set_name": name}, "id": name}
        for name, size in sizes.items()
        for number in range(size)
    ]
    write_shard(tmp_path / "sources.jsonl.zst", rows)
    words = [f'ingest.shards=["{tmp_path}/sources.jsonl.zst"]', "ingest.stratified=true"]
    capsys.readouterr()
    rows = ingested("strata", *words, "ingest.max_passages=25", "ingest.id_field=id")
    assert (
        "22 documents have the id of an earlier one (ingest.id_field), such as line "
        in capsys.readouterr().err
    )
    results = StageFolder(str(tmp_path / "runs/strata/ingest")).require_manifest().results
    assert results["repeated_ids"]["documents"] == 25 - 3
    assert Counter(row["source"] for row in rows) == {"rare": 5, "common": 10, "usual": 10}
    capsys.readouterr()
    few = [*words, "ingest.max_passages=90", "ingest.sample=0.5", "run.name=few"]
    assert cli.run(["ingest"], [str(config), *few]) == 1
    error = "fewer than ingest.max_passages = 90; take another run.name with ingest.sample="
    assert error in capsys.readouterr().err


class ManyChunksFolder:
    """A folder with all chunks of one part, more than five digits can count."""

    many = 100_002

    def chunk_keys(self):
        return {chunk_key(0, number) for number in range(self.many)}

    def summaries(self, among, relog):
        places = {chunk_key(0, number): number + 1 for number in range(self.many)}
        for key in reversed(among.keys.to_pylist()):
            position = {"chunk": places[key], "last": int(places[key] == self.many)}
            yield Summary(key, 1, 1, 0.0, {}, position=position)


def test_a_complete_part_of_more_than_100_000_chunks_is_recognised():
    part = ShardPart(0, "jsonl", ("shard",), (1,))
    totals, left = stage._existing_chunks(ManyChunksFolder(), [part], None)
    assert (totals.rows, left) == (ManyChunksFolder.many, [])
