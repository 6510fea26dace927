"""Measure encoders on a GPU or CPU: part of `benchmarks.gpu`.

Encoders of random weights read passages of 190 words with 10 types, from token ids to spans, and train on
them. It needs torch, transformers and numpy alone.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, BertConfig, DebertaV2Config, ModernBertConfig

from benchmarks.train import SETTINGS
from uniner.encoder.batches import Collator, EncoderBatch, Piece, ReadingLimits
from uniner.encoder.model import EncoderModel, EncoderShape, encoder_logits
from uniner.encoder.spans import found_spans
from uniner.encoder.words import TokenizedWords
from uniner.train import loop, model, packing
from uniner.train.encoder.task import EncoderSample, EncoderTask, pieces_of

ENCODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ModernBERT-base": (ModernBertConfig, {}),
    "BERT-base": (BertConfig, {}),
    "DeBERTa-v3-base": (
        DebertaV2Config,
        {
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
            "type_vocab_size": 0,
        },
    ),
}  # fmt: skip
"""Text encoders: config and what differs from its defaults. Most GLiNER models are DeBERTas."""


class RandomWords:
    """In place of a tokenizer: passages of random token ids."""

    prefix, suffix = [1], [2]

    def ids(self, word: str) -> list[int]:
        """Return two ids for a type."""
        return [10 + len(word), 11]

    def texts(self, texts: Sequence[str]) -> list[TokenizedWords]:
        """Return a passage of about 190 words and 250 tokens for each text."""
        random = np.random.default_rng(0)
        made = []
        for words in random.integers(120, 260, len(texts)):
            sizes = random.choice([1, 2, 3], words, p=[0.75, 0.2, 0.05]).astype(np.int32)
            ends = np.arange(1, words + 1, dtype=np.int32) * 6
            ids = random.integers(20, 30_000, sizes.sum()).astype(np.int32)
            made.append(TokenizedWords(ends - 5, ends, sizes, ids))
        return made


def measure_encoder(
    name: str, toy: bool, dtype: torch.dtype, device: torch.device, seconds: float
) -> dict[str, float]:
    """Return an encoder's passages a second, and those of training it, 8 passages a step.

    Tagging: batches laid out here, scored and read off on the device.
    """
    collator, pieces, spans = passages(64 if toy else 2048)
    net = random_encoder(name, toy, device)
    task = EncoderTask(collator, token_head=False)
    samples = [
        EncoderSample(piece.text, str(piece.text), piece, collator.tokens(piece), spans) for piece in pieces
    ]
    trained, memory = _training_rate(net, task, samples, dtype, device, seconds)
    net = random_encoder(name, toy, device).to(dtype).eval()
    read, started = 0, 0.0
    groups = collator.batches(pieces, 4096 if device.type == "cpu" else 65_536)
    with torch.inference_mode():
        for turn, group in enumerate(itertools.cycle(groups)):
            if turn == len(groups):  # the first round warms up
                read, started = 0, time.perf_counter()
            _read_spans(net, collator.batch(group), device)
            read += len(group)
            if started and time.perf_counter() - started > seconds:
                break
    rate = read / (time.perf_counter() - started)
    tokens = sum(map(collator.tokens, pieces)) / len(pieces)
    figures = {"passages_per_s": round(rate, 1), "tokens_per_s": round(rate * tokens)}
    return {**figures, "trained_passages_per_s": round(trained, 1), "training_memory": memory}


def passages(count: int) -> tuple[Collator, list[Piece], np.ndarray]:
    """Return passages with 10 types, what lays them out, and mentions that each may have."""
    limits = ReadingLimits(tokens=512, words=384, types=25, overlap=24)
    words = RandomWords()
    collator = Collator(words, limits, type_id=3, separator_id=4, pad_id=0)  # type: ignore[arg-type]
    types = [f"type{'x' * number}" for number in range(10)]
    pieces = [
        piece
        for number, text in enumerate(words.texts([""] * count))
        for piece in pieces_of(number, text, types, collator)
    ]
    return collator, pieces, np.array([[number, number + 1, number] for number in range(10)])


def random_encoder(name: str, toy: bool, device: torch.device) -> EncoderModel:
    """Return an encoder of random weights."""
    config, sizes = ENCODERS[name]
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    with device:
        text_encoder = AutoModel.from_config(config(**{**sizes, **(small if toy else {})}))
        shape = EncoderShape(
            hidden=text_encoder.config.hidden_size, max_width=12, dropout=0.3, token_head=False
        )
        return EncoderModel(text_encoder, shape)


def _read_spans(net: EncoderModel, batch: EncoderBatch, device: torch.device) -> None:
    logits = encoder_logits(net, batch, device)
    counts, kinds = (torch.from_numpy(array).to(device) for array in (batch.word_counts, batch.type_counts))
    thresholds = torch.full(batch.type_places.shape, 0.99, device=device)
    found_spans(logits, counts, kinds, thresholds, token_head=False)


def _training_rate(
    net: EncoderModel,
    task: EncoderTask,
    samples: list[EncoderSample],
    dtype: torch.dtype,
    device: torch.device,
    seconds: float,
) -> tuple[float, int]:
    """Return the passages a second of training in steps of 8, and the highest memory in bytes."""
    steps = [[list(range(first, first + 8))] for first in range(0, len(samples) - 8, 8)]
    for weight_name, weight in net.named_parameters():
        if ".pooler." in weight_name:  # BERT's, which no score depends on
            weight.requires_grad_(False)
    model.shard(net, dtype, device, 1, layers=net.layers())
    net.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trained = loop.train(
        net,
        loop.make_optimizer(net, 0.0),
        samples,
        packing.Schedule(steps * 20, frozenset()),
        SETTINGS,
        device=device,
        task=task,
    )
    done, started = 0, 0.0
    for number, _ in enumerate(trained, 1):
        if number == 5:  # the first steps warm up
            done, started = 0, time.perf_counter()
        done += 8
        if started and time.perf_counter() - started > seconds:
            break
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return (done - 8) / (time.perf_counter() - started), memory
