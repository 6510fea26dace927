"""Fixtures that tests share: a real S3 server, a real local Ray, tiny models, folders that stages read."""

import asyncio
import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, STDOUT

import hypothesis
import pytest
import zstandard

from uniner.config.schema import Config
from uniner.progress import set_up_logging
from uniner.records import PASSAGE, Passage, to_table
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk
from uniner.teacher.reply_cache import CachedReply

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"
_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "tests-access-key",
    "AWS_SECRET_ACCESS_KEY": "tests-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "HF_HUB_OFFLINE": "1",
}

# Examples may be slow on a busy machine, which says nothing about the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(items):
    """Files with tests on Ray first: they take longest, and a long file at the end leaves a process idle."""
    with_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in with_ray)


@pytest.fixture(scope="session", autouse=True)
def environment():
    """Set test credentials and remove the user's cluster address and key before anything reads them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("OPENAI_API_KEY", raising=False)
        for name, value in _VARIABLES.items():
            patch.setenv(name, value)
        set_up_logging()
        yield patch


@pytest.fixture(scope="session")
def s3_server(environment):
    """A real S3 server on a free port, in AWS_ENDPOINT_URL; Ray's workers inherit the variables."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_endpoint(s3_server):
    """The S3 server's address."""
    return os.environ["AWS_ENDPOINT_URL"]


@pytest.fixture(scope="session")
def bucket(s3_endpoint):
    """A bucket's address. The session shares it: use a prefix of your own."""
    import boto3

    boto3.client("s3").create_bucket(Bucket="uniner-tests")
    return "s3://uniner-tests"


@pytest.fixture(params=["disk", "s3"])
def root(request, tmp_path):
    """A folder for runs, once on disk and once on S3."""
    if request.param == "disk":
        return str(tmp_path / "runs")
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


@pytest.fixture(scope="session")
def ray_session(s3_endpoint):
    """One real local Ray for the session."""
    from uniner.runtime import connection

    with connection.connected():
        yield


@pytest.fixture(scope="session")
def base():
    """The nano base model that ships."""
    from uniner.quickstart.prepare import BASE

    return BASE


@pytest.fixture(scope="session")
def tokenizer(base):
    from uniner.storage.model_folders import load_tokenizer

    return load_tokenizer(base)


@pytest.fixture(scope="session")
def make_tokenizer():
    """Return a function that trains a byte-level tokenizer; the last special token ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def make(texts, vocabulary, special=("</s>",), **settings):
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=list(special), initial_alphabet=alphabet
        )
        bpe.train_from_iterator(texts, trainer)
        return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=special[-1], **settings)

    return make


@pytest.fixture(scope="session")
def make_llama():
    """Return a function that makes a tiny Llama of random weights, by default of a size that vLLM runs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(tokenizer, seed=0, **changes):
        settings = {
            "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 512,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id, **changes,
        }  # fmt: skip
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**settings))

    return make


@pytest.fixture(scope="session")
def stage_context():
    """Return a function that makes the context of a stage's module for a config, as the command line does."""
    from uniner.runtime.stage_context import StageContext

    def make(stage, config):
        name = "train-encoder" if "encoder" in stage.__name__ else stage.__name__.split(".")[1]
        return StageContext.of(config, name, stage.SECTIONS)

    return make


@pytest.fixture(scope="session")
def complete_stage():
    """Return a function that writes a stage's chunks and manifest, as if the stage had run."""

    def write(folder, chunks=(), **manifest):
        identity = Identity(stage=folder.name, settings={})
        folder.begin(identity)
        summaries = [folder.write_chunk(chunk) for chunk in chunks]
        return folder.write_manifest(replace(Manifest.of(identity, summaries, 1.0), **manifest))

    return write


@pytest.fixture(scope="session")
def grow_stage():
    """Return a function that adds chunks to a complete stage, as if its input had grown."""

    def grow(folder, chunks):
        before = folder.require_manifest()
        grown = replace(
            before.identity, inputs={"number": len(before.grown_from) + 1}, earlier=(before.identity,)
        )
        assert folder.begin(grown) is None
        for chunk in chunks:
            folder.write_chunk(chunk)
        return folder.write_manifest(Manifest.of(grown, folder.summaries(), 1.0))

    return grow


