"""An estimate of the encoder's training before anything is spent: steps, tokens, memory, time and price.

Tokens are counted. A row's operations and the activations that it keeps are counted too, by running the
training's forward pass on the meta device, where nothing is computed. The rest is as in `train.estimate`.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AttentionMaskInterface, AutoModel

from uniner.encoder.batches import Collator
from uniner.encoder.folder import LoadedEncoder
from uniner.encoder.model import EncoderModel
from uniner.runtime.gpu_models import GPUS
from uniner.train import loop
from uniner.train.activations import bytes_kept
from uniner.train.encoder.task import EncoderSample, EncoderTask, LabelledBatch, pieces_of
from uniner.train.encoder.worker import EncoderData, EncoderJob, freeze_pooler, prepare, read_encoder
from uniner.train.estimate import (
    ADAMW,
    ALLOCATOR,
    CPU_SPARE,
    CUDA,
    FLOAT32,
    LAYER_SECONDS,
    PROCESS,
    SAVED,
    CpuSpeed,
    WorkerMemory,
    in_bytes,
    in_one_piece,
    in_time,
    traffic_seconds,
)

_ATTENTION = "counted"
_SAMPLED_ROWS = 8
"""Rows whose operations are counted; the others cost as much a token."""
_LARGEST_ROWS = 2
"""Rows whose memory is counted, of those with most tokens, and of those with most spans."""
_MEASURED_TOKENS = 512
"""Of the row that measures a CPU; a longer passage is measured whole."""
_TRAINING = 3  # a backward pass takes twice the operations of the forward pass
_META = torch.device("meta")


@dataclass(frozen=True)
class RowCost:
    """What a row costs: bytes kept for the backward pass, and operations of the forward pass."""

    kept: float
    flops: float


@dataclass(frozen=True, kw_only=True)
class EncoderLoad:
    """The data of a run; totals are of all epochs.

    rows: of all workers. turns: rows that each worker works on, or waits for others to finish. filled: tokens
    with those that fill rows up. useful_share: of the workers' time; the rest waits for the longest row.
    """

    passages: int
    samples: int
    questions: int
    mentions: int
    validation: int
    epochs: int
    batch: int
    steps: int
    warmup: int
    tokens: int
    filled: int
    rows: int
    turns: int
    useful_share: float
    row_tokens: int


@dataclass(frozen=True, kw_only=True)
class EncoderEstimate:
    """The estimate of a run. flops: of all steps. cpu: how fast workers without a GPU are."""

    base: str
    parameters: int
    trained: int
    layers: int
    load: EncoderLoad
    memory: WorkerMemory
    flops: float
    traffic: float
    workers: int
    shards: int
    share_of_peak: float
    usd_per_gpu_hour: float
    cpu: CpuSpeed | None = None

    def hours(self, gpu: str) -> float:
        """Return the hours on this kind of GPU; computing, sending and starting kernels overlap."""
        return max(self._compute_seconds(gpu), self._launch_seconds(), self._traffic_seconds()) / 3600

    def _compute_seconds(self, gpu: str) -> float:
        speed = self.workers * GPUS[gpu].flops * self.share_of_peak
        return self.flops / (speed * self.load.useful_share)

    def _launch_seconds(self) -> float:
        return self.load.turns * self.layers * LAYER_SECONDS

    def _traffic_seconds(self) -> float:
        return traffic_seconds(self.traffic, self.workers)

    @property
    def cpu_seconds(self) -> float:
        """The seconds of all steps on CPU, if each worker is as fast as the one that was measured."""
        assert self.cpu, "it was measured"
        rows = self.load.rows / (self.workers * self.load.useful_share)
        return rows * self.cpu.row_seconds + self.load.steps * self.cpu.step_seconds

    def text(self) -> str:
        """Return the estimate in lines."""
        load, memory, on_cpu = self.load, self.memory, self.cpu is not None
        shared = f", {self.shards} share a copy" if self.shards > 1 else ""
        lines = [
            f"base       {self.base}: {self.parameters:,} weights with the new layers; "
            f"{self.trained:,} learn",
            f"data       {load.passages:,} passages in {load.samples:,} samples, {load.questions:,} "
            f"questions, {load.mentions:,} mentions; {load.validation:,} passages for validation",
            f"steps      {load.steps:,}, {load.warmup:,} of them warm-up: {load.epochs} epochs, "
            f"{load.batch:,} passages a step",
            f"tokens     {load.tokens:,}, and {load.filled - load.tokens:,} that fill rows up",
            f"rows       {load.rows:,}; the fullest has {load.row_tokens:,} tokens; "
            f"{load.useful_share:.1%} of the workers' time is useful",
            f"memory     about {in_bytes(memory.total)} a worker{shared}: {in_bytes(memory.states)} weights "
            f"and moments, {in_bytes(memory.gathered)} gathered, {in_bytes(memory.activations)} activations"
            + (f", {in_bytes(memory.host)} the process and a checkpoint's copy" if memory.host else ""),
            f"checkpoint {in_bytes(SAVED * self.trained)}",
            f"compute    {self.flops:.2e} FLOPs; {in_bytes(self.traffic)} sent a worker",
            *([self._cpu_line()] if on_cpu else map(self._gpu_line, GPUS)),
        ]
        if not on_cpu and not self.usd_per_gpu_hour:
            lines.append("price      unknown; set train.usd_per_gpu_hour, such as 2.5")
        return "\n".join(lines)

    def _cpu_line(self) -> str:
        seconds = self.cpu_seconds
        return (
            f"{self.workers} x CPU    {in_time(seconds / 3600)} at {self.load.tokens / seconds:,.0f} "
            "tokens/s, if each worker has a core as fast as this machine's, measured now"
        )

    def _gpu_line(self, gpu: str) -> str:
        hours = self.hours(gpu)
        price = hours * self.workers * self.usd_per_gpu_hour
        limits = {
            f"at {self.share_of_peak:.0%} of the peak": self._compute_seconds(gpu),
            "limited by what workers send; fewer would do": self._traffic_seconds(),
            "limited by starting kernels, as a row has few tokens: raise encoder.batch_passages": (
                self._launch_seconds()
            ),
        }
        limit = max(limits, key=limits.__getitem__)
        fits = ALLOCATOR * self.memory.total + CUDA < GPUS[gpu].memory
        small = "" if fits else ", but its memory is too small; lower encoder.row_tokens"
        usd = f", {price:,.2f} USD" if price else ""
        return f"{self.workers} x {gpu:<6} {in_time(hours)}{usd} {limit}{small}"


def estimate_job(job: EncoderJob, share_of_peak: float, usd_per_gpu_hour: float) -> EncoderEstimate:
    """Read the conversations and the base's config, and estimate the run. The speed of a CPU is measured,
    which takes seconds."""
    encoder = read_encoder(job, whole=False)
    data, task = prepare(job, encoder), task_of(encoder)
    section, samples = job.encoder, data.training.samples
    rows = [[samples[number] for number in row] for step in data.schedule.steps for row in step]
    load = _load(job, data, rows)
    net = _counted_model(encoder, section.dtype)
    sampled = sorted(rows, key=_filled)[:: -(-len(rows) // _SAMPLED_ROWS)]
    flops = sum(row_cost(net, task, task.batch(row)).flops for row in sampled)
    forward = load.filled * flops / sum(map(_filled, sampled))
    largest = [row for size in (_filled, _spans) for row in sorted(rows, key=size)[-_LARGEST_ROWS:]]
    distinct = {(_filled(row), _spans(row)): row for row in largest}
    kept = max(row_cost(net, task, task.batch(row)).kept for row in distinct.values())
    shards = section.shard_workers or section.workers
    trained = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
    return EncoderEstimate(
        base=section.base or "",
        parameters=sum(weight.numel() for weight in net.parameters()),
        trained=trained,
        layers=len(net.layers()),
        load=load,
        memory=memory(job, encoder, kept),
        flops=_TRAINING * forward,
        traffic=_traffic(net, trained, load.turns, section.workers, shards),
        workers=section.workers,
        shards=shards,
        share_of_peak=share_of_peak,
        usd_per_gpu_hour=usd_per_gpu_hour,
        cpu=None if section.use_gpu else _cpu_speed(encoder, net, task, rows, forward / len(rows)),
    )


def task_of(encoder: LoadedEncoder) -> EncoderTask:
    """Return the training's task for an encoder."""
    return EncoderTask(encoder.collator(), encoder.model.shape.token_head)


