"""On a GPU a packed row has the gradients of its samples alone. Needs only torch, transformers and numpy."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from uniner.train import loop, packing, varlen

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
CONFIG = LlamaConfig(
    vocab_size=300, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512,
)  # fmt: skip


def make_samples():
    chance = np.random.default_rng(0)
    lengths = (50, 7, 120, 31, 64)
    return [
        packing.Sample(f"p{n}", chance.integers(0, 300, n, np.int32), chance.random(n) < 0.3) for n in lengths
    ]


@pytest.mark.parametrize(
    "attention", ["sdpa", "varlen", "flex_attention", "flash_attention_2", "flash_attention_3"]
)
def test_packed_equals_unpacked_on_a_gpu_by_every_attention(attention):
    device, row = torch.device("cuda"), make_samples()
    half = attention.startswith(("flash", varlen.NAME))
    dtype, tolerance = (torch.bfloat16, 5e-2) if half else (torch.float32, 1e-4)
    varlen.register()
    torch.manual_seed(0)
    try:
        net = AutoModelForCausalLM.from_config(CONFIG, dtype=dtype, attn_implementation=attention)
    except ImportError as error:
        pytest.skip(str(error))
    net = net.to(device).train()
    gradients = []
    for batches in ([packing.collate(row)], [packing.collate([sample]) for sample in row]):
        net.zero_grad()
        for batch in batches:
            loop.token_losses(net, batch, device).backward()
        gradients.append([weight.grad.float().clone() for weight in net.parameters()])
    for packed, unpacked in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, unpacked, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("hidden", [128, 400])
def test_varlen_has_the_gradients_of_sdpa(hidden):
    """Also with heads of 100, as OpenLLaMA 3B has them."""
    device, batch = torch.device("cuda"), packing.collate(make_samples())
    config = LlamaConfig(**{**CONFIG.to_dict(), "hidden_size": hidden, "head_dim": hidden // 4})
    varlen.register()
    gradients = []
    for attention in ("sdpa", varlen.NAME):
        torch.manual_seed(0)
        net = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)
        net = net.to(device).train()
        loop.token_losses(net, batch, device).backward()
        gradients.append([weight.grad.float().clone() for weight in net.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=5e-2, rtol=5e-2)
