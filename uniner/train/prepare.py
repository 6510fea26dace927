"""Prepare a run: read the conversations, fix the schedule, and estimate the cost. No weights are loaded."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from uniner.errors import UserError
from uniner.records import Conversation, from_table
from uniner.storage.model_folders import load_tokenizer, loading, local_model
from uniner.storage.stage_folder import StageFolder
from uniner.templates import Renderer, make_template
from uniner.train import estimate as formulas
from uniner.train import generation_eval, loop, model, packing
from uniner.train.estimate import TrainingEstimate, TrainingLoad
from uniner.train.generation_eval import GenerationEval
from uniner.train.lora import LoraSettings
from uniner.train.packing import FittedSamples, PackedRow, RenderedConversation, Schedule

_FREQUENT_TYPES = 200


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """The settings of a run as plain values, for the workers. Settings are named as in the config.

    base: the base model as the config names it; base_address: its absolute path, s3:// address or hub name.
    build_url, folder_url: the folders of the stages build and train. tracked: the settings that a tracking
    service shows.
    """

    base: str
    base_address: str
    template: str
    group_types: int
    max_tokens: int
    build_url: str
    folder_url: str
    seed: int
    epochs: int
    max_steps: int | None
    batch_conversations: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    max_grad_norm: float
    dtype: str
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    lora_modules: list[str] | str
    lora_bits: int | None
    pack_tokens: int | None
    activation_checkpointing: bool
    attention: str
    compile: bool
    shard_workers: int | None
    fewest_workers: int
    most_workers: int
    use_gpu: bool
    checkpoint_steps: int
    keep_checkpoints: int
    export: str
    loss_spike_factor: float | None
    validation_questions: int
    tracker: str | None
    tracked: dict[str, Any]
    share_of_peak: float
    usd_per_gpu_hour: float

    @property
    def run_name(self) -> str:
        """The run's name: the folder above the stage's."""
        return self.folder_url.rsplit("/", 2)[-2]

    @property
    def row_tokens(self) -> int:
        """Tokens of a packed row, at most."""
        return self.pack_tokens or self.max_tokens

    @property
    def torch_dtype(self) -> torch.dtype:
        """The number format of the forward pass."""
        return getattr(torch, self.dtype)

    @property
    def lora(self) -> LoraSettings | None:
        """The adapters; None if all weights learn."""
        if not self.lora_rank:
            return None
        modules = self.lora_modules if isinstance(self.lora_modules, str) else tuple(self.lora_modules)
        return LoraSettings(
            self.lora_rank, self.lora_alpha, self.lora_dropout, modules, self.base, self.lora_bits
        )


@dataclass(frozen=True)
class TrainingData:
    """The samples, the schedule and the evals of a run, the same on every worker.

    types: the most frequent types, most frequent first.
    """

    training: FittedSamples
    validation: FittedSamples
    schedule: Schedule
    validation_rows: list[PackedRow]
    generation_eval: GenerationEval
    types: list[str]

    def digest(self) -> str:
        """Return a digest of the samples of each step; a checkpoint resumes only under the same one."""
        return f"{packing.data_digest(self.training.samples)}-{self.schedule.digest()}"


def config_and_tokenizer(base: str) -> tuple[Any, Any]:
    """Read a base model's config and tokenizer."""
    with loading(base, "student.base"):
        config = AutoConfig.from_pretrained(local_model(base))
    _require_attention(base, config)
    return config, load_tokenizer(base)


