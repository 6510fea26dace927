"""Where work can run: by the node types of the deployment files, by Ray's own scheduler and by real nodes."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml
from ray.autoscaler._private.kuberay import node_provider
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceState, NodeStatus
from ray.core.generated.common_pb2 import LabelSelectorOperator

from uniner.errors import UserError
from uniner.runtime import placement
from uniner.runtime.placement import Request, Waiting, require_room

ROOT = Path(__file__).parents[2]
# What `ray up` fills in from EC2's list of instance types.
INSTANCES = {
    "m7i.2xlarge": {"CPU": 8},
    "m7i.8xlarge": {"CPU": 32},
    "p4d.24xlarge": {"CPU": 96, "GPU": 8, "accelerator_type:A100": 1},
}


def bootstrap_config():
    """cluster.yaml as `ray up` leaves it on the head."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for node_type in config["available_node_types"].values():
        node_type["resources"] = {
            **INSTANCES[node_type["node_config"]["InstanceType"]],
            **node_type["resources"],
        }
    return config


def ray_cluster():
    """infra/rayjob.yaml's cluster as Kubernetes' API returns it."""
    _, job = yaml.safe_load_all((ROOT / "infra/rayjob.yaml").read_text())
    metadata = {"name": "uniner-x", "namespace": "default"}
    return {"metadata": metadata, "spec": job["spec"]["rayClusterSpec"]}


@pytest.fixture
def in_ray_up(monkeypatch, tmp_path):
    """A driver on the head of a cluster of `ray up`."""
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(bootstrap_config()))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(placement, "_present_nodes", list)


@pytest.fixture
def in_kubernetes(monkeypatch, tmp_path):
    """A driver on the head of a cluster of KubeRay; returns the addresses that it asks for."""
    asked = []

    def get(url, headers, **options):
        asked.append(url)
        response = requests.Response()
        response.status_code = 200 if headers["Authorization"] == "Bearer token" else 403
        response._content = json.dumps(ray_cluster()).encode()
        return response

    (tmp_path / "token").write_text("token")
    monkeypatch.setattr(node_provider, "IN_CLUSTER_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(node_provider.requests, "get", get)
    monkeypatch.setattr(placement, "_present_nodes", list)
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "RAY_ADDRESS": "auto",
        "RAY_CLUSTER_NAME": "uniner-x",
        "RAY_CLUSTER_NAMESPACE": "default",
        "KUBERNETES_SERVICE_HOST": "192.0.2.1",
    }.items():
        monkeypatch.setenv(name, value)
    return asked


