"""What a forward pass keeps for the backward pass: keeping less (activation checkpointing), and counting it.

The count runs on the meta device, where nothing is computed. Autograd says which tensors it keeps. So the
count holds for any kind of model: a Llama in bfloat16 keeps 12 hidden + 4 intermediate numbers a token and
layer, as its norms keep their inputs in float32.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from uniner.train import varlen
from uniner.train.estimate import Checkpointing

# Rows of two lengths: their difference leaves out what does not grow with a row.
_FEW, _MANY = 64, 128
_PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::_scaled_mm", "aten::_grouped_mm"})
# Not aten::bmm: where attention is computed with it, its output has a number for each pair of tokens.
_ATTENTION = ("scaled_dot_product", "flash_attn", "flash_attention", "varlen_attn", "flex_attention")


def decoder_layers(model: Any) -> list[Any]:
    """Return a model's decoder layers, which transformers never splits."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def checkpoint_layers(layers: Sequence[Any], checkpointing: Checkpointing) -> None:
    """Have decoder layers compute their activations again in the backward pass. Call it before compiling.

    It wraps the forward pass alone: FSDP's hooks stay outside, and torch.compile sees the whole of it.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if checkpointing == "selective":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
    for layer in layers if checkpointing else ():
        layer.forward = _checkpointed(layer.forward, options)


def _checkpointed(forward: Any, options: dict[str, Any]) -> Any:
    @functools.wraps(forward)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():  # in a validation, whose generation also has a cache
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, **options, **named)

    return wrapped


def _policy(_context: Any, operator: Any, *_arguments: Any, **_named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if _is_saved(operator) else CheckpointPolicy.PREFER_RECOMPUTE


def _is_saved(operator: Any) -> bool:
    name = operator.name() if callable(operator.name) else operator.name  # flex_attention's is a string
    name = name.removesuffix(".default")
    return name in _PRODUCTS or any(part in name for part in _ATTENTION)


def kept_bytes(model: Any, checkpointing: Checkpointing = False) -> float:
    """Return the bytes that a token of a row keeps in all layers, without the logits. model: on meta.

    With checkpointing, of a layer whose activations are being computed again nothing is counted. A model
    whose forward pass depends on values cannot run on meta: it counts as a Llama of its hidden and
    intermediate sizes.
    """
    sizes = model.config.get_text_config()
    inputs = sizes.hidden_size * sizes.num_hidden_layers * model.dtype.itemsize
    if checkpointing is True:
        return inputs
    attention = model.config._attn_implementation
    varlen.register()
    try:
        model.set_attn_implementation(varlen.NAME)
        count = _saved_in_row if checkpointing else _kept_in_row
        kept = (count(model, _MANY) - count(model, _FEW)) / (_MANY - _FEW)
        return kept + (inputs if checkpointing else 0)
    except (RuntimeError, NotImplementedError, ValueError):
        intermediate = getattr(sizes, "intermediate_size", None) or 4 * sizes.hidden_size
        hidden, inner = (7, 2) if checkpointing else (12, 4)
        numbers = (hidden * sizes.hidden_size + inner * intermediate) * sizes.num_hidden_layers
        return numbers * model.dtype.itemsize
    finally:
        model.set_attn_implementation(attention)


def _kept_in_row(model: Any, tokens: int) -> int:
    """Return the bytes of a row that autograd keeps."""
    return bytes_kept(model, lambda: _forward(model, tokens))


def bytes_kept(model: Any, forward: Callable[[], Any]) -> int:
    """Return the bytes that autograd keeps in a forward pass, beside the model's weights and buffers."""
    weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage  # held, so that no other gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in storages.values())


def _saved_in_row(model: Any, tokens: int) -> int:
    """Return the bytes of a row that selective checkpointing saves, without the layers' inputs."""
    with _Saved() as saved:
        _forward(model, tokens)
    output_layer = model.get_output_embeddings().weight.shape[0] * model.dtype.itemsize  # of one token
    return sum(storage.nbytes() for storage in saved.storages.values()) - output_layer


class _Saved(TorchDispatchMode):  # type: ignore[misc]
    """Collects what operators give whose results are saved."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        results = operator(*arguments, **(named or {}))
        if _is_saved(operator):
            for result in results if isinstance(results, tuple) else (results,):
                if isinstance(result, torch.Tensor):
                    storage = result.untyped_storage()
                    self.storages[storage._cdata] = storage
        return results


def _forward(model: Any, tokens: int) -> Any:
    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    return model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),  # else transformers looks at the positions' values
        use_cache=False,
        logits_to_keep=1,
        cu_seq_lens_q=torch.tensor([0, tokens], dtype=torch.int32),
        max_length_q=tokens,
    )
