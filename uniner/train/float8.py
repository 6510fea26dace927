"""Training with matrix products in 8 bits, by torchao: on GPUs since Ada and Hopper, for large models.

Weights, gradients and moments stay as they are. Each product of a decoder layer rounds its two sides to
float8 with a scale of its own, as the product is computed. What that costs in F1 depends on model and data,
so tag compares such a student with one trained without it (`inference/fp8_gate.py`).
"""

from dataclasses import replace
from typing import Any

import torch

from uniner.errors import UserError
from uniner.train.activations import decoder_layers

_LEAST_CAPABILITY = (8, 9)
_MULTIPLE = 16  # of both sizes of a weight: the kernels take no others


def require_float8(device: torch.device) -> None:
    """Check that this worker's GPU has matrix products in 8 bits.

    Raises:
        UserError: it has not.
    """
    capability, name = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
    if capability < _LEAST_CAPABILITY:
        raise UserError(
            f"train.float8 = true: {name} (compute capability {capability[0]}.{capability[1]}) has no matrix "
            "products in 8 bits; unset it, or take a GPU of 8.9 or more, such as L40S, H100 or H200"
        )


def use_float8(model: Any, emulate: bool = False) -> None:
    """Have the linear layers of a model's decoder layers multiply in 8 bits. Call it before compiling and
    sharding: it replaces the layers, which keep their weights and names.

    emulate: round as the kernels do, and multiply in float32, as a CPU can.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig.from_recipe_name("rowwise")
    # A row may have any number of tokens, which are one side of a weight's gradient: they are padded.
    config = replace(config, emulate=emulate, pad_inner_dim=not emulate)
    for layer in decoder_layers(model):
        convert_to_float8_training(layer, config=config, module_filter_fn=_fits)


def _fits(module: Any, _name: str) -> bool:
    return module.in_features % _MULTIPLE == 0 and module.out_features % _MULTIPLE == 0