@pytest.fixture(params=["in_ray_up", "in_kubernetes"])
def in_cluster(request):
    """A driver in a cluster of either kind."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        (Request(1), 1),
        (Request(1), 480),
        (Request(30), 16),
        (Request(0.25), 1920),
        (Request(8, 1), 64),
        (Request(1, 0.1), 640),
        (Request(1, 0.33), 192),
        (Request(1, 0.4), 128),
        (Request(88, 8), 8),
    ],
)
def test_what_the_node_types_can_hold_is_waited_for(in_cluster, request_, count):
    require_room("tag", request_, count, "lower it")


@pytest.mark.parametrize(
    ("request_", "count", "text"),
    [
        (Request(97), 1, "tag: needs 97 CPUs, but the most"),
        (Request(40), 1, "tag: needs 40 CPUs, but the most"),  # only a GPU machine has as many
        (Request(1), 513, "tag: needs 513 times 1 CPU, but the most"),
        (Request(4, 9), 1, "tag: needs 9 GPUs, 4 CPUs, but the most"),
        (Request(97, 1), 1, "tag: needs 1 GPU, 97 CPUs, but the most"),
        (Request(1, 1), 65, "tag: needs 65 times 1 GPU, 1 CPU, but the most"),
        (Request(1, 0.4), 129, "tag: needs 129 times 0.4 GPUs, 1 CPU, but the most"),  # 2 a GPU, not 2.5
    ],
)
def test_what_no_node_type_holds_is_an_error_before_a_machine_is_bought(in_cluster, request_, count, text):
    with pytest.raises(UserError) as error:
        require_room("tag", request_, count, "lower engine.cpus")
    line = str(error.value)
    assert line.startswith(text) and "8 x gpu with 8 GPUs" in line and line.endswith("lower engine.cpus")
    assert ("label uniner-pool=gpu" in line) is (not request_.gpus)


def test_the_limit_of_all_workers_counts(in_ray_up):
    path, config = (
        Path(os.environ["HOME"], "ray_bootstrap_config.yaml"),
        {**bootstrap_config(), "max_workers": 3},
    )
    path.write_text(yaml.safe_dump(config))
    require_room("train", Request(1, 1), 24, "")
    with pytest.raises(UserError):
        require_room("train", Request(1, 1), 25, "")
    with pytest.raises(UserError):
        require_room("build", Request(1), 97, "")
    config["available_node_types"]["head"]["resources"]["CPU"] = (
        8  # a head that works too is one machine more
    )
    path.write_text(yaml.safe_dump(config))
    require_room("build", Request(1), 104, "")


def test_kubernetes_is_asked_for_this_cluster_and_a_refusal_is_told(in_kubernetes, tmp_path, caplog):
    require_room("tag", Request(1), 1, "")
    assert in_kubernetes[0].endswith("/apis/ray.io/v1/namespaces/default/rayclusters/uniner-x")
    (tmp_path / "token").write_text("another")
    with caplog.at_level(logging.INFO, "uniner"):
        require_room("tag", Request(1000), 1, "")
    assert "worker groups cannot be read (403" in caplog.text


def test_a_cluster_of_unknown_node_types_is_waited_for(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(placement, "_present_nodes", list)
    require_room("tag", Request(1000, 9), 1, "")


@pytest.mark.parametrize(("request_", "count"), [(Request(9), 1), (Request(1, 1), 1), (Request(1), 9)])
def test_a_single_machine_is_all_there_is(monkeypatch, request_, count):
    node = placement.NodeType("laptop", {"CPU": 8.0}, {}, 1)
    monkeypatch.setattr(placement, "_present_nodes", lambda: [node])
    require_room("tag", Request(8), 1, "")
    with pytest.raises(UserError, match=r"but this machine has 8 CPUs; .* RAY_ADDRESS"):
        require_room("tag", request_, count, "lower it")


def launched(config, request, count):
    """The machines by type that Ray's autoscaler starts for so many requests."""
    config = AutoscalingConfig(config, skip_content_hash=True)
    not_in = LabelSelectorOperator.LABEL_OPERATOR_NOT_IN
    selectors = [[(key, not_in, [value[1:]]) for key, value in request.selector().items()]]
    asked = ResourceRequestUtil.make(request.bundle(), label_selectors=selectors if selectors[0] else None)
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count([asked] * count),
        )
    )
    return {
        launch.instance_type: launch.count for launch in reply.to_launch if launch.instance_type != "head"
    }


def configs():
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    kubernetes = _derive_autoscaling_config_from_ray_cr(ray_cluster())
    return {"ray up": bootstrap_config(), "kubernetes": kubernetes}


@pytest.mark.parametrize("name", ["ray up", "kubernetes"])
def test_a_thousand_cpu_tasks_buy_no_gpu_machine(name):
    config = configs()[name]
    assert launched(config, Request(1), 1000) == {"cpu": 16}
    assert launched(config, Request(8, 1), 9) == {"gpu": 2}
    # Without the label Ray's preference for CPU machines ends where their pool is full.
    del config["available_node_types"]["gpu"]["labels"]
    assert launched(config, Request(1), 1000)["gpu"] > 0


