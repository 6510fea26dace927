"""The work of each process that trains the encoder. It knows no Ray.

As in `train.worker`, all processes run the same code in step, and a `UserError` is raised on all or on none.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModel, AutoTokenizer

from uniner.config.schema import Encoder, Student
from uniner.encoder.batches import bucket
from uniner.encoder.folder import LoadedEncoder, add_marks, new_encoder, save_encoder, shape_of, with_defaults
from uniner.encoder.model import TOKEN_LEVEL, EncoderModel
from uniner.errors import UserError
from uniner.records import Conversation, from_table
from uniner.storage.filesystem import explained
from uniner.storage.model_card import encoder_card
from uniner.storage.model_folders import (
    CARD,
    ENCODER,
    FACTS,
    OWN_STAGES,
    StudentFacts,
    digests_of,
    loading,
    local_model,
    read_text_encoder,
)
from uniner.storage.sealed_json import sealed_json
from uniner.storage.stage_folder import StageFolder
from uniner.templates import make_template
from uniner.train import CHECKPOINTS, export, loop, packing
from uniner.train.checkpoint import BestBy, Checkpoints, TrainState
from uniner.train.collective import run_on_all
from uniner.train.encoder.prediction_eval import prediction_eval
from uniner.train.encoder.samples import EncoderSamples, asked_passages, make_samples
from uniner.train.encoder.task import EncoderTask
from uniner.train.loop import LoopSettings, ValidationFigures, as_figures
from uniner.train.metrics_writer import MetricsWriter
from uniner.train.model import broadcast_weights, shard
from uniner.train.packing import Schedule
from uniner.train.prepare import frequent_types
from uniner.train.steps import RunSettings, TrainRun, TrainSession, device_of, guarded


@dataclass(frozen=True, kw_only=True)
class EncoderJob:
    """A run and its settings, for the workers. base_address: of the untrained text encoder."""

    student: Student
    encoder: Encoder
    seed: int
    run: StageFolder
    base_address: str

    @property
    def folder(self) -> StageFolder:
        """The stage's folder."""
        return self.run / OWN_STAGES[ENCODER]

    def fields(self, hidden: int) -> dict[str, Any]:
        """Return the fields of the model's gliner_config.json. hidden: the base's width."""
        section = self.encoder
        return with_defaults(
            {
                "model_name": section.base,
                "span_mode": TOKEN_LEVEL if section.head == "token" else "markerV0",
                "max_width": section.max_width,
                "max_len": section.max_words,
                "max_types": section.max_types,
                "hidden_size": section.hidden_size or hidden,
                "embed_ent_token": section.embed_ent_token,
                "dropout": section.dropout,
                "num_rnn_layers": 0,
            }
        )


@dataclass(frozen=True, kw_only=True)
class EncoderFigures:
    """The figures of the stage's manifest. `samples.EncoderSamples` has the counts of mentions."""

    steps: int
    passages: int
    questions: int
    mentions: int
    not_in_text: int
    off_boundary: int
    too_wide: int
    tokens: int
    first_loss: float
    last_loss: float
    step_seconds: float
    tokens_per_s: float
    resumed: int
    exported_step: int
    validation_loss: float | None = None
    validation_f1: float | None = None
    validation_questions: int | None = None
    threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderResult:
    """The figures of a run, or the line of the UserError that ended it."""

    figures: EncoderFigures | None = None
    error: str | None = None


@dataclass(frozen=True)
class EncoderData:
    """The samples and the schedule of a run, the same on every worker. types: the most frequent first."""

    training: EncoderSamples
    validation: EncoderSamples
    schedule: Schedule
    validation_rows: list[packing.PackedRow]
    types: list[str]

    def digest(self) -> str:
        """Return a digest of the samples of each step; a checkpoint resumes only under the same one."""
        return f"{encoder_digest(self.training)}-{self.schedule.digest()}"


def encoder_digest(samples: EncoderSamples) -> str:
    """Return a digest of the samples' ids and spans, in order."""
    digest = hashlib.sha256()
    for sample in samples.samples:
        for array in (sample.piece.window.words.ids, sample.piece.prompt.ids, sample.spans):
            digest.update(len(array).to_bytes(4, "big") + array.tobytes())
    return digest.hexdigest()[:16]


def train(job: EncoderJob, session: TrainSession) -> EncoderResult:
    """Train the encoder and export it. Returns the same on every worker.

    Raises:
        UserError: this worker's GPU is out of memory (`steps.guarded`).
    """
    cure = "lower encoder.row_tokens or take a smaller encoder.base"
    figures, error = guarded(job.folder, "train-encoder", cure, lambda: _train(job, session))
    return EncoderResult(figures=figures, error=error)


