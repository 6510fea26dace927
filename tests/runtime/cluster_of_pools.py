"""Run work on a real cluster of three nodes, one of them with GPUs that only Ray counts; print what was seen.

A program of its own, because a process is connected to one cluster at a time.
"""

import json
import logging
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from uniner.errors import UserError
from uniner.runtime import chunk_pipeline, connection, placement, trainer
from uniner.runtime.chunk_pipeline import Pool
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import Chunk, StageFolder


class Lines(logging.Handler):
    """Keeps the lines about waiting."""

    def __init__(self):
        super().__init__()
        self.lines, self.said = [], threading.Event()

    def emit(self, record):
        if "waiting for" in record.getMessage():
            self.lines.append(record.getMessage())
            self.said.set()


def node_name(_):
    """The label of the node that a task runs on."""
    return ray.get_runtime_context().get_node_labels()["name"]


def refused(function, *arguments, **options):
    """The message of the UserError that a call raises."""
    try:
        result = function(*arguments, **options)
    except UserError as error:
        return str(error)
    raise AssertionError(f"no error: {result}")


def run(folder):
    """Return what was seen, by topic."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "labels": {"name": "head"}})
    cluster.add_node(num_cpus=2, labels={"name": "cpu"})
    gpu_pool = {placement.POOL: placement.GPU_POOL, "name": "gpu"}
    cluster.add_node(num_cpus=4, num_gpus=1, labels=gpu_pool)
    os.environ["RAY_ADDRESS"] = cluster.address
    lines = Lines()
    logging.getLogger("uniner").addHandler(lines)
    logging.getLogger("uniner").setLevel(logging.INFO)
    try:
        with connection.connected():
            return see(cluster, folder, gpu_pool, lines)
    finally:
        cluster.shutdown()


def see(cluster, folder, gpu_pool, lines):
    """Run the work."""
    seen = {"cpu nodes": sorted(set(chunk_pipeline.gather(list(range(8)), node_name)))}
    process = {"cpus": 1, "gpus": 1, "crashed": "crashed"}
    seen["gpu"] = {"own process": refused(trainer.run_in_own_process, "train", print, **process)}
    stage, pool = StageFolder(f"{folder}/tag"), Pool(make_worker=object, gpus=2)
    chunk = Chunk("a", pa.table({"x": [1]}))

    def tag():
        return list(chunk_pipeline.work_on_chunks(stage, ["a"], lambda _: chunk, pool))

    with ThreadPoolExecutor() as threads:
        tagged = threads.submit(refused, tag)
        lines.said.wait()
        cluster.add_node(num_cpus=1, num_gpus=2, labels=gpu_pool)  # in the main thread, for its signals
        seen["gpu"]["engine"] = tagged.result()
    training = {"folder": Folder(f"{folder}/train"), "workers": 1, "use_gpu": True, "max_failures": 2}
    training["section"] = "train"
    seen["gpu"]["training"] = refused(trainer.run_training, print, None, **training)
    return {**seen, "waited": lines.lines}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(run(temporary)))
