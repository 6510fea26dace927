"""The training loop: the optimizer steps of a schedule, exact for any number of workers.

The loss of a step is the mean over all its answer tokens, in all rows and on all workers, so it does not
depend on how the rows are divided.
"""

import math
import statistics
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy

from uniner.errors import UserError
from uniner.train import varlen
from uniner.train.packing import IGNORED, Batch, PackedRow, Sample, Schedule, collate, empty_batch

_NAMED_PASSAGES = 8  # passages named in the error of a failed step
_RECENT_STEPS = 20  # a spike is measured against their median loss; at least half of them must exist


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """peak_rate: learning rate after the warm-up, which takes warmup_share of the steps. faster_rate: that
    of the optimizer's second group, where it has one.

    max_grad_norm: largest gradient norm. seed: for dropout, so that a resumed run draws the same.
    loss_spike_factor: stop at a loss of more than this many times the median of the last steps; None: never.
    stage, section: whose steps and settings they are, for messages.
    """

    peak_rate: float
    warmup_share: float
    max_grad_norm: float
    seed: int = 0
    loss_spike_factor: float | None = None
    faster_rate: float | None = None
    stage: str = "train"
    section: str = "train"


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """The figures of one optimizer step, the same on every worker.

    seconds: worker 0's. tokens_per_s: of all workers. mfu: share of the GPUs' peak, where it is known.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    answer_tokens: int
    seconds: float
    tokens_per_s: float
    mfu: float | None = None


@dataclass(frozen=True, kw_only=True)
class ValidationFigures:
    """The measurements after a step: the loss and, if questions were asked, those of the answers.

    broken: answers that are not of the template's form. threshold: of the encoder's scores, the best one.
    """

    step: int
    loss: float
    f1: float | None = None
    questions: int | None = None
    broken: int | None = None
    threshold: float | None = None


class Task(Protocol):
    """What a row of samples is to the model, and what is learnt from it. A sample has a len(): its tokens."""

    def units(self, sample: Any) -> int:
        """Return how many losses a sample adds to a step's mean."""
        ...

    def batch(self, samples: Sequence[Any]) -> Any:
        """Lay the samples of a row out as the model's inputs."""
        ...

    def empty(self) -> Any:
        """Return inputs without a loss, for a worker that has no row left while others still have one."""
        ...

    def loss(self, model: Any, batch: Any, device: torch.device) -> torch.Tensor:
        """Return the sum of a row's losses, in float32."""
        ...


class AnswerTask:
    """A packed row of conversations, of which the answers are learnt."""

    def units(self, sample: Sample) -> int:
        """Return a sample's answer tokens."""
        return sample.answer_tokens

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Pack the samples."""
        return collate(samples)

    def empty(self) -> Batch:
        """Return a row without answers."""
        return empty_batch()

    def loss(self, model: Any, batch: Batch, device: torch.device) -> torch.Tensor:
        """Return the sum of the answer tokens' losses."""
        return token_losses(model, batch, device)


ANSWERS = AnswerTask()


def as_figures(record: Any) -> dict[str, float]:
    """Return a dataclass's fields as a dictionary, without those that are None."""
    return {name: value for name, value in asdict(record).items() if value is not None}


def make_optimizer(
    model: Any, weight_decay: float, faster: Callable[[str], bool] = lambda _: False
) -> torch.optim.Optimizer:
    """Return AdamW with the betas of the paper's code; `train` sets the learning rate of each step.

    faster: tells by name the weights that learn at `LoopSettings.faster_rate`, the optimizer's second group.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups = [[weight for name, weight in named if faster(name) == second] for second in (False, True)]
    return torch.optim.AdamW(
        [{"params": group} for group in groups if group], lr=0.0, weight_decay=weight_decay, fused=True
    )


def warmup_steps(steps: int, share: float) -> int:
    """Return the number of warm-up steps."""
    return math.ceil(steps * share)


def learning_rate(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Return the rate of a step counted from 1: linear warm-up, then a cosine to 0 after the last step."""
    warmup = warmup_steps(steps, warmup_share)
    if step <= warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - 1 - warmup) / max(1, steps - warmup)))


