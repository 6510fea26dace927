"""Measure annotate's replies a second from a slow teacher, against the possible rate and two peers.

python -m benchmarks.annotate [SECONDS]

The teacher is a real HTTP server in its own process on this machine (benchmarks/teacher.py). A reply takes
0.5 to 1.5 s, so 128 requests in flight make 128 replies a second possible. Each client asks about the same
passages, as many as take SECONDS (by default 40) at the possible rate:

    annotator   the stage's worker alone, in this process, three chunks at once
    stage       the annotate stage on local Ray: reads chunks, caches replies, writes chunks
    peers       ray.data.llm's HTTP request processor with one actor; Bespoke Curator with its cache off

The server measures the rate: replies divided by the time from the first request to the last reply. So
start-up does not count, the ramp-up and the last replies do. Ray's processor held only four requests at once,
so it gets fewer requests; the rate does not depend on their number.
"""

import asyncio
import functools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from benchmarks.table import Measured, last_line, python_with, say, show
from benchmarks.teacher import SlowTeacher, slow_teacher
from uniner.annotate.annotator import Annotator
from uniner.records import PASSAGE, Passage, to_table
from uniner.runtime import connection
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Teacher
from uniner.teacher.openai_client import OpenAIClient, OpenAIServer
from uniner.teacher.prompts import published_prompt

IN_FLIGHT = 128
MEAN_S = 1.0
POSSIBLE = IN_FLIGHT / MEAN_S
CHUNK_PASSAGES = 128
RAY_REQUESTS = 160
TEACHER = Teacher(
    model="m", prompt=published_prompt("type"), usd_per_million_in=0.15, usd_per_million_out=0.6
)


def chunks(count: int) -> Iterator[Chunk]:
    """Yield `count` passages of about 200 words in chunks."""
    chance = random.Random(0)
    words = [
        "the", "of", "in", "river", "report", "market", "sensor", "harbour", "signal", "copper", "theory",
    ]  # fmt: skip
    for start in range(0, count, CHUNK_PASSAGES):
        passages = []
        for number in range(start, min(count, start + CHUNK_PASSAGES)):
            entities = f"{number}: Ann of Bonn has worked for the Ajax Corporation since May 2019."
            text = f"{entities} {' '.join(chance.choices(words, k=180))}."
            passages.append(
                Passage(
                    passage_id=f"{number:09d}",
                    doc_id=str(number),
                    passage_index=0,
                    char_start=0,
                    char_end=len(text),
                    text=text,
                    n_tokens=250,
                    source="",
                )
            )
        yield Chunk(f"00000-{start // CHUNK_PASSAGES:05d}", to_table(passages, PASSAGE))


def texts(count: int) -> list[str]:
    """Return the texts of the passages."""
    return [text for chunk in chunks(count) for text in chunk.table.column("text").to_pylist()]


def ask_annotator(server: SlowTeacher, count: int) -> None:
    """Ask with the stage's worker alone."""
    remaining = chunks(count)

    async def lane(annotator: Annotator) -> None:
        for chunk in remaining:
            await annotator(chunk)

    async def work() -> None:
        address = OpenAIServer(base_url=server.base_url, api_key="key", in_flight=IN_FLIGHT)
        annotator = Annotator(CachedTeacher(TEACHER, functools.partial(OpenAIClient, TEACHER, address)))
        await asyncio.gather(*(lane(annotator) for _ in range(3)))
        await annotator.close()

    started = time.process_time()
    asyncio.run(work())
    say(f"annotate: {(time.process_time() - started) / count * 1_000:.2f} ms of CPU a request in our process")


def ask_stage(server: SlowTeacher, count: int) -> None:
    """Ask with the stage on local Ray, over an ingest folder of the passages."""
    from uniner.annotate import stage
    from uniner.config.schema import Config, Run, Student
    from uniner.config.teachers import OpenAITeacher
    from uniner.quickstart.prepare import BASE
    from uniner.runtime.stage_context import StageContext

    with tempfile.TemporaryDirectory() as root, connection.connected():
        run, student = Run(root=root, name="annotate"), Student(base=str(BASE))
        teacher = OpenAITeacher(model="m", base_url=server.base_url, in_flight=IN_FLIGHT)
        config = Config(run=run, student=student, teacher=teacher)
        context = StageContext.of(config, "annotate", stage.SECTIONS)
        ingest = context.run_folder / "ingest"
        summaries = [ingest.write_chunk(chunk) for chunk in chunks(count)]
        ingest.write_manifest(Manifest.of(Identity(stage="ingest", settings={}), summaries, 0.0))
        stage.run(context)