def _train(job: EncoderJob, session: TrainSession) -> EncoderFigures:
    section = job.encoder
    device = device_of(section.use_gpu)
    torch.manual_seed(job.seed)
    session.report(0, 0, "loading the text encoder")
    encoder = run_on_all(lambda: read_encoder(job, whole=dist.get_rank() == 0))
    session.report(0, 0, "reading the conversations")
    data = run_on_all(lambda: prepare(job, encoder))
    session.say(summary(job, data))
    if not data.validation_rows and (section.export == "best" or section.patience):
        session.say("train-encoder: no passage is left for validation, so the last step is exported")
    task = EncoderTask(encoder.collator(), encoder.model.shape.token_head)
    model = run_on_all(lambda: _load_sharded(job, encoder, device))
    optimizer = loop.make_optimizer(model, section.weight_decay, faster=_is_new)
    best: BestBy | None = "f1" if section.export == "best" else None
    with Checkpoints(
        job.folder / CHECKPOINTS,
        section.keep_checkpoints,
        best,
        device,
        session.checkpointed,
        stage=OWN_STAGES[ENCODER],
    ) as checkpoints:
        state = checkpoints.resume(model, optimizer, data.digest(), session.say)
        if state.steps:
            workers = dist.get_world_size()
            session.say(f"train-encoder: resuming after step {state.steps:,} with {workers} workers")
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
            metrics=MetricsWriter(job.folder, None, state.steps, device),
            validate=partial(_validate, data, task, model, device),
            task=task,
        ).finish_steps()
        session.report(state.steps, state.steps, "writing the encoder")
        if best and state.best(best) not in (None, state.steps):
            checkpoints.load_best(model, state)
    weights = export.gather_weights(model, torch.float32)
    figures = _figures(data, state, best)
    run_on_all(lambda: _publish(job, encoder, weights, data.types, state, figures))
    return figures


def read_encoder(job: EncoderJob, *, whole: bool) -> LoadedEncoder:
    """Return the encoder to train: with its weights on worker 0 alone, elsewhere its names and shapes."""
    with loading(job.base_address, "encoder.base"):
        base = local_model(job.base_address)
        text_config = read_text_encoder(job.base_address, base)
        fields = job.fields(text_config.hidden_size)
        if whole:
            return new_encoder(base, fields)
        return empty_encoder(fields, AutoTokenizer.from_pretrained(base), text_config)


def empty_encoder(fields: dict[str, Any], tokenizer: Any, text_config: Any) -> LoadedEncoder:
    """Return an encoder on the meta device: names and shapes without weights.

    fields: see `EncoderJob.fields`. The tokenizer gets the marks, and the config the vocabulary's size.
    """
    add_marks(tokenizer, fields)
    text_config.vocab_size = len(tokenizer)
    with torch.device("meta"):
        model = EncoderModel(AutoModel.from_config(text_config), shape_of(fields))
    return LoadedEncoder(model=model, tokenizer=tokenizer, config=fields)


def prepare(job: EncoderJob, encoder: LoadedEncoder) -> EncoderData:
    """Read the conversations and fix the schedule of the whole run.

    Raises:
        UserError: there is no passage to train on.
    """
    section, build = job.encoder, job.run / "build"
    template = make_template(job.student.template, job.student.group_types)
    conversations = from_table(build.read_rows(), Conversation)
    collator = encoder.collator()
    max_width = None if section.head == "token" else section.max_width
    passages = {
        split: asked_passages((each for each in conversations if each.split == split), template)
        for split in ("train", "validation")
    }
    if not passages["train"]:
        raise UserError(f"{build.url}: no conversation to train on (split train)")
    drawn = passages["validation"]
    Random(f"{job.seed} passages").shuffle(drawn)
    training = make_samples(passages["train"], collator, max_width)
    validation = make_samples(drawn[: section.eval_passages], collator, max_width)

    def schedule(samples: EncoderSamples, epochs: int, max_steps: int | None = None) -> Schedule:
        return packing.schedule(
            [len(sample) for sample in samples.samples],
            samples.per_passage,
            seed=job.seed,
            epochs=epochs,
            batch=section.batch_passages,
            row_tokens=section.row_tokens,
            max_steps=max_steps,
            rows=bucket,
        )

    return EncoderData(
        training,
        validation,
        schedule(training, section.epochs, section.max_steps),
        [row for step in schedule(validation, 1).steps for row in step],
        frequent_types(
            [name for name, texts in passage.asked.items() if texts] for passage in passages["train"]
        ),
    )


