"""The trained student as a Hugging Face folder, with `uniner.json` that says how it wants to be asked."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import GenerationConfig

from uniner.storage.model_folders import FACTS
from uniner.train.model import outline
from uniner.train.quantized import unpack

TYPES = 200


def gather(model: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the whole weights on worker 0, in host memory, and nothing elsewhere; all must call this."""
    state: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    unpack(model, state, dtype)
    return {name: weight.to(dtype) for name, weight in state.items()}


def write(
    folder: Path, config: Any, weights: dict[str, torch.Tensor], tokenizer: Any, facts: dict[str, Any]
) -> None:
    """Write weights (safetensors), config, tokenizer, generation config and `uniner.json` into a folder."""
    model = outline(config).to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.config.use_cache = True  # training turned it off
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder)
    tokenizer.model_max_length = facts["max_tokens"]
    tokenizer.save_pretrained(folder)
    (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def frequent_types(positive_types: Iterable[Sequence[str]], most: int = TYPES) -> list[str]:
    """Return the types that most conversations have mentions of, most frequent first."""
    counted = Counter(name for types in positive_types for name in types)
    return sorted(counted, key=lambda name: (-counted[name], name))[:most]
