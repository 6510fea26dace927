"""Checks of GPU memory: what training and the engines need, against the GPUs that there are or will be."""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from uniner.config.base import Serving
from uniner.config.schema import EngineSection
from uniner.config.systems import AnySystem, BertSystem, GlinerSystem, InstructUIESystem
from uniner.preflight.models import ModelUse, read_model
from uniner.preflight.nodes import Machine
from uniner.preflight.results import CheckResult, error, ok, size, warning
from uniner.runtime.gpu_models import GPUS, known_gpus
from uniner.runtime.placement import NodeType
from uniner.storage.model_folders import require_text_encoder
from uniner.train.estimate import ALLOCATOR, CUDA, ModelShape, TrainingLoad

if TYPE_CHECKING:
    from uniner.encoder.folder import LoadedEncoder
    from uniner.train.encoder.worker import EncoderJob
    from uniner.train.prepare import TrainJob

_SAVED = 12  # bytes a weight in a checkpoint: float32 and AdamW's two moments
_ON_MACHINE = 8  # workers on a machine at most
# Roughly what an engine takes besides weights and KV cache, for activations and CUDA graphs. It was not
# measured, so a model that fits only without it is a warning.
_ENGINE = 2e9


@dataclass(frozen=True)
class GpuKind:
    """A kind of GPU, where it is, and its memory in bytes: none where it is unknown, several where the name
    leaves it open."""

    name: str
    where: str
    memory: tuple[float, ...]


@dataclass(frozen=True)
class MemoryNeed:
    """The memory that something takes of each of its GPUs, in bytes: at least, and with all that may come.

    share: of a GPU's memory that it may use. cure: what to change where it is too much.
    """

    subject: str
    least: float
    most: float
    cure: str
    share: float = 1.0
    detail: str = ""

    def fits(self, memory: float) -> bool | None:
        """Tell whether a GPU of this memory is enough; None where it is not known."""
        room = memory * self.share
        return True if self.most <= room else None if self.least <= room else False


def gpu_kinds(machines: Iterable[Machine], types: Sequence[NodeType] | None) -> list[GpuKind]:
    """Return the kinds of GPUs of machines that run, and of those that the autoscaler can start."""
    running = {
        GpuKind(gpu.name, machine.name, (gpu.memory,))
        for machine in machines
        for gpu in (machine.facts.gpus if machine.facts else ())
    }
    promised = [
        GpuKind(name or "a GPU of unknown kind", f"node type {each.name}", memory_of(name))
        for each in types or ()
        if each.resources.get("GPU")
        for name in [each.accelerator()]
        if not name or not any(name in kind.name for kind in running)  # their drivers know the memory
    ]
    return [*sorted(running, key=lambda kind: (kind.where, kind.name)), *promised]


def memory_of(accelerator: str) -> tuple[float, ...]:
    """Return the memory that a GPU of Ray's name for it may have, such as 40 or 80 GB for "A100"."""
    return tuple(sorted(gpu.memory for gpu in known_gpus(accelerator).values()))


def judge(need: MemoryNeed, kinds: Sequence[GpuKind]) -> CheckResult:
    """Compare a need with the GPUs that there are; without any, name those that would be enough."""
    takes = f"takes about {size(need.least)}"
    if need.most > 1.05 * need.least:
        takes += f" to {size(need.most)}"
    takes += f" a GPU{f' ({need.detail})' if need.detail else ''}"
    if not kinds:
        enough = [name for name, gpu in GPUS.items() if need.fits(gpu.memory)]
        found = f"{takes}; no GPU is known here, enough are {', '.join(enough)}"
        return ok(need.subject, found) if enough else warning(need.subject, f"{takes}; {need.cure}")
    verdicts = {kind: {need.fits(memory) for memory in kind.memory} for kind in kinds}
    small = [kind for kind, fits in verdicts.items() if fits == {False}]
    unsure = [kind for kind, fits in verdicts.items() if fits != {True} and fits != {False}]
    if small:
        level = error if len(small) == len(kinds) else warning
        return level(need.subject, f"{takes}, more than {_listed(small, need)}; {need.cure}")
    if unsure:
        return warning(need.subject, f"{takes}, which may be more than {_listed(unsure, need)}; {need.cure}")
    return ok(need.subject, f"{takes}; {_listed(kinds, need)}")


