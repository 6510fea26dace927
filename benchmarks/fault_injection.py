"""Kill everything that a stage runs on, again and again, and check that each row is written exactly once.

python -m benchmarks.fault_injection [kills] [--disk]

It starts a real Ray cluster of three nodes on this machine, a real S3 server that keeps its data when killed
(`benchmarks.s3_server`), and the tag stage's pipeline and worker. A slow stand-in answers the questions.
SIGKILL hits, in random order and at random moments: an actor, a node (a new one replaces it), the driver and
the S3 server (both are restarted; so is a driver that failed because the server was down). With --disk the
data lie in a folder, and no server is needed.

At the end the rows must equal those of an undisturbed run, in the same chunks. The exit code is then 0.
"""

import argparse
import asyncio
import contextlib
import os
import random
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

from benchmarks.s3_server import S3Server
from uniner.inference.questions import PassageAnswers, TypeAnswer
from uniner.records import PASSAGE, Passage, to_table
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.tag.tagger import EntityRules, Tagger
from uniner.tag.types import TypeSelection

TYPES = TypeSelection(("person", "city", "river"))
CHUNK_PASSAGES = 20
KINDS = ("actor", "node", "driver", "server")


class SlowAnswerer:
    """Answers from the passage's letters alone, after some seconds."""

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
    return Tagger(SlowAnswerer(seconds), TYPES, EntityRules())  # type: ignore[arg-type]


def make_passages(folder: StageFolder, chunks: int) -> None:
    """Write the passages as ingest does."""
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
    folder.write_manifest(Manifest.of(Identity(stage="ingest", settings={}), summaries, 0.0))


def drive(root: str, seconds: float) -> None:
    """Run the stage on the cluster of RAY_ADDRESS, as `python -m jobs.tag` does."""
    from functools import partial

    from uniner.runtime import chunk_pipeline, connection

    pool = chunk_pipeline.Pool(make_worker=partial(make_tagger, seconds), actors=3, max_chunk_crashes=3)
    passages, identity = StageFolder(root) / "ingest", Identity(stage="tag", settings={})
    with connection.connected():
        chunks = passages.require_manifest().chunks
        chunk_pipeline.run_stage(
            StageFolder(root) / "tag", identity, chunks, read=passages.read_chunk, pool=pool
        )


class Testbed:
    """The cluster, the S3 server and the driver; each can be killed."""

    def __init__(self, folder: Path, disk: bool, seconds: float, chance: random.Random):
        self._seconds, self._chance = seconds, chance
        self._server: S3Server | None = None
        self.root = str(folder / "bucket" / "run")
        (folder / "bucket").mkdir()
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        if not disk:
            self._server = S3Server(folder, folder / "server.log")
            os.environ |= self._server.environment
            self.root = "s3://bucket/run"
            self._server.start()
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 2, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._cluster.add_node(num_cpus=4) for _ in range(2)]
        self._log = (folder / "driver.log").open("wb")
        self.driver: subprocess.Popen[bytes] | None = None

    def start_driver(self) -> None:
        """Start the driver's command, again after a kill."""
        words = ["--drive", self.root, str(self._seconds)]
        command = [sys.executable, "-m", "benchmarks.fault_injection", *words]
        environment = {**os.environ, "RAY_ADDRESS": self._cluster.address}
        self.driver = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)

    def kill(self, kind: str) -> bool:
        """Kill a process or node of a kind. Returns False if none runs at the moment."""
        if kind == "actor":
            actors = list(self._actors())
            if actors:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._chance.choice(actors).kill()
            return bool(actors)
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
            self._server.start()
        return True

    def _actors(self) -> Iterator[psutil.Process]:
        """Yield the processes of this cluster's chunk actors."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and "ChunkActor" in title:
                    yield process

    def close(self) -> None:
        """Stop the driver, the server and the cluster."""
        if self.driver:
            self.driver.kill()
            self.driver.wait()
        if self._server:
            self._server.kill()
        self._cluster.shutdown()


def inject_faults(
    bed: Testbed, kills: Sequence[str], tagged: Callable[[], int], chunks: int, chance: random.Random
) -> Counter[str]:
    """Kill at random points of the run's progress; restart a driver that fails. Returns the kills by kind."""
    counts: Counter[str] = Counter()
    # A kill is due once that many chunks exist; its exact moment depends on the processes that run then.
    marks = sorted(chance.uniform(0.02, 0.9) * chunks for _ in kills)
    bed.start_driver()
    due = list(zip(marks, kills, strict=True))
    deadline = time.monotonic() + 1500
    while True:
        assert bed.driver
        code = bed.driver.poll()
        if code == 0:
            break
        if code is not None:
            counts["driver failed"] += 1
            bed.start_driver()
        if due and tagged() >= due[0][0] and bed.kill(due[0][1]):
            counts[due.pop(0)[1]] += 1
        if time.monotonic() > deadline:
            sys.exit("the run did not end within 1,500 s")
        time.sleep(chance.uniform(0.02, 0.2))
    return counts


def compare(root: str, chunks: int) -> None:
    """Check that each chunk exists and equals an undisturbed worker's chunk."""
    parent, folder = StageFolder(root) / "ingest", StageFolder(root) / "tag"
    manifest = folder.require_manifest()
    assert manifest.outcomes == {"ok": chunks * CHUNK_PASSAGES}, manifest.outcomes
    assert len(manifest.chunks) == len(folder.chunk_keys()) == chunks
    leftovers = [name for name in folder.sizes() if not name.startswith(("chunk", "identity", "manifest"))]
    assert not leftovers, leftovers
    tagger = make_tagger()
    for key in sorted(folder.chunk_keys()):
        expected = asyncio.run(tagger(parent.read_chunk(key))).table
        assert folder.read_chunk(key).table.equals(expected), f"chunk {key} differs"


def main(kills: int, disk: bool, seed: int, seconds: float) -> None:
    """Run the stage under faults and compare its rows."""
    kinds: tuple[Any, ...] = KINDS[:-1] if disk else KINDS
    chance = random.Random(seed)
    order = [kinds[number % len(kinds)] for number in range(kills)]
    chance.shuffle(order)
    chunks = 30 * kills
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        bed = Testbed(Path(name), disk, seconds, chance)
        try:
            make_passages(StageFolder(bed.root) / "ingest", chunks)
            folder, started = Path(name) / "bucket" / "run" / "tag", time.monotonic()
            counts = inject_faults(bed, order, lambda: len(list(folder.glob("chunk-*"))), chunks, chance)
            took = time.monotonic() - started
            compare(bed.root, chunks)
        except BaseException:
            print((Path(name) / "driver.log").read_text()[-3000:])
            raise
        finally:
            bed.close()
    assert sum(counts[kind] for kind in kinds) == kills, f"the run ended before all kills: {counts}"
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(f"{kills} kills in {took:.0f} s ({listed}): {chunks * CHUNK_PASSAGES:,} rows, each written once")


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
