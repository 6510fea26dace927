"""From the conversations and the config to all that a run will do; no weight is loaded yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from uniner.config.schema import Student, Train
from uniner.errors import UserError
from uniner.records import Conversation, from_table
from uniner.storage.folder import Folder
from uniner.storage.model_folders import load_tokenizer, loading, local_model
from uniner.templates import Renderer, make_template
from uniner.train import estimate as estimates
from uniner.train import export, generation_eval, loop, model, packing
from uniner.train.estimate import Estimate, Work
from uniner.train.generation_eval import Quiz
from uniner.train.lora import Lora
from uniner.train.packing import Fitted, Plan, Row


@dataclass(frozen=True)
class Order:
    """What to train: the sections of the stage, the seed, and addresses (build's folder, this stage's)."""

    student: Student
    train: Train
    seed: int
    base: str
    build_url: str
    folder_url: str

    @property
    def row_tokens(self) -> int:
        """Tokens a packed row."""
        return self.train.pack_tokens or self.student.max_tokens

    @property
    def lora(self) -> Lora | None:
        """The adapters; None where all weights learn."""
        train = self.train
        if not train.lora_rank:
            return None
        modules = train.lora_modules if isinstance(train.lora_modules, str) else tuple(train.lora_modules)
        return Lora(
            train.lora_rank,
            train.lora_alpha,
            train.lora_dropout,
            modules,
            self.student.base,
            train.lora_bits,
        )


@dataclass(frozen=True)
class Data:
    """All that the data decide, the same on every worker."""

    training: Fitted
    validation: Fitted
    plan: Plan
    validation_rows: list[Row]
    quiz: Quiz
    types: list[str]

    def digest(self) -> str:
        """Return the digest of what each step learns from; a checkpoint goes on only under the same one."""
        return f"{packing.data_digest(self.training.samples)}-{self.plan.digest()}"


def config_and_tokenizer(base: str) -> tuple[Any, Any]:
    """Read a base model's config and tokenizer."""
    with loading(base, "student.base"):
        config = AutoConfig.from_pretrained(local_model(base))
    _require_attention(base, config)
    return config, load_tokenizer(base)


def _require_attention(base: str, config: Any) -> None:
    """Refuse a model whose layers carry a state along a row (Mamba, gated delta nets, short convolutions):
    of the conversations that share a row each would see the ones before."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    layers = set(getattr(config.get_text_config(), "layer_types", None) or [])
    others = sorted(layers - {"full_attention", "sliding_attention", "chunked_attention"})
    if others or getattr(kind, "_is_stateful", False):
        named = f" ({', '.join(others)})" if others else ""
        raise UserError(
            f"student.base {base}: {config.model_type} has layers that are no attention{named}: in a packed "
            "row they cannot keep conversations apart; take a model of the Llama, Qwen or Mistral type"
        )


def prepare(order: Order, tokenizer: Any, config: Any) -> Data:
    """Read the conversations, fit them to the length limit and plan the whole run."""
    require_room(order.student.max_tokens, config)
    renderer, student = Renderer(tokenizer), order.student
    conversations = from_table(Folder(order.build_url).read_rows(), Conversation)
    chosen = [conversation for conversation in conversations if conversation.split == "train"]
    training = _fit(chosen, renderer, student.max_tokens)
    held_out = [conversation for conversation in conversations if conversation.split == "validation"]
    validation = _fit(held_out, renderer, student.max_tokens)
    if not training.samples:
        raise UserError(f"{order.build_url}: no conversation to train on (split train)")
    largest = max(int(sample.ids.max()) for sample in training.samples)
    if largest >= config.get_text_config().vocab_size:
        raise UserError(f"student.base {order.base}: its tokenizer has ids beyond the model's vocabulary")
    train = order.train
    planned = _plan(training, order, train.epochs, train.max_steps)
    validation_rows = [row for step in _plan(validation, order, 1).steps for row in step]
    types = export.frequent_types(conversation.positive_types for conversation in chosen)
    asked = generation_eval.draw(
        held_out,
        tokenizer,
        make_template(student.template, student.group_types),
        most=train.validation_questions,
        max_tokens=student.max_tokens,
        seed=order.seed,
    )
    return Data(training, validation, planned, validation_rows, asked, types)


def _fit(conversations: Sequence[Conversation], renderer: Renderer, max_tokens: int) -> Fitted:
    rendered = ((each.passage_id, *renderer.blocks(each.conversations)) for each in conversations)
    return packing.fit(rendered, max_tokens)


def _plan(fitted: Fitted, order: Order, epochs: int, max_steps: int | None = None) -> Plan:
    return packing.plan(
        [len(sample) for sample in fitted.samples],
        fitted.per_conversation,
        seed=order.seed,
        epochs=epochs,
        batch=order.train.batch_conversations,
        row_tokens=order.row_tokens,
        workers=order.train.most_workers,
        max_steps=max_steps,
    )


def require_room(max_tokens: int, config: Any) -> None:
    """Refuse conversations longer than the base model's window."""
    room = getattr(config.get_text_config(), "max_position_embeddings", max_tokens)
    if room < max_tokens:
        raise UserError(f"student.max_tokens = {max_tokens}: the base model takes at most {room}")


def plan(order: Order) -> Estimate:
    """Read the conversations and the base model's config, and return what training would take."""
    config, tokenizer = config_and_tokenizer(order.base)
    return estimate(order, prepare(order, tokenizer, config), config)


def estimate(order: Order, data: Data, config: Any) -> Estimate:
    """Return what a prepared run will take."""
    train, shape = order.train, model.shape(config, order.lora)
    samples, counts = data.training.samples, data.training.counts
    lengths = [len(sample) for sample in samples]
    answers = [sample.answer_tokens for sample in samples]
    rows = [row for step in data.plan.steps for row in step]
    numbers = [number for row in rows for number in row]
    work = Work(
        conversations=counts["conversations"],
        split=counts["split"],
        set_aside=counts["set_aside"],
        samples=counts["samples"],
        validation=data.validation.counts["conversations"],
        epochs=train.epochs,
        batch=train.batch_conversations,
        steps=len(data.plan.steps),
        warmup=loop.warmup_steps(len(data.plan.steps), train.warmup_share),
        tokens=sum(lengths[number] for number in numbers),
        answer_tokens=sum(answers[number] for number in numbers),
        turns=sum(-(-len(rows) // train.most_workers) for rows in data.plan.steps),
        squares=sum(lengths[number] ** 2 for number in numbers),
        useful_share=packing.useful_share(data.plan.steps, lengths, train.most_workers),
        row_tokens=max(sum(lengths[number] for number in row) for row in rows),
        row_answers=max(sum(answers[number] for number in row) for row in rows),
    )
    width = getattr(torch, train.dtype).itemsize
    checkpointing = train.activation_checkpointing
    shards = min(train.most_workers, train.shard_workers or train.most_workers)
    return Estimate(
        base=order.student.base,
        shape=shape,
        work=work,
        memory=estimates.memory(shape, work, min(shards, train.fewest_workers), width, checkpointing),
        flops=estimates.flops(shape, work, checkpointing),
        traffic=estimates.traffic(shape, work, shards, width),
        workers=train.most_workers,
        fewest_workers=train.fewest_workers,
        shards=shards,
        copies_traffic=estimates.copies_traffic(shape, work, train.most_workers, shards),
        share_of_peak=train.share_of_peak,
        usd_per_gpu_hour=train.usd_per_gpu_hour,
    )
