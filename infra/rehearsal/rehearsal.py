"""What is rehearsed, in order: a laptop's run, the same as a job on the cluster, and again under faults."""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks.s3_server import client_environment
from infra.rehearsal.cluster import POOLS, Cluster, wait_until
from infra.rehearsal.job import STAGES, Job, LaptopRun, compare, fill_bucket, give_config
from infra.rehearsal.machine_init import HOME
from infra.rehearsal.machines import GATEWAY, Network

MACHINES = ("laptop", "head", "cpu-1", "cpu-2", "gpu-1", "gpu-2")
PROJECT = Path(__file__).parents[2]
_STORE_PORT = 9000
_SHORT_CUT_S = 6.0
_WAITING = r"waiting for [^;]+;"
Say = Callable[[str], None]


def start_store(folder: Path) -> dict[str, str]:
    """Start the object store's server, which all machines share. Returns its clients' variables."""
    command = [sys.executable, "-m", "moto.server", "-H", GATEWAY, "-p", str(_STORE_PORT)]
    url = f"http://{GATEWAY}:{_STORE_PORT}"
    with (folder / "store.log").open("w") as log:
        subprocess.Popen(command, stdout=log, stderr=log)

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"{url}/moto-api/").close()
        except urllib.error.URLError:
            return False
        return True

    wait_until(answers, "the object store answers")
    return client_environment(url)