def _listed(kinds: Sequence[GpuKind], need: MemoryNeed) -> str:
    parts = []
    for kind in kinds:
        memory = " or ".join(size(memory * need.share) for memory in kind.memory) or "unknown memory"
        parts.append(f"{kind.name} of {kind.where} has ({memory})")
    return " and ".join(dict.fromkeys(parts))


def check_training(
    job: "TrainJob", built: bool, kinds: Callable[[], Sequence[GpuKind]]
) -> Iterator[CheckResult]:
    """Compare what a training worker takes with the GPUs that there are."""
    yield judge(training_need(job, built), kinds())


def training_need(job: "TrainJob", built: bool) -> MemoryNeed:
    """Return what a training worker takes.

    built: the conversations are there, and the estimate counts them. Else it is of a full row, of which
    nothing or everything is answers.
    """
    from uniner.train import estimate, prepare

    train, shape = job.train, _shape(job.student.base, job.lora, job.train.dtype)
    fewest = min(train.fewest_workers, train.shard_workers or train.fewest_workers)
    if built:
        totals = [prepare.estimate_job(job).memory.total] * 2
    else:
        row = train.pack_tokens or job.student.max_tokens
        loads = (_full_row(row, answers) for answers in (0, row))
        settings = (fewest, job.torch_dtype.itemsize, train.activation_checkpointing)
        totals = [estimate.memory(shape, load, *settings).total for load in loads]
    least, most = (ALLOCATOR * total + CUDA for total in totals)
    return MemoryNeed(
        "train on GPUs",
        least,
        most,
        "raise train.workers, lower train.pack_tokens, or set train.activation_checkpointing=true or "
        "train.lora_rank=16" + ("" if built else "; once build is done, train's --estimate says it exactly"),
        detail=f"{shape.parameters:,} weights on {fewest} {'worker' if fewest == 1 else 'workers'}",
    )


def check_encoder_training(
    job: "EncoderJob", built: bool, kinds: Callable[[], Sequence[GpuKind]]
) -> Iterator[CheckResult]:
    """Compare what a worker that trains the encoder takes with the GPUs that there are."""
    yield judge(encoder_need(job, built), kinds())


def encoder_need(job: "EncoderJob", built: bool) -> MemoryNeed:
    """Return what a worker that trains the encoder takes.

    built: the conversations are there, and the estimate counts them. Else it is of a full row of passages as
    long as the encoder reads, each asked for one type or for encoder.max_types.
    """
    from uniner.train.encoder import estimate

    section = job.encoder
    encoder = _empty_encoder(job)
    if built:
        totals = [estimate.estimate_job(job, 1.0, 0.0).memory.total] * 2
    else:
        counts = (1, section.max_types)
        totals = [estimate.full_row_memory(job, encoder, types).total for types in counts]
    least, most = (ALLOCATOR * total + CUDA for total in totals)
    weights = sum(weight.numel() for weight in encoder.model.parameters())
    return MemoryNeed(
        "train-encoder on GPUs",
        least,
        most,
        "lower encoder.row_tokens, raise encoder.workers with encoder.shard_workers, or take a smaller "
        "encoder.base" + ("" if built else "; once build is done, its --estimate says it exactly"),
        detail=f"{weights:,} weights, rows of {section.row_tokens:,} tokens",
    )


def _empty_encoder(job: "EncoderJob") -> "LoadedEncoder":
    from uniner.train.encoder.worker import empty_encoder

    base = read_model("encoder.base", job.encoder.base or "")
    require_text_encoder(base.name, base.config)
    config, tokenizer = copy.deepcopy((base.config, base.tokenizer))  # the marks are added to them
    return empty_encoder(job.fields(config.hidden_size), tokenizer, config)


def training_files(job: "TrainJob") -> dict[str, float]:
    """Return what training keeps in a machine's temporary folder at once, by name, in bytes: the shards that
    its workers write of a checkpoint, and the student before it is uploaded."""
    shape, shards = _shape(job.student.base, job.lora, job.train.dtype), job.train.fewest_workers
    share = min(_ON_MACHINE, shards) / shards
    return {
        "a checkpoint's shards": _SAVED * shape.trained * share,
        "the student": job.torch_dtype.itemsize * shape.parameters,
    }


