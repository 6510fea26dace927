"""Measure how fast this machine's CPU trains a model, for the estimate, by training a part of the model.

A layer costs the same wherever it is. So a model of two layers and hardly any vocabulary tells what a layer
costs, and one of a single layer with the whole vocabulary what the rest costs. Each trains steps of one row
and of three rows: what does not grow with the rows is the optimizer's.
"""

import copy
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from uniner.train import loop, packing
from uniner.train.estimate import Checkpointing, CpuSpeed
from uniner.train.loop import LoopSettings
from uniner.train.lora import LoraSettings, add_adapters
from uniner.train.model import load_sharded
from uniner.train.packing import Sample

_CPU = torch.device("cpu")
_VOCABULARY = 64  # ids of the model without a vocabulary
_MOST_TOKENS = 1024  # of a row: a longer one is measured in part
_REPEATS = 2


def cpu_speed(
    config: Any,
    row: Sequence[Sample],
    dtype: torch.dtype,
    checkpointing: Checkpointing = False,
    lora: LoraSettings | None = None,
    attention: str | None = None,
) -> CpuSpeed:
    """Train parts of a model for a few seconds on one thread, as a worker on CPU has. Returns the seconds of
    a row of these samples, and of a step's optimizer: the process's own, as on a core without other work.

    The process must not be a worker: it becomes the only one meanwhile.
    """
    row, share = _shortened(row)

    def measure(layers: int, vocabulary: int | None) -> tuple[float, float]:
        part = _part(config, layers, vocabulary)
        base_model = add_adapters(AutoModelForCausalLM.from_config(part, dtype=torch.float32), lora)
        net = load_sharded(part, base_model, dtype, _CPU, checkpointing, lora, attention=attention)
        ids = vocabulary or part.get_text_config().vocab_size
        return _measure(net, [replace(sample, ids=sample.ids % ids) for sample in row])

    with _only_worker():
        of_two, first = measure(2, _VOCABULARY), measure(1, None)
    others = (config.get_text_config().num_hidden_layers - 1) / 2
    row_seconds, step_seconds = (one + others * two for one, two in zip(first, of_two, strict=True))
    return CpuSpeed(row_seconds / share, step_seconds)


def _shortened(row: Sequence[Sample]) -> tuple[list[Sample], float]:
    """Return a row of at most _MOST_TOKENS, and its share of the row's tokens."""
    room, kept = _MOST_TOKENS, list[Sample]()
    for sample in row:
        if room > 1:
            kept.append(replace(sample, ids=sample.ids[:room], loss=sample.loss[:room]))
        room -= len(sample)
    return kept, sum(map(len, kept)) / sum(map(len, row))


def _part(config: Any, layers: int, vocabulary: int | None) -> Any:
    """Return the config of a model's first layers, with this vocabulary or its own."""
    part = copy.deepcopy(config)
    sizes = part.get_text_config()
    sizes.num_hidden_layers = layers
    if getattr(sizes, "layer_types", None):
        sizes.layer_types = sizes.layer_types[:layers]
    if vocabulary:
        sizes.vocab_size, sizes.pad_token_id = vocabulary, None
    return part


def _measure(net: Any, row: Sequence[Sample]) -> tuple[float, float]:
    """Return the seconds of a row, and those of a step besides."""
    one = [list(range(len(row)))]
    steps = [one, 3 * one, *(_REPEATS * [one, 3 * one])]  # the first two warm up
    schedule = packing.Schedule(steps, frozenset())
    settings = LoopSettings(peak_rate=1e-5, warmup_share=0.0, max_grad_norm=1.0)
    trained = loop.train(net, loop.make_optimizer(net, 0.0), row, schedule, settings, device=_CPU)
    times = [time.process_time() for _ in trained]
    seconds = [end - start for start, end in pairwise(times)][1:]
    short, long = statistics.median(seconds[::2]), statistics.median(seconds[1::2])
    row_seconds = (long - short) / 2 if long > short else long / 3
    return row_seconds, max(0.0, short - row_seconds)


@contextmanager
def _only_worker() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)
