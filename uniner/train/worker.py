"""The work of each training process, from the conversations to the student. It knows no Ray.

All processes run the same code in step. A `UserError` is raised on all of them or on none, so that no process
waits for another. It is returned in the result rather than raised: starting again would not help.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_folders import loading, local_model
from uniner.train import CHECKPOINTS, export, loop
from uniner.train.checkpoint import BestBy, Checkpoints
from uniner.train.collective import run_on_all, run_on_first
from uniner.train.estimate import TrainingEstimate
from uniner.train.export import TrainFigures
from uniner.train.float8 import require_float8
from uniner.train.loop import LoopSettings, ValidationFigures
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
    with_rows,
)
from uniner.train.steps import RunSettings, TrainRun, TrainSession, device_of, guarded
from uniner.train.tokenized import tokenized_once

PACKING = "packing.json.gz"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The figures of a run, or the line of the UserError that ended it."""

    figures: TrainFigures | None = None
    error: str | None = None


def train(job: TrainJob, session: TrainSession) -> TrainResult:
    """Train the student and export it. Returns the same on every worker.

    Raises:
        UserError: this worker's GPU is out of memory (`steps.guarded`).
    """
    cure = "lower train.pack_tokens, set train.activation_checkpointing=true or take more workers"
    figures, error = guarded(job.run / "train", "train", cure, lambda: _train(job, session))
    return TrainResult(figures=figures, error=error)


def _train(job: TrainJob, session: TrainSession) -> TrainFigures:
    train, folder = job.train, job.run / "train"
    device = device_of(train.use_gpu)
    if train.float8:
        run_on_all(lambda: require_float8(device))
    torch.manual_seed(job.seed)
    session.report(0, 0, "reading the conversations")
    config, tokenizer = run_on_all(lambda: config_and_tokenizer(job.base_address))
    conversations = run_on_all(lambda: read_conversations(job))
    splits = tokenized_once(folder, job.source, lambda: tokenize(job, conversations, tokenizer))
    data = run_on_all(lambda: prepare(job, conversations, splits, tokenizer, config))
    best: BestBy | None = "loss" if train.export == "best" else None
    data, expected = _in_long_rows(job, data, config, device)
    run_on_all(lambda: _write_packing(folder, data))
    session.say(expected.summary())
    if best and not data.validation_rows:
        session.say("train: no conversation is left for validation, so the last step is exported")
    hint = expected.row_hint(torch.cuda.get_device_name(device)) if train.use_gpu else None
    if hint and train.pack_tokens:
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
        TrainRun(
            session=session,
            samples=data.training.samples,
            schedule=data.schedule,
            settings=_settings(job),
            device=device,
            model=model,
            optimizer=optimizer,
            checkpoints=checkpoints,
            state=state,
            metrics=metrics,
            validate=partial(_validate, data, model, device),
        ).finish_steps()
        session.report(state.steps, state.steps, "writing the student")
        if best and state.best(best) not in (None, state.steps):
            checkpoints.load_best(model, state)
    weights = export.gather_weights(model, torch.float32 if job.lora else job.torch_dtype)
    figures = export.train_figures(data, state, best)
    run_on_all(lambda: export.publish(job, config, weights, tokenizer, data.types, state, figures))
    return figures


def _in_long_rows(
    job: TrainJob, data: TrainingData, config: Any, device: torch.device
) -> tuple[TrainingData, TrainingEstimate]:
    """Return the data, on a GPU in rows as long as is useful unless train.pack_tokens is set, and its
    estimate."""
    expected = run_on_first(lambda: estimate(job, data, config))
    if device.type != "cuda" or job.train.pack_tokens:
        return data, expected
    if choose_attention(job.train.attention, config, device, job.torch_dtype) in (None, "sdpa"):
        return data, expected  # it computes all pairs of a row's tokens
    row = run_on_first(lambda: expected.longest_row(torch.cuda.get_device_name(device)))
    if row is None or row <= job.student.max_tokens:
        return data, expected
    data = run_on_all(lambda: with_rows(job, data, row))
    return data, run_on_first(lambda: estimate(job, data, config))


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


def _settings(job: TrainJob) -> RunSettings:
    train = job.train
    return RunSettings(
        loop=LoopSettings(
            peak_rate=train.learning_rate,
            warmup_share=train.warmup_share,
            max_grad_norm=train.max_grad_norm,
            seed=job.seed,
            loss_spike_factor=train.loss_spike_factor,
        ),
        checkpoint_steps=train.checkpoint_steps,
    )


def _validate(
    data: TrainingData, model: Any, device: torch.device, step: int, progress: Callable[[str], None]
) -> ValidationFigures | None:
    """Measure the loss and the generation eval; None where there is nothing to validate with."""
    questions = len(data.generation_eval.questions)
    loss = loop.mean_loss(model, data.validation.samples, data.validation_rows, device)
    if loss is None:
        return None
    scores = data.generation_eval.run(
        model, device, lambda done: progress(f"generation eval: {done:,} of {questions:,} questions")
    )
    return ValidationFigures(step=step, loss=loss, **(asdict(scores) if scores else {}))
