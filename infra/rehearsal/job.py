"""The rehearsal's job: its input in the bucket, how it is submitted, how far it is, and what it made."""

import re
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa

from infra.rehearsal.cluster import Cluster, wait_until
from infra.rehearsal.machine_init import HOME
from infra.rehearsal.machines import Machine
from uniner.quickstart.prepare import BASE, write
from uniner.records import UNREAD_COLUMNS
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import StageFolder

BUCKET = "s3://rehearsal"
DOCUMENTS, HELD_OUT, MAX_TOKENS = 120, 12, 256
STAGES = ("ingest", "annotate", "build", "train", "evaluate", "tag")
CONFIG = "jobs/configs/rehearsal.toml"
"""Where the laptop has the config: in the folder that it submits."""
_SETTINGS = Path(__file__).parent / "rehearsal.toml"
_CHECKOUT = "uniner"
_LONGEST_S = 600


def fill_bucket() -> None:
    """Write corpus, recorded teacher and base model into a new bucket of the store that AWS_* name."""
    boto3.client("s3").create_bucket(Bucket=_bucket())
    write(Folder(f"{BUCKET}/corpus"), DOCUMENTS, HELD_OUT, MAX_TOKENS)
    base = Folder(f"{BUCKET}/base")
    for file in Path(BASE).iterdir():
        base.write(file.name, file.read_bytes())


def _bucket() -> str:
    return BUCKET.removeprefix("s3://")


def command(name: str, *settings: str) -> list[str]:
    """Return the command of a run. Each run asks its own teacher."""
    cache = f"teacher.cache={BUCKET}/cache-{name}"
    return ["python", "-m", "jobs.pipeline", CONFIG, f"run.name={name}", cache, *settings]


def give_config(laptop: Machine) -> None:
    """Put the rehearsal's config into the laptop's project."""
    laptop.write(HOME / _CHECKOUT / CONFIG, _SETTINGS.read_text())


class LaptopRun:
    """The same run on the laptop alone: a Ray of its own, the base and the run's folder on its disk."""

    def __init__(self, laptop: Machine, log: Path):
        self.folder = StageFolder(str(laptop.path(HOME / "runs/laptop")))
        self._log = log
        settings = (f"run.root={HOME}/runs", f"student.base={HOME}/{_CHECKOUT}/uniner/quickstart/base")
        # It has until the end of the rehearsal, and takes what the cluster's machines leave.
        words = ["nice", "-n", "10", *command("laptop", *settings, "engine.gpus=0")]
        with log.open("w") as output:
            self._process = laptop.start(*words, folder=_CHECKOUT, output=output)

    def wait(self) -> StageFolder:
        """Wait for its end. Returns the run's folder."""
        if self._process.wait(_LONGEST_S):
            raise RuntimeError(f"the laptop's run failed: {self._log.read_text()[-3000:]}")
        return self.folder


class Job:
    """A job that the laptop submits to the cluster, and whose log it follows."""

    def __init__(self, laptop: Machine, cluster: Cluster, name: str, number: int, log: Path):
        """name: of the run. number: how often it was submitted, with this."""
        self.id, self.folder = f"{name}-{number}", StageFolder(f"{BUCKET}/runs/{name}")
        self._laptop, self._cluster, self._log = laptop, cluster, log
        submit = ("ray", "job", "submit", "--submission-id", self.id, "--working-dir", ".", "--")
        with log.open("w") as output:
            self._process = laptop.start(*submit, *command(name), folder=_CHECKOUT, output=output)

    def text(self) -> str:
        """Return what `ray job submit` has printed: the job's log."""
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str) -> str:
        """Wait for a line of the job's log that matches. Returns it.

        Raises:
            RuntimeError: the job ended without it.
        """

        def find() -> str:
            ended = self._process.poll() is not None
            line = re.search(f"^.*{pattern}.*$", self.text(), re.M)
            if line is None and ended:
                raise RuntimeError(f"the job ended without a line {pattern!r}: {self.text()[-3000:]}")
            return line[0] if line else ""

        return str(wait_until(find, f"a line {pattern!r} in the job's log", _LONGEST_S))

    def wait_until_done(self, stage: str, least: int) -> int:
        """Wait until a stage has made so many chunks, or for train saved that step. Returns the number.

        Raises:
            RuntimeError: the stage or the job ended first.
        """

        def enough() -> int:
            if self._process.poll() is not None:
                raise RuntimeError(f"the job ended: {self.text()[-3000:]}")
            complete = (self.folder / stage).manifest() is not None
            done = self.done(stage)
            if done < least and complete:
                raise RuntimeError(f"{stage} ended before it was disturbed")
            return done if done >= least else 0

        return int(wait_until(enough, f"{least} of {stage}", _LONGEST_S))

    def done(self, stage: str) -> int:
        """Return the number of a stage's chunks, for train the step of its last checkpoint."""
        if stage == "train":
            prefix = f"{self.folder.url.removeprefix(BUCKET)}/train/checkpoints/".lstrip("/")
            listed = boto3.client("s3").list_objects_v2(Bucket=_bucket(), Prefix=prefix)
            saved = (
                re.search(r"step-(\d+)[^/]*/state\.json", each["Key"]) for each in listed.get("Contents", ())
            )
            return max((int(match[1]) for match in saved if match), default=0)
        return len((self.folder / stage).chunk_keys())

    def wait(self) -> str:
        """Wait for its end and return its status."""
        self._process.wait(_LONGEST_S)
        return str(self.state()["status"])

    def stop(self) -> dict[str, Any]:
        """Stop it as a user does. Returns its state."""
        self._laptop.run("ray", "job", "stop", self.id)
        self._process.wait(_LONGEST_S)
        return self.state()

    def state(self) -> dict[str, Any]:
        """Return the job's state: status, message, driver_exit_code."""
        return dict(self._cluster.ask(f"/api/jobs/{self.id}"))


def compare(expected: StageFolder, seen: StageFolder) -> int:
    """Check that two runs have the same rows in each stage, and the same student. Returns the number of rows.

    Rows are compared by the columns that later stages read: cost and attempts may differ.

    Raises:
        RuntimeError: something differs.
    """
    rows = 0
    for stage in STAGES:
        if stage == "train":
            _compare_students(expected / "train" / "student", seen / "train" / "student")
            continue
        below = "student" if stage == "evaluate" else ""
        folders = [
            StageFolder((run / stage / below if below else run / stage).url) for run in (expected, seen)
        ]
        keys = [folder.chunk_keys() for folder in folders]
        if keys[0] != keys[1] or not keys[0]:
            raise RuntimeError(f"{stage}: other chunks: {sorted(keys[0])} and {sorted(keys[1])}")
        for key in sorted(keys[0]):
            tables = [_read_columns(folder.read_chunk(key).table) for folder in folders]
            if not tables[0].equals(tables[1]):
                raise RuntimeError(f"{stage}: chunk {key} differs")
            rows += tables[0].num_rows
    return rows


def _read_columns(table: pa.Table) -> pa.Table:
    return table.drop_columns([name for name in table.schema.names if name in UNREAD_COLUMNS])


def _compare_students(expected: Folder, seen: Folder) -> None:
    names = [name for name in expected.sizes() if name.endswith(".safetensors")]
    if not names or any(expected.read(name) != seen.read(name) for name in names):
        raise RuntimeError(f"train: the students' weights differ ({', '.join(names) or 'none'})")
