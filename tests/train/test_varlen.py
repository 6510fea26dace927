"""Attention by the samples' bounds equals attention with a mask: every template, kind of model, and LoRA."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, Qwen3Config

from uniner.templates import TEMPLATES, Renderer, make_template
from uniner.train import loop, packing, varlen
from uniner.train.lora import LoraSettings, add_adapters

CPU = torch.device("cpu")
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


def gradients(net, row):
    """The loss of a row and each weight's gradient."""
    net.zero_grad()
    loss = loop.token_losses(net, packing.collate(row), CPU)
    loss.backward()
    return [loss.detach(), *(weight.grad.clone() for weight in net.parameters() if weight.requires_grad)]


def require_equal(net, row):
    expected = gradients(net, row)
    varlen.register()
    net.set_attn_implementation(varlen.NAME)
    for seen, wanted in zip(gradients(net, row), expected, strict=True):
        torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=1e-5)


def test_a_packed_row_has_the_loss_and_gradients_of_sdpa(base, samples):
    net = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    require_equal(net, samples[:5])


@pytest.mark.parametrize("config", [
    MistralConfig(vocab_size=300, sliding_window=7, **SIZES),
    Qwen3Config(vocab_size=300, head_dim=8, **SIZES),
    LlamaConfig(vocab_size=300, **SIZES),
], ids=lambda config: config.model_type)  # fmt: skip
def test_grouped_heads_and_sliding_windows(config, samples):
    torch.manual_seed(0)
    require_equal(AutoModelForCausalLM.from_config(config, dtype=torch.float32), [
        packing.Sample("p", sample.ids % 300, sample.loss) for sample in samples[:4]
    ])  # fmt: skip


def test_adapters(base, samples):
    lora = LoraSettings(4, 8.0, 0.0, ("q_proj", "v_proj"), str(base))
    net = add_adapters(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora)
    for name, weight in net.named_parameters():  # fresh adapters add nothing
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    require_equal(net, samples[:4])


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template(template, base, tokenizer):
    made = make_template(template, 3)
    renderer = Renderer(tokenizer)
    passages = ["Ann met Bob in Bonn.", "Bob went to Bonn with Eve.", "No one is here."]
    pairs = made.render(passages[0], {"person": ("Ann", "Bob"), "city": ("Bonn",), "song": (), "river": ()})
    blocks = [renderer.question(question) + renderer.answer(answer) for question, answer in pairs]
    rendered = [
        packing.RenderedConversation(text, renderer.head(f"Text: {text}"), blocks) for text in passages
    ]
    row = packing.fit(rendered, 512).samples
    assert len(row) == 3
    require_equal(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), row)


def test_heads_of_a_size_that_the_kernel_refuses_are_filled_up(monkeypatch):
    def kernel(query, key, value, bounds, _bounds, longest, _longest, *, scale, window_size, enable_gqa):
        assert query.shape[-1] % 8 == 0 and window_size == (-1, 0) and enable_gqa
        return varlen._sample_by_sample(query, key, value, bounds, longest, scale, None)

    monkeypatch.setattr(varlen, "_kernel", lambda: kernel)
    heads = [torch.randn(9, count, 5) for count in (4, 2, 2)]
    bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
    expected = varlen._sample_by_sample(*heads, bounds, 5, 0.4, None)
    torch.testing.assert_close(varlen._varlen(*heads, bounds, 5, 0.4, None), expected)


def test_it_is_chosen_for_models_and_gpus_that_it_suits(monkeypatch):
    gpu, capability = torch.device("cuda"), [(9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability[0])
    llama = LlamaConfig(vocab_size=300, **SIZES)
    assert varlen.suits(llama, gpu, torch.bfloat16)
    assert varlen.suits(llama, CPU, torch.bfloat16) and varlen.suits(llama, CPU, torch.float32)
    assert not varlen.suits(llama, gpu, torch.float32)
    for device in (gpu, CPU):
        assert not varlen.suits(Gemma2Config(attn_logit_softcapping=50.0), device, torch.bfloat16)
    assert not varlen.suits(LlamaConfig(head_dim=512, **SIZES), gpu, torch.bfloat16)
    capability[0] = (7, 5)
    assert not varlen.suits(llama, gpu, torch.bfloat16)
