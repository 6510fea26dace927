"""The base model, sharded with FSDP2: float32 master weights, forward pass in the chosen number format."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForCausalLM
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from uniner.errors import UserError
from uniner.train import varlen
from uniner.train.activations import checkpoint_layers, decoder_layers, kept_bytes
from uniner.train.estimate import Checkpointing, ModelShape, in_one_piece
from uniner.train.float8 import use_float8
from uniner.train.lora import LoraSettings, add_adapters, frozen_layers


def read_base(base: str, lora: LoraSettings | None = None, device: torch.device | None = None) -> Any:
    """Read a whole base model into host memory, in float32. Only worker 0 does.

    device: see `add_adapters`.
    """
    return add_adapters(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora, device)


def empty_model(config: Any, dtype: torch.dtype = torch.float32, lora: LoraSettings | None = None) -> Any:
    """Return a model on the meta device: names, shapes and number formats without weights.

    With adapters, frozen weights have this dtype; weights that learn are always float32.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if lora is None else dtype)
        return add_adapters(model, lora)


def load_sharded(
    config: Any,
    base_model: Any | None,
    dtype: torch.dtype,
    device: torch.device,
    checkpointing: Checkpointing = False,
    lora: LoraSettings | None = None,
    *,
    attention: str | None = None,
    compiled: bool = False,
    shard_workers: int | None = None,
    float8: bool = False,
) -> Any:
    """Return the model sharded over all workers; every worker must call this.

    base_model: the result of `read_base` on worker 0, None on the others: they receive their shards from it.
    attention: transformers' name; None is the model's default. compiled: compile each layer with
    torch.compile. shard_workers: see `shard`. float8: multiply in 8 bits, which only some GPUs can.

    Raises:
        UserError: the attention is not installed, or shard_workers does not divide the number of workers.
    """
    config.use_cache = False  # with a cache, transformers reads a row as one sample and samples leak
    model = empty_model(config, dtype, lora)
    if attention:
        set_attention(model, attention)
    if float8:
        use_float8(model)
    checkpoint_layers(decoder_layers(model), checkpointing)
    if compiled:
        compile_layers(model)
    shard(model, dtype, device, shard_workers)
    broadcast_weights(model, base_model, device)
    model.tie_weights()  # making room for the weights unties them
    return model.train()


def count_weights(
    config: Any, lora: LoraSettings | None = None, dtype: torch.dtype = torch.bfloat16
) -> ModelShape:
    """Count a model's weights and what its forward pass keeps, from its config. Nothing is loaded."""
    model = empty_model(config, lora=lora and replace(lora, bits=None))
    quantized = 0
    if lora and lora.bits:
        quantized = sum(layer.weight.numel() for _, _, layer in frozen_layers(model))
    sizes = config.get_text_config()
    outer = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    body = sum(weight.numel() for weight in model.parameters() if id(weight) not in outer)
    return ModelShape(
        parameters=model.num_parameters(),
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        body=body,
        output=model.get_output_embeddings().weight.numel(),
        layer=body // sizes.num_hidden_layers,
        layers=sizes.num_hidden_layers,
        hidden=sizes.hidden_size,
        intermediate=getattr(sizes, "intermediate_size", None) or 4 * sizes.hidden_size,
        vocabulary=sizes.vocab_size,
        kept=kept_bytes(model.to(dtype)),
        kept_selectively=kept_bytes(model, "selective"),
        quantized=quantized,
    )


def choose_attention(setting: str, config: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return transformers' name of the attention: the setting or, for auto, an installed FlashAttention, else
    varlen where it suits the model and the device.

    None is the model's default, which is SDPA where the model supports it.
    """
    if setting != "auto":
        return setting
    if device.type == "cuda" and dtype == torch.bfloat16:
        if is_flash_attn_3_available():
            return "flash_attention_3"
        if is_flash_attn_2_available():
            return "flash_attention_2"
    return varlen.NAME if varlen.suits(config, device, dtype) else None


def compile_layers(model: Any) -> None:
    """Have torch compile each decoder layer before its first forward pass."""
    for layer in decoder_layers(model):
        # Only the forward, so that FSDP's hooks around it stay as they are. Rows differ in length.
        layer.forward = torch.compile(layer.forward, dynamic=True)


def set_attention(model: Any, name: str) -> None:
    """Have a model use an attention by transformers' name, or varlen.

    Raises:
        UserError: it is not installed.
    """
    varlen.register()
    try:
        model.set_attn_implementation(name)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"train.attention = {name}: {reason}") from None


def shard(
    model: Any,
    dtype: torch.dtype,
    device: torch.device,
    shard_workers: int | None = None,
    layers: Sequence[Any] | None = None,
    section: str = "train",
) -> None:
    """Shard each layer and the rest over all workers, or all in one piece (`estimate.in_one_piece`).

    Gradients are reduced in float32.

    layers: unset, the decoder layers of a model of transformers. section: of the settings, for messages.

    shard_workers: neighbouring workers that share one copy of the model; each exchanges gradients with the
    same shard's workers in the other copies (HSDP). None: all workers share one copy.
    """
    world = dist.get_world_size()
    if world % (shard_workers or world):
        raise UserError(f"{section}.shard_workers = {shard_workers} does not divide {world} workers")
    copies = world // (shard_workers or world)
    sizes = (world,) if copies == 1 else (copies, world // copies)
    mesh = init_device_mesh(device.type, sizes, mesh_dim_names=("copies", "shards")[-len(sizes) :])
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    # Of 4 bits there are two weights in each byte.
    weights = sum(part.numel() * (2 if part.dtype == torch.uint8 else 1) for part in model.parameters())
    if not in_one_piece(weights, world):
        for layer in decoder_layers(model) if layers is None else layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def broadcast_weights(model: Any, base_model: Any | None, device: torch.device) -> None:
    """Fill a sharded model on the meta device with worker 0's whole model."""
    model.to_empty(device=device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, base_model.state_dict() if base_model else {}, options=options)
    # The state dict lacks non-persistent buffers, such as the rotary frequencies.
    sources = dict(base_model.named_buffers()) if base_model else {}
    for name, buffer in model.named_buffers():
        if base_model:
            buffer.copy_(sources[name])
        dist.broadcast(buffer, src=0)
