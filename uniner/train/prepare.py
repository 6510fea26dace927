"""Prepare a run: read the conversations, fix the schedule, and estimate the cost. No weights are loaded."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from uniner.config.schema import Student, Train
from uniner.errors import UserError
from uniner.records import Conversation, from_table
from uniner.storage.model_folders import load_tokenizer, loading, local_model, require_end_token
from uniner.storage.stage_folder import StageFolder
from uniner.templates import Renderer, make_template
from uniner.train import estimate as formulas
from uniner.train import generation_eval, loop, model, packing
from uniner.train.estimate import CpuSpeed, TrainingEstimate, TrainingLoad, WorkerMemory
from uniner.train.generation_eval import GenerationEval
from uniner.train.lora import LoraSettings
from uniner.train.packing import FittedSamples, PackedRow, RenderedConversation, Schedule
from uniner.train.row_length import recommended_rows
from uniner.train.tokenized import TokenizedSplits

_FREQUENT_TYPES = 200


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A run and its settings, for the workers.

    run: the run's folder. base_address: the base model's absolute path, s3:// address or hub name.
    max_answer_tokens: of the generation eval, as in evaluate. source: digest of what decides the samples.
    """

    student: Student
    train: Train
    seed: int
    run: StageFolder
    base_address: str
    max_answer_tokens: int = 256
    source: str = ""

    @property
    def torch_dtype(self) -> torch.dtype:
        """The number format of the forward pass."""
        return getattr(torch, self.train.dtype)

    @property
    def lora(self) -> LoraSettings | None:
        """The adapters; None if all weights learn."""
        train = self.train
        if not train.lora_rank:
            return None
        modules = train.lora_modules if isinstance(train.lora_modules, str) else tuple(train.lora_modules)
        return LoraSettings(
            train.lora_rank, train.lora_alpha, train.lora_dropout, modules, self.student.base, train.lora_bits
        )


class Conversations(NamedTuple):
    """The conversations to train on, and those to validate with."""

    training: list[Conversation]
    validation: list[Conversation]


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
    require_attention(base, config)
    tokenizer = load_tokenizer(base)
    require_end_token(f"student.base {base}", tokenizer)
    return config, tokenizer


def require_attention(base: str, config: Any) -> None:
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


def read_conversations(job: TrainJob) -> Conversations:
    """Read the conversations that the build wrote."""
    conversations = from_table((job.run / "build").read_rows(), Conversation)
    return Conversations(
        [conversation for conversation in conversations if conversation.split == "train"],
        [conversation for conversation in conversations if conversation.split == "validation"],
    )


def tokenize(job: TrainJob, conversations: Conversations, tokenizer: Any) -> TokenizedSplits:
    """Fit the conversations to the length limit, as token ids."""
    renderer = Renderer(tokenizer)
    return TokenizedSplits(*(_fit(split, renderer, job.student.max_tokens) for split in conversations))


def prepare(
    job: TrainJob, conversations: Conversations, splits: TokenizedSplits, tokenizer: Any, config: Any
) -> TrainingData:
    """Fix the schedule of the whole run.

    Raises:
        UserError: there is no conversation to train on, or the base model cannot take them.
    """
    student, build = job.student, job.run / "build"
    training, validation = splits
    require_window(student.max_tokens, config)
    if not training.samples:
        raise _nothing_to_train_on(build, conversations.training, student.max_tokens, tokenizer, config)
    largest = max(int(sample.ids.max()) for sample in training.samples)
    if largest >= config.get_text_config().vocab_size:
        raise UserError(
            f"student.base {job.base_address}: its tokenizer has ids beyond the model's vocabulary"
        )
    questions = generation_eval.draw(
        conversations.validation,
        tokenizer,
        make_template(student.template, student.group_types),
        most=job.train.validation_questions,
        max_tokens=student.max_tokens,
        seed=job.seed,
        max_answer_tokens=job.max_answer_tokens,
    )
    return TrainingData(
        training,
        validation,
        _schedule(training, job, job.train.epochs, job.train.max_steps),
        _validation_rows(validation, job),
        questions,
        frequent_types(conversation.positive_types for conversation in conversations.training),
    )


def _nothing_to_train_on(
    build: StageFolder, conversations: Sequence[Conversation], max_tokens: int, tokenizer: Any, config: Any
) -> UserError:
    """Say whether there is no conversation, or which student.max_tokens would take those that there are."""
    if not conversations:
        return UserError(f"{build.url}: no conversation to train on (split train)")
    renderer = Renderer(tokenizer)
    rendered = (renderer.blocks(conversation.conversations) for conversation in conversations)
    needed = sorted(len(head) + max(map(len, blocks)) for head, blocks in rendered)
    window = _window(config) or needed[-1]
    fitting = [tokens for tokens in needed if tokens <= window]
    cure = (
        f"set student.max_tokens={fitting[-1]}, which takes {len(fitting):,} of them"
        if fitting
        else f"the base model takes at most {window:,}, so lower ingest.max_tokens in another run"
    )
    return UserError(
        f"student.max_tokens = {max_tokens}: all {len(conversations):,} conversations to train on are longer "
        f"even with one question (the shortest has {needed[0]:,} tokens); {cure}"
    )


def _window(config: Any) -> int | None:
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _fit(conversations: Sequence[Conversation], renderer: Renderer, max_tokens: int) -> FittedSamples:
    rendered = (
        RenderedConversation(conversation.passage_id, *renderer.blocks(conversation.conversations))
        for conversation in conversations
    )
    return packing.fit(rendered, max_tokens)


