"""Measure ingest's speed and memory, against its own libraries and other readers.

python -m benchmarks.ingest [MB [MB of the shard for memory]]

It makes a shard in the Pile's layout (by default 400 MB of text, .zst; documents from a sentence to a book)
and measures, on one core:

    read       all rows as documents, against decompressing and decoding each line's text alone
    scan       all rows, with 1 in 25,000 passages cut, as for 50,000 passages of the Pile
    take all   all passages of a part of the shard, against the tokenizer alone on whole documents
    peers      Ray Data's read_json(lines=True) and datatrove's JsonlReader: read and iterate all rows
    memory     peak of the stage's Ray worker while it scans 10 GB (the shard's frames repeated)

Rates are MB of text a CPU second, the best of three turns; the measurements take turns, so that other work on
the machine counts little. CPU time is that of all processes involved, Ray's included.
"""

import json
import math
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zstandard

from benchmarks.table import Measured, last_line, python_with, say, show
from uniner.ingest.chunk_reader import IngestSettings, ShardPosition, read_chunks
from uniner.ingest.document_reader import CorpusDocument, RowFields, read_rows
from uniner.ingest.sampling import Sampling
from uniner.ingest.shards import ShardPart, split_shards
from uniner.quickstart.prepare import BASE
from uniner.runtime import connection
from uniner.storage.line_reader import read_lines
from uniner.storage.model_folders import load_tokenizer

SCAN_SHARE = 1 / 25_000
TAKEN_MB = 4  # tokenizing is a hundred times slower than reading
TURNS = 3
FIELDS = RowFields("text", "meta.pile_set_name")
LONGEST = 64_000_000
MEMORY_LIMIT_MB = 700


class Text(msgspec.Struct):
    """A line with only its text decoded, the least work that reading needs."""

    text: str


