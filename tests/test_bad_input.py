"""Mistakes of the user: each ends in one clear line and the design's exit code."""

import json
import signal

import pytest
import zstandard

from uniner import cli
from uniner.teacher.replay_server import ReplayServer

GOOD = [{"text": f"Ann number {number} lives in Bonn.", "meta": {}} for number in range(40)]


@pytest.fixture
def config(tmp_path, base, write_shard):
    write_shard(tmp_path / "good.jsonl.zst", GOOD)
    (tmp_path / "broken_recording.jsonl").write_text("nonsense\n")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text('{"model_type": "llama"}')
    path = tmp_path / "config.toml"
    path.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "bad"\n[student]\nbase = "{base}"\n'
        f'[ingest]\nshards = ["{tmp_path}/good.jsonl.zst"]\nchunk_passages = 10\n'
        f"[engine]\ngpus = 0\n[tag]\ntypes = ['person']\n"
    )
    return str(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_ray_starts_stops_the_job(config, capsys, number):
    before = {handled: signal.getsignal(handled) for handled in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = cli.run(["ingest"], [config], prepare=lambda _: signal.raise_signal(number))
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)
    assert code == 3
    assert f"stopped by {number.name}; the same command goes on from here" in capsys.readouterr().err


def error_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("stage", "words", "message"),
    [
        (
            "ingest",
            ["ingest.max_token=3"],
            "unknown setting ingest.max_token (did you mean ingest.max_tokens?)",
        ),
        ("ingest", ["ingest.sample=2"], "ingest.sample = 2: must be less than or equal to 1"),
        ("ingest", ['ingest.shards=["{tmp}/absent.jsonl.zst"]'], "absent.jsonl.zst: no such file"),
        ("ingest", ['ingest.shards=["{tmp}/*.parquet"]'], "*.parquet: the glob matches no file"),
        ("ingest", ['ingest.shards=["{tmp}"]'], "is a folder; name its files"),
        ("ingest", ["student.base={tmp}"], "is not a model folder (no config.json)"),
        ("ingest", ["student.base=./no/such/model"], "no/such/model is not a model folder"),
        ("ingest", ["student.base={tmp}/half"], "half cannot be loaded as a model"),
        ("ingest", ['ingest.decontaminate={x="{tmp}"}'], "is a folder; name a file"),
        ("annotate", [], "OPENAI_API_KEY is not set"),
        (
            "annotate",
            ["teacher.kind=recording", "teacher.path={tmp}/broken_recording.jsonl"],
            "line 1: is not an object with passage",
        ),
        ("tag", [], "runs/bad/ingest: the stage ingest is not complete (no manifest.json); run it first: "),
        ("tag", ["tag.student={tmp}"], "is not a model folder (no config.json)"),
        ("evaluate", ["evaluate.gold.x={tmp}/absent.jsonl"], "absent.jsonl: no such file"),
    ],
)
def test_a_mistake_is_found_before_ray_starts(stage, words, message, config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_run_checked", lambda *_: pytest.fail("Ray would have been started"))
    assert cli.run([stage], [config, *(word.replace("{tmp}", str(tmp_path)) for word in words)]) == 2
    assert message in error_line(capsys)


def test_a_missing_bucket_is_found_before_ray_starts(config, s3_endpoint, capsys):
    assert cli.run(["ingest"], [config, 'ingest.shards=["s3://absent-bucket/*.zst"]']) == 2
    assert "s3://absent-bucket/*.zst: no such bucket" in error_line(capsys)
    assert cli.run(["ingest"], [config, "run.root=s3://absent-bucket"]) == 2
    assert "s3://absent-bucket/bad/ingest: no such bucket" in error_line(capsys)


@pytest.mark.ray
def test_a_truncated_shard(config, tmp_path, ray_session, capsys):
    lines = "".join(json.dumps({"text": f"Text {number * 7919} here."}) + "\n" for number in range(3_000))
    data = zstandard.compress(lines.encode())
    (tmp_path / "cut.jsonl.zst").write_bytes(data[: len(data) // 2])
    assert cli.run(["ingest"], [config, f'ingest.shards=["{tmp_path}/cut.jsonl.zst"]']) == 1
    assert "cut.jsonl.zst: broken or truncated zstd after line" in error_line(capsys)


@pytest.mark.ray
def test_a_line_that_is_no_json_and_a_shard_that_changed(config, tmp_path, ray_session, capsys):
    lines = [json.dumps(row) for row in GOOD]
    lines[7] = "{not json"
    shard = tmp_path / "line.jsonl.zst"
    shard.write_bytes(zstandard.compress("\n".join(lines).encode()))
    words = [config, f'ingest.shards=["{shard}"]']
    assert cli.run(["ingest"], words) == 1
    message = error_line(capsys)
    assert "2.50% of 40 rows were rejected (1 not_json: the line is not JSON), the limit is 1.00%" in message
    rejects = tmp_path / "runs/bad/ingest/rejects-00000-0000000.jsonl"
    assert str(rejects) in message
    assert json.loads(rejects.read_text()) == {"shard": "line.jsonl.zst", "line": 8, "reason": "not_json"}
    assert cli.run(["ingest"], [*words, "ingest.max_reject_share=0.03"]) == 0
    capsys.readouterr()
    shard.write_bytes(zstandard.compress("\n".join(lines[:-1]).encode()))
    assert cli.run(["ingest"], words) == 2
    assert "the shard line.jsonl.zst has changed since" in error_line(capsys)


@pytest.mark.ray
def test_a_stage_without_its_parent_a_changed_setting_and_an_unreachable_teacher(config, ray_session, capsys):
    teacher = "teacher.base_url=http://127.0.0.1:9/v1"
    assert cli.run(["annotate"], [config, teacher]) == 2
    assert "ingest: the stage ingest is not complete" in error_line(capsys)
    assert cli.run(["ingest"], [config]) == 0
    capsys.readouterr()
    assert cli.run(["ingest"], [config, "ingest.max_tokens=9"]) == 2
    assert "ingest.max_tokens was 256, now 9; take another run.name" in error_line(capsys)
    assert cli.run(["annotate"], [config, teacher, "teacher.retries=0"]) == 1
    assert "http://127.0.0.1:9/v1/: cannot be reached" in error_line(capsys)


@pytest.mark.ray
def test_too_many_bad_annotations(config, ray_session, capsys):
    replies = {row["text"]: "I found nothing worth a list." for row in GOOD[:20]}
    replies |= {row["text"]: '[("Ann", "person")]' for row in GOOD[20:]}
    assert cli.run(["ingest"], [config]) == 0
    with ReplayServer(replies) as teacher:
        words = [config, f"teacher.base_url={teacher.base_url}"]
        assert cli.run(["annotate"], words) == 1
        assert "50.0% of 40 rows are bad (20 unparseable), the limit is 20.0%" in error_line(capsys)
        assert cli.run(["annotate"], [*words, "annotate.max_bad_share=0.5"]) == 0
        assert teacher.asked == 40, "the second run only wrote the manifest"