def summary(job: EncoderJob, data: EncoderData) -> str:
    """Return the line that a run starts with."""
    counts, steps = data.training.counts, data.schedule.steps
    tokens = sum(len(data.training.samples[number]) for step in steps for row in step for number in row)
    lost = sum(counts.get(name, 0) for name in ("not_in_text", "off_boundary", "too_wide"))
    return (
        f"train-encoder: {len(steps):,} steps of {job.encoder.batch_passages:,} passages, {tokens:,} tokens, "
        f"{counts['mentions']:,} mentions in {counts['passages']:,} passages, of which {lost:,} are no span "
        f"of words ({counts.get('too_wide', 0):,} too wide, {counts.get('off_boundary', 0):,} in mid-word, "
        f"{counts.get('not_in_text', 0):,} not in the text)"
    )


def _load_sharded(job: EncoderJob, encoder: LoadedEncoder, device: torch.device) -> Any:
    source = encoder.model if dist.get_rank() == 0 else None
    if source is None:
        model = encoder.model
    else:
        with torch.device("meta"):
            model = EncoderModel(AutoModel.from_config(source.text_encoder.config), source.shape)
    freeze_pooler(model)
    dtype = getattr(torch, job.encoder.dtype)
    # On CPU one message a step is faster than one a layer, each of which waits for the slowest worker.
    layers = model.layers() if device.type == "cuda" else []
    shard(model, dtype, device, job.encoder.shard_workers, layers=layers, section="encoder")
    broadcast_weights(model, source, device)
    return model.train()


def freeze_pooler(model: Any) -> None:
    """Leave BERT's pooler as it is: no score depends on it."""
    for name, weight in model.named_parameters():
        if ".pooler." in name:
            weight.requires_grad_(False)


def _is_new(name: str) -> bool:
    return not name.startswith("token_rep_layer.bert_layer.")


def _settings(job: EncoderJob) -> RunSettings:
    section = job.encoder
    return RunSettings(
        loop=LoopSettings(
            peak_rate=section.learning_rate,
            faster_rate=section.head_learning_rate,
            warmup_share=section.warmup_share,
            max_grad_norm=section.max_grad_norm,
            seed=job.seed,
            stage=OWN_STAGES[ENCODER],
            section="encoder",
        ),
        checkpoint_steps=section.checkpoint_steps,
        measure_steps=section.eval_steps,
        patience=section.patience,
    )


def _validate(
    data: EncoderData,
    task: EncoderTask,
    model: Any,
    device: torch.device,
    step: int,
    progress: Callable[[str], None],
) -> ValidationFigures | None:
    rows = data.validation_rows
    loss = loop.mean_loss(model, data.validation.samples, rows, device, task)
    if loss is None:
        return None
    scores = prediction_eval(
        model, task, data.validation, rows, device, lambda done: progress(f"prediction eval: row {done:,}")
    )
    return ValidationFigures(step=step, loss=loss, **asdict(scores))


def _figures(data: EncoderData, state: TrainState, best: BestBy | None) -> EncoderFigures:
    counts = data.training.counts
    exported, measured = export.exported_step(state, best)
    return EncoderFigures(
        **{name: counts[name] for name in ("passages", "questions", "mentions")},
        **{name: counts.get(name, 0) for name in ("not_in_text", "off_boundary", "too_wide")},
        **export.history_figures(state),
        exported_step=exported,
        validation_loss=measured.get("loss"),
        validation_f1=measured.get("f1"),
        validation_questions=measured.get("questions"),
        threshold=measured.get("threshold"),
    )


def _publish(
    job: EncoderJob,
    encoder: LoadedEncoder,
    weights: dict[str, torch.Tensor],
    types: list[str],
    state: TrainState,
    figures: EncoderFigures,
) -> None:
    """Upload the encoder, its card and the run's history. Only worker 0 does."""
    if dist.get_rank() != 0:
        return
    facts = StudentFacts(
        template=ENCODER,
        max_tokens=encoder.collator().limits.tokens,
        base=job.encoder.base or "",
        types=tuple(types),
        threshold=figures.threshold if figures.validation_f1 else None,
    )
    with tempfile.TemporaryDirectory(prefix="uniner-encoder-") as local, explained(job.folder.url):
        folder = Path(local) / "encoder"
        save_encoder(folder, encoder, weights)
        facts = replace(facts, files=digests_of(folder))
        (folder / FACTS).write_bytes(sealed_json(facts.as_dict()))
        settings = {**job.encoder.model_dump(), "seed": job.seed}
        card = encoder_card(job.run.name, settings, as_figures(figures), types)
        (folder / CARD).write_text(card, encoding="utf-8")
        (job.folder / "encoder").upload(folder, last=FACTS)
        export.write_history(job.folder, state)