def cluster_state(nodes, waiting=(), groups=()):
    state = ClusterResourceState()
    for resources in nodes:
        state.node_states.add(total_resources=resources, status=NodeStatus.RUNNING)
    state.node_states.add(total_resources={"CPU": 999, "GPU": 999}, status=NodeStatus.DEAD)
    for bundle, count in waiting:
        state.pending_resource_requests.add(count=count).request.resources_bundle.update(bundle)
    for bundle, count in groups:
        group = state.pending_gang_resource_requests.add()
        for _ in range(count):
            group.requests.add().resources_bundle.update(bundle)
    return state


ENGINE, WORKER = {"CPU": 4, "GPU": 1}, {"CPU": 1, "GPU": 1}


@pytest.mark.parametrize(
    ("request_", "state", "busy_s", "note"),
    [
        (Request(4, 1), cluster_state([{"CPU": 2}], [(ENGINE, 2)]), 300, "waiting for 2 GPUs, 8 CPUs"),
        (Request(1, 1), cluster_state([], groups=[(WORKER, 8)]), 300, "waiting for 8 GPUs, 8 CPUs"),
        # A node is large enough: its own tasks fill it, and only after a while is that worth a line.
        (Request(4, 1), cluster_state([{"CPU": 8, "GPU": 2}], [(ENGINE, 1)]), 300, ""),
        (Request(4, 1), cluster_state([{"CPU": 8, "GPU": 2}], [(ENGINE, 1)]), 0, "waiting for 1 GPU, 4 CPUs"),
        # Nothing of this work waits.
        (Request(4, 1), cluster_state([{"CPU": 2}], [({"CPU": 1}, 5)]), 0, ""),
    ],
)
def test_work_says_what_it_waits_for(monkeypatch, request_, state, busy_s, note):
    waiting = Waiting("tag", request_, busy_s=busy_s)
    monkeypatch.setattr(placement, "_cluster_state", lambda: state)
    waiting._look()
    assert waiting.note == note


def test_waiting_is_logged_once_and_again_after_progress(monkeypatch, caplog):
    """In its own thread, and ended with the work."""
    looked = []
    state = cluster_state([{"CPU": 2}, {"CPU": 2}], [(ENGINE, 1)])
    monkeypatch.setattr(placement, "_cluster_state", lambda: looked.append(1) or state)

    def look_until(number):
        while len(looked) < number:
            assert waiting._thread.is_alive()
            waiting._thread.join(0.01)

    with caplog.at_level(logging.INFO, "uniner"):
        waiting = Waiting("tag", Request(4, 1), first_s=0.01)
        waiting.start()
        look_until(5)
        line = "tag: waiting for 1 GPU, 4 CPUs; the cluster has 2 machines with 4 CPUs now"
        assert [record.message for record in caplog.records] == [line]
        waiting.moved()
        look_until(len(looked) + 3)
        assert [record.message for record in caplog.records] == [line] * 2
        waiting.end()
        assert not waiting._thread.is_alive()


@pytest.fixture(scope="module")
def on_cluster():
    """What tests/runtime/cluster_of_pools.py saw on a real cluster."""
    script = Path(__file__).with_name("cluster_of_pools.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, timeout=180)
    assert run.returncode == 0, run.stderr.decode()
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.ray
@pytest.mark.slow
def test_cpu_work_stays_off_the_gpu_pool_of_a_real_cluster(on_cluster):
    assert on_cluster["cpu nodes"] == ["cpu"]


@pytest.mark.ray
@pytest.mark.slow
def test_an_engine_waits_for_a_machine_says_so_and_runs_on_one_that_joins(on_cluster):
    (line,) = on_cluster["waited"]
    assert line == "tag: waiting for 2 GPUs, 1 CPU; the cluster has 3 machines with 1 GPU, 6 CPUs now"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("worker", ["engine", "training", "own process"])
def test_a_gpu_that_torch_does_not_see_ends_the_work_in_one_line(on_cluster, worker):
    line = on_cluster["gpu"][worker]
    assert "Ray gave this process a GPU on" in line and "nvidia-smi" in line and "\n" not in line
