"""Measure training on this machine's GPU: speed, memory against the estimate, checkpoints, and the gpu tests.

python -m benchmarks.gpu [--toy] [--seconds N] [--json FILE]

It needs torch, transformers, numpy and this source tree, no Ray and no network. Llamas with random weights
train on packed conversations of UniversalNER's lengths, by several kinds of attention and with torch.compile:

    tokens/s   trained tokens a second, after a warm-up step
    MFU        share of the GPU's peak that the estimate's operations reach
    of the matmul rate
               the same, of the rate of matrix products of the model's sizes here: on any machine
    memory     the highest that was allocated, and the estimate's

Then a checkpoint is written to disk, and encoders of random weights read passages of 190 words with 10 types,
from token ids to spans, and train on them. It ends after N seconds (360), leaving out what does not fit, and
prints a table in Markdown. --toy: tiny models, to try it on a CPU. Weights and moments of the 3 B model take
48 GB, so that its activations are recomputed. float8 is measured where torchao is installed.
"""

import argparse
import gc
import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
)

from benchmarks.train import SETTINGS, make_samples
from uniner.encoder.batches import Collator, EncoderBatch, Piece, ReadingLimits
from uniner.encoder.model import EncoderModel, EncoderShape, encoder_logits
from uniner.encoder.spans import found_spans
from uniner.encoder.words import TokenizedWords
from uniner.runtime import gpu_models
from uniner.storage.folder import Folder
from uniner.train import estimate, loop, model, packing
from uniner.train.activations import checkpoint_layers, decoder_layers
from uniner.train.checkpoint import Checkpoints, TrainState
from uniner.train.encoder.task import EncoderSample, EncoderTask, pieces_of
from uniner.train.estimate import Checkpointing, TrainingLoad
from uniner.train.float8 import require_float8, use_float8

