"""`uniner preflight`: what a config needs is checked, and the exit code says whether a check failed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from uniner.cli import STAGES, app
from uniner.storage.stage_folder import run_folder
from uniner.teacher.replay_server import ReplayServer

REPOSITORY = Path(__file__).parents[2]
GOLD = {"text": "Ada", "entities": [{"start": 0, "end": 3, "text": "Ada", "type": "person"}]}


@pytest.fixture
def write_config(tmp_path, base):
    """Return a function that writes a config that has everything, but for the changed sections."""
    (tmp_path / "a.txt").write_text("Ada lives in Paris.")
    (tmp_path / "gold.jsonl").write_text(json.dumps(GOLD))
    (tmp_path / "replies.jsonl").write_text('{"passage": "a", "reply": "[]"}')

    def write(**changes):
        sections = {
            "run": {"root": str(tmp_path / "runs"), "name": "r"},
            "student": {"base": str(base), "max_tokens": 512},
            "ingest": {"shards": [str(tmp_path / "*.txt")]},
            "teacher": {"kind": "recording", "path": str(tmp_path / "replies.jsonl")},
            "train": {"use_gpu": False, "dtype": "float32"},
            "engine": {"gpus": 0},
            "evaluate": {"gold": {"news": str(tmp_path / "gold.jsonl")}},
        }
        for section, settings in changes.items():
            sections[section] = {**sections.get(section, {}), **settings}
        lines = []
        for section, settings in sections.items():
            for key, value in settings.items():
                named = (
                    {f".{name}": each for name, each in value.items()}
                    if isinstance(value, dict)
                    else {"": value}
                )
                lines += [
                    f"{section}.{key}{name} = {json.dumps(each)}"
                    for name, each in named.items()
                    if each is not None
                ]
        (tmp_path / "c.toml").write_text("\n".join(lines))
        return str(tmp_path / "c.toml")

    return write


def preflight(*words):
    result = CliRunner().invoke(app, ["preflight", *words], prog_name="uniner")
    lines = re.findall(r"^(ok|warning|error) +(\S.*?): (.*)$", result.stdout, re.MULTILINE)
    return result.exit_code, {subject: (level, found) for level, subject, found in lines}, result.output


def test_a_run_that_has_all_it_needs_passes_and_leaves_nothing(write_config, tmp_path):
    code, lines, output = preflight(write_config())
    assert code == 0, output
    assert {level for level, _ in lines.values()} == {"ok"}
    expected = {
        "run.root",
        "student.base",
        "ingest.shards",
        "evaluate.gold.news",
        "disk of this machine",
        "teacher",
    }
    assert lines.keys() == expected | set(STAGES) - {"report"}
    assert not (tmp_path / "runs").exists()


def test_a_check_that_fails_ends_with_1_and_the_others_are_made(write_config, tmp_path):
    config = write_config(
        ingest={"shards": [str(tmp_path / "*.parquet")]},
        student={"base": str(tmp_path)},
        evaluate={"gold": {"news": str(tmp_path / "no.jsonl")}},
    )
    code, lines, output = preflight(config)
    assert code == 1 and "error: preflight: 7 errors, see above" in output
    wrong = {subject for subject, (level, _) in lines.items() if level == "error"}
    assert wrong == {
        "student.base",
        "ingest.shards",
        "evaluate.gold.news",
        "ingest",
        "train",
        "evaluate",
        "disks",
    }
    assert lines["evaluate"][1] == "the same as evaluate.gold.news"
    assert lines["teacher"][0] == "ok"


def test_a_library_that_only_the_workers_need_is_a_warning(write_config, monkeypatch):
    from uniner.train import stage

    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None)
    code, lines, output = preflight(write_config(train={"tracker": "wandb"}), "--stage", "train")
    assert code == 0, output
    assert lines["train"][0] == "warning" and "needs the library wandb" in lines["train"][1]


def test_encoder_work_that_cannot_run_here_is_an_error(write_config, base, tmp_path):
    config = write_config(
        evaluate={"gold": {"news": str(tmp_path / "gold.jsonl")}, "systems": ["encoder"]},
        encoder={"base": str(base), "use_gpu": True, "workers": 100_000},
        tag={"student": "encoder"},
        engine={"gpus": 1},
    )
    code, lines, output = preflight(
        config, "--stage", "train-encoder", "--stage", "evaluate", "--stage", "tag"
    )
    assert code == 1, output
    assert lines["encoder.base"][0] == "error" and "llama is no text encoder" in lines["encoder.base"][1]
    level, found = lines["room for train-encoder"]
    assert (
        level == "error" and "needs 100,000 times 1 GPU, 1 CPU" in found and "lower encoder.workers" in found
    )
    level, found = lines["room for tagging by the encoder"]
    assert level == "error" and "set engine.gpus=0" in found
    scoring = lines["room for evaluate.system.encoder"]
    assert scoring == ("error", "the same as room for tagging by the encoder")


def test_a_bad_config_ends_with_2(write_config):
    assert preflight(write_config(), "ingest.sampel=1")[0] == 2
    code, _, output = preflight(write_config(), "--stage", "tagg")
    assert code == 2 and "--stage tagg: must be one of generate, ingest" in output


def test_only_what_the_named_stages_need_is_checked(write_config):
    config = write_config(teacher={"path": "no.jsonl"}, evaluate={"gold": {"news": "no.jsonl"}})
    code, lines, output = preflight(config, "--stage", "ingest", "--stage", "tag")
    assert code == 0, output
    assert lines.keys() == {
        "run.root",
        "student.base",
        "ingest.shards",
        "ingest",
        "tag",
        "disk of this machine",
    }


def test_a_teacher_is_asked_once_for_all_that_ask_it(write_config, monkeypatch, tmp_path):
    monkeypatch.setenv("TEACHER_KEY", "k")
    with ReplayServer({}) as server:
        teacher = {"kind": "openai", "base_url": server.base_url, "model": "m", "api_key_env": "TEACHER_KEY"}
        system = {f"chat.teacher.{key}": value for key, value in teacher.items()} | {"chat.kind": "chat"}
        evaluate = {"gold": {"news": str(tmp_path / "gold.jsonl")}, "systems": ["chat"], "system": system}
        config = write_config(teacher={**teacher, "path": None}, evaluate=evaluate)
        code, found, output = preflight(config)
        assert code == 0, output
        assert server.asked == 1
    assert "answers; the request took" in found["teacher"][1]


def test_a_complete_stage_has_its_teacher_asked_no_more(write_config, complete_stage, monkeypatch, tmp_path):
    monkeypatch.setenv("TEACHER_KEY", "k")
    complete_stage(run_folder(str(tmp_path / "runs"), "r") / "annotate")
    teacher = {"kind": "openai", "base_url": "http://127.0.0.1:9", "model": "m", "api_key_env": "TEACHER_KEY"}
    config = write_config(teacher={**teacher, "path": None})
    _, lines, _ = preflight(config, "--stage", "annotate")
    assert lines["teacher"] == ("ok", "not asked: the stages that ask it are complete")


def test_gpus_that_node_types_promise_are_compared(write_config, monkeypatch):
    from uniner.preflight import plan
    from uniner.runtime.placement import NodeType

    types = [NodeType("gpu", {"CPU": 8, "GPU": 1, "accelerator_type:H100": 1}, {}, 2)]
    monkeypatch.setattr(plan, "_node_types", lambda: types)
    words = ["train.use_gpu=true", "engine.gpus=1", "engine.gpu_memory_utilization=0.00001"]
    code, lines, output = preflight(write_config(), *words)
    assert code == 1, output
    assert lines["train on GPUs"][0] == "ok" and "H100 of node type gpu has" in lines["train on GPUs"][1]
    assert lines["engine of student.base"][0] == "error"
    assert "none is known" in lines["disks of GPU machines"][1]


def test_this_machines_gpus_are_a_doubt_where_a_cluster_may_do_the_work(write_config, monkeypatch, bucket):
    from uniner.preflight import nodes

    monkeypatch.setattr(nodes, "_gpus", lambda: (nodes.Gpu("NVIDIA Small", 1e6),))
    words = ["train.use_gpu=true", "--stage", "train"]
    code, lines, _ = preflight(write_config(), *words)
    assert (code, lines["train on GPUs"][0]) == (1, "error")
    code, lines, output = preflight(write_config(run={"root": f"{bucket}/doubt"}), *words)
    assert code == 0, output
    assert lines["train on GPUs"][0] == "warning" and "unless a cluster does it" in lines["train on GPUs"][1]


def test_without_a_cluster_no_ray_is_started(write_config, monkeypatch):
    def start(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", start)
    code, lines, output = preflight(write_config(), "--stage", "ingest")
    assert code == 0, output
    assert lines["ingest.shards"][1].startswith("1 shard, 19 bytes")


def test_a_cluster_that_is_not_there_is_an_error_and_the_rest_is_checked(write_config, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    # Another file's Ray may run in this process, and goes on.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    code, lines, output = preflight(write_config(), "--stage", "ingest")
    assert code == 1, output
    level, found = lines["the cluster at 127.0.0.1:9"]
    assert level == "error" and "cannot be used: [Errno 111] Connection refused; check that its head" in found
    assert lines["ingest"][0] == "ok"


@pytest.mark.ray
@pytest.mark.slow
def test_on_a_cluster_every_machine_is_asked(write_config):
    """A real cluster of a head without CPUs and a node, in a process of its own."""
    script = Path(__file__).parent / "cluster_of_two.py"
    done = subprocess.run(
        [sys.executable, str(script), write_config()],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True,
        check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert [answer["value"] for answer in seen["answers"]] == ["head", None]
    assert seen["answers"][1]["error"] == "ValueError: not on this one"
    assert all(answer["before"] <= answer["moment"] <= answer["after"] for answer in seen["answers"][:1])
    assert seen["code"] == 0, seen["output"]
    assert "ok       versions: alike on 2 of 2 machines: Python" in seen["output"]
    assert "ok       clocks: 2 machines are within 1 s of this one" in seen["output"]
    assert "all machines must see the same folder" in seen["output"]
    assert "ok       disks of 2 machines: " in seen["output"]
