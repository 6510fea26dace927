"""What a CPU only emulates: sharded training, checkpoints, 8 and 4 bits. Needs torch and transformers."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from uniner.storage.folder import Folder
from uniner.train import loop, lora, model, packing
from uniner.train.checkpoint import Checkpoints, TrainState
from uniner.train.float8 import require_float8
from uniner.train.loop import LoopSettings
from uniner.train.lora import LoraSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICE = torch.device("cuda", 0)
CONFIG = LlamaConfig(
    vocab_size=304, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512,
)  # fmt: skip
SETTINGS = LoopSettings(peak_rate=3e-3, warmup_share=0.0, max_grad_norm=1.0)
SCHEDULE = packing.Schedule([[[0, 1, 2], [3, 4]]] * 8, frozenset())


@pytest.fixture(scope="module", autouse=True)
def group():
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(copy.deepcopy(CONFIG))


@pytest.fixture(scope="module")
def samples():
    chance = np.random.default_rng(0)
    lengths = (50, 7, 120, 31, 64)
    return [
        packing.Sample(f"p{n}", chance.integers(0, 300, n, np.int32), chance.random(n) < 0.3) for n in lengths
    ]


def sharded(base, **settings):
    return model.load_sharded(
        copy.deepcopy(CONFIG), base, torch.bfloat16, DEVICE, attention="varlen", **settings
    )


def curve(net, samples, losses=(), optimizer=None):
    optimizer = optimizer or loop.make_optimizer(net, 0.0)
    steps = loop.train(net, optimizer, samples, SCHEDULE, SETTINGS, device=DEVICE, losses=losses)
    return [step.loss for step in steps]


@pytest.mark.parametrize(
    "settings", [{"compiled": True}, {"checkpointing": True}, {"checkpointing": "selective"}]
)
def test_compiling_and_recomputing_give_the_same_losses(base, samples, settings):
    plain = curve(sharded(base), samples)
    assert plain[-1] < plain[0] - 1
    assert curve(sharded(base, **settings), samples) == pytest.approx(plain, rel=2e-2)


def test_a_resumed_run_has_the_losses_of_one_that_was_not_stopped(base, samples, tmp_path):
    net = sharded(base)
    optimizer = loop.make_optimizer(net, 0.0)
    steps = loop.train(net, optimizer, samples, SCHEDULE, SETTINGS, device=DEVICE)
    state = TrainState("digest", [next(steps) for _ in range(3)])
    with Checkpoints(Folder(str(tmp_path)), 1, None, DEVICE) as checkpoints:
        checkpoints.save(net, optimizer, state)
        checkpoints.wait()
    whole = [step.loss for step in [*state.history, *steps]]
    net = sharded(base)
    optimizer = loop.make_optimizer(net, 0.0)
    with Checkpoints(Folder(str(tmp_path)), 1, None, DEVICE) as checkpoints:
        state = checkpoints.resume(net, optimizer, "digest", print)
    assert state.steps == 3
    assert curve(net, samples, whole[:3], optimizer) == pytest.approx(whole[3:], rel=2e-2)


@pytest.mark.parametrize("compiled", [False, True])
def test_8_bits_train_nearly_as_bfloat16(base, samples, compiled):
    pytest.importorskip("torchao", reason="torchao is not installed (the extra float8)")
    require_float8(DEVICE)
    plain = curve(sharded(base), samples)
    rounded = curve(sharded(base, float8=True, compiled=compiled), samples)
    assert rounded != plain and rounded == pytest.approx(plain, rel=0.1)


def test_4_bits_are_the_same_rounded_on_a_gpu(base, samples):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (the extra qlora)")
    layer = base.model.layers[0].mlp.up_proj
    here, there = (lora.Linear4bit(layer, device) for device in (torch.device("cpu"), DEVICE))
    different = (here.packed != there.packed).float().mean()
    assert different < 0.01, "ties may be settled otherwise"
    inputs = torch.randn(4, 128, device=DEVICE, dtype=torch.bfloat16)
    there = there.to(DEVICE)
    near = inputs.float() @ layer.weight.to(DEVICE).T
    assert ((there(inputs) - near).norm() / near.norm()) < 0.15


def test_adapters_on_4_bits_have_the_gradients_of_a_cpu(base, samples):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (the extra qlora)")
    settings = LoraSettings(rank=8, alpha=16.0, dropout=0.0, modules="all-linear", base=None, bits=4)
    gradients = []
    for device in (torch.device("cpu"), DEVICE):
        net = LlamaForCausalLM(copy.deepcopy(CONFIG))
        net.load_state_dict(base.state_dict())
        torch.manual_seed(0)
        net = lora.add_adapters(net, settings, device).to(device).train()
        loop.token_losses(net, packing.collate(samples), device).backward()
        gradients.append([weight.grad.cpu() for weight in net.parameters() if weight.requires_grad])
    learnt = [weight for weight in gradients[0] if weight.any()]
    assert len(learnt) == len(gradients[0]) // 2, "half of the adapters' factors begin at 0"
    for here, there in zip(*gradients, strict=True):
        assert (here - there).norm() <= 0.02 * here.norm()