LAYOUTS = {
    "0.6 B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "head_dim": 128},
    "1.3 B": {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24, "head_dim": 128},
    "3 B": {"hidden_size": 3200, "intermediate_size": 8640, "num_hidden_layers": 26, "head_dim": 100},
}
"""Llamas by their number of weights; 3 B is that of OpenLLaMA."""
TOY = {"toy": {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 2, "head_dim": 32}}
ENCODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ModernBERT-base": (ModernBertConfig, {}),
    "BERT-base": (BertConfig, {}),
    "DeBERTa-v3-base": (
        DebertaV2Config,
        {
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
            "type_vocab_size": 0,
        },
    ),
}  # fmt: skip
"""Text encoders: config and what differs from its defaults. Most GLiNER models are DeBERTas."""
VOCABULARY = 32_000
_MEASURED_S = 6.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured: a model's layout, tokens of a row, rows a step, and how it is trained."""

    layout: str
    row_tokens: int
    attention: str
    rows: int = 4
    compiled: bool = False
    checkpointing: Checkpointing = False
    float8: bool = False


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured. memory and estimated are bytes; mfu is None where the peak is not known."""

    tokens_per_s: float
    mfu: float | None
    share_of_rate: float
    memory: int
    estimated: float


def make_cases(toy: bool, on_gpu: bool) -> list[Case]:
    """Return the cases, the most telling first."""
    if toy:
        kinds = ("sdpa", "varlen")
        return [Case(layout="toy", row_tokens=2048, attention=attention) for attention in kinds]
    flash = ["flash_attention_2"] if importlib.util.find_spec("flash_attn") else []
    cases = [
        Case(layout="1.3 B", row_tokens=4096, attention="varlen"),
        Case(layout="1.3 B", row_tokens=4096, attention="sdpa"),
        Case(layout="1.3 B", row_tokens=4096, attention="varlen", compiled=True),
        Case(layout="0.6 B", row_tokens=4096, attention="varlen"),
        Case(layout="0.6 B", row_tokens=16_384, attention="varlen"),
        Case(layout="0.6 B", row_tokens=16_384, attention="varlen", compiled=True),
        Case(layout="0.6 B", row_tokens=4096, attention="sdpa"),
        Case(layout="3 B", row_tokens=4096, attention="varlen", checkpointing=True),
        Case(layout="3 B", row_tokens=4096, attention="varlen", checkpointing="selective"),
        Case(layout="3 B", row_tokens=4096, attention="sdpa", checkpointing=True),
    ]
    cases += [Case(layout="1.3 B", row_tokens=4096, attention=attention) for attention in flash]
    if importlib.util.find_spec("torchao") and on_gpu:
        cases += [
            Case(layout=layout, row_tokens=8192, attention="varlen", compiled=True, float8=float8)
            for layout in ("1.3 B", "0.6 B")
            for float8 in (False, True)
        ]
    return cases if on_gpu else cases[3:4]


def make_config(layout: str) -> LlamaConfig:
    """Return the config of a layout."""
    sizes = (LAYOUTS | TOY)[layout]
    heads = sizes["hidden_size"] // sizes["head_dim"]
    return LlamaConfig(
        vocab_size=VOCABULARY,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        use_cache=False,
        tie_word_embeddings=False,
        **sizes,
    )


def random_model(config: LlamaConfig, case: Case, dtype: torch.dtype, device: torch.device) -> Any:
    """Return a sharded model as the train stage has it, with random weights made on the device."""
    net = model.empty_model(config)
    model.set_attention(net, case.attention)
    if case.float8:
        require_float8(device)
        use_float8(net)
    checkpoint_layers(decoder_layers(net), case.checkpointing)
    if case.compiled:
        model.compile_layers(net)
    model.shard(net, dtype, device)
    net.to_empty(device=device)
    torch.manual_seed(0)
    for weight in net.parameters():
        torch.nn.init.normal_(weight.to_local(), std=0.02)
    # The rotary frequencies are buffers, which a model of one layer has too.
    small = LlamaConfig(**{**config.to_dict(), "num_hidden_layers": 1, "vocab_size": 8})
    for name, buffer in LlamaForCausalLM(small).named_buffers():
        net.get_buffer(name).copy_(buffer)
    return net.train()


def schedule_of(case: Case) -> tuple[list[packing.Sample], packing.Schedule]:
    """Return conversations and steps of full rows."""
    samples = make_samples(case.row_tokens // 8)
    rows: list[packing.PackedRow] = []
    row: packing.PackedRow = []
    for number, sample in enumerate(samples):
        if sum(len(samples[each]) for each in row) + len(sample) > case.row_tokens:
            rows.append(row)
            row = []
        row.append(number)
    turns = itertools.cycle(rows)
    steps = [list(itertools.islice(turns, case.rows)) for _ in range(4 * len(rows))]
    return samples, packing.Schedule(steps, frozenset())


def measure(case: Case, dtype: torch.dtype, device: torch.device) -> Figures:
    """Train rows for some seconds."""
    config = make_config(case.layout)
    samples, schedule = schedule_of(case)
    shape = model.count_weights(config, dtype=dtype)
    net = random_model(config, case, dtype, device)
    optimizer = loop.make_optimizer(net, 0.0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    steps = loop.train(net, optimizer, samples, schedule, SETTINGS, device=device)
    tokens, seconds, operations, load = 0, 0.0, 0.0, None
    for number, (rows, step) in enumerate(zip(schedule.steps, _timed(steps, device), strict=False)):
        if number < (3 if case.compiled else 1):
            continue
        load = _load(rows, samples)
        tokens, seconds = tokens + load.tokens, seconds + step
        operations += estimate.flops(shape, load, case.checkpointing)
        if seconds > _MEASURED_S:
            break
    assert load, "no step was measured"
    every = itertools.chain.from_iterable(schedule.steps)
    fullest = max((_load([row], samples) for row in every), key=lambda each: each.row_tokens)
    peak = gpu_models.peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    rate = matmul_rate(shape.hidden, shape.intermediate, case.row_tokens, dtype, device)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Figures(
        tokens_per_s=round(tokens / seconds, 1),
        mfu=peak and round(operations / seconds / peak, 4),
        share_of_rate=round(operations / seconds / rate, 4),
        memory=memory,
        estimated=estimate.memory(shape, fullest, 1, dtype.itemsize, case.checkpointing).total,
    )


def _timed(steps: Iterator[Any], device: torch.device) -> Iterator[float]:
    """Yield the seconds of each step."""
    while True:
        started = time.perf_counter()
        if next(steps, None) is None:
            return
        if device.type == "cuda":
            torch.cuda.synchronize()
        yield time.perf_counter() - started


def _load(rows: list[packing.PackedRow], samples: list[packing.Sample]) -> TrainingLoad:
    tokens, answers = loop.count_tokens(rows, samples)
    chosen = [samples[number] for row in rows for number in row]
    return TrainingLoad(
        conversations=len(chosen), split=0, set_aside=0, samples=len(chosen), validation=0, epochs=1,
        batch=len(chosen), steps=1, warmup=0, tokens=tokens, answer_tokens=answers, turns=1,
        squared_lengths=sum(len(sample) ** 2 for sample in chosen), useful_share=1.0,
        row_tokens=tokens, row_answers=answers,
    )  # fmt: skip


def matmul_rate(
    hidden: int, intermediate: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> float:
    """Return the operations a second of matrix products of a decoder layer's sizes."""
    rows = torch.randn(tokens, hidden, dtype=dtype, device=device)
    weights = torch.randn(hidden, intermediate, dtype=dtype, device=device)
    for _ in range(2):  # the first second warms up
        count, started = 0, time.perf_counter()
        while (seconds := time.perf_counter() - started) < 1:
            for _ in range(10):
                rows @ weights
            if device.type == "cuda":
                torch.cuda.synchronize()
            count += 10
    return 2 * tokens * weights.numel() * count / seconds