class Rehearsal:
    """The machines and the store, and what is done with them."""

    def __init__(self, folder: Path, say: Say):
        """folder: for the machines' disks and all logs."""
        self._folder, self._say = folder, say
        self._network = Network(MACHINES, folder)
        store = start_store(folder)
        os.environ |= store
        fill_bucket()
        say(f"the object store has corpus, recorded teacher and base ({store['AWS_ENDPOINT_URL']})")
        dashboard = f"http://{self._network.address('head')}:8265"
        variables = {"RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": dashboard, "HF_HUB_OFFLINE": "1"}
        self._laptop = self._network.machine("laptop", {**store, **variables}, PROJECT)
        give_config(self._laptop)
        self._laptop.run("ray", "get-auth-token", "--generate")
        token = self._laptop.path(HOME / ".ray/auth_token").read_text()
        self._cluster = Cluster(self._network, store, token)
        self._runs = 0

    def run(self) -> None:
        """Do all of it.

        Raises:
            RuntimeError: something went another way than it must.
        """
        laptop_run = LaptopRun(self._laptop, self._folder / "laptop-run.log")
        for name, pool in (("cpu-1", "cpu"), ("gpu-1", "gpu")):
            self._join(name, pool)
        self._check_nodes()
        self._check_token()
        calm = self._submit("calm", 1)
        self._require(calm, "SUCCEEDED")
        self._say(f"job {calm.id}: succeeded")
        disturbed = self._under_faults()
        self._say(f"job {disturbed.id}: succeeded")
        expected = laptop_run.wait()
        for job in (calm, disturbed):
            rows = compare(expected, job.folder)
            self._say(f"job {job.id}: its {rows:,} rows and its student equal the laptop's")

    def _join(self, name: str, pool: str) -> None:
        self._cluster.add(name, pool)
        wait_until(lambda: name in self._cluster.alive(), f"{name} joins the cluster")

    def _check_nodes(self) -> None:
        for machine in (self._cluster.head, *self._cluster.nodes.values()):
            pool = machine.name.partition("-")[0]
            with_project = machine.run("python", "-c", "import uniner", check=False).returncode == 0
            if with_project:
                raise RuntimeError(f"{machine.name} has the project, which must come with the job")
            self._say(
                f"node {machine.name}, {machine.address}: {POOLS[pool]['resources']}, without the project"
            )

    def _check_token(self) -> None:
        """Check what the runbook says: without RAY_AUTH_MODE no token is sent, also where the file exists."""
        refused = self._laptop.run("env", "-u", "RAY_AUTH_MODE", "ray", "job", "list", check=False)
        if refused.returncode == 0 or "oken" not in refused.stdout:
            raise RuntimeError(f"a command without the token was not refused: {refused.stdout}")
        self._say("a command without the token is refused")

    def _submit(self, name: str, number: int) -> Job:
        self._runs += 1
        log = self._folder / f"{name}-{number}.log"
        job = Job(self._laptop, self._cluster, name, number, log)
        self._say(f"job {job.id}: submitted from the laptop")
        return job

    def _require(self, job: Job, status: str) -> None:
        seen = job.wait()
        if seen != status:
            raise RuntimeError(f"job {job.id} is {seen}: {job.text()[-3000:]}")

    def _under_faults(self) -> Job:
        """Run the job again, through one fault of each kind. Returns the job that brought it to its end."""
        self._cluster.kill("gpu-1")
        wait_until(lambda: self._cluster.alive() == {"head", "cpu-1"}, "gpu-1 is counted as dead", 180)
        self._say("gpu-1 is switched off while nothing runs on it")
        job = self._submit("faults", 1)
        self._cut_for_a_moment(job)
        self._kill_a_node(job)
        job = self._stop_and_submit_again(job)
        self._let_a_gpu_node_join_late(job)
        self._cut_off_until_dead(job)
        self._require(job, "SUCCEEDED")
        return job

    def _cut_for_a_moment(self, job: Job) -> None:
        job.wait_for("Running entrypoint")
        job.wait_until_done("ingest", 1)
        node = self._cluster.nodes["cpu-1"]
        node.cut()
        time.sleep(_SHORT_CUT_S)  # it is the fault's length
        node.mend()
        self._say(f"cpu-1 was cut off for {_SHORT_CUT_S:.0f} s in ingest")

    def _kill_a_node(self, job: Job) -> None:
        step = job.wait_until_done("train", 4)
        self._cluster.kill("cpu-1")
        self._say(f"cpu-1 is switched off while it trains, with step {step} saved")
        line = job.wait_for(f"train: {_WAITING}")
        self._say(f"the job says: {_message(line)}")
        self._join("cpu-2", "cpu")
        self._say("cpu-2 joins")

    def _stop_and_submit_again(self, job: Job) -> Job:
        line = job.wait_for("train: resuming after step")
        self._say(f"the job says: {_message(line)}")
        state = job.stop()
        stage = re.findall(rf" INFO ({'|'.join(STAGES)})\b", job.text())[-1]
        self._say(f"job {job.id}: `ray job stop` in {stage}: {state['status']}, {state['message']}")
        if state["status"] != "STOPPED":
            raise RuntimeError(f"a stopped job is {state}")
        return self._submit("faults", 2)

    def _let_a_gpu_node_join_late(self, job: Job) -> None:
        line = job.wait_for(f"evaluate.*{_WAITING}")
        self._say(f"the job says: {_message(line)}")
        self._join("gpu-2", "gpu")
        self._say("gpu-2 joins")

    def _cut_off_until_dead(self, job: Job) -> None:
        done = job.wait_until_done("tag", 1)
        node = self._cluster.nodes["gpu-2"]
        node.cut()
        cut_at = time.monotonic()
        self._say(f"gpu-2 is cut off in tag, with {done} chunks done")
        wait_until(lambda: "gpu-2" not in self._cluster.alive(), "gpu-2 is counted as dead", 180)
        self._say(f"gpu-2 is counted as dead {time.monotonic() - cut_at:.0f} s later")
        node.mend()
        working = re.compile(r"ray::|\S*/raylet\b|VLLM")
        wait_until(
            lambda: not any(map(working.match, node.processes())), "the old processes of gpu-2 end", 180
        )
        self._say("gpu-2 is back: its raylet, workers and engine have ended by themselves")
        self._cluster.start_ray("gpu-2", "gpu", again=True)
        wait_until(lambda: "gpu-2" in self._cluster.alive(), "gpu-2 joins again")
        self._say("gpu-2 joins again")


def _message(line: str) -> str:
    return re.sub(r"^.* INFO ", "", line)
