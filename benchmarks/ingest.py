"""How fast ingest reads, against what the libraries under it reach alone, on one core in the same run.

python -m benchmarks.ingest [MB]

Makes a shard in the Pile's layout (by default 400 MB of text; documents from a sentence to a book) in a
temporary folder and reads it, each way in a process of its own, pinned to one core:

    read and parse   decompress, split into lines, decode each into its text: no more
    scan             ingest with a sample of 1 in 25,000 passages, as for 50,000 of the Pile
    tokenize         the student's tokenizer on a part of the documents, whole, offsets too: no more
    take all         ingest of every passage of that part

Prints MB of text a second of CPU (so that other work on the machine counts little), the ratio to the limit
above it, and the process's peak memory.
"""

import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from uniner.ingest.reader import Position, Recipe, read_chunks
from uniner.ingest.rows import Document, Fields, read_rows
from uniner.ingest.sampling import Sampling
from uniner.ingest.shards import Part, parts_of
from uniner.lines import read_lines
from uniner.quickstart.prepare import BASE
from uniner.student import load_tokenizer

LIMIT_OF = {"read and parse": None, "scan": "read and parse", "tokenize": None, "take all": "tokenize"}
SCAN_SHARE = 1 / 25_000
TAKEN_MB = 5  # tokenizing is a hundred times slower than reading
FIELDS = Fields("text", "meta.pile_set_name")
LONGEST = 64_000_000


class Text(msgspec.Struct):
    """A line, of which only the text is decoded: the least that must be done."""

    text: str


def make_shard(path: Path, megabytes: int, seed: int = 0) -> None:
    """Write about so many MB of documents: log-normal lengths, words from a vocabulary by Zipf's law."""
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


def read_and_parse(part: Part) -> Iterator[int]:
    """Yield the length of each line's text."""
    decode = msgspec.json.Decoder(Text).decode
    for line in read_lines(part.urls[0]):
        assert line.data is not None
        yield len(decode(line.data).text)


def take(part: Part, share: float, megabytes: int | None, tokenizer: Any) -> int:
    """Ingest a share of the passages, of the first so many MB or of all. Returns their number."""
    bounded = replace(part, limit=megabytes * 1_000_000 if megabytes else None)
    recipe = Recipe(256, 0, 128, Sampling(0, share), FIELDS, LONGEST)
    return sum(chunk.table.num_rows for chunk in read_chunks(bounded, Position(), recipe, tokenizer))


def measure(way: str, path: str) -> dict[str, float]:
    """Do it one way, after a little of it to warm up. Returns characters of text, seconds and peak MB."""
    (part,) = parts_of([path], [Path(path).stat().st_size], "text")
    tokenizer = load_tokenizer(BASE)
    rows = read_rows(replace(part, limit=TAKEN_MB * 1_000_000), FIELDS, LONGEST)
    texts = [row.found.text for row in rows if isinstance(row.found, Document)]
    take(part, 1.0, 1, tokenizer)
    started = time.process_time()
    if way == "read and parse":
        characters = sum(read_and_parse(part))
    elif way == "scan":
        assert take(part, SCAN_SHARE, None, tokenizer)
        characters = 0  # those of the whole shard, which the way before it counted
    elif way == "tokenize":
        for text in texts:
            tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        characters = sum(map(len, texts))
    else:
        assert take(part, 1.0, TAKEN_MB, tokenizer)
        characters = sum(map(len, texts))
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000
    return {"characters": characters, "seconds": seconds, "peak_mb": peak}


def main() -> None:
    """Make the shard, measure every way, print the table."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    core = min(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "00.jsonl.zst"
        make_shard(path, megabytes)
        print(f"a shard of {megabytes} MB of text, {path.stat().st_size / 1e6:.0f} MB compressed; one core")
        found: dict[str, dict[str, float]] = {}
        for way in LIMIT_OF:
            command = [sys.executable, "-m", "benchmarks.ingest", way, str(path)]
            pinned = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
            run = subprocess.run(
                command,
                env=pinned,
                capture_output=True,
                text=True,
                check=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
            found[way] = json.loads(run.stdout)
            text = found[way]["characters"] or found[str(LIMIT_OF[way])]["characters"]
            found[way]["rate"] = text / found[way]["seconds"] / 1e6
            limit = LIMIT_OF[way]
            ratio = f"{found[way]['rate'] / found[limit]['rate']:7.0%} of {limit}" if limit else ""
            print(f"{way:15} {found[way]['rate']:8.1f} MB/s  {found[way]['peak_mb']:6.0f} MB peak  {ratio}")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in LIMIT_OF:
        print(json.dumps(measure(sys.argv[1], sys.argv[2])))
    else:
        main()