def train(
    model: Any,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Any],
    schedule: Schedule,
    settings: LoopSettings,
    *,
    device: torch.device,
    losses: Sequence[float] = (),
    task: Task = ANSWERS,
) -> Iterator[StepFigures]:
    """Run the schedule's steps after those of `losses`, and yield their figures. All workers iterate in step.

    Raises:
        UserError: the loss or the gradient is not finite, or the loss is a spike. The weights are not yet
            changed. The error names the passages of the row with the largest loss.
    """
    recent = deque(losses[-_RECENT_STEPS:], _RECENT_STEPS)
    steps, done = len(schedule.steps), len(losses)
    for number, rows in enumerate(schedule.steps[done:], done + 1):
        started = time.perf_counter()
        tokens, answer_tokens = count_tokens(rows, samples, task)
        row_losses = _backward(model, rows, samples, task, answer_tokens, device, f"{settings.seed} {number}")
        loss, norm = _sum(torch.stack(row_losses).sum()), _clip(model, settings.max_grad_norm)
        worst = partial(_worst_passages, row_losses, rows, samples)
        _require_sound(number, loss, norm, recent, settings, worst)
        recent.append(loss)
        rate = learning_rate(number, steps, settings.peak_rate, settings.warmup_share)
        _update(optimizer, rate, (settings.faster_rate or settings.peak_rate) / settings.peak_rate)
        seconds = _from_worker_0(time.perf_counter() - started, device)
        yield StepFigures(
            step=number,
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens=tokens,
            answer_tokens=answer_tokens,
            seconds=seconds,
            tokens_per_s=round(tokens / seconds, 1),
        )


def try_fullest_row(
    model: Any,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Any],
    schedule: Schedule,
    device: torch.device,
    task: Task = ANSWERS,
) -> None:
    """Compute the gradients of the fullest row on every worker and forget them.

    Memory that is too small then shows before the first step. Moments that a first step would add are
    reserved meanwhile.
    """
    rows = [row for step in schedule.steps for row in step]
    fullest = max(rows, key=lambda row: sum(len(samples[number]) for number in row))
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = [] if optimizer.state else [torch.empty_like(weight) for weight in weights for _ in range(2)]
    task.loss(model, task.batch([samples[number] for number in fullest]), device).backward()
    optimizer.zero_grad()
    del moments


def _backward(
    model: Any,
    rows: Sequence[PackedRow],
    samples: Sequence[Any],
    task: Task,
    units: int,
    device: torch.device,
    seed: str,
) -> list[torch.Tensor]:
    """Compute the gradients of a step. Returns the losses of this worker's rows."""
    row_losses, alone = [], dist.get_world_size() == 1 and not _has_sharded_layers(model)
    for turn, batch in enumerate(local_batches(rows, samples, task)):
        if alone:  # with nobody to share with, weights are cast and gradients collected once a step
            _set_last_row(model, turn == len(rows) - 1)
        # By the row, so that dropout does not depend on which worker has it.
        torch.manual_seed(zlib.crc32(f"{seed} {turn * dist.get_world_size() + dist.get_rank()}".encode()))
        loss = task.loss(model, batch, device) / units
        (loss * dist.get_world_size()).backward()  # FSDP takes the mean over the workers
        row_losses.append(loss.detach())
    return row_losses


def _has_sharded_layers(model: Any) -> bool:
    return any(isinstance(module, FSDPModule) for module in model.modules() if module is not model)


def _set_last_row(model: Any, last: bool) -> None:
    model.set_requires_gradient_sync(last, recurse=False)
    model.set_reshard_after_backward(last, recurse=False)
    model.set_is_last_backward(last)


def _update(optimizer: torch.optim.Optimizer, rate: float, faster: float) -> None:
    for group, factor in zip(optimizer.param_groups, (1.0, faster), strict=False):
        group["lr"] = rate * factor
    optimizer.step()
    optimizer.zero_grad()


def mean_loss(
    model: Any, samples: Sequence[Any], rows: Sequence[PackedRow], device: torch.device, task: Task = ANSWERS
) -> float | None:
    """Return the mean loss of an answer token, over all workers; None if there is no answer token."""
    _, answer_tokens = count_tokens(rows, samples, task)
    if not answer_tokens:
        return None
    loss = torch.zeros((), device=device)
    model.eval()
    with torch.no_grad():
        for batch in local_batches(rows, samples, task):
            loss += task.loss(model, batch, device)
    model.train()
    model.reshard()  # without a backward pass, FSDP leaves the outer weights gathered
    return _sum(loss) / answer_tokens