def full_row(collator: Collator, task: EncoderTask, row_tokens: int, types: int) -> LabelledBatch:
    """Return a row as full as encoder.row_tokens allows: of passages as long as the encoder reads, each asked
    for so many types. It stands for the fullest row where there are no conversations yet."""
    names = [f"type {number}" for number in range(types)]
    pieces = pieces_of(0, collator.tokenizer.texts(["a " * collator.limits.words])[0], names, collator)
    piece = max(pieces, key=collator.tokens)
    tokens = collator.tokens(piece)
    none = np.zeros((0, 3), np.int64)
    return task.batch([EncoderSample(0, "", piece, tokens, none)] * max(1, row_tokens // tokens))


def full_row_memory(job: EncoderJob, encoder: LoadedEncoder, types: int) -> WorkerMemory:
    """Estimate a worker's memory for `full_row`."""
    task = task_of(encoder)
    batch = full_row(encoder.collator(), task, job.encoder.row_tokens, types)
    return memory(job, encoder, row_cost(_counted_model(encoder, job.encoder.dtype), task, batch).kept)


def memory(job: EncoderJob, encoder: LoadedEncoder, kept: float) -> WorkerMemory:
    """Estimate a worker's memory. kept: bytes that its fullest row keeps for the backward pass.

    states, gathered and host are as in `train.estimate.memory`. Where the forward pass has another number
    format than the weights, FSDP holds what is gathered on a single worker too. On CPU it is the whole model,
    as it is on a worker alone (`in_one_piece`).
    """
    section, model = job.encoder, encoder.model
    shards = section.shard_workers or section.workers
    width = getattr(torch, section.dtype).itemsize
    weights = sum(weight.numel() for weight in model.parameters())
    layers = [sum(weight.numel() for weight in layer.parameters()) for layer in model.layers()]
    in_use = weights - sum(layers) + 2 * max(layers) if section.use_gpu else weights
    copies = shards > 1 or width != FLOAT32
    gathered = width * in_use + FLOAT32 * max(layers) if copies else 0.0
    if section.use_gpu and in_one_piece(weights, section.workers):
        gathered = (2 * width + FLOAT32) * weights
    states = ADAMW * weights / shards
    host = 0.0
    if not section.use_gpu:
        saved = SAVED * weights / shards
        host = PROCESS + saved + CPU_SPARE * (states + gathered + kept + saved)
    return WorkerMemory(states, gathered, kept, host)


def row_cost(net: Any, task: EncoderTask, batch: LabelledBatch) -> RowCost:
    """Count a row's cost by the training's forward pass. net: on the meta device, of `_counted_model`."""
    without_spans = LabelledBatch(batch.inputs, batch.spans[:0])  # their numbers cost nothing
    with FlopCounterMode(display=False) as counter:
        kept = bytes_kept(net, lambda: task.loss(net, without_spans, _META))
    return RowCost(float(kept), counter.get_total_flops())


def _counted_model(encoder: LoadedEncoder, dtype: str) -> Any:
    """Return the model on the meta device as it trains, its attention as GPUs compute it: without a matrix of
    all pairs. A text encoder with an attention of its own, such as DeBERTa's, keeps it."""
    AttentionInterface.register(_ATTENTION, _attend)
    AttentionMaskInterface.register(_ATTENTION, lambda *_, **__: None)
    config = copy.deepcopy(encoder.model.text_encoder.config)  # the attention is set in it
    with _META:
        net = EncoderModel(AutoModel.from_config(config), encoder.model.shape)
    if net.text_encoder._can_set_attn_implementation():
        net.text_encoder.set_attn_implementation(_ATTENTION)
    freeze_pooler(net)
    return net.to(getattr(torch, dtype)).train()


def _attend(
    _module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """Keep and compute, on the meta device, what a fused kernel does."""
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0].transpose(1, 2), None


def _filled(row: Sequence[EncoderSample]) -> int:
    return len(row) * max(map(len, row))


def _spans(row: Sequence[EncoderSample]) -> int:
    words = max(len(sample.piece.window.words) for sample in row)
    return len(row) * words * max(len(sample.piece.prompt.places) for sample in row)


def _load(job: EncoderJob, data: EncoderData, rows: Sequence[Sequence[EncoderSample]]) -> EncoderLoad:
    section, steps, counts = job.encoder, data.schedule.steps, data.training.counts
    filled = [_filled(row) for row in rows]
    spent, start = 0, 0
    for step in steps:
        for first in range(start, start + len(step), section.workers):
            turn = filled[first : min(first + section.workers, start + len(step))]
            spent += section.workers * max(turn)
        start += len(step)
    return EncoderLoad(
        **{name: counts[name] for name in ("passages", "samples", "questions", "mentions")},
        validation=len(data.validation.passages),
        epochs=section.epochs,
        batch=section.batch_passages,
        steps=len(steps),
        warmup=loop.warmup_steps(len(steps), section.warmup_share),
        tokens=sum(len(sample) for row in rows for sample in row),
        filled=sum(filled),
        rows=len(rows),
        turns=sum(-(-len(step) // section.workers) for step in steps),
        useful_share=sum(filled) / spent,
        row_tokens=max(filled),
    )


def _traffic(net: Any, trained: int, turns: int, workers: int, shards: int) -> float:
    """Return the bytes that a worker sends: to those that share its copy, and to the other copies."""
    weights = sum(weight.numel() * weight.dtype.itemsize for weight in net.parameters())
    within = 2 * weights + FLOAT32 * trained if shards > 1 else 0
    between = 2 * FLOAT32 * trained / shards if workers > shards else 0.0
    return turns * (within + between)


def _cpu_speed(
    encoder: LoadedEncoder, net: Any, task: EncoderTask, rows: Sequence[Sequence[EncoderSample]], flops: float
) -> CpuSpeed:
    """Train a short row on one thread, as a worker on CPU has, with random weights.

    flops: of an average row.
    """
    row = min(rows, key=_filled)
    row = sorted(row, key=len)[-max(1, _MEASURED_TOKENS // max(map(len, row))) :]
    batch, cpu = task.batch(row), torch.device("cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = EncoderModel(AutoModel.from_config(encoder.model.text_encoder.config), encoder.model.shape)
        freeze_pooler(model.train())
        optimizer = loop.make_optimizer(model, 0.0)
        loss = partial(task.loss, model, batch, cpu)
        loss().backward()  # warms up
        optimizer.step()
        started = time.process_time()  # the process's own, as on a core without other work
        loss().backward()
        worked = time.process_time()
        optimizer.step()
        ended = time.process_time()
    finally:
        torch.set_num_threads(threads)
    share = row_cost(net, task, batch).flops / flops
    return CpuSpeed((worked - started) / share, ended - worked)
