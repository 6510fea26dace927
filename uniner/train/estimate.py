"""An estimate of a training run before anything is spent: tokens, steps, memory, compute, time and price.

Tokens and weights are counted. Memory and time are estimated, by the formulas at `memory` and `flops`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from uniner.runtime.gpu_models import GPUS, gpu_kind

Checkpointing = bool | Literal["selective"]
"""What the backward pass computes again: nothing, all of a layer, or all but its matrix products and its
attention ("selective")."""

# Bytes a second a GPU: NVLink in a node of eight, and 3.2 Tb/s between such nodes (EFA on AWS).
_IN_NODE, _BETWEEN_NODES, _NODE = 450e9, 50e9, 8
FLOAT32, ADAMW = 4, 16  # bytes a weight: float32; the same with its gradient and AdamW's two moments
SAVED = 12  # bytes a weight in a checkpoint: without the gradient
_DISK = 500e6  # bytes a second: a volume of cluster.yaml's GPU machines, and about what a machine uploads
ALLOCATOR, CUDA = 1.1, 1e9
"""What a GPU takes besides: the allocator some 10 %, and CUDA a GB."""
LAYER_SECONDS = 0.009
"""Forward and backward pass of a row take at least this long a decoder layer on a GPU, since Python starts
the kernels one by one: benchmarks/gpu.py on an H100 and an H200, 24 and 28 layers, by a CPU that was slow."""
ONE_PIECE = 1_000_000_000
"""Weights of the largest model that a worker alone keeps in one piece: at most 12 GB more than by layer."""
CPU_SPARE = 0.3  # share that the C library's allocator keeps, as measured with a Llama of 135 M weights
PROCESS = 0.7e9  # a worker's process on CPU before it has a model: Python, torch, transformers and Ray


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A model's numbers of weights, and the sizes that its activations depend on.

    trained: weights that learn (all, or the adapters'). body: weights that every token passes, without the
    embedding and the output layer. output: weights of the output layer, which only answer tokens pass.
    layer: weights of a decoder layer. quantized: frozen weights kept in 4 bits. kept: bytes that a token
    keeps for the backward pass in all layers, without the logits; kept_selectively: the same with selective
    checkpointing (`activations.kept_bytes`).
    """

    parameters: int
    trained: int
    body: int
    output: int
    layer: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    kept: float
    kept_selectively: float
    quantized: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingLoad:
    """The data of a run: totals are of all epochs.

    rows: of all workers. turns: rows that each worker works on, or waits for others to finish.
    squared_lengths: sum of the samples' squared lengths. useful_share: see `packing.useful_share`.
    row_tokens and row_answers: tokens and answer tokens of the fullest row.
    """

    conversations: int
    split: int
    set_aside: int
    samples: int
    validation: int
    epochs: int
    batch: int
    steps: int
    warmup: int
    tokens: int
    answer_tokens: int
    rows: int
    turns: int
    squared_lengths: int
    useful_share: float
    row_tokens: int
    row_answers: int


