"""Ask every machine of a real cluster of two, then run `uniner preflight` on it; print what was seen.

A program of its own, because a process is connected to one cluster at a time.
"""

import json
import os
import sys
from dataclasses import asdict

import ray
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from uniner.cli import app
from uniner.runtime.connection import connected
from uniner.runtime.every_node import on_every_node


def name_of_the_head():
    """The label of the node that a task runs on; an error on all but the head."""
    name = ray.get_runtime_context().get_node_labels()["name"]
    if name != "head":
        raise ValueError("not on this one")
    return name


def run(config):
    """Return what was seen."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "labels": {"name": "head"}})
    cluster.add_node(num_cpus=2, labels={"name": "cpu"})
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        with connected():
            answers = sorted(on_every_node(name_of_the_head), key=lambda answer: answer.error)
        result = CliRunner().invoke(app, ["preflight", config])
    finally:
        cluster.shutdown()
    return {"answers": list(map(asdict, answers)), "code": result.exit_code, "output": result.output}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1])))