@functools.lru_cache(maxsize=4)
def _shape(base: str, lora: Any, dtype: str) -> ModelShape:
    import torch

    from uniner.train import model

    return model.count_weights(read_model("student.base", base).config, lora, getattr(torch, dtype))


def _full_row(tokens: int, answers: int) -> TrainingLoad:
    nothing = dict.fromkeys((field.name for field in fields(TrainingLoad)), 0)
    return TrainingLoad(**{**nothing, "row_tokens": tokens, "row_answers": answers})


def check_engine(use: ModelUse, kinds: Callable[[], Sequence[GpuKind]]) -> Iterator[CheckResult]:
    """Compare what an engine takes with the GPUs that there are."""
    need = engine_need(use)
    yield (
        judge(need, kinds()) if need else ok(f"engine of {use.setting}", f"{use.name}: its size is not known")
    )


def check_system(
    setting: str, model: str, system: AnySystem, engine: EngineSection, kinds: Callable[[], Sequence[GpuKind]]
) -> Iterator[CheckResult]:
    """Compare what a system without vLLM takes with the GPUs that there are; yields nothing for the others.

    Of its weights alone: what its passages take depends on their lengths. GLiNER's sizes only its own library
    knows.
    """
    if isinstance(system, GlinerSystem) and engine.gpus:
        yield ok(f"memory of {setting}", f"{model}: not checked; its library alone knows its size")
    elif isinstance(system, BertSystem) and system.use_gpu:
        # Trained on each data set; each worker has the whole model.
        yield judge(_weights_need(setting, model, 16, "lower its batch_passages or max_tokens"), kinds())
    elif isinstance(system, InstructUIESystem) and engine.gpus:
        width = 4 if engine.dtype == "float32" else 2
        yield judge(_weights_need(setting, model, width, "lower its batch_passages"), kinds())


def _weights_need(setting: str, model: str, bytes_a_weight: int, cure: str) -> MemoryNeed:
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        weights = AutoModel.from_config(read_model(setting, model).config).num_parameters()
    least = ALLOCATOR * bytes_a_weight * weights + CUDA
    detail = f"{weights:,} weights of {bytes_a_weight} bytes; passages take more"
    return MemoryNeed(
        f"memory of {setting}", least, least + _ENGINE, f"{cure}, or take larger GPUs", detail=detail
    )


def engine_need(use: ModelUse) -> MemoryNeed | None:
    """Return what an engine takes of each of its GPUs: the weights, and the KV cache of one question and
    answer, without which vLLM does not start. None where a kind of model has no sizes to count by."""
    from uniner.train.model import empty_model

    serving, config = use.serving, read_model(use.setting, use.name).config
    assert serving, "only a model with an engine is compared"
    sizes = config.get_text_config()
    try:
        weights = empty_model(config).num_parameters()
        numbers = 2 * sizes.num_hidden_layers * _heads(sizes)  # a token's keys and values
    except (ValueError, AttributeError):
        return None
    width, token = _width(serving, "quantization"), numbers * _width(serving, "kv_cache_dtype")
    least = (width * weights + token * use.window) / max(1.0, serving.gpus)
    return MemoryNeed(
        f"engine of {use.setting}",
        least,
        least + _ENGINE,
        "raise gpus or gpu_memory_utilization, or take a smaller model or larger GPUs",
        share=serving.gpu_memory_utilization * min(1.0, serving.gpus),
        detail=f"{weights:,} weights, {token / 1e6:.2g} MB of KV cache a token",
    )


def _heads(sizes: Any) -> int:
    """Return the numbers that a layer's keys have a token."""
    heads = getattr(sizes, "num_key_value_heads", None) or sizes.num_attention_heads
    return heads * (getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads)


def _width(section: Serving, eight_bits: str) -> int:
    """Return the bytes of a number, one where this setting says 8 bits."""
    if getattr(section, eight_bits, None) == "fp8":
        return 1
    return 4 if section.dtype == "float32" else 2  # auto takes two bytes for a model in float32 too
