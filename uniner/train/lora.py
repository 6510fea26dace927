"""LoRA by peft: adapters beside the frozen layers of a base model, and merging them into it.

The adapters are part of the model, so sharding, checkpoints and the loop treat them like other weights.

With QLoRA (arXiv 2305.14314, without its second quantisation) the frozen layers are kept in 4 bits.
bitsandbytes packs a weight as NF4, two numbers a byte, with a float32 scale for each 64 numbers; it is
unpacked for each use. The bytes are an ordinary parameter that does not learn, so FSDP shards them like any
other; every worker has all scales.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from uniner.errors import UserError

BLOCK = 64
"""The number of weights that share a scale."""
_PREFIX = "base_model.model."  # peft's, in the names of a whole model with adapters


@dataclass(frozen=True)
class LoraSettings:
    """The adapters' rank, scale and dropout, and the layers that get one, in peft's terms.

    bits: 4 keeps these layers in 4 bits (QLoRA); None keeps them in the format of the forward pass.
    """

    rank: int
    alpha: float
    dropout: float
    modules: tuple[str, ...] | str
    base: str
    bits: int | None = None

    def peft_config(self) -> Any:
        """Return the settings as peft's LoraConfig."""
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft takes any number
            lora_dropout=self.dropout,
            target_modules=self.modules if isinstance(self.modules, str) else list(self.modules),
            base_model_name_or_path=self.base,
        )


def add_adapters(model: Any, lora: LoraSettings | None, device: torch.device | None = None) -> Any:
    """Add fresh adapters to a model, which are then its only weights that learn. None changes nothing.

    device: where weights are rounded to 4 bits, one by one; a CPU core takes minutes for 7 B.

    Raises:
        UserError: the model has no layer of these names, or has layers that cannot be kept in 4 bits.
    """
    if lora is None:
        return model
    from peft import get_peft_model

    try:
        model = get_peft_model(model, lora.peft_config()).get_base_model()
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"train.lora_modules = {lora.modules}: {reason}") from None
    if lora.bits:
        for name, adapted_layer, layer in frozen_layers(model):
            if not isinstance(layer, torch.nn.Linear):  # GPT-2's Conv1D has its weights the other way round
                raise UserError(
                    f"train.lora_bits = {lora.bits}: the layer {name.removesuffix('.base_layer')} is a "
                    f"{type(layer).__name__}, and only Linear can be kept in 4 bits; leave the setting out"
                )
            adapted_layer.base_layer = Linear4bit(layer, device)
    return model


def merge_adapters(
    model: Any, lora: LoraSettings, weights: dict[str, torch.Tensor], folder: Path
) -> dict[str, torch.Tensor]:
    """Merge trained adapters into their base, in float32. Returns the weights of the plain model.

    model: the plain base model, on the meta device. weights: those of the model that `add_adapters` returned;
    they are changed in place. folder: where the adapters are written, as peft reads them.
    """
    from peft import get_peft_model

    with torch.device("meta"):
        whole = get_peft_model(model, lora.peft_config())
    whole.load_state_dict({_PREFIX + name: weight.float() for name, weight in weights.items()}, assign=True)
    whole.save_pretrained(folder, save_embedding_layers=False)  # else peft asks the hub about the base
    return whole.merge_and_unload().state_dict()


def frozen_layers(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the frozen layers below a model's adapters: name, the adapted layer that holds it, the layer."""
    for name, module in list(model.named_modules()):
        if name.endswith(".base_layer"):
            yield name, model.get_submodule(name.rpartition(".")[0]), module


class Linear4bit(torch.nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """A frozen linear layer whose weight is rounded to 4 bits."""

    def __init__(self, layer: torch.nn.Linear, device: torch.device | None = None):
        import bitsandbytes  # noqa: F401  # it registers the operators

        super().__init__()
        self._shape = tuple(layer.weight.shape)
        home = layer.weight.device
        weight = layer.weight.data if device is None or home.type == "meta" else layer.weight.data.to(device)
        packed, scales = torch.ops.bitsandbytes.quantize_4bit(weight, BLOCK, "nf4", torch.uint8)
        self.packed = torch.nn.Parameter(packed.to(home), requires_grad=False)
        # Not persistent: a checkpoint holds only weights that learn.
        self.register_buffer("scales", scales.to(home), persistent=False)
        self.bias = layer.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, in the inputs' number format."""
        outputs = _Linear4bitFunction.apply(inputs, self.packed, self.scales, self._shape)
        return outputs if self.bias is None else outputs + self.bias

    def unpack(self, packed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the whole weight of these bytes, with this layer's scales."""
        return _unpack(packed, self.scales.to(packed.device), self._shape, dtype)


class _Linear4bitFunction(torch.autograd.Function):  # type: ignore[misc]
    """x W^T of a packed W. It keeps the bytes for the backward pass: the unpacked weights of all layers would
    fill the memory."""

    @staticmethod
    def forward(context: Any, inputs: Any, packed: Any, scales: Any, shape: tuple[int, ...]) -> Any:
        context.save_for_backward(packed, scales)
        context.shape = shape
        return linear(inputs, _unpack(packed, scales, shape, inputs.dtype))

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        packed, scales = context.saved_tensors
        return gradient @ _unpack(packed, scales, context.shape, gradient.dtype), None, None, None


def _unpack(packed: Any, scales: Any, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.ops.bitsandbytes.dequantize_4bit(packed, scales, BLOCK, "nf4", shape, dtype)


def unpack_weights(model: Any, state: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Replace the packed weights of a gathered state dict by whole ones, rounded as they are."""
    for name, _, layer in frozen_layers(model):
        if isinstance(layer, Linear4bit) and state:
            state[f"{name}.weight"] = layer.unpack(state.pop(f"{name}.packed"), dtype)