def make_shard(path: Path, megabytes: int, seed: int = 0) -> None:
    """Write about `megabytes` MB of documents of log-normal length, their words by Zipf's law."""
    chance = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 11))) for _ in range(20_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    sentences = [" ".join(chance.choices(words, weights, k=18)).capitalize() + "." for _ in range(20_000)]
    size = 0
    with path.open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as stream:
        while size < megabytes * 1_000_000:
            count = max(1, round(chance.lognormvariate(math.log(14), 1.5)))
            text = " ".join(chance.choices(sentences, k=count))
            row = {"text": text, "meta": {"pile_set_name": chance.choice(["Pile-CC", "PubMed", "Books3"])}}
            stream.write(json.dumps(row).encode() + b"\n")
            size += len(text)


def repeat_shard(path: Path, shard: Path, times: int) -> None:
    """Write a shard's frames `times` times, each after a row of its own: faster than compressing 10 GB."""
    frames = shard.read_bytes()
    with path.open("wb") as file:
        for number in range(times):
            row = {"text": f"This is time {number}.", "meta": {"pile_set_name": "Pile-CC"}}
            file.write(zstandard.compress(json.dumps(row).encode() + b"\n"))
            file.write(frames)


def read_and_decode(part: ShardPart) -> int:
    """Return the characters of all lines' texts."""
    decode = msgspec.json.Decoder(Text).decode
    return sum(len(decode(line.data).text) for line in read_lines(part.urls[0]) if line.data is not None)


def read_documents(part: ShardPart) -> Iterator[str]:
    """Yield the text of each row's document."""
    for row in read_rows(part, FIELDS, LONGEST):
        if isinstance(row.content, CorpusDocument):
            yield row.content.text


def take(part: ShardPart, share: float, tokenizer: Any) -> int:
    """Ingest a share of the passages. Returns their number."""
    settings = IngestSettings(256, 0, 128, Sampling(0, share), FIELDS, LONGEST)
    return sum(chunk.table.num_rows for chunk in read_chunks(part, ShardPosition(), settings, tokenizer))


def fastest(tasks: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return each task's CPU seconds, the least of its turns."""
    seconds = dict.fromkeys(tasks, math.inf)
    for _ in range(TURNS):
        for name, task in tasks.items():
            started = time.process_time()
            assert task()
            seconds[name] = min(seconds[name], time.process_time() - started)
    return seconds


def measure_ours(path: str) -> dict[str, float]:
    """Return the MB of text a CPU second of reading, scanning and taking all, and of the limits beneath."""
    (part,) = split_shards([path], [Path(path).stat().st_size], "text")
    tokenizer = load_tokenizer(BASE)
    excerpt = replace(part, limit=TAKEN_MB * 1_000_000)
    texts = list(read_documents(excerpt))
    take(replace(part, limit=500_000), 1.0, tokenizer)  # warm up
    characters = {"all": read_and_decode(part), "excerpt": sum(map(len, texts))}
    encode = tokenizer.backend_tokenizer.encode
    reading = fastest(
        {
            "decode": lambda: read_and_decode(part),
            "read": lambda: sum(map(len, read_documents(part))),
            "scan": lambda: take(part, SCAN_SHARE, tokenizer),
        }
    )
    cutting = fastest(
        {
            "tokenize": lambda: sum(len(encode(text, add_special_tokens=False)) for text in texts),
            "take all": lambda: take(excerpt, 1.0, tokenizer),
        }
    )
    return {name: characters["all"] / seconds / 1e6 for name, seconds in reading.items()} | {
        name: characters["excerpt"] / seconds / 1e6 for name, seconds in cutting.items()
    }


def measure_ray(path: str) -> float:
    """Return MB of text a CPU second of reading and iterating all rows with Ray Data."""
    import ray

    with connection.connected():
        ray.data.DataContext.get_current().enable_progress_bars = False
        before, characters = _cpu_seconds(), 0
        for row in ray.data.read_json(path, lines=True).iter_rows():
            characters += len(row["text"])
        return characters / (_cpu_seconds() - before) / 1e6


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and its children, which must still run."""
    me = psutil.Process()
    processes = [me, *me.children(recursive=True)]
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


DATATROVE = """
import sys, time, pathlib
from datatrove.pipeline.readers import JsonlReader
path = pathlib.Path(sys.argv[1])
reader = JsonlReader(str(path.parent), glob_pattern=path.name)
best = 0
for _ in range(2):
    started = time.process_time()
    characters = sum(len(document.text) for document in reader.run())
    best = max(best, characters / (time.process_time() - started) / 1e6)
print(best)
"""


def measure_memory(path: str) -> float:
    """Run ingest over a shard on local Ray. Returns its workers' largest peak memory in MB."""
    from uniner.config.schema import Config, Ingest, Run, Student
    from uniner.ingest import stage
    from uniner.runtime.stage_context import StageContext

    peaks: dict[int, float] = {}
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.cmdline()[:1][0].startswith("ray::"):
                        peaks[process.pid] = _peak_mb(process.pid)
                except (psutil.Error, OSError, IndexError):
                    pass  # the process ended

    with tempfile.TemporaryDirectory() as root, connection.connected():
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        run, student = Run(root=root, name="memory"), Student(base=str(BASE))
        config = Config(run=run, student=student, ingest=Ingest(shards=[path], sample=SCAN_SHARE))
        stage.run(StageContext.of(config, "ingest", stage.SECTIONS))
        finished.set()
        watcher.join()
    return max(peaks.values())


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1_000


def measure(megabytes: int = 400, memory_megabytes: int = 10_000) -> list[Measured]:
    """Make the shards and measure. Returns the rows of the table."""
    core = min(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "00.jsonl.zst"
        say(f"ingest: making a shard of {megabytes} MB of text")
        make_shard(path, megabytes)
        say(f"ingest: reading it ({path.stat().st_size / 1e6:.0f} MB compressed) on one core")
        ours = json.loads(_measure_apart("ours", path, core) or "{}")
        ray_reads = _measure_apart("ray", path, core)
        datatrove = python_with("datatrove", ["datatrove[io]", "orjson", "zstandard"])
        datatrove_reads = last_line([datatrove, "-c", DATATROVE, str(path)], core=core) if datatrove else None
        repeated = Path(folder) / "repeated.jsonl.zst"
        times = max(1, round(memory_megabytes / megabytes))
        repeat_shard(repeated, path, times)
        say(f"ingest: a worker's memory over {times * megabytes / 1_000:.1f} GB")
        peak = _measure_apart("memory", repeated, None)
    peers = [
        ("Ray Data read_json(lines=True)", ray_reads),
        (f"datatrove JsonlReader{'' if datatrove_reads else ' (not installable here)'}", datatrove_reads),
    ]
    unit = "MB/s"
    rows = [
        Measured("read all rows", ours["read"], unit, "decompress and decode alone", ours["decode"], ""),
        Measured("scan", ours["scan"], unit, "decompress and decode alone", ours["decode"], ""),
    ]
    for what in ("read", "scan"):
        for name, rate in peers:
            title = "read all rows" if what == "read" else what
            reference = float(rate) if rate else None
            rows.append(Measured(title, ours[what], unit, f"{name}, read all rows", reference, "2"))
    rows.append(Measured("take all", ours["take all"], unit, "the tokenizer alone", ours["tokenize"], "0.8"))
    if peak:
        what = f"worker's peak memory, {times * megabytes / 1_000:.1f} GB"
        rows.append(Measured(what, float(peak), "MB", "limit", MEMORY_LIMIT_MB, "at most 1"))
    return rows


def _measure_apart(measurement: str, path: Path, core: int | None) -> str | None:
    return last_line([sys.executable, "-m", "benchmarks.ingest", measurement, str(path)], core=core)


if __name__ == "__main__":
    measurements = {"ours": measure_ours, "ray": measure_ray, "memory": measure_memory}
    if sys.argv[1:2] and sys.argv[1] in measurements:
        print(json.dumps(measurements[sys.argv[1]](sys.argv[2])))
    else:
        show(measure(*map(int, sys.argv[1:])))
