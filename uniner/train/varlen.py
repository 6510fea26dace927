"""Attention over a packed row without a mask: each sample attends to itself alone.

torch's own kernel for samples of any length (`torch.nn.attention.varlen`, FlashAttention's) takes their
bounds in the row. It computes only what causal attention needs: SDPA with a mask of the row computes all
pairs of its tokens. It is registered with transformers as `varlen`; the loop passes the bounds. On CPU, which
has no such kernel, each sample goes through SDPA by itself: measured on one core, a step of a Llama of 1 M to
135 M weights is 1.2 to 3 times faster than with the mask, the more samples a row has.
"""

import inspect
from functools import cache
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "varlen"
_LARGEST_HEAD = 256  # FlashAttention's limit
_HEAD_MULTIPLE = (
    8  # the kernel takes no other sizes, such as the 100 of OpenLLaMA 3B: they are filled with zeros
)


def suits(config: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether it can train this model here. The kernel needs half precision, and Ampere or newer."""
    sizes = config.get_text_config()
    special = (
        getattr(sizes, "attn_logit_softcapping", None)  # Gemma 2
        or getattr(sizes, "attention_dropout", 0)
        or sizes.model_type == "gpt_oss"  # attention sinks
    )
    if special:
        return False
    if device.type == "cpu":
        return True
    kernel = _kernel()
    if device.type != "cuda" or kernel is None or dtype not in (torch.bfloat16, torch.float16):
        return False
    head = getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads
    windows = "window_size" in _kernel_arguments()
    return (
        head <= _LARGEST_HEAD
        and (windows or not getattr(sizes, "sliding_window", None))
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def register() -> None:
    """Make `varlen` known to transformers."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _no_mask)


def attend(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    sliding_window: int | None = None,
    **_options: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention's output, (1, n, heads, size), as transformers asks for it.

    query: (1, heads, n, size); key and value may have fewer heads. cu_seq_lens_q: the samples' bounds in the
    row, int32 (samples + 1,). max_length_q: tokens of the longest. sliding_window: most tokens that a token
    sees, itself included.
    """
    if query.is_meta:  # it keeps what the kernels keep, so that it can be counted
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, is_causal=True)[0].transpose(1, 2), None
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attended = _varlen if query.is_cuda else _sample_by_sample
    return attended(q, k, v, cu_seq_lens_q, max_length_q, scaling, sliding_window)[None], None


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scale: float,
    sliding_window: int | None,
) -> torch.Tensor:
    kernel, names = _kernel(), _kernel_arguments()
    assert kernel, "chosen only where there is one"
    options = dict[str, Any](scale=scale)
    if "window_size" in names:
        # It counts the tokens before a token; 0 after it makes the attention causal.
        options["window_size"] = ((sliding_window or 0) - 1, 0)
    else:
        options["is_causal"] = True
    if "enable_gqa" in names:
        options["enable_gqa"] = True
    else:
        key, value = (
            heads.repeat_interleave(query.shape[1] // heads.shape[1], dim=1) for heads in (key, value)
        )
    size = query.shape[-1]
    if missing := -size % _HEAD_MULTIPLE:  # padding by nothing would copy
        query, key, value = (pad(heads, (0, missing)) for heads in (query, key, value))
    return kernel(query, key, value, bounds, bounds, longest, longest, **options)[..., :size]


def _sample_by_sample(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    _longest: int,
    scale: float,
    sliding_window: int | None,
) -> torch.Tensor:
    attended = []
    lengths = bounds.diff().tolist()
    for sample in zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True):
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in sample)
        mask = None
        if sliding_window and q.shape[2] > sliding_window:
            distance = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])
            mask = (distance >= 0) & (distance < sliding_window)
        output = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
        attended.append(output[0].transpose(0, 1))
    return torch.cat(attended)


def _kernel() -> Any | None:
    """Return torch's kernel; None where this version has none. Older ones have no windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


@cache
def _kernel_arguments() -> frozenset[str]:
    """Return the names of the kernel's arguments, which differ by version."""
    kernel = _kernel()
    return frozenset(inspect.signature(kernel).parameters) if kernel else frozenset()


def _no_mask(*_arguments: Any, **_options: Any) -> None:
    return None
