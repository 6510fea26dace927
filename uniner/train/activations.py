"""Count the bytes that a forward pass keeps for the backward pass, on the meta device: nothing is computed.

Autograd says which tensors it keeps. So the count holds for any kind of model: a Llama in bfloat16 keeps 12
hidden + 4 intermediate numbers a token and layer, as its norms keep their inputs in float32.
"""

from typing import Any

import torch

from uniner.train import varlen

# Rows of two lengths: their difference leaves out what does not grow with a row.
_FEW, _MANY = 64, 128


def kept_bytes(model: Any) -> float:
    """Return the bytes that a token of a row keeps in all layers, without the logits. model: on meta.

    A model whose forward pass depends on values cannot run on meta: it counts as a Llama of its hidden and
    intermediate sizes.
    """
    sizes = model.config.get_text_config()
    attention = model.config._attn_implementation
    varlen.register()
    try:
        model.set_attn_implementation(varlen.NAME)
        return (_kept_in_row(model, _MANY) - _kept_in_row(model, _FEW)) / (_MANY - _FEW)
    except (RuntimeError, NotImplementedError, ValueError):
        intermediate = getattr(sizes, "intermediate_size", None) or 4 * sizes.hidden_size
        numbers = (12 * sizes.hidden_size + 4 * intermediate) * sizes.num_hidden_layers
        return numbers * model.dtype.itemsize
    finally:
        model.set_attn_implementation(attention)


def _kept_in_row(model: Any, tokens: int) -> int:
    weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage  # held, so that no other gets its address
        return tensor

    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    bounds = torch.tensor([0, tokens], dtype=torch.int32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),  # else transformers looks at the positions' values
            use_cache=False,
            logits_to_keep=1,
            cu_seq_lens_q=bounds,
            max_length_q=tokens,
        )
    del output
    return sum(storage.nbytes() for storage in storages.values())
