"""Run the steps of a schedule, with measurements and checkpoints, also before a machine is taken away."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from uniner.errors import UserError
from uniner.storage.folder import Folder
from uniner.train import OUT_OF_MEMORY, loop
from uniner.train.checkpoint import Checkpoints, TrainState
from uniner.train.collective import run_on_all
from uniner.train.loop import ANSWERS, LoopSettings, Task, ValidationFigures, as_figures
from uniner.train.metrics_writer import MetricsWriter
from uniner.train.packing import Schedule

Result = TypeVar("Result")
_PREEMPTION_CHECK_SECONDS = 10.0  # of steps, between two checks


class TrainSession(Protocol):
    """A training process's connection to the cluster and the driver.

    Every process makes the same calls; only worker 0's reports and lines reach the driver.
    """

    def preempted(self) -> bool:
        """Tell whether a machine of this run is about to be taken away."""
        ...

    def report(self, step: int, steps: int, note: str) -> None:
        """Report the progress to the driver."""
        ...

    def say(self, line: str) -> None:
        """Print a line on the driver."""
        ...

    def measure(self, figures: Mapping[str, float]) -> None:
        """Record a step's figures for who watches the run."""
        ...

    def checkpointed(self, seconds: float) -> None:
        """Record how long a checkpoint took to write. A thread calls it, once the checkpoint is complete."""
        ...


def device_of(use_gpu: bool) -> torch.device:
    """Return the device of a training process, before it computes anything."""
    if use_gpu:
        return torch.device("cuda", torch.cuda.current_device())
    # oneDNN keeps the kernels of 1,024 shapes, and each row has a length of its own: after 160 rows in
    # bfloat16 the process of a model of 9 M weights had 3.5 GB, and with 32 kept 2.0 GB, at the same speed.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    # On CPU a worker has one thread (Ray sets OMP_NUM_THREADS to the CPUs it reserves): to use more cores,
    # take more workers. Two threads on a busy machine were measured 20 times slower than one.
    return torch.device("cpu")


def guarded(
    folder: Folder, name: str, cure: str, train: Callable[[], Result]
) -> tuple[Result | None, str | None]:
    """Train, and return the result, or the line of the UserError that ended it on all workers.

    name: of the stage. cure: of too little memory.

    Raises:
        UserError: this worker's GPU is out of memory. The others wait for this worker, so it cannot return.
            It leaves a note, by which the workers that are started again end at once: it would happen again.
    """
    try:
        noted = run_on_all(lambda: folder.read_json(OUT_OF_MEMORY))
        if noted:
            raise UserError(noted["error"])
        return train(), None
    except UserError as error:
        return None, str(error)
    except torch.OutOfMemoryError as error:
        line = f"{name}: out of GPU memory ({' '.join(str(error).split())[:120]}); {cure}"
        folder.write_json(OUT_OF_MEMORY, {"error": line})
        raise UserError(line) from error


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The loop's settings, and the steps between checkpoints.

    measure_steps: steps between measurements, which are else made at each epoch's end; the last step is
    measured too. patience: measurements without a better F1 after which training stops; None: it does not.
    """

    loop: LoopSettings
    checkpoint_steps: int
    measure_steps: int | None = None
    patience: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """A run on this worker. All workers make the same calls.

    validate: measures after a step, and is given what reports its progress; None: nothing to measure.
    """

    session: TrainSession
    samples: Sequence[Any]
    schedule: Schedule
    settings: RunSettings
    device: torch.device
    model: Any
    optimizer: torch.optim.Optimizer
    checkpoints: Checkpoints
    state: TrainState
    metrics: MetricsWriter
    validate: Callable[[int, Callable[[str], None]], ValidationFigures | None]
    task: Task = ANSWERS

    def finish_steps(self) -> None:
        """Run the remaining steps; measure and save checkpoints when due."""
        state, last = self.state, len(self.schedule.steps)
        measured = self._measured_steps()
        self.session.report(state.steps, last, self._note())
        if state.steps in measured and (not state.validation or state.validation[-1].step != state.steps):
            self._measure(state.steps, last)  # the run ended between the checkpoint and its measurement
        if not self._stops_early():
            self._run_steps(measured)
        self.checkpoints.wait()
        run_on_all(self.metrics.close)

    def _run_steps(self, measured: set[int]) -> None:
        settings, state, last = self.settings, self.state, len(self.schedule.steps)
        preemption, due = _PreemptionCheck(self.session), False
        if self.device.type == "cuda":
            loop.try_fullest_row(
                self.model, self.optimizer, self.samples, self.schedule, self.device, self.task
            )
        for step in loop.train(
            self.model,
            self.optimizer,
            self.samples,
            self.schedule,
            settings.loop,
            device=self.device,
            losses=[step.loss for step in state.history],
            task=self.task,
        ):
            state.history.append(self.metrics.step(step))
            self.session.measure(as_figures(state.history[-1]))
            self.session.report(step.step, last, self._note())
            leaving = preemption.due(step.seconds)
            # No step waits: a checkpoint due while another is being written is saved once that is done.
            due = due or step.step % settings.checkpoint_steps == 0
            if (self.checkpoints.idle() and due) or step.step in measured or leaving:
                self.checkpoints.save(self.model, self.optimizer, state, after_shards=self.metrics.store)
                due = False
            if leaving:
                self.checkpoints.wait()
            if step.step in measured:  # after the checkpoint: it takes minutes, in which a run may end
                self._measure(step.step, last)
                if self._stops_early():
                    break

    def _measured_steps(self) -> set[int]:
        every, last = self.settings.measure_steps, len(self.schedule.steps)
        return {*(range(every, last, every) if every else self.schedule.epoch_ends), last}

    def _measure(self, step: int, last: int) -> None:
        figures = self.validate(step, lambda note: self.session.report(step, last, note))
        if figures is not None:
            self.state.validation.append(figures)
            self.metrics.validation(figures)
        self.session.report(step, last, self._note())

    def _stops_early(self) -> bool:
        """Tell whether the last measurements have no better F1 than one before them."""
        patience, measured = self.settings.patience, self.state.validation
        if patience is None or len(measured) <= patience:
            return False
        best = self.state.best("f1")
        return all(figures.step != best for figures in measured[-patience:])

    def _note(self) -> str:
        """Return the progress line's note about the last step."""
        if not self.state.history:
            return ""
        step, measured = self.state.history[-1], ""
        if self.state.validation:
            last = self.state.validation[-1]
            f1 = "" if last.f1 is None else f", F1 {last.f1:.2f}"
            measured = f", validation {last.loss:.4f}{f1}"
        mfu = "" if step.mfu is None else f", MFU {step.mfu:.1%}"
        return (
            f"loss {step.loss:.4f}{measured}, gradient {step.grad_norm:.3g}, "
            f"{step.tokens_per_s:,.0f} tokens/s{mfu}"
        )


class _PreemptionCheck:
    """Checks from time to time whether a machine of the run is being taken away, and tells so once."""

    def __init__(self, session: TrainSession):
        self._session, self._unchecked, self._preempted = session, 0.0, False

    def due(self, seconds: float) -> bool:
        """Tell, after a step of `seconds` (the same on all workers, so all check at the same step)."""
        self._unchecked += seconds
        if self._preempted or self._unchecked < _PREEMPTION_CHECK_SECONDS:
            return False
        self._unchecked, self._preempted = 0.0, self._session.preempted()
        return self._preempted
