"""Measure how busy the actors are over many chunks, and how fast a finished run is recognised.

python -m benchmarks.scheduling [actors] [chunks] [mean seconds a chunk]
python -m benchmarks.scheduling many [chunks ...]    trivial chunks, up to a million (see `many_chunks`)

Ray, the actors (a process each) and the chunk files are real. The engine is a stand-in that sleeps in
proportion to a chunk's rows, one chunk at a time. Lengths are log-normal, the longest some ten times the
mean. It prints

    busy       sleeping time over all time of the actors, from the first chunk of the last actor to the end of
               the run; 100 % is ideal (the start of the processes does not count)
    tail       seconds from the first idle actor's last chunk to the end
    driver     resident memory of this process half way and at the end
    actors     mean resident memory of an actor's process
    again      seconds that the job takes to recognise a finished run of 100,000 chunks
"""

import asyncio
import json
import logging
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from benchmarks import many_chunks
from uniner.config.loader import load
from uniner.quickstart.prepare import BASE
from uniner.runtime import chunk_pipeline, connection
from uniner.runtime.stage_context import StageContext
from uniner.storage.manifest import ChunkEntry, Identity, Manifest, Summary
from uniner.storage.model_folders import model_digest, student_facts
from uniner.storage.stage_folder import Chunk, StageFolder

ROWS = 100
"""Mean rows a chunk."""
AGAIN = 100_000


class Sleeper:
    """A worker that sleeps in proportion to a chunk's rows, one chunk at a time."""

    def __init__(self, row_seconds: float):
        self._row_seconds, self._engine = row_seconds, asyncio.Lock()

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Sleep, and note when and in which process."""
        async with self._engine:
            started = time.time()
            await asyncio.sleep(chunk.table.num_rows * self._row_seconds)
        figures = {"pid": os.getpid(), "started": started, "ended": time.time(), "mb": memory_mb()}
        return Chunk(chunk.key, chunk.table, figures=figures)


def memory_mb() -> float:
    """Return this process's resident memory without shared pages."""
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - shared) * 4096 / 1e6


def lengths(chunks: int, seed: int = 0) -> dict[str, int]:
    """Return the chunks' keys and log-normal numbers of rows."""
    chance = random.Random(seed)
    sigma = 0.8
    mean = math.log(ROWS) - sigma**2 / 2
    return {f"{n:06d}": max(1, round(chance.lognormvariate(mean, sigma))) for n in range(chunks)}


def read(rows: dict[str, int], key: str) -> Chunk:
    """Make the chunk of a key."""
    text, count = "some text of a passage " * 40, rows[key]
    return Chunk(key, pa.table({"text": [text] * count, "outcome": ["ok"] * count}))


def print_busy(actors: int, summaries: list[Summary], ended: float) -> None:
    """Print the actors' utilisation."""
    spans: dict[int, list[tuple[float, float]]] = {}
    for summary in summaries:
        figures = summary.figures
        spans.setdefault(int(figures["pid"]), []).append((figures["started"], figures["ended"]))
    all_started = max(min(start for start, _ in span) for span in spans.values())
    asleep = sum(max(0.0, end - max(start, all_started)) for span in spans.values() for start, end in span)
    first_idle = min(max(end for _, end in span) for span in spans.values())
    megabytes = sum(summary.figures["mb"] for summary in summaries) / len(summaries)
    seconds = ended - all_started
    print(f"busy    {asleep / (len(spans) * seconds):7.1%} of {len(spans)} actors' {seconds:,.0f} s")
    after = ended - max(end for span in spans.values() for _, end in span)
    print(f"tail    {ended - first_idle:7.1f} s, of which {after:.1f} s after the last chunk")
    missing = "" if len(spans) == actors else f", {len(spans)} of them started"
    print(f"actors  {megabytes:7.0f} MB each{missing}")