@pytest.fixture
def shared_data():
    """Return a function that returns a folder of real data, and skips the test where it is missing."""

    def find(name):
        folder = SHARED / "data" / name
        if not folder.is_dir():
            pytest.skip(f"needs the shared data beside the project (../shared/data/{name})")
        return folder

    return find


@pytest.fixture
def shared_pile(shared_data):
    """The real passages and the recorded ChatGPT replies."""
    return shared_data("pile")


@pytest.fixture
def make_engine_config():
    """Return a function that makes the config of a run `r` whose engine is vLLM on CPU."""

    def make(root, base, engine=None, **sections):
        engine = {"dtype": "float32", "gpus": 0, "block_size": 32, "max_num_seqs": 32,
                  "max_num_batched_tokens": 2048, "max_answer_tokens": 32, **(engine or {})}  # fmt: skip
        return Config.model_validate(
            {
                "run": {"root": str(root), "name": "r"},
                "student": {"base": str(base), "max_tokens": 512},
                "ingest": {"shards": ["unused.jsonl.zst"]},
                "engine": engine,
                **sections,
            }
        )

    return make


@pytest.fixture(scope="session")
def job():
    """Return a function that starts a job in its own process, as a user does; all are ended afterwards."""
    started = []

    def start(name, *words):
        command = [sys.executable, "-m", f"jobs.{name}", *map(str, words)]
        started.append(subprocess.Popen(command, cwd=REPOSITORY, stdout=PIPE, stderr=STDOUT, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def run_job(job):
    """Return a function that runs a job to its end and returns its exit code and output."""

    def run(name, *words):
        process = job(name, *words)
        output, _ = process.communicate(timeout=400)
        return process.returncode, output

    return run


@pytest.fixture(scope="session")
def run_here(ray_session):
    """Return a function that runs a command in this process and its Ray; returns exit code and output."""
    from uniner import cli

    def run(name, *words):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = cli.run([name], list(map(str, words)))
        return code, output.getvalue()

    return run


@pytest.fixture
def wait_until():
    """Return a function that waits for a condition, and fails if it stays false."""

    def wait(condition, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"the condition stayed false for {seconds} s"
            time.sleep(0.01)

    return wait


@pytest.fixture
def work_beside_a_request(monkeypatch):
    """Return a function that has a teacher's worker read replies which take until another request is done.

    judge: where the worker's module names its judge of a reply. Returns the worker's chunk.
    """

    def work(worker, teacher, chunk, text, judge):
        module, name = judge.rsplit(".", 1)
        real_judge = getattr(importlib.import_module(module), name)
        other_request_done = threading.Event()

        def slow_judge(*reply):
            assert other_request_done.wait(20), "the event loop is blocked while a reply is read"
            return real_judge(*reply)

        async def answered(texts):
            reply = CachedReply(
                text=text,
                finish_reason="stop",
                refusal=None,
                tokens_in=1,
                tokens_out=1,
                attempts=1,
                key="",
                run="",
            )
            return [reply for _ in texts], {}

        async def other_request():
            await asyncio.sleep(0.05)
            other_request_done.set()

        async def both():
            return await asyncio.gather(worker(chunk), other_request())

        monkeypatch.setattr(judge, slow_judge)
        monkeypatch.setattr(teacher, "ask", answered)
        worked, _ = asyncio.run(both())
        return worked

    return work


@pytest.fixture
def write_shard():
    """Return a function that writes JSON lines as a zstd shard."""

    def write(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zstandard.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        return str(path)

    return write


@pytest.fixture(scope="session")
def passage_chunks():
    """Return a function that makes chunks of passages of these texts, of at most `rows` rows each."""

    def chunks(texts, rows=10**6):
        passages = [
            Passage(
                passage_id=f"p{number}",
                doc_id=f"d{number}",
                passage_index=0,
                char_start=0,
                char_end=len(text),
                text=text,
                n_tokens=9,
                source="",
            )
            for number, text in enumerate(texts)
        ]
        starts = range(0, len(texts), rows)
        return [Chunk(f"{n:05d}", to_table(passages[n : n + rows], PASSAGE)) for n in starts]

    return chunks


@pytest.fixture(scope="session")
def write_passages(passage_chunks, complete_stage):
    """Return a function that writes passages into a folder as a complete ingest stage. Returns the keys."""

    def write(folder, texts, rows=10**6):
        return [chunk.key for chunk in complete_stage(folder, passage_chunks(texts, rows)).chunks]

    return write