def local_batches(rows: Sequence[PackedRow], samples: Sequence[Any], task: Task = ANSWERS) -> Iterator[Any]:
    """Yield this worker's rows. Every worker gets as many, some empty: FSDP works in lockstep."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for turn in zip_longest(*[iter(rows)] * world):
        row = turn[rank]
        yield task.batch([samples[number] for number in row]) if row else task.empty()


def count_tokens(rows: Sequence[PackedRow], samples: Sequence[Any], task: Task = ANSWERS) -> tuple[int, int]:
    """Return the tokens of rows and the losses in them, such as answer tokens."""
    numbers = [number for row in rows for number in row]
    return sum(len(samples[n]) for n in numbers), sum(task.units(samples[n]) for n in numbers)


def logits(
    model: Any, batch: Batch, device: torch.device, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the logits, (1, n, vocabulary), of a packed row, or of these k positions alone.

    transformers tells the samples apart by position_ids, but only if it gets neither a mask nor a cache: with
    an attention mask of ones, or with use_cache, samples would see each other.
    """
    by_bounds = str(model.config._attn_implementation).startswith(("flash", varlen.NAME))
    output = model(
        input_ids=torch.from_numpy(batch.input_ids).to(device),
        position_ids=torch.from_numpy(batch.position_ids).to(device),
        attention_mask=None,
        use_cache=False,
        logits_to_keep=0 if positions is None else positions,
        **(_sequence_bounds(batch, device) if by_bounds else {}),
    )
    return output.logits


def _sequence_bounds(batch: Batch, device: torch.device) -> dict[str, Any]:
    """Return the samples' bounds in a row, by FlashAttention's names for them."""
    starts = np.flatnonzero(batch.position_ids[0] == 0)
    ends = np.append(starts, batch.position_ids.shape[1])
    bounds, longest = torch.from_numpy(ends.astype(np.int32)).to(device), int(np.diff(ends).max())
    return {
        "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest
    }  # fmt: skip


def token_losses(model: Any, batch: Batch, device: torch.device) -> torch.Tensor:
    """Return the sum of the losses of a row's answer tokens, in float32.

    Logits are computed for these tokens alone: over a large vocabulary they cost as much as many layers.
    """
    labels = torch.from_numpy(batch.labels[0, 1:]).to(device)
    positions = (labels != IGNORED).nonzero()[:, 0]
    return cross_entropy(
        logits(model, batch, device, positions)[0].float(), labels[positions], reduction="sum"
    )


def _sum(value: torch.Tensor) -> float:
    dist.all_reduce(value)
    return value.item()


def _from_worker_0(value: float, device: torch.device) -> float:
    """Return worker 0's number on every worker, so that all decide alike."""
    shared = torch.tensor(value, device=device)
    dist.broadcast(shared, src=0)
    return shared.item()


def _clip(model: Any, limit: float) -> float:
    """Scale the gradients down to a norm of at most `limit`. Returns the norm before."""
    norm: Any = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def _require_sound(
    number: int,
    loss: float,
    norm: float,
    recent: Sequence[float],
    settings: LoopSettings,
    worst_passages: Callable[[], str],
) -> None:
    """Raise the error of a step whose loss or gradient is not finite, or whose loss is a spike."""
    factor, section = settings.loss_spike_factor, settings.section
    usual = statistics.median(recent) if len(recent) >= _RECENT_STEPS // 2 else math.inf
    if not math.isfinite(loss) or not math.isfinite(norm):
        spike, remedy = "", f"lower {section}.learning_rate"
    elif factor is not None and loss > factor * usual:
        spike = f", {loss / usual:.1f} times the loss of the steps before"
        remedy = f"raise {section}.loss_spike_factor to go on"
    else:
        return
    raise UserError(
        f"{settings.stage}: step {number} has loss {loss:.4g} and gradient norm {norm:.4g}{spike}; check its "
        f"passages, first {worst_passages()}, or {remedy}"
    )


def _worst_passages(
    row_losses: Sequence[torch.Tensor], rows: Sequence[PackedRow], samples: Sequence[Any]
) -> str:
    """Name the passages of the row with the largest loss, of all workers. row_losses: this worker's."""
    per_worker: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(per_worker, [loss.item() for loss in row_losses])
    losses = [loss for turn in zip(*per_worker, strict=True) for loss in turn][: len(rows)]
    worst = max(range(len(rows)), key=lambda row: math.inf if math.isnan(losses[row]) else losses[row])
    passages = sorted({samples[sample].passage_id for sample in rows[worst]})
    named = passages[:_NAMED_PASSAGES]
    more = len({samples[sample].passage_id for row in rows for sample in row}) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
