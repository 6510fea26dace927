"""A Ray cluster of machines: started by the commands of cluster.yaml, watched over HTTP with its token."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.rehearsal.machine_init import HOME
from infra.rehearsal.machines import Machine, Network
from uniner.runtime.gpu import STAND_IN

_FILE = yaml.safe_load((Path(__file__).parents[2] / "cluster.yaml").read_text())
_DASHBOARD = 8265
POOLS: Mapping[str, Mapping[str, Any]] = {
    "head": {"resources": {"CPU": 0}},
    "cpu": {"resources": {"CPU": 4}},
    "gpu": {"resources": {"CPU": 2, "GPU": 1}, "variables": {"TMPDIR": "/scratch", STAND_IN: "1"}},
}
"""The node types of cluster.yaml, smaller. The labels are those of the file."""
_VARIABLES = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",  # there is no internet
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(200 << 20),  # several nodes share one memory
    "RAY_worker_niceness": "0",  # as on a machine of their own, whatever else this one does
    "HF_HUB_OFFLINE": "1",
}


class Cluster:
    """The head and the nodes that joined it, each on a machine of its own."""

    def __init__(self, network: Network, environment: Mapping[str, str], token: str):
        """environment: of every node, as cluster.yaml's containers get it."""
        self._network, self._environment, self._token = network, environment, token
        self.nodes: dict[str, Machine] = {}
        self.head = self._machine("head", "head")
        self.start_ray("head", "head")
        self.url = f"http://{self.head.address}:{_DASHBOARD}"

    def add(self, name: str, pool: str) -> Machine:
        """Start a machine of a pool, and Ray on it."""
        self.nodes[name] = self._machine(name, pool)
        self.start_ray(name, pool)
        return self.nodes[name]

    def _machine(self, name: str, pool: str) -> Machine:
        variables = {**_VARIABLES, **self._environment, **POOLS[pool].get("variables", {})}
        machine = self._network.machine(name, variables)
        machine.write(HOME / ".ray/auth_token", self._token)  # cluster.yaml: file_mounts
        return machine

    def start_ray(self, name: str, pool: str, again: bool = False) -> None:
        """Start Ray on a machine, as the autoscaler does: cluster.yaml's command, resources and labels.

        again: Ray ran there before; `ray stop`, also as in cluster.yaml, ends what is left of it. It sees the
        machine's own processes alone.
        """
        machine = self.head if pool == "head" else self.nodes[name]
        labels = _FILE["available_node_types"][pool].get("labels", {})
        variables = {
            "RAY_HEAD_IP": self.head.address,
            "RAY_OVERRIDE_RESOURCES": json.dumps(POOLS[pool]["resources"]),
            "RAY_OVERRIDE_LABELS": json.dumps(labels),
        }
        if again:
            machine.run("ray", "stop", "--force")
        machine.run("sh", "-c", _start_command(pool), variables=variables)

    def kill(self, name: str) -> None:
        """Switch a node's machine off."""
        self.nodes.pop(name).kill()

    def ask(self, path: str, token: str | None = None) -> Any:
        """Return the JSON that the head's dashboard answers."""
        headers = {"Authorization": f"Bearer {self._token if token is None else token}"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}{path}", headers=headers)) as reply:
            return json.load(reply)

    def alive(self) -> set[str]:
        """Return the names of the nodes that the head counts as alive."""
        try:
            nodes = self.ask("/api/v0/nodes")["data"]["result"]["result"]
        except (urllib.error.URLError, ConnectionError):
            return set()  # it starts
        addresses = {node["node_ip"] for node in nodes if node["state"] == "ALIVE"}
        return {machine.name for machine in (self.head, *self.nodes.values()) if machine.address in addresses}


def _start_command(pool: str) -> str:
    """Return cluster.yaml's command that starts Ray on a machine of a pool.

    The head's dashboard is on all addresses, as KubeRay has it: there is no ssh for a tunnel. There is no
    autoscaler: the rehearsal starts the machines.
    """
    commands = _FILE["head_start_ray_commands" if pool == "head" else "worker_start_ray_commands"]
    (command,) = (each for each in commands if each.startswith("ray start"))
    kept = [word for word in command.split() if not word.startswith("--autoscaling-config")]
    return " ".join(word.replace("host=127.0.0.1", "host=0.0.0.0") for word in kept)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    """Wait for a condition and return its value.

    Raises:
        RuntimeError: it stayed false.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:,.0f} s: {what}")
        time.sleep(0.1)
    return value
