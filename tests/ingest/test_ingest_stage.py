"""The stage as a whole: what is kept of a corpus, and why the rest is not, against an independent count."""

import json

import pytest

from uniner import job
from uniner.storage import Folder

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


def test_what_is_dropped_is_counted_and_the_rest_is_the_same_after_an_interruption(
    config, ray_session, monkeypatch
):
    folder = Folder(str(config.parent / "runs/clean/ingest"))
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "finish", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            job.run(["ingest"], [str(config)])
    keys = sorted(folder.chunk_keys())
    before = {key: folder.read_chunk(key) for key in keys}
    for key in keys[1::2]:
        (config.parent / f"runs/clean/ingest/chunk-{key}.parquet").unlink()
    assert job.run(["ingest"], [str(config)]) == 0
    assert {key: folder.read_chunk(key) for key in folder.chunk_keys()} == before
    assert not (folder / "candidates").sizes()
    assert [row["text"] for row in folder.read_rows().to_pylist()] == [
        sentence(number) for number in range(70)
    ]
    manifest = folder.require_manifest()
    figures = manifest["figures"]
    assert figures["passages_found"] == 3 * 34
    dropped = {name: count for name, count in figures.items() if name.startswith("dropped_")}
    assert dropped == {
        "dropped_short": 3,
        "dropped_language": 3,
        "dropped_contaminated": 3,
        "dropped_duplicate": 20 + 3,
    }
    assert manifest["benchmarks"] == {"bench": {"texts": 1, "too_short": 0, "dropped": 3}}
    assert manifest["rows"] == 70 == figures["passages_found"] - sum(dropped.values())