def with_rows(job: TrainJob, data: TrainingData, row_tokens: int) -> TrainingData:
    """Return the data in rows of this many tokens. A step has the samples that it had."""
    longer = replace(job, train=job.train.model_copy(update={"pack_tokens": row_tokens}))
    return replace(
        data,
        schedule=_schedule(data.training, longer, job.train.epochs, job.train.max_steps),
        validation_rows=_validation_rows(data.validation, longer),
    )


def _validation_rows(fitted: FittedSamples, job: TrainJob) -> list[PackedRow]:
    return [row for step in _schedule(fitted, job, 1).steps for row in step]


def _schedule(fitted: FittedSamples, job: TrainJob, epochs: int, max_steps: int | None = None) -> Schedule:
    return packing.schedule(
        [len(sample) for sample in fitted.samples],
        fitted.per_conversation,
        seed=job.seed,
        epochs=epochs,
        batch=job.train.batch_conversations,
        row_tokens=job.train.pack_tokens or job.student.max_tokens,
        workers=job.train.most_workers,
        max_steps=max_steps,
    )


def frequent_types(positive_types: Iterable[Sequence[str]], most: int = _FREQUENT_TYPES) -> list[str]:
    """Return the types with mentions in most conversations, most frequent first."""
    counts = Counter(name for types in positive_types for name in types)
    return sorted(counts, key=lambda name: (-counts[name], name))[:most]


def require_window(max_tokens: int, config: Any) -> None:
    """Refuse conversations longer than the base model's window."""
    window = _window(config)
    if window is not None and window < max_tokens:
        raise UserError(f"student.max_tokens = {max_tokens}: the base model takes at most {window}")


def estimate_job(job: TrainJob) -> TrainingEstimate:
    """Read the conversations and the base model's config, and estimate the run. The speed of training on CPU
    is measured, which takes seconds."""
    config, tokenizer = config_and_tokenizer(job.base_address)
    conversations = read_conversations(job)
    data = prepare(job, conversations, tokenize(job, conversations, tokenizer), tokenizer, config)
    expected = estimate(job, data, config)
    return expected if job.train.use_gpu else replace(expected, cpu=_cpu_speed(job, data, config))


def _cpu_speed(job: TrainJob, data: TrainingData, config: Any) -> CpuSpeed:
    """Measure the speed with the row whose length is nearest to the average row's."""
    from uniner.train.calibration import cpu_speed

    train, samples = job.train, data.training.samples
    rows = [[samples[number] for number in row] for step in data.schedule.steps for row in step]
    lengths = [sum(map(len, row)) for row in rows]
    average = sum(lengths) / len(lengths)
    row = min(zip(lengths, rows, strict=True), key=lambda each: abs(each[0] - average))[1]
    attention = model.choose_attention(train.attention, config, torch.device("cpu"), job.torch_dtype)
    return cpu_speed(config, row, job.torch_dtype, train.activation_checkpointing, job.lora, attention)


def estimate(job: TrainJob, data: TrainingData, config: Any) -> TrainingEstimate:
    """Estimate a prepared run."""
    train = job.train
    shards = min(train.most_workers, train.shard_workers or train.most_workers)
    shape, load = model.count_weights(config, job.lora, job.torch_dtype), _load(train, data)
    width, checkpointing = job.torch_dtype.itemsize, train.activation_checkpointing
    needs = partial(
        formulas.memory,
        shape,
        workers=min(shards, train.fewest_workers),
        number_bytes=width,
        checkpointing=checkpointing,
        on_cpu=not train.use_gpu,
    )
    return TrainingEstimate(
        base=job.student.base,
        shape=shape,
        load=load,
        memory=needs(load),
        flops=formulas.flops(shape, load, checkpointing),
        traffic=formulas.traffic(shape, load, shards, width),
        workers=train.most_workers,
        fewest_workers=train.fewest_workers,
        shards=shards,
        copies_traffic=formulas.copies_traffic(shape, load, train.most_workers, shards),
        share_of_peak=train.share_of_peak,
        usd_per_gpu_hour=train.usd_per_gpu_hour,
        on_cpu=not train.use_gpu,
        rows=_rows(job, needs, load),
        chosen_rows=train.pack_tokens is None,
    )


def _rows(job: TrainJob, needs: Callable[[TrainingLoad], WorkerMemory], load: TrainingLoad) -> dict[str, int]:
    """Return the recommended rows; none with sdpa, whose attention computes all pairs of a row's tokens."""
    train = job.train
    if not train.use_gpu or train.attention == "sdpa":
        return {}
    return recommended_rows(needs, load, train.most_workers, job.student.max_tokens)


def _load(train: Train, data: TrainingData) -> TrainingLoad:
    lengths = [len(sample) for sample in data.training.samples]
    answers = [sample.answer_tokens for sample in data.training.samples]
    steps = data.schedule.steps
    rows = [row for step in steps for row in step]
    numbers = [number for row in rows for number in row]
    return TrainingLoad(
        **asdict(data.training.counts),
        validation=data.validation.counts.conversations,
        epochs=train.epochs,
        batch=train.batch_conversations,
        steps=len(steps),
        warmup=loop.warmup_steps(len(steps), train.warmup_share),
        tokens=sum(lengths[number] for number in numbers),
        answer_tokens=sum(answers[number] for number in numbers),
        rows=len(rows),
        turns=sum(-(-len(step) // train.most_workers) for step in steps),
        squared_lengths=sum(lengths[number] ** 2 for number in numbers),
        useful_share=packing.useful_share(steps, lengths, train.most_workers),
        row_tokens=max(sum(lengths[number] for number in row) for row in rows),
        row_answers=max(sum(answers[number] for number in row) for row in rows),
    )
