"""How many engines should share a GPU: a small student's questions do not fill one through a single engine.

An engine's CPU time bounds it, whatever its GPU: 0.5 ms in the actor and 0.9 to 1.5 ms in the engine's own
process for each question, measured. A small student on a large GPU answers faster than that.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniner.inference.engine_pool import engine_slots
from uniner.runtime.gpu_models import GpuModel
from uniner.storage.filesystem import explained, is_remote
from uniner.storage.folder import Folder

ENGINE_RATE = 900.0
"""Questions a second of one engine: the middle of what its two processes allow (700 to 1,100)."""
_SHARE_OF_PEAK = 0.3
"""Of a GPU's peak, with decoding, which waits for memory: computed for a 7B student on an H100."""
_BESIDE = 2e9
"""Roughly what an engine takes besides weights and KV cache: CUDA itself, activations and CUDA graphs."""
_MOST = 8
_WIDTH = 2  # bytes of a number in bfloat16


@dataclass(frozen=True)
class ModelSizes:
    """A decoder's number of weights, and the numbers that it keeps of a token in the KV cache."""

    parameters: int
    kept: int


def read_sizes(model: str) -> ModelSizes | None:
    """Return the sizes of a model (folder, s3:// address or hub name); None for one with unusual layers."""
    if is_remote(model) or Path(model).is_dir():
        with explained(model):
            return sizes_of(json.loads(Folder(model).read("config.json")))
    from transformers import AutoConfig

    return sizes_of(AutoConfig.from_pretrained(model).to_dict())


def sizes_of(config: Mapping[str, Any]) -> ModelSizes | None:
    """Count the weights of a decoder of the Llama layout by its config.json, without norms and biases."""
    if "num_experts" in config or "num_local_experts" in config:
        return None
    try:
        hidden, layers, heads = (
            config[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        )
        inner, vocabulary = config["intermediate_size"], config["vocab_size"]
    except KeyError:
        return None
    width = config.get("head_dim") or hidden // heads
    kept = 2 * (config.get("num_key_value_heads") or heads) * width
    layer = hidden * (2 * heads * width + kept) + 3 * hidden * inner
    outer = (1 if config.get("tie_word_embeddings") else 2) * vocabulary * hidden
    return ModelSizes(parameters=layers * layer + outer, kept=layers * kept)


def engines_per_gpu(
    sizes: ModelSizes,
    gpu: GpuModel,
    *,
    question_tokens: float,
    max_num_seqs: int,
    memory_share: float,
    most_by_cpu: float = _MOST,
) -> int:
    """Return how many engines should share a GPU.

    question_tokens: tokens to compute for a question, its answer included; so many stay in the KV cache while
    it is in progress. memory_share: of the GPU's memory that engines may use. most_by_cpu: engines that the
    CPUs beside a GPU are enough for.
    """
    rate = gpu_rate(sizes, gpu, question_tokens)
    cache = engine_slots(max_num_seqs) * question_tokens * sizes.kept * _WIDTH
    by_memory = memory_share * gpu.memory / (sizes.parameters * _WIDTH + cache + _BESIDE)
    return max(1, int(min(_MOST, round(rate / ENGINE_RATE), by_memory, most_by_cpu)))


def gpu_rate(sizes: ModelSizes, gpu: GpuModel, question_tokens: float) -> float:
    """Return the questions a second that a GPU can compute."""
    return _SHARE_OF_PEAK * gpu.flops / (2 * sizes.parameters * question_tokens)


def share_of_gpu(engines: int) -> float:
    """Return engine.gpus for so many engines on a GPU: in hundredths, rounded down so that all fit."""
    return int(100 / engines) / 100
