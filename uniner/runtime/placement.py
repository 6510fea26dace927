"""Where work can run: keep CPU work off GPU machines, refuse what no machine can hold, say what waits.

CPU work asks for nodes that do not have the label POOL=gpu. A node without labels, such as a laptop, takes
everything. Ray's autoscaler only prefers CPU machines for CPU work: once their pool is full or cannot grow,
it buys GPU machines for it.
"""

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray._private.worker import global_worker

from uniner.errors import UserError

POOL, GPU_POOL = "uniner-pool", "gpu"
"""The label of a node pool that is bought for work on GPUs alone (cluster.yaml, infra/rayjob.yaml)."""
_ACCELERATOR = "accelerator_type:"  # the name of Ray's resource for a GPU's model
_BOOTSTRAP = "ray_bootstrap_config.yaml"  # `ray up` writes it into the head's home
_LOOK_S = 2.0
_FIRST_S = 10.0
# Work that could run on a busy node: usually the stage's own tasks hold it, and wait only for each other.
_BUSY_S = 300.0
_AGAIN_S = 600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """The resources of one task, actor or training worker."""

    cpus: float = 1
    gpus: float = 0

    def selector(self) -> dict[str, str]:
        """Return Ray's label selector: CPU work stays off the GPU pool."""
        return {} if self.gpus else {POOL: f"!{GPU_POOL}"}

    def bundle(self) -> dict[str, float]:
        """Return the resources as Ray counts them."""
        return {name: value for name, value in (("CPU", self.cpus), ("GPU", self.gpus)) if value}

    def text(self, count: float = 1) -> str:
        """Return so many of these resources in words, such as "2 GPUs, 8 CPUs"."""
        return _in_words({name: value * count for name, value in self.bundle().items()})


@dataclass(frozen=True)
class NodeType:
    """A kind of machine that the cluster has or can start; `most` of them at once."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    most: int

    def text(self) -> str:
        """Return the machines in words, such as "8 x gpu with 8 GPUs, 96 CPUs"."""
        return f"{self.most:,} x {self.name} with {_in_words(self.resources) or 'no CPUs'}"

    def room(self, request: Request) -> int:
        """Return how many such requests one machine holds."""
        if not request.gpus and self.labels.get(POOL) == GPU_POOL:
            return 0
        return min((self._room(name, value) for name, value in request.bundle().items()), default=1)

    def accelerator(self) -> str:
        """Return Ray's name of the machine's GPUs, such as "H100"; empty where it has or knows none."""
        names = (name for name in self.resources if name.startswith(_ACCELERATOR))
        return next(names, "").removeprefix(_ACCELERATOR)

    def _room(self, name: str, value: float) -> int:
        there = self.resources.get(name, 0)
        # The small addend: 0.3 / 0.1 is less than 3.
        if name == "GPU" and value < 1:  # a part of a GPU is a part of one, not of two
            return int(there) * int(1 / value + 1e-6)
        return int(there / value + 1e-6)


def require_room(name: str, request: Request, count: int, advice: str) -> None:
    """Check that the cluster can ever hold `count` requests at once; if so, they may have to wait.

    A cluster whose node types are not known, such as one of `ray start`, may grow by any machine.
    name: of the work. advice: what to change in the config.

    Raises:
        UserError: neither this machine alone, nor the machines that the autoscaler can start, have room.
    """
    limit = None
    if "RAY_ADDRESS" in os.environ:
        config = _autoscaling_config()
        if config is None:
            return
        nodes, limit = _node_types(config), _most_machines(config)
        offered = "the most that the cluster can start is " + ", ".join(node.text() for node in nodes)
    else:
        nodes = _present_nodes()
        offered = "this machine has " + ", ".join(_in_words(node.resources) for node in nodes)
        advice += ", or join a cluster with RAY_ADDRESS"
    if _most_requests(request, nodes, limit) >= count:
        return
    times = "" if count == 1 else f"{count:,} times "
    barred = (
        f" (CPU work stays off machines with the label {POOL}={GPU_POOL})"
        if limit and not request.gpus
        else ""
    )
    raise UserError(f"{name}: needs {times}{request.text()}, but {offered}{barred}; {advice}")


def _most_requests(request: Request, nodes: Sequence[NodeType], limit: int | None) -> int:
    """Return how many requests fit at once on the machines with most room, `limit` workers in all."""
    total, left = 0, limit
    for node in sorted(nodes, key=lambda node: -node.room(request)):
        machines = node.most if left is None else min(node.most, left)
        total += machines * node.room(request)
        left = None if left is None else left - machines
    return total


def node_types() -> list[NodeType] | None:
    """Return the machines that the cluster's autoscaler can start; None where nothing says which."""
    config = _autoscaling_config()
    return None if config is None else _node_types(config)


def gpu_nodes() -> list[NodeType]:
    """Return the machines with GPUs that the cluster has now."""
    return [node for node in _present_nodes() if node.resources.get("GPU")]


def _node_types(config: Any) -> list[NodeType]:
    return [
        NodeType(name, node.resources, node.labels, node.max_worker_nodes)
        for name, node in config.get_node_type_configs().items()
        if name != config.get_head_node_type() or _head_works(config)
    ]


def _most_machines(config: Any) -> int | None:
    workers = config.get_max_num_worker_nodes()
    return None if workers is None else workers + _head_works(config)


