"""Measure training on this machine's GPU: speed, memory against the estimate, checkpoints, and the gpu tests.

python -m benchmarks.gpu [--toy] [--seconds N] [--parts NAME,NAME] [--json FILE]

It needs torch, transformers, numpy and this source tree, no Ray and no network. Encoders of random weights
read passages of 190 words with 10 types, from token ids to spans, and train on them. Llamas with random
weights train on packed conversations of UniversalNER's lengths, by several kinds of attention and with
torch.compile:

    tokens/s   trained tokens a second, after a warm-up step
    MFU        share of the GPU's peak that the estimate's operations reach
    of the matmul rate
               the same, of the rate of matrix products of the model's sizes here: on any machine
    memory     the highest that was allocated, and the estimate's

Then a checkpoint is written to disk, and the gpu tests run. It ends after N seconds (360), leaving out what
does not fit, and prints a table in Markdown. --toy: tiny models, to try it on a CPU. Weights and moments of
the 3 B model take 48 GB, so that its activations are recomputed. float8 is measured where torchao is
installed.
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
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu_encoders import ENCODERS, measure_encoder
from benchmarks.train import SETTINGS, make_samples
from uniner.runtime import gpu_models
from uniner.storage.folder import Folder
from uniner.train import estimate, loop, model, packing
from uniner.train.activations import checkpoint_layers, decoder_layers
from uniner.train.checkpoint import Checkpoints, TrainState
from uniner.train.estimate import Checkpointing, TrainingLoad
from uniner.train.float8 import require_float8, use_float8

LAYOUTS = {
    "0.6 B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "head_dim": 128},
    "1.3 B": {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24, "head_dim": 128},
    "3 B": {"hidden_size": 3200, "intermediate_size": 8640, "num_hidden_layers": 26, "head_dim": 100},
}
"""Llamas by their number of weights; 3 B is that of OpenLLaMA."""
TOY = {"toy": {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 2, "head_dim": 32}}
PARTS = ("encoders", "students", "float8", "checkpoint", "tests")
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
    return cases if on_gpu else cases[3:4]


def float8_cases(on_gpu: bool) -> list[Case]:
    """Return the cases with products in 8 bits, each after the same one in 16."""
    return [
        Case(layout=layout, row_tokens=8192, attention="varlen", compiled=True, float8=float8)
        for layout in ("1.3 B", "0.6 B")
        for float8 in (False, True)
        if importlib.util.find_spec("torchao") and on_gpu
    ]


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
        batch=len(chosen), steps=1, warmup=0, tokens=tokens, answer_tokens=answers, rows=1,
        turns=1, squared_lengths=sum(len(sample) ** 2 for sample in chosen), useful_share=1.0,
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


def main(toy: bool, seconds: float, output: Path | None, parts: Collection[str]) -> None:
    """Measure what there is time for, and print it; the file has each figure as soon as it is known."""
    deadline = time.monotonic() + seconds
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    machine = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    dist.init_process_group("nccl" if on_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    figures: dict[str, Any] = {"machine": machine, "torch": torch.__version__}
    results: list[tuple[Case, Figures]] = []

    def keep(name: str, measure_it: Callable[[], Any], least_seconds: float) -> None:
        """Measure, if there is time left; what a GPU or a version of torch cannot do is told."""
        if time.monotonic() > deadline - least_seconds:
            figures[name] = "left out: no time"
            return
        try:
            figures[name] = measure_it()
        except RuntimeError as error:
            figures[name] = f"left out: {str(error)[:160]}"
        print(f"{name}: {figures[name]}", flush=True)
        if output:
            output.write_text(json.dumps(figures, indent=1))
        gc.collect()
        torch.cuda.empty_cache()

    def train(case: Case) -> dict[str, Any]:
        results.append((case, measure(case, dtype, device)))
        return {**asdict(case), **asdict(results[-1][1])}

    for encoder in ENCODERS if "encoders" in parts else ():
        keep(encoder, partial(measure_encoder, encoder, toy, dtype, device, 1.0 if toy else _MEASURED_S), 30)
    cases = make_cases(toy, on_gpu) if "students" in parts else []
    for number, case in enumerate(cases + (float8_cases(on_gpu) if "float8" in parts else []), 1):
        keep(f"case {number}", partial(train, case), 40)
    layout = "toy" if toy or not on_gpu else "1.3 B"
    if "checkpoint" in parts:
        keep("checkpoint", partial(measure_checkpoint, layout, dtype, device), 20)
    dist.destroy_process_group()
    if "tests" in parts:
        keep("gpu tests", run_tests, 30)
    print(f"\n{table(machine, results)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--toy", action="store_true", help="tiny models")
    parser.add_argument("--seconds", type=float, default=360)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; all by default")
    words = parser.parse_args()
    main(words.toy, words.seconds, words.json, words.parts.split(","))