def _require_attention(base: str, config: Any) -> None:
    """Refuse a model whose layers carry a state along a row (Mamba, gated delta nets, short convolutions):
    each conversation of a packed row would see those before it."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    layers = set(getattr(config.get_text_config(), "layer_types", None) or [])
    others = sorted(layers - {"full_attention", "sliding_attention", "chunked_attention"})
    if others or getattr(kind, "_is_stateful", False):
        named = f" ({', '.join(others)})" if others else ""
        raise UserError(
            f"student.base {base}: {config.model_type} has layers without attention{named}, which mix the "
            "conversations of a packed row; take a model of the Llama, Qwen or Mistral type"
        )


def prepare(job: TrainJob, tokenizer: Any, config: Any) -> TrainingData:
    """Read the conversations, fit them to the length limit and fix the schedule of the whole run.

    Raises:
        UserError: there is no conversation to train on, or the base model cannot take them.
    """
    require_window(job.max_tokens, config)
    renderer = Renderer(tokenizer)
    conversations = from_table(StageFolder(job.build_url).read_rows(), Conversation)
    train_split = [conversation for conversation in conversations if conversation.split == "train"]
    training = _fit(train_split, renderer, job.max_tokens)
    held_out = [conversation for conversation in conversations if conversation.split == "validation"]
    validation = _fit(held_out, renderer, job.max_tokens)
    if not training.samples:
        raise UserError(f"{job.build_url}: no conversation to train on (split train)")
    largest = max(int(sample.ids.max()) for sample in training.samples)
    if largest >= config.get_text_config().vocab_size:
        raise UserError(
            f"student.base {job.base_address}: its tokenizer has ids beyond the model's vocabulary"
        )
    questions = generation_eval.draw(
        held_out,
        tokenizer,
        make_template(job.template, job.group_types),
        most=job.validation_questions,
        max_tokens=job.max_tokens,
        seed=job.seed,
    )
    return TrainingData(
        training,
        validation,
        _schedule(training, job, job.epochs, job.max_steps),
        [row for step in _schedule(validation, job, 1).steps for row in step],
        questions,
        frequent_types(conversation.positive_types for conversation in train_split),
    )


def _fit(conversations: Sequence[Conversation], renderer: Renderer, max_tokens: int) -> FittedSamples:
    rendered = (
        RenderedConversation(conversation.passage_id, *renderer.blocks(conversation.conversations))
        for conversation in conversations
    )
    return packing.fit(rendered, max_tokens)


def _schedule(fitted: FittedSamples, job: TrainJob, epochs: int, max_steps: int | None = None) -> Schedule:
    return packing.schedule(
        [len(sample) for sample in fitted.samples],
        fitted.per_conversation,
        seed=job.seed,
        epochs=epochs,
        batch=job.batch_conversations,
        row_tokens=job.row_tokens,
        workers=job.most_workers,
        max_steps=max_steps,
    )


def frequent_types(positive_types: Iterable[Sequence[str]], most: int = _FREQUENT_TYPES) -> list[str]:
    """Return the types with mentions in most conversations, most frequent first."""
    counts = Counter(name for types in positive_types for name in types)
    return sorted(counts, key=lambda name: (-counts[name], name))[:most]


def require_window(max_tokens: int, config: Any) -> None:
    """Refuse conversations longer than the base model's window."""
    window = getattr(config.get_text_config(), "max_position_embeddings", max_tokens)
    if window < max_tokens:
        raise UserError(f"student.max_tokens = {max_tokens}: the base model takes at most {window}")


def estimate_job(job: TrainJob) -> TrainingEstimate:
    """Read the conversations and the base model's config, and estimate the run."""
    config, tokenizer = config_and_tokenizer(job.base_address)
    return estimate(job, prepare(job, tokenizer, config), config)


def estimate(job: TrainJob, data: TrainingData, config: Any) -> TrainingEstimate:
    """Estimate a prepared run."""
    shape, load = model.count_weights(config, job.lora), _load(job, data)
    width, checkpointing = job.torch_dtype.itemsize, job.activation_checkpointing
    shards = min(job.most_workers, job.shard_workers or job.most_workers)
    return TrainingEstimate(
        base=job.base,
        shape=shape,
        load=load,
        memory=formulas.memory(shape, load, min(shards, job.fewest_workers), width, checkpointing),
        flops=formulas.flops(shape, load, checkpointing),
        traffic=formulas.traffic(shape, load, shards, width),
        workers=job.most_workers,
        fewest_workers=job.fewest_workers,
        shards=shards,
        copies_traffic=formulas.copies_traffic(shape, load, job.most_workers, shards),
        share_of_peak=job.share_of_peak,
        usd_per_gpu_hour=job.usd_per_gpu_hour,
    )


def _load(job: TrainJob, data: TrainingData) -> TrainingLoad:
    lengths = [len(sample) for sample in data.training.samples]
    answers = [sample.answer_tokens for sample in data.training.samples]
    steps, counts = data.schedule.steps, data.training.counts
    rows = [row for step in steps for row in step]
    numbers = [number for row in rows for number in row]
    return TrainingLoad(
        conversations=counts.conversations,
        split=counts.split,
        set_aside=counts.set_aside,
        samples=counts.samples,
        validation=data.validation.counts.conversations,
        epochs=job.epochs,
        batch=job.batch_conversations,
        steps=len(steps),
        warmup=loop.warmup_steps(len(steps), job.warmup_share),
        tokens=sum(lengths[number] for number in numbers),
        answer_tokens=sum(answers[number] for number in numbers),
        turns=sum(-(-len(step) // job.most_workers) for step in steps),
        squared_lengths=sum(lengths[number] ** 2 for number in numbers),
        useful_share=packing.useful_share(steps, lengths, job.most_workers),
        row_tokens=max(sum(lengths[number] for number in row) for row in rows),
        row_answers=max(sum(answers[number] for number in row) for row in rows),
    )