def run(actors: int, chunks: int, seconds: float) -> None:
    """Run the stage and print the figures."""
    rows = lengths(chunks)
    memory: list[float] = []
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(1):
            memory.append(memory_mb())

    with tempfile.TemporaryDirectory() as root:
        folder = StageFolder(root) / "stage"
        pool = chunk_pipeline.Pool(make_worker=partial(Sleeper, seconds / ROWS), actors=actors)
        watcher = threading.Thread(target=watch)
        started = time.time()
        # Logical CPUs, more than the actors take.
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(address="local", num_cpus=2 * actors, include_dashboard=False, **quiet)
        watcher.start()
        with connection.connected():
            sources = [ChunkEntry(key=key, rows=count, bytes=count) for key, count in rows.items()]
            identity = Identity(stage="bench", settings={})
            chunk_pipeline.run_stage(folder, identity, sources, read=partial(read, rows), pool=pool)
        end = time.time()
        finished.set()
        watcher.join()
        ray.shutdown()
        longest, ideal = max(rows.values()) * seconds / ROWS, sum(rows.values()) * seconds / ROWS / actors
        print(f"{chunks:,} chunks of {seconds} s (longest {longest:.0f} s) on {actors} actors")
        print(f"total   {end - started:7.1f} s, with Ray's and the actors' start; ideal {ideal:.1f} s")
        print_busy(actors, folder.read_summaries(folder.chunk_keys()), end)
        print(f"driver  {memory[len(memory) // 2]:7.0f} MB half way, {memory[-1]:.0f} MB at the end")


def again(chunks: int) -> None:
    """Start the tag job on a finished run and print how long it takes to recognise it."""
    from uniner.tag import stage
    from uniner.tag.student import selected_types

    with tempfile.TemporaryDirectory() as root:
        student, path = Path(root) / "student", Path(root) / "config.toml"
        shutil.copytree(BASE, student)
        content = {"template": "type", "max_tokens": 256, "base": "base", "types": ["person"]}
        (student / "uniner.json").write_text(json.dumps(content))
        path.write_text(
            f'[run]\nroot = "{root}/runs"\nname = "done"\n[student]\nbase = "{BASE}"\n'
            f'[tag]\nstudent = "{student}"\n'
        )
        context = StageContext.of(load([str(path)]), "tag", stage.SECTIONS)
        tag, ingest = context.sections.tag, context.run_folder / "ingest"
        keys = [f"{n:06d}-00000" for n in range(chunks)]
        summaries = [Summary(key, 4000, 1_000_000, 60.0, {"ok": 4000}) for key in keys]
        ingest.write_manifest(Manifest.of(Identity(stage="ingest", settings={}), summaries, 1.0))
        facts = student_facts(str(student))
        parents: dict[str, str | None] = {"ingest": ingest.digest(), "student": model_digest(str(student))}
        identity = stage._identity(context, facts, selected_types(tag, facts), parents)
        context.folder.begin(identity)
        settings = tag.model_dump(include={"top_surfaces", "entity_table", "partition_by_source"})
        context.folder.write_sealed_json("tables.json", asdict(stage.TagTables(**settings)))
        context.folder.write_manifest(Manifest.of(identity, summaries, 1.0))
        for key in keys:
            Path(context.folder.path(f"chunk-{key}.parquet")).touch()
        started = time.monotonic()
        job = [sys.executable, "-m", "jobs.tag", str(path)]
        log = subprocess.run(job, capture_output=True, text=True, check=True).stderr
        seconds = time.monotonic() - started
        assert f"already done, {chunks * 4000:,} passages" in log, log
        print(f"again   {seconds:7.1f} s to recognise a finished run of {chunks:,} chunks")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["many"]:
        many_chunks.measure([int(word) for word in words[1:]])
        sys.exit()
    run(
        int(words[0]) if words else 64,
        int(words[1]) if words[1:] else 5000,
        float(words[2]) if words[2:] else 3.0,
    )
    again(AGAIN)