def ask_ray(server: SlowTeacher, count: int) -> None:
    """Ask with ray.data.llm's HTTP request processor, in batches of 16."""
    import ray
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    with connection.connected():
        ray.data.DataContext.get_current().enable_progress_bars = False
        config = HttpRequestProcessorConfig(
            url=f"{server.base_url}/chat/completions", batch_size=16, concurrency=1
        )
        processor = build_processor(
            config,
            preprocess=lambda row: {"payload": TEACHER.request(row["text"])},
            postprocess=lambda row: {"reply": row["http_response"]["choices"][0]["message"]["content"]},
        )
        # One block: an actor works on one block at a time, on four of its batches at once.
        passages = [{"text": text} for text in texts(count)]
        rows = processor(ray.data.from_items(passages, override_num_blocks=1)).take_all()
    assert len(rows) == count


CURATOR = """
import json, os, pathlib, sys
import litellm
# Curator downloads the encoding for counting tokens; litellm ships the same file.
encodings = pathlib.Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"
os.environ["TIKTOKEN_CACHE_DIR"] = str(encodings)
from bespokelabs import curator
url, in_flight = sys.argv[1], int(sys.argv[2])
texts = json.load(sys.stdin)
model = curator.LLM(
    model_name="m", backend="openai", generation_params={"temperature": 0.0, "max_tokens": 1024},
    backend_params={"base_url": url, "max_concurrent_requests": in_flight, "max_requests_per_minute": 10**7,
                    "max_tokens_per_minute": 10**10})
model(texts)
"""


def ask_curator(server: SlowTeacher, count: int, python: str) -> None:
    """Ask with Bespoke Curator, in its own environment."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            "CURATOR_CACHE_DIR": cache,
            "CURATOR_DISABLE_CACHE": "1",
            "CURATOR_DISABLE_RICH_DISPLAY": "1",
            "TELEMETRY_ENABLED": "0",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "OPENAI_API_KEY": "key",
            "HOME": cache,
        }
        prompts = [TEACHER.request(text)["messages"] for text in texts(count)]
        command = [python, "-c", CURATOR, server.base_url, str(IN_FLIGHT)]
        last_line(command, environment, given=json.dumps(prompts))


def measure(seconds: int = 40) -> list[Measured]:
    """Measure every client. Returns the rows of the table."""
    count = round(POSSIBLE * seconds)
    os.environ.setdefault("OPENAI_API_KEY", "key")
    annotator = _rate("annotator", ask_annotator, count)
    stage = _rate("stage", ask_stage, count)
    limit = f"{IN_FLIGHT} in flight / {MEAN_S:g} s"
    rows = [
        Measured(name, rate, "replies/s", limit, POSSIBLE, "0.9")
        for name, rate in (("annotator", annotator), ("annotate stage", stage))
    ]
    python = python_with("curator", ["bespokelabs-curator"])
    curator = _rate("Curator", functools.partial(ask_curator, python=python), count) if python else 0.0
    for name, rate in (
        ("ray.data.llm HttpRequestProcessor", _rate("ray.data.llm", ask_ray, RAY_REQUESTS)),
        (f"Bespoke Curator{'' if curator else ' (not installable here)'}", curator),
    ):
        rows.append(Measured("annotate stage", stage, "replies/s", name, rate or None, ""))
    return rows


def _rate(name: str, ask: Callable[[SlowTeacher, int], None], count: int) -> float:
    """Return the replies a second of a client that asks `count` requests; 0 if replies are missing."""
    with slow_teacher(MEAN_S) as server:
        ask(server, count)
    rate = server.answered / server.seconds if server.answered >= count else 0.0
    say(
        f"annotate: {name}: {server.answered:,} replies, {rate:.1f} a second, {server.peak} in flight at most"
    )
    return rate


if __name__ == "__main__":
    show(measure(*map(int, sys.argv[1:])))