def _head_works(config: Any) -> bool:
    resources = config.get_node_type_configs()[config.get_head_node_type()].resources
    return any(resources.get(name) for name in ("CPU", "GPU"))


def _present_nodes() -> list[NodeType]:
    return [
        NodeType(node["NodeManagerHostname"], node["Resources"], node["Labels"] or {}, 1)
        for node in ray.nodes()
        if node["Alive"]
    ]


def _autoscaling_config() -> Any | None:
    """Return the autoscaler's configuration of a cluster of `ray up` or KubeRay; None for another cluster.

    A submitted job runs on the head, where `ray up` leaves its file with every type's resources filled in.
    KubeRay names the cluster in every pod, and lets the head's service account read it.
    """
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, FileConfigReader

    bootstrap, name = Path.home() / _BOOTSTRAP, os.environ.get("RAY_CLUSTER_NAME")
    if bootstrap.is_file():
        return FileConfigReader(str(bootstrap)).get_cached_autoscaling_config()
    if not name or "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    client = node_provider.KubernetesHttpApiClient(os.environ.get("RAY_CLUSTER_NAMESPACE", "default"))
    try:
        cluster = client.get(f"rayclusters/{name}")
    except OSError as error:  # also requests' errors
        log.info(f"the cluster's worker groups cannot be read ({error}); what fits none of them will wait")
        return None
    # Ray's public class for this would try a refused request five times, 5 s apart.
    return AutoscalingConfig(autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster))


@contextlib.contextmanager
def placed(name: str, request: Request, count: int = 1, *, advice: str) -> Iterator["Waiting"]:
    """Check that work can be placed, and log within the block what it waits for.

    Raises:
        UserError: as `require_room`.
    """
    require_room(name, request, count, advice)
    waiting = Waiting(name, request)
    waiting.start()
    try:
        yield waiting
    finally:
        waiting.end()


class Waiting:
    """A thread that logs what work waits for: after some seconds, and again every ten minutes."""

    def __init__(self, name: str, request: Request, first_s: float = _FIRST_S, busy_s: float = _BUSY_S):
        """first_s, busy_s: seconds without progress until it is logged that no machine is large enough, or
        that all which are large enough are busy."""
        self._name, self._request, self._first_s, self._busy_s = name, request, first_s, busy_s
        self._ended, self._moved_at, self._said_at = threading.Event(), time.monotonic(), -math.inf
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.note = ""
        """What the work waits for now, such as "waiting for 2 GPUs, 8 CPUs"; empty where it does not wait."""

    def start(self) -> None:
        """Start to watch."""
        self._thread.start()

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join(_LOOK_S)  # a look may wait for a cluster that is gone

    def moved(self) -> None:
        """Note that the work made progress."""
        self._moved_at, self._said_at, self.note = time.monotonic(), -math.inf, ""

    def _watch(self) -> None:
        while not self._ended.wait(min(_LOOK_S, self._first_s)):
            if time.monotonic() - self._moved_at >= self._first_s:
                self._look()

    def _look(self) -> None:
        try:
            state = _cluster_state()
        except exceptions.RpcError:
            return  # the driver's own calls wait or fail too, and it says so
        count, now = pending(state, self._request), time.monotonic()
        absent = not any(node.room(self._request) for node in _nodes_of(state))
        if not count or not (absent or now - self._moved_at >= self._busy_s):
            self.note = ""
            return
        self.note = f"waiting for {self._request.text(count)}"
        if now - self._said_at >= _AGAIN_S:
            self._said_at = now
            log.info(f"{self._name}: {self.note}; {_capacity(state)}")


def _cluster_state() -> Any:
    """Return the cluster's resources and demands, as its autoscaler sees them."""
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    return get_cluster_resource_state(global_worker.gcs_client)


def pending(state: Any, request: Request) -> int:
    """Return how many requests of this kind wait for a machine, alone or as a group."""
    bundle = request.bundle()
    single = sum(
        each.count for each in state.pending_resource_requests if _same(each.request.resources_bundle, bundle)
    )
    grouped = (each for group in state.pending_gang_resource_requests for each in group.requests)
    return single + sum(_same(each.resources_bundle, bundle) for each in grouped)


def _same(resources: Mapping[str, float], bundle: Mapping[str, float]) -> bool:
    asked = {name: value for name, value in resources.items() if name in ("CPU", "GPU") and value}
    # Ray keeps four decimals.
    return asked.keys() == bundle.keys() and all(
        math.isclose(value, bundle[name], abs_tol=1e-4) for name, value in asked.items()
    )


def _nodes_of(state: Any) -> list[NodeType]:
    from ray.core.generated.autoscaler_pb2 import NodeStatus

    return [
        NodeType("", dict(node.total_resources), dict(node.labels), 1)
        for node in state.node_states
        if node.status != NodeStatus.DEAD
    ]


def _capacity(state: Any) -> str:
    nodes = _nodes_of(state)
    total = {name: sum(node.resources.get(name, 0) for node in nodes) for name in ("GPU", "CPU")}
    count = "1 machine" if len(nodes) == 1 else f"{len(nodes):,} machines"
    return f"the cluster has {count} with {_in_words(total) or 'no CPUs for work'} now"


def _in_words(resources: Mapping[str, float]) -> str:
    amounts = [(resources.get(name, 0), name) for name in ("GPU", "CPU")]
    return ", ".join(f"{amount:g} {name}{'' if amount == 1 else 's'}" for amount, name in amounts if amount)
