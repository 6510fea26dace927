"""The main job on real passages of the Pile with recorded ChatGPT replies, from S3 to S3."""

import ast
import json
import re
import unicodedata
from collections import Counter

import pytest
import zstandard

from uniner import cli
from uniner.config.schema import Build
from uniner.storage.filesystem import expand
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.replay_server import ReplayServer, load_recording

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
TYPES = ["person", "location"]


@pytest.fixture
def config(shared_pile, bucket, base, tmp_path):
    shards = StageFolder(f"{bucket}/real/pile")
    for shard in sorted(shared_pile.glob("*.jsonl.zst")):
        shards.write(shard.name, shard.read_bytes())
    path = tmp_path / "real.toml"
    path.write_text(
        f'[run]\nroot = "{bucket}/real/runs"\nname = "pile"\n'
        f'[student]\nbase = "{base}"\nmax_tokens = 1536\n'
        # The recorded passages are whole documents: with this tokenizer, more than 256 tokens.
        f'[ingest]\nshards = ["{shards.url}/*.jsonl.zst"]\nmax_tokens = 2048\n'
        '[train]\nmax_steps = 3\nbatch_conversations = 8\nlearning_rate = 1e-4\ndtype = "float32"\n'
        "workers = 2\nuse_gpu = false\ncheck_export = false\nvalidation_questions = 20\n"
        '[engine]\ndtype = "float32"\ngpus = 0\nblock_size = 32\nmax_answer_tokens = 24\n'
        "max_bad_share = 1.0\n"
        f"[tag]\ntypes = {json.dumps(TYPES)}\n"
    )
    return str(path)


def documents(url):
    """The shards' documents by the ids that ingest gives them, read independently."""
    texts = {}
    for number, shard in enumerate(expand([f"{url}/*.jsonl.zst"])):
        data = zstandard.ZstdDecompressor().stream_reader(
            StageFolder(url).read(shard.rsplit("/", 1)[-1]), read_across_frames=True
        )
        for line_number, line in enumerate(data.read().splitlines()):
            texts[f"{number:05d}-{line_number:09d}"] = json.loads(line)["text"]
    return texts


def normalized(text):
    """Remove what a located mention may differ in: case, white space, kind of quotation mark."""
    return " ".join(re.sub("[‘’‚ʼ`´]", "'", re.sub("[“”„«»]", '"', text)).casefold().split())


def counted(replies, drop_types):
    """Count independently which mentions of the replies must be kept, by type and by passage."""
    types, kept = Counter(), Counter()
    for passage, reply in replies.items():
        pairs = {(mention, " ".join(name.lower().split())) for mention, name in ast.literal_eval(reply)}
        for mention, name in pairs:
            letters = [letter for letter in mention if letter.isalpha()]
            latin = sum("LATIN" in unicodedata.name(letter, "") for letter in letters)
            held = normalized(mention) in normalized(passage) and len(mention.split()) <= 20
            if name not in drop_types and held and 2 * latin >= len(letters):
                types[name] += 1
                kept[passage] += 1
    return types, kept


def test_from_shards_on_s3_to_tagged_parquet_on_s3(config, shared_pile, bucket, ray_session, capsys):
    replies = load_recording(str(shared_pile / "teacher_replies.jsonl.gz"))
    with ReplayServer(replies) as teacher:
        words = [config, f"teacher.base_url={teacher.base_url}"]
        assert cli.run(["ingest", "annotate", "build", "train", "tag"], words) == 0
        assert teacher.asked == 700, "each passage is asked for once"
        again = [*words, "run.name=again", "build.negatives=uniform"]
        assert cli.run(["ingest", "annotate", "build", "report"], again) == 0
        assert teacher.asked == 700, "another run takes all replies from the cache"
    texts = documents(f"{bucket}/real/pile")
    run = StageFolder(f"{bucket}/real/runs/pile")
    passages = (run / "ingest").read_rows().to_pylist()
    assert {row["doc_id"]: row["text"] for row in passages} == {name: t.strip() for name, t in texts.items()}
    annotations = (run / "annotate").read_rows().to_pylist()
    assert [row["passage_id"] for row in annotations] == [row["passage_id"] for row in passages]
    assert {row["outcome"] for row in annotations} == {"ok"}
    located = [(row["text"], e) for row in annotations for e in row["entities"] if e["start"] >= 0]
    assert len(located) > 10_000
    assert all(text[e["start"] : e["end"]] == e["text"] for text, e in located)
    types, kept = counted(replies, Build().drop_types)
    for name in ("pile", "again"):
        run = StageFolder(f"{bucket}/real/runs/{name}")
        asked, built = ((run / stage).require_manifest() for stage in ("annotate", "build"))
        assert asked.figures["entities"] == sum(len(row["entities"]) for row in annotations)
        assert (built.results["types"], built.figures["conversations"]) == (len(types), len(kept))
        assert built.figures["mentions"] == types.total()
    asked = asked.figures
    assert (asked["cache_hits"], asked["cache_misses"], asked["requests"]) == (700, 0, 0)
    printed = capsys.readouterr().out
    assert f"passages annotated 700, dropped: no entities -{700 - len(kept)}" in printed
    assert f"conversations {len(kept)}" in printed and f"{len(types)} types" in printed
    assert f"mentions kept {types.total():,}" in printed
    run = StageFolder(f"{bucket}/real/runs/pile")
    tagged = (run / "tag").read_rows().to_pylist()
    assert sorted(row["passage_id"] for row in tagged) == sorted(row["passage_id"] for row in passages)
    entities = [(texts[row["doc_id"]], e) for row in tagged for e in row["entities"]]
    grounded = [(text, e) for text, e in entities if e["start"] >= 0]
    assert grounded
    assert all(text[e["start"] : e["end"]] == e["text"] for text, e in grounded)
    assert {e["type"] for _, e in entities} <= set(TYPES)
    figures = (run / "tag").require_manifest().figures
    assert figures["characters"] == sum(len(row["text"]) for row in passages)
    overlong = {row["passage_id"] for row in tagged if row["outcome"] == "overlong"}
    cut = sum(len(row["text"]) for row in passages if row["passage_id"] in overlong)
    assert figures["cut_characters"] == cut
    assert (run / "train" / "student").exists("uniner.json")