class CpuSpeed(NamedTuple):
    """The seconds of a worker on CPU for an average row, and for a step besides (`calibration.cpu_speed`)."""

    row_seconds: float
    step_seconds: float


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes on each worker. host: what a worker on CPU needs besides."""

    states: float
    gathered: float
    activations: float
    host: float = 0.0

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.states + self.gathered + self.activations + self.host


def in_one_piece(parameters: int, workers: int) -> bool:
    """Tell whether a model is one unit of FSDP, and not one a layer.

    A worker alone has nobody to share its weights with. Each unit costs a small model more time than its
    computation: 30 layers of SmolLM2-135M's size took 2.1 ms of CPU a layer and row, in one piece 1.4.
    """
    return workers == 1 and parameters <= ONE_PIECE


def memory(
    shape: ModelShape,
    load: TrainingLoad,
    workers: int,
    number_bytes: int,
    checkpointing: Checkpointing,
    *,
    on_cpu: bool = False,
) -> WorkerMemory:
    """Estimate a worker's memory. number_bytes: the width of the forward pass's numbers.

    states: (16 bytes a trained weight: float32 master, gradient and AdamW's two moments; number_bytes a
    frozen one) / workers. A quantized weight takes half a byte, and its scale 4 bytes for 64 weights, which
    every worker has.
    gathered: what FSDP holds whole: the outer weights (embedding, output), two layers (one in use, one being
    gathered) and a layer's gradients in float32; of a model in one piece (`in_one_piece`) all weights and
    their gradients, in both formats; with quantized weights also the unpacked weight in use.
    activations: for the fullest row what autograd keeps; with checkpointing 1 hidden a token and layer, with
    selective checkpointing also what it saves, and all of one layer. Also the answer tokens' logits, twice in
    float32 and once in the forward pass's format.
    host: on CPU the process itself, the copy of the states that a checkpoint is written from, and what the
    allocator has freed and keeps.
    A GPU's allocator takes some 10 % more, and CUDA 1 GB.
    """
    frozen = shape.parameters - shape.trained - shape.quantized
    states = (ADAMW * shape.trained + number_bytes * frozen + shape.quantized / 2) / workers
    states += shape.quantized * FLOAT32 / 64
    outer = shape.parameters - shape.body
    trained_share = shape.trained / shape.parameters
    weight_bytes = number_bytes - (number_bytes - 0.5) * shape.quantized / shape.body  # in a decoder layer
    gathered = number_bytes * outer + 2 * weight_bytes * shape.layer + FLOAT32 * trained_share * shape.layer
    inputs = shape.hidden * number_bytes * shape.layers
    stored = shape.kept_selectively if checkpointing == "selective" else inputs
    kept = stored + shape.kept / shape.layers if checkpointing else shape.kept
    logits = load.row_answers * shape.vocabulary * (2 * FLOAT32 + number_bytes)
    unpacked = number_bytes * shape.hidden * shape.intermediate if shape.quantized else 0
    if workers == 1:
        piece = in_one_piece(shape.parameters, workers)
        whole = number_bytes * frozen + shape.quantized / 2 + (2 * number_bytes + FLOAT32) * shape.trained
        gathered = whole if piece else 0
    gathered += unpacked
    activations = load.row_tokens * kept + logits
    host = 0.0
    if on_cpu:
        saved = SAVED * shape.trained / workers
        host = PROCESS + saved + CPU_SPARE * (states + gathered + activations + saved)
    return WorkerMemory(states, gathered, activations, host)


def flops(shape: ModelShape, load: TrainingLoad, checkpointing: Checkpointing) -> float:
    """Return the floating-point operations of all steps, including those that checkpointing repeats.

    The forward pass takes 2 operations a weight and token (output layer: and answer token), and
    2 layers x hidden x length² for a sample's causal attention. The backward pass takes twice as much, but
    only once as much with frozen weights, which need no gradient. Checkpointing repeats the body's forward
    pass, selective checkpointing none of these operations.
    """
    body = 2 * shape.body * load.tokens + 2 * shape.layers * shape.hidden * load.squared_lengths
    output = 2 * shape.output * load.answer_tokens
    backward = 2 if shape.trained == shape.parameters else 1
    return body * (1 + backward + (checkpointing is True)) + output * (1 + backward)


def compute_seconds(
    operations: float, load: TrainingLoad, workers: int, peak: float, share_of_peak: float
) -> float:
    """Return the seconds of computing if each GPU reaches this share of its peak while it has a row."""
    return operations / (workers * peak * share_of_peak * load.useful_share)


def traffic(shape: ModelShape, load: TrainingLoad, workers: int, number_bytes: int) -> float:
    """Return the bytes that FSDP sends to a worker in all steps.

    For each row it gathers the weights twice, in the forward pass's format, and reduces the gradients of the
    weights that learn in float32.
    """
    weights = number_bytes * (shape.parameters - shape.quantized) + shape.quantized / 2
    row = 2 * weights + FLOAT32 * shape.trained
    return row * load.turns if workers > 1 else 0.0


def copies_traffic(shape: ModelShape, load: TrainingLoad, workers: int, shards: int) -> float:
    """Return the bytes that a worker exchanges with the other copies of the model (HSDP) in all steps: for
    each row, its shard's gradients in float32, sent and received."""
    return 2 * FLOAT32 * shape.trained / shards * load.turns if workers > shards else 0.0


