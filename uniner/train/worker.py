"""The work of each training process, from the conversations to the student. It knows no Ray.

All processes run the same code in step. A `UserError` is raised on all of them or on none, so that no process
waits for another. It is returned in the result rather than raised: starting again would not help.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from uniner.errors import UserError
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_folders import loading, local_model
from uniner.train import CHECKPOINTS, OUT_OF_MEMORY, export, loop
from uniner.train.checkpoint import Checkpoints, TrainState
from uniner.train.collective import run_on_all, run_on_first
from uniner.train.export import TrainFigures
from uniner.train.float8 import require_float8
from uniner.train.loop import LoopSettings, ValidationFigures, as_figures
from uniner.train.metrics_writer import MetricsWriter, Tracker, start_tracker
from uniner.train.model import choose_attention, load_sharded, read_base
from uniner.train.prepare import (
    TrainingData,
    TrainJob,
    config_and_tokenizer,
    estimate,
    prepare,
    read_conversations,
    tokenize,
)
from uniner.train.tokenized import tokenized_once

PACKING = "packing.json.gz"
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


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The figures of a run, or the line of the UserError that ended it."""

    figures: TrainFigures | None = None
    error: str | None = None


def train(job: TrainJob, session: TrainSession) -> TrainResult:
    """Train the student and export it. Returns the same on every worker.

    Raises:
        UserError: this worker's GPU is out of memory. The others wait for this worker, so it cannot return.
            It leaves a note, by which the workers that are started again end at once: it would happen again.
    """
    folder = job.run / "train"
    try:
        noted = run_on_all(lambda: folder.read_json(OUT_OF_MEMORY))
        if noted:
            raise UserError(noted["error"])
        return TrainResult(figures=_train(job, session))
    except UserError as error:
        return TrainResult(error=str(error))
    except torch.OutOfMemoryError as error:
        line = (
            f"train: out of GPU memory ({' '.join(str(error).split())[:120]}); lower train.pack_tokens, "
            "set train.activation_checkpointing=true or take more workers"
        )
        folder.write_json(OUT_OF_MEMORY, {"error": line})
        raise UserError(line) from error


def _train(job: TrainJob, session: TrainSession) -> TrainFigures:
    train, folder = job.train, job.run / "train"
    device = _device(train.use_gpu)
    if train.float8:
        run_on_all(lambda: require_float8(device))
    torch.manual_seed(job.seed)
    session.report(0, 0, "reading the conversations")
    config, tokenizer = run_on_all(lambda: config_and_tokenizer(job.base_address))
    conversations = run_on_all(lambda: read_conversations(job))
    splits = tokenized_once(folder, job.source, lambda: tokenize(job, conversations, tokenizer))
    data = run_on_all(lambda: prepare(job, conversations, splits, tokenizer, config))
    best = train.export == "best"
    run_on_all(lambda: _write_packing(folder, data))
    expected = run_on_first(lambda: estimate(job, data, config))
    session.say(expected.summary())
    hint = expected.row_hint(torch.cuda.get_device_name(device)) if train.use_gpu else None
    if hint:
        session.say(hint)
    session.report(0, len(data.schedule.steps), "loading the base model")
    model = _load_model(job, config, device)
    optimizer = loop.make_optimizer(model, train.weight_decay)
    with Checkpoints(
        folder / CHECKPOINTS, train.keep_checkpoints, best, device, session.checkpointed
    ) as checkpoints:
        state = checkpoints.resume(model, optimizer, data.digest(), session.say)
        if state.steps:
            session.say(f"train: resuming after step {state.steps:,} with {dist.get_world_size()} workers")
        tracker = run_on_all(lambda: _start_tracker(job, session))
        metrics = MetricsWriter(folder, expected, state.steps, device, tracker)
        _Run(job, session, data, device, model, optimizer, checkpoints, state, metrics).finish_steps()
        session.report(state.steps, state.steps, "writing the student")
        if best and state.best not in (None, state.steps):
            checkpoints.load_best(model, state)
    weights = export.gather_weights(model, torch.float32 if job.lora else job.torch_dtype)
    figures = export.train_figures(data, state, best)
    run_on_all(lambda: export.publish(job, config, weights, tokenizer, data.types, state, figures))
    return figures


