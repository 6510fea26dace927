"""Training in 8 bits as a CPU can emulate it: FSDP, checkpointing, packing; and who is refused."""

import functools

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from uniner.config.schema import Train
from uniner.errors import UserError
from uniner.train import float8, loop, model, packing, stage
from uniner.train.float8 import require_float8, use_float8
from uniner.train.loop import LoopSettings

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip


@pytest.fixture
def torchao():
    return pytest.importorskip("torchao", reason="torchao is not installed (the extra float8)")


def curve(base, samples, dtype=torch.bfloat16, **settings):
    net = model.load_sharded(
        AutoConfig.from_pretrained(base), model.read_base(str(base)), dtype, CPU, **settings
    )
    schedule = packing.Schedule([[[0, 1, 2], [3, 4]]] * 8, frozenset())
    loop_settings = LoopSettings(peak_rate=1e-2, warmup_share=0.0, max_grad_norm=1.0)
    steps = loop.train(net, loop.make_optimizer(net, 0.0), samples, schedule, loop_settings, device=CPU)
    return [step.loss for step in steps]


@pytest.mark.usefixtures("torchao", "group")
def test_it_trains_with_fsdp_and_checkpointing_nearly_as_in_bfloat16(base, samples, monkeypatch):
    monkeypatch.setattr(model, "use_float8", functools.partial(use_float8, emulate=True))
    plain, rounded = curve(base, samples), curve(base, samples, float8=True)
    assert rounded != plain and rounded == pytest.approx(plain, rel=0.1)
    assert rounded[-1] < rounded[0] - 1
    for checkpointing in (True, "selective"):
        assert curve(base, samples, float8=True, checkpointing=checkpointing) == rounded


@pytest.mark.usefixtures("torchao", "group")
def test_a_sample_s_answers_do_not_depend_on_its_row(base, samples):
    """Each token has a scale of its own."""
    net = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    exact = loop.logits(net, packing.collate(samples[:3]), CPU)[0]
    use_float8(net, emulate=True)
    packed = loop.logits(net, packing.collate(samples[:3]), CPU)[0]
    alone = torch.cat([loop.logits(net, packing.collate([sample]), CPU)[0] for sample in samples[:3]])
    torch.testing.assert_close(packed, alone, atol=1e-3, rtol=0)
    assert (packed - exact).abs().max() > 1e-2, "it rounds"


@pytest.mark.usefixtures("torchao")
def test_layers_of_the_decoder_alone_whose_sizes_suit_the_kernels():
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, "intermediate_size": 40}))
    names = [name for name, _ in net.named_parameters()]
    use_float8(net)
    kinds = {name.rpartition(".")[2]: type(part).__name__ for name, part in net.named_modules()}
    assert kinds["q_proj"] == "Float8Linear" and kinds["lm_head"] == kinds["up_proj"] == "Linear"
    assert [name for name, _ in net.named_parameters()] == names


def test_a_gpu_without_such_products_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-40GB")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(UserError, match=r"train\.float8 = true: NVIDIA A100-SXM4-40GB .*8\.0.* such as L40S"):
        require_float8(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    require_float8(torch.device("cuda"))


@pytest.mark.parametrize(("settings", "line"), [
    ({"use_gpu": False}, r"float8 trains only on GPUs"),
    ({"dtype": "float32"}, r"not train\.dtype = float32"),
    ({"lora_rank": 8}, r"not adapters \(train\.lora_rank = 8\)"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_before_ray_starts(settings, line):
    with pytest.raises(UserError, match=line):
        stage._check_settings(Train(float8=True, **settings), 512)


def test_only_products_whose_sizes_are_multiples_of_16():
    assert float8._fits(torch.nn.Linear(32, 48), "") and not float8._fits(torch.nn.Linear(32, 40), "")