def traffic_seconds(count: float, workers: int) -> float:
    """Return the seconds to send this many bytes over the slowest link between the workers."""
    return count / (_IN_NODE if workers <= _NODE else _BETWEEN_NODES)


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """The estimate of a run: memory with the fewest workers, time with the most.

    on_cpu: its workers have no GPU. cpu: how fast they are, where it was measured. rows: by kind of GPU the
    most useful length of a row (`row_length.recommended_rows`). chosen_rows: whether training takes it,
    since train.pack_tokens is unset.
    """

    base: str
    shape: ModelShape
    load: TrainingLoad
    memory: WorkerMemory
    flops: float
    traffic: float
    workers: int
    fewest_workers: int
    shards: int
    copies_traffic: float
    share_of_peak: float
    usd_per_gpu_hour: float
    on_cpu: bool = False
    cpu: CpuSpeed | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    chosen_rows: bool = False

    @property
    def cpu_seconds(self) -> float:
        """The seconds of all steps on CPU, if each worker is as fast as the one that was measured."""
        assert self.cpu, "it was measured"
        load = self.load
        # A turn lasts as long as its longest row; useful_share also counts the workers without a row.
        average_rows = load.rows / (self.workers * load.useful_share)
        return average_rows * self.cpu.row_seconds + load.steps * self.cpu.step_seconds

    def hours(self, gpu: str) -> float:
        """Return the hours on this kind of GPU; computing, sending and starting kernels overlap."""
        seconds = (self._compute_seconds(gpu), self._traffic_seconds(), self._launch_seconds(gpu))
        return max(seconds) / 3600

    def longest_row(self, gpu: str) -> int | None:
        """Return the most useful length of a row on a GPU, named by its driver; None if it is not known."""
        kind = gpu_kind(gpu)
        return self.rows.get(kind) if kind else None

    def _launch_seconds(self, gpu: str) -> float:
        load = self.load
        longer = self.rows.get(gpu, 0) / load.row_tokens if self.chosen_rows else 1.0
        turns = max(load.steps, load.turns / max(1.0, longer))
        return turns * self.shape.layers * LAYER_SECONDS

    def _compute_seconds(self, gpu: str) -> float:
        return compute_seconds(self.flops, self.load, self.workers, GPUS[gpu].flops, self.share_of_peak)

    def _traffic_seconds(self) -> float:
        between_copies = traffic_seconds(self.copies_traffic, self.workers)
        return traffic_seconds(self.traffic, self.shards) + between_copies

    @property
    def _saved(self) -> float:
        return SAVED * self.shape.trained

    @property
    def _saved_by_machine(self) -> float:
        return self._saved * min(_NODE, self.shards) / self.shards

    def summary(self) -> str:
        """Return the line that a run starts with."""
        load = self.load
        time = "on CPU" if self.on_cpu else f"{in_time(self.hours('H100'))} on {self.workers} H100"
        return (
            f"train: {load.steps:,} steps of {load.batch:,} conversations, {load.tokens:,} tokens "
            f"({load.answer_tokens / load.tokens:.1%} answers), {self.shape.trained:,} of "
            f"{self.shape.parameters:,} weights learn; about {in_bytes(self.memory.total)} a worker, "
            f"{self.flops:.1e} FLOPs, {time}"
        )

    def text(self) -> str:
        """Return the estimate in lines."""
        load, shape, memory = self.load, self.shape, self.memory
        adapters = f"QLoRA, {shape.quantized:,} in 4 bits" if shape.quantized else "LoRA"
        all_learn = shape.trained == shape.parameters
        learning = "all learn" if all_learn else f"{shape.trained:,} learn ({adapters})"
        copies = f", {self.shards} share a copy" if self.shards < self.workers else ""
        lines = [
            f"base       {self.base}: {shape.parameters:,} weights, {learning}",
            f"data       {load.conversations:,} conversations ({load.split:,} split), "
            f"{load.samples:,} samples, {load.set_aside:,} questions set aside; "
            f"{load.validation:,} for validation",
            f"steps      {load.steps:,}, {load.warmup:,} of them warm-up: {load.epochs} epochs, "
            f"{load.batch:,} conversations a step",
            f"tokens     {load.tokens:,}, {load.answer_tokens:,} of them answers "
            f"({load.answer_tokens / load.tokens:.1%})",
            f"packing    {load.useful_share:.1%} of the workers' time is useful; the fullest row has "
            f"{load.row_tokens:,} tokens",
            *self._idle_line(),
            f"memory     about {in_bytes(memory.total)} a worker of {self.fewest_workers}{copies}: "
            f"{in_bytes(memory.states)} weights and moments, {in_bytes(memory.gathered)} gathered, "
            f"{in_bytes(memory.activations)} activations"
            + (
                f", {in_bytes(memory.host)} the process, a checkpoint's copy and what the allocator keeps"
                if memory.host
                else ""
            ),
            f"checkpoint {in_bytes(self._saved)}, about {self._saved_by_machine / _DISK:.0f} s at "
            f"{_DISK / 1e6:.0f} MB/s a machine of {min(_NODE, self.shards)} workers",
            f"compute    {self.flops:.2e} FLOPs; {in_bytes(self.traffic + self.copies_traffic)} sent a "
            "worker",
            *([self._cpu_line()] if self.cpu else map(self._gpu_line, GPUS)),
        ]
        if not self.cpu and not self.usd_per_gpu_hour:
            lines.append("price      unknown; set train.usd_per_gpu_hour, such as 2.5")
        return "\n".join(lines)

    def _idle_line(self) -> list[str]:
        """Say that most workers have nothing to do, where a step has few rows."""
        load = self.load
        if 2 * load.rows >= self.workers * load.turns:
            return []
        rows = -(-load.rows // load.steps)
        return [
            f"workers    most of the {self.workers:,} have nothing to do: a step has about {rows:,} "
            f"{'row' if rows == 1 else 'rows'}; train.workers={rows} would be as fast, or raise "
            "train.batch_conversations"
        ]

    def _cpu_line(self) -> str:
        seconds = self.cpu_seconds
        speed = self.load.tokens / seconds
        return (
            f"{self.workers} x CPU    {in_time(seconds / 3600)} at {speed:,.0f} tokens/s, if each worker "
            "has a core as fast as this machine's, measured now"
        )

    def _gpu_line(self, gpu: str) -> str:
        hours = self.hours(gpu)
        fits = self.memory.total * ALLOCATOR + CUDA < GPUS[gpu].memory
        small = "" if fits else ", but its memory is too small"
        usd = hours * self.workers * self.usd_per_gpu_hour
        price = f", {usd:,.2f} USD" if usd else ""
        limit = f"at {self.share_of_peak:.0%} of the peak"
        if self._traffic_seconds() > self._compute_seconds(gpu):
            limit = f"limited by the network at {_BETWEEN_NODES / 1e9:.0f} GB/s a GPU; fewer GPUs would do"
        elif self._launch_seconds(gpu) > self._compute_seconds(gpu):
            limit = "limited by starting kernels: a step has few tokens a GPU, so fewer GPUs would do"
        return f"{self.workers} x {gpu:<6} {in_time(hours)}{price} {limit}{small}{self._row_note(gpu, fits)}"

    def _row_note(self, gpu: str, fits: bool) -> str:
        """Recommend other rows: much longer ones, or any that fit where these do not."""
        row = self.rows.get(gpu)
        if row and self.chosen_rows:
            return f"; rows of {row:,} tokens"
        return f"; train.pack_tokens={row} fits" if row and (not fits or self._is_longer(row)) else ""

    def _is_longer(self, row: int) -> bool:
        return row >= 2 * self.load.row_tokens

    def row_hint(self, gpu: str) -> str | None:
        """Return a line that recommends longer rows for a GPU, named by its driver; None where none fit."""
        row = self.longest_row(gpu)
        if not row or not self._is_longer(row):
            return None
        return (
            f"train: rows have at most {self.load.row_tokens:,} tokens; {gpu} has memory for {row:,}, which "
            f"are faster: train.pack_tokens={row}"
        )


def in_bytes(count: float) -> str:
    """Return a number of bytes in words, such as "1.5 GB"."""
    if count >= 1e12:
        return f"{count / 1e12:.1f} TB"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def in_time(hours: float) -> str:
    """Return hours in words, such as "40 s", "12 min" or "5.5 h"."""
    if hours < 1 / 30:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 3 else f"{hours:.1f} h"