def measure_checkpoint(layout: str, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Return a checkpoint's bytes, and the seconds that the steps wait for it and until it is on disk."""
    case = Case(layout=layout, row_tokens=2048, attention="sdpa", rows=1)
    samples, schedule = schedule_of(case)
    net = random_model(make_config(layout), case, dtype, device)
    optimizer = loop.make_optimizer(net, 0.0)
    state = TrainState(
        "benchmark", [next(loop.train(net, optimizer, samples, schedule, SETTINGS, device=device))]
    )
    with tempfile.TemporaryDirectory(prefix="uniner-bench-") as folder:
        with Checkpoints(Folder(folder), 1, None, device) as checkpoints:
            started = time.perf_counter()
            checkpoints.save(net, optimizer, state)
            waited = time.perf_counter() - started
            checkpoints.wait()
            written = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.distcp"))
    return {"bytes": size, "waited_s": round(waited, 2), "written_s": round(written, 2)}


class RandomWords:
    """In place of a tokenizer: passages of random token ids."""

    prefix, suffix = [1], [2]

    def ids(self, word: str) -> list[int]:
        """Return two ids for a type."""
        return [10 + len(word), 11]

    def texts(self, texts: Sequence[str]) -> list[TokenizedWords]:
        """Return a passage of about 190 words and 250 tokens for each text."""
        random = np.random.default_rng(0)
        passages = []
        for words in random.integers(120, 260, len(texts)):
            sizes = random.choice([1, 2, 3], words, p=[0.75, 0.2, 0.05]).astype(np.int32)
            ends = np.arange(1, words + 1, dtype=np.int32) * 6
            ids = random.integers(20, 30_000, sizes.sum()).astype(np.int32)
            passages.append(TokenizedWords(ends - 5, ends, sizes, ids))
        return passages


def measure_encoder(
    name: str, toy: bool, dtype: torch.dtype, device: torch.device, seconds: float
) -> dict[str, float]:
    """Return an encoder's passages a second, and those of training it, 8 passages a step.

    Tagging: batches laid out here, scored and read off on the device.
    """
    collator, pieces, spans = _passages(64 if toy else 2048)
    net = _random_encoder(name, toy, device)
    task = EncoderTask(collator, token_head=False)
    samples = [
        EncoderSample(piece.text, str(piece.text), piece, collator.tokens(piece), spans) for piece in pieces
    ]
    trained, memory = _training_rate(net, task, samples, dtype, device, seconds)
    net = _random_encoder(name, toy, device).to(dtype).eval()
    read, started = 0, 0.0
    groups = collator.batches(pieces, 4096 if device.type == "cpu" else 65_536)
    with torch.inference_mode():
        for turn, group in enumerate(itertools.cycle(groups)):
            if turn == len(groups):  # the first round warms up
                read, started = 0, time.perf_counter()
            _read_spans(net, collator.batch(group), device)
            read += len(group)
            if started and time.perf_counter() - started > seconds:
                break
    rate = read / (time.perf_counter() - started)
    tokens = sum(map(collator.tokens, pieces)) / len(pieces)
    figures = {"passages_per_s": round(rate, 1), "tokens_per_s": round(rate * tokens)}
    return {**figures, "trained_passages_per_s": round(trained, 1), "training_memory": memory}


def _passages(count: int) -> tuple[Collator, list[Piece], np.ndarray]:
    """Return passages with 10 types, what lays them out, and mentions that each may have."""
    limits = ReadingLimits(tokens=512, words=384, types=25, overlap=24)
    words = RandomWords()
    collator = Collator(words, limits, type_id=3, separator_id=4, pad_id=0)  # type: ignore[arg-type]
    types = [f"type{'x' * number}" for number in range(10)]
    pieces = [
        piece
        for number, text in enumerate(words.texts([""] * count))
        for piece in pieces_of(number, text, types, collator)
    ]
    return collator, pieces, np.array([[number, number + 1, number] for number in range(10)])


def _random_encoder(name: str, toy: bool, device: torch.device) -> EncoderModel:
    config, sizes = ENCODERS[name]
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    with device:
        text_encoder = AutoModel.from_config(config(**{**sizes, **(small if toy else {})}))
        shape = EncoderShape(
            hidden=text_encoder.config.hidden_size, max_width=12, dropout=0.3, token_head=False
        )
        return EncoderModel(text_encoder, shape)


def _read_spans(net: EncoderModel, batch: EncoderBatch, device: torch.device) -> None:
    logits = encoder_logits(net, batch, device)
    counts, kinds = (torch.from_numpy(array).to(device) for array in (batch.word_counts, batch.type_counts))
    thresholds = torch.full(batch.type_places.shape, 0.99, device=device)
    found_spans(logits, counts, kinds, thresholds, token_head=False)


def _training_rate(
    net: EncoderModel,
    task: EncoderTask,
    samples: list[EncoderSample],
    dtype: torch.dtype,
    device: torch.device,
    seconds: float,
) -> tuple[float, int]:
    """Return the passages a second of training in steps of 8, and the highest memory in bytes."""
    steps = [[list(range(first, first + 8))] for first in range(0, len(samples) - 8, 8)]
    for weight_name, weight in net.named_parameters():
        if ".pooler." in weight_name:  # BERT's, which no score depends on
            weight.requires_grad_(False)
    model.shard(net, dtype, device, 1, layers=net.layers())
    net.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trained = loop.train(
        net,
        loop.make_optimizer(net, 0.0),
        samples,
        packing.Schedule(steps * 20, frozenset()),
        SETTINGS,
        device=device,
        task=task,
    )
    done, started = 0, 0.0
    for number, _ in enumerate(trained, 1):
        if number == 5:  # the first steps warm up
            done, started = 0, time.perf_counter()
        done += 8
        if started and time.perf_counter() - started > seconds:
            break
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return (done - 8) / (time.perf_counter() - started), memory


def run_tests() -> str:
    """Run the gpu tests that need no vLLM. Returns pytest's last line, or why they were not run."""
    if importlib.util.find_spec("pytest") is None:
        return "not run: pytest is not installed"
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "tests/gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]


def table(machine: str, results: list[tuple[Case, Figures]]) -> str:
    """Return the figures as a table in Markdown."""
    lines = [
        f"{machine}, torch {torch.__version__}",
        "",
        "| model | tokens a row | attention | tokens/s | MFU | of the matmul rate | memory | estimated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, figures in results:
        recomputed = {False: "", True: ", recomputed", "selective": ", selectively recomputed"}
        how = (
            case.attention
            + ", compiled" * case.compiled
            + ", float8" * case.float8
            + recomputed[case.checkpointing]
        )
        mfu = "" if figures.mfu is None else f"{figures.mfu:.1%}"
        memory = f"{figures.memory / 1e9:.1f} GB" if figures.memory else ""
        lines.append(
            f"| {case.layout} | {case.row_tokens:,} | {how} | {figures.tokens_per_s:,.0f} | {mfu} | "
            f"{figures.share_of_rate:.1%} | {memory} | {figures.estimated / 1e9:.1f} GB |"
        )
    return "\n".join(lines)


def main(toy: bool, seconds: float, output: Path | None) -> None:
    """Measure all cases for which there is time, and print them."""
    deadline = time.monotonic() + seconds
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    machine = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    dist.init_process_group("nccl" if on_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    tests = run_tests()
    print(f"gpu tests: {tests}", flush=True)
    results, left_out = [], []
    for case in make_cases(toy, on_gpu):
        if time.monotonic() > deadline - 40:
            left_out.append(asdict(case))
            continue
        try:
            results.append((case, measure(case, dtype, device)))
            print(table(machine, results[-1:]).splitlines()[-1], flush=True)
        except RuntimeError as error:  # out of memory, or what this GPU or torch cannot do
            left_out.append({**asdict(case), "error": str(error)[:160]})
            print(f"{case}: {str(error)[:160]}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    checkpoint = measure_checkpoint("toy" if toy or not on_gpu else "1.3 B", dtype, device)
    encoders = {
        name: measure_encoder(name, toy, dtype, device, 1.0 if toy else _MEASURED_S) for name in ENCODERS
    }
    dist.destroy_process_group()
    print(
        f"\n{table(machine, results)}\n\ncheckpoint: {checkpoint}\nencoders: {encoders}\nleft out: {left_out}"
    )
    if output:
        figures = [{**asdict(case), **asdict(measured)} for case, measured in results]
        content = {"machine": machine, "torch": torch.__version__, "tests": tests, "training": figures}
        output.write_text(
            json.dumps(
                {**content, "checkpoint": checkpoint, "encoders": encoders, "left_out": left_out}, indent=1
            )
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--toy", action="store_true", help="tiny models")
    parser.add_argument("--seconds", type=float, default=360)
    parser.add_argument("--json", type=Path, help="where the figures go")
    words = parser.parse_args()
    main(words.toy, words.seconds, words.json)