def _write_packing(folder: Folder, data: TrainingData) -> None:
    """Record the samples of each step and row."""
    if dist.get_rank() != 0:
        return
    contents = {
        "digest": data.digest(),
        "epoch_ends": sorted(data.schedule.epoch_ends),
        "samples": [sample.passage_id for sample in data.training.samples],
        "steps": data.schedule.steps,
    }
    with explained(folder.url):
        folder.write(PACKING, gzip.compress(json.dumps(contents).encode(), mtime=0))


def _start_tracker(job: TrainJob, session: TrainSession) -> Tracker | None:
    if job.train.tracker is None or dist.get_rank() != 0:
        return None
    settings = {"base": job.student.base, "seed": job.seed, **job.train.identity()}
    return start_tracker(job.train.tracker, job.run.name, (job.run / "train").url, settings, session.say)


def _device(use_gpu: bool) -> torch.device:
    # On CPU a worker has one thread (Ray sets OMP_NUM_THREADS to the CPUs it reserves): to use more cores,
    # take more workers. Two threads on a busy machine were measured 20 times slower than one.
    return torch.device("cuda", torch.cuda.current_device()) if use_gpu else torch.device("cpu")


def _load_model(job: TrainJob, config: Any, device: torch.device) -> Any:
    def read() -> Any:
        with loading(job.base_address, "student.base"):
            if dist.get_rank() != 0:
                return None
            return read_base(local_model(job.base_address), job.lora, device)

    base_model = run_on_all(read)
    return run_on_all(
        lambda: load_sharded(
            config,
            base_model,
            job.torch_dtype,
            device,
            job.train.activation_checkpointing,
            job.lora,
            attention=choose_attention(job.train.attention, config, device, job.torch_dtype),
            compiled=job.train.compile,
            shard_workers=job.train.shard_workers,
            float8=job.train.float8,
        )
    )


@dataclass(frozen=True)
class _Run:
    job: TrainJob
    session: TrainSession
    data: TrainingData
    device: torch.device
    model: Any
    optimizer: torch.optim.Optimizer
    checkpoints: Checkpoints
    state: TrainState
    metrics: MetricsWriter

    def finish_steps(self) -> None:
        """Run the remaining steps; measure at the end of each epoch, and save checkpoints when due."""
        train, state, last = self.job.train, self.state, len(self.data.schedule.steps)
        measured = {*self.data.schedule.epoch_ends, last}
        preemption, due = _PreemptionCheck(self.session), False
        self.session.report(state.steps, last, self._note())
        if state.steps in measured and (not state.validation or state.validation[-1].step != state.steps):
            self._validate(state.steps, last)  # the run ended between the checkpoint and its measurement
        if self.device.type == "cuda":
            samples, schedule = self.data.training.samples, self.data.schedule
            loop.try_fullest_row(self.model, self.optimizer, samples, schedule, self.device)
        settings = LoopSettings(
            peak_rate=train.learning_rate,
            warmup_share=train.warmup_share,
            max_grad_norm=train.max_grad_norm,
            seed=self.job.seed,
            loss_spike_factor=train.loss_spike_factor,
        )
        for step in loop.train(
            self.model,
            self.optimizer,
            self.data.training.samples,
            self.data.schedule,
            settings,
            device=self.device,
            losses=[step.loss for step in state.history],
        ):
            state.history.append(self.metrics.step(step))
            self.session.measure(as_figures(state.history[-1]))
            self.session.report(step.step, last, self._note())
            leaving = preemption.due(step.seconds)
            # No step waits: a checkpoint due while another is being written is saved once that is done.
            due = due or step.step % train.checkpoint_steps == 0
            if (self.checkpoints.idle() and due) or step.step in measured or leaving:
                self.checkpoints.save(self.model, self.optimizer, state, after_shards=self.metrics.store)
                due = False
            if leaving:
                self.checkpoints.wait()
            if step.step in measured:  # after the checkpoint: it takes minutes, in which a run may end
                self._validate(step.step, last)
        self.checkpoints.wait()
        run_on_all(self.metrics.close)

    def _validate(self, step: int, last: int) -> None:
        data, questions = self.data, len(self.data.generation_eval.questions)

        def progress(done: int) -> None:
            self.session.report(step, last, f"generation eval: {done:,} of {questions:,} questions")

        loss = loop.mean_loss(self.model, data.validation.samples, data.validation_rows, self.device)
        if loss is not None:
            scores = data.generation_eval.run(self.model, self.device, progress)
            figures = ValidationFigures(step=step, loss=loss, **(asdict(scores) if scores else {}))
            self.state.validation.append(figures)
            self.metrics.validation(figures)
        self.session.report(step, last, self._note())

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
