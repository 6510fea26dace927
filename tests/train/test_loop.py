"""The loop's arithmetic on one process without Ray: no leak between samples, exact losses and sharding."""

import copy
import dataclasses
import functools
import os

import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import is_flash_attn_3_available

from uniner.errors import UserError
from uniner.storage.model_folders import StudentFacts
from uniner.train import export, loop, model, packing, prepare
from uniner.train.loop import LoopSettings
from uniner.train.steps import device_of

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("group")


@pytest.fixture
def plain(base):
    """The base model as transformers loads it, with its defaults."""
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()


def load(base, dtype=torch.float32, checkpointing=False, lora=None, device=CPU, **settings):
    config = AutoConfig.from_pretrained(base)
    base_model = model.read_base(str(base), lora)
    return model.load_sharded(config, base_model, dtype, device, checkpointing, lora, **settings)


def make_schedule(samples, epochs=1, batch=8):
    lengths = [len(sample) for sample in samples]
    return packing.schedule(lengths, [1] * len(samples), seed=0, epochs=epochs, batch=batch, row_tokens=1024)


def run(net, samples, schedule):
    settings = LoopSettings(peak_rate=1e-2, warmup_share=0.2, max_grad_norm=1.0)
    optimizer = loop.make_optimizer(net, 0.0)
    return list(loop.train(net, optimizer, samples, schedule, settings, device=CPU))


def unpacked_logits(net, samples):
    with torch.no_grad():
        return torch.cat([loop.logits(net, packing.collate([sample]), CPU)[0] for sample in samples])


def test_packed_logits_and_gradients_equal_unpacked(plain, samples):
    row = samples[:5]
    packed = loop.logits(plain, packing.collate(row), CPU)[0]
    torch.testing.assert_close(packed, unpacked_logits(plain, row), atol=1e-5, rtol=0)
    loop.token_losses(plain, packing.collate(row), CPU).backward()
    gradients = [parameter.grad.clone() for parameter in plain.parameters()]
    plain.zero_grad()
    for sample in row:
        loop.token_losses(plain, packing.collate([sample]), CPU).backward()
    for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scaling", [None, {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}])
def test_a_row_may_be_longer_than_the_window(save_llama, samples, scaling):
    """Positions restart with each sample, also where they are scaled by the longest."""
    folder = save_llama(max_position_embeddings=512, **({"rope_parameters": scaling} if scaling else {}))
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert len(packing.collate(samples).input_ids[0]) > 2 * 512 > 2 * max(map(len, samples))
    expected = unpacked_logits(net, samples)
    for attention in ("sdpa", "varlen"):
        model.set_attention(net, attention)
        packed = loop.logits(net, packing.collate(samples), CPU)[0]
        torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("leak", [{"use_cache": True}, {"attention_mask": "ones"}])
def test_a_cache_or_a_mask_would_leak(plain, samples, leak, monkeypatch):
    """The loop's arguments are needed: with either default changed, the equality above breaks."""
    forward = plain.forward

    def leaking(**inputs):
        inputs.update(leak)
        if "attention_mask" in leak:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return forward(**inputs)

    row = samples[:5]
    separate = unpacked_logits(plain, row)
    monkeypatch.setattr(plain, "forward", leaking)
    assert (loop.logits(plain, packing.collate(row), CPU)[0] - separate).abs().max() > 1e-2


def test_flex_attention_packs_without_a_leak_too(base, plain, samples):
    """Only the forward pass, not compiled: its gradients need a GPU and are tested there."""
    net, row = load(base, attention="flex_attention"), samples[:4]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        packed = loop.logits(net, packing.collate(row), CPU)[0]
        torch.testing.assert_close(packed, unpacked_logits(plain, row), atol=1e-5, rtol=0)


def test_trying_the_fullest_row_leaves_the_curve_as_it_is(base, samples):
    schedule, tried = make_schedule(samples), []
    expected = run(load(base), samples, schedule)
    net = load(base)
    optimizer = loop.make_optimizer(net, 0.0)
    net.register_forward_pre_hook(
        lambda _, __, inputs: tried.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    loop.try_fullest_row(net, optimizer, samples, schedule, CPU)
    assert tried == [max(sum(len(samples[n]) for n in row) for step in schedule.steps for row in step)]
    assert all(weight.grad is None for weight in net.parameters())
    assert [step.loss for step in run(net, samples, schedule)] == [step.loss for step in expected]


def test_a_worker_on_cpu_keeps_few_kernels_of_rows_of_other_lengths(monkeypatch):
    kept = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    for stated, expected in ((None, "32"), ("7", "7")):
        monkeypatch.setenv(kept, stated or "")
        if stated is None:
            monkeypatch.delenv(kept)
        assert device_of(False) == CPU
        assert os.environ[kept] == expected


def test_flash_attention_gets_the_samples_bounds(samples):
    batch = packing.collate(samples[:3])
    bounds, lengths = loop._sequence_bounds(batch, CPU), [len(sample) for sample in samples[:3]]
    assert bounds["cu_seq_lens_q"].tolist() == [0, lengths[0], sum(lengths[:2]), sum(lengths)]
    assert bounds["cu_seq_lens_q"].dtype == torch.int32 and bounds["max_length_k"] == max(lengths)


def test_attention_is_chosen_by_the_machine_or_named(base):
    config = AutoConfig.from_pretrained(base)
    assert model.choose_attention("auto", config, CPU, torch.bfloat16) == "varlen"
    assert load(base).config._attn_implementation == "sdpa"
    assert model.choose_attention("flex_attention", config, CPU, torch.float32) == "flex_attention"
    if not is_flash_attn_3_available():
        with pytest.raises(UserError, match=r"train.attention = flash_attention_3: "):
            load(base, attention="flash_attention_3")
    with pytest.raises(UserError, match=r"shard_workers = 2 does not divide 1 workers"):
        load(base, shard_workers=2)


def products(net, batch):
    """The matrix products that a forward pass computes, and those of the backward pass, which are two for
    each in the forward pass, but for what is computed again."""

    class Counter(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.count = 0

        def __torch_dispatch__(self, operator, types, arguments=(), named=None):
            self.count += operator is torch.ops.aten.mm.default
            return operator(*arguments, **(named or {}))

    with Counter() as forward:
        loss = loop.token_losses(net, batch, CPU)
    with Counter() as backward:
        loss.backward()
    return forward.count, backward.count


def test_selective_checkpointing_repeats_no_matrix_product(base, samples):
    """It changes no bit of the loss and the gradients."""
    batch, seen = packing.collate(samples[:4]), {}
    for kind in (False, True, "selective"):
        net = load(base, checkpointing=kind)
        forward, backward = products(net, batch)
        gradients = [weight.grad.full_tensor() for weight in net.parameters()]
        seen[kind] = backward - 2 * forward, gradients
    (plain, expected), (repeated, _), (selective, gradients) = seen.values()
    assert plain == selective == 0 < repeated
    assert all(map(torch.equal, gradients, expected))


@pytest.mark.parametrize("checkpointing", [False, "selective"])
def test_compiled_layers_give_the_same_loss_and_gradients(base, samples, monkeypatch, checkpointing):
    """Traced by torch.compile, without the minutes of generating machine code."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled, expected = load(base, compiled=True, checkpointing=checkpointing), load(base)
    for row in (samples[:2], samples[2:5]):
        losses = [loop.token_losses(net, packing.collate(row), CPU) for net in (compiled, expected)]
        assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
        for loss in losses:
            loss.backward()
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4  # not one for each row
    for (name, weight), (same, other) in zip(
        compiled.named_parameters(), expected.named_parameters(), strict=True
    ):
        assert name == same
        torch.testing.assert_close(weight.grad.full_tensor(), other.grad.full_tensor(), atol=1e-5, rtol=1e-5)


def test_sharded_model_is_the_model(base, plain, samples):
    batch = packing.collate(samples[:3])
    net = load(base)
    torch.testing.assert_close(
        loop.logits(net, batch, CPU), loop.logits(plain, batch, CPU), atol=1e-6, rtol=0
    )


def test_step_loss_is_the_mean_over_answer_tokens(plain, base, samples):
    schedule = make_schedule(samples)
    chosen = [samples[number] for row in schedule.steps[0] for number in row]
    losses = [loop.token_losses(plain, packing.collate([sample]), CPU).item() for sample in chosen]
    step = run(load(base), samples, schedule)[0]
    answer_tokens = sum(sample.answer_tokens for sample in chosen)
    assert (step.tokens, step.answer_tokens) == (sum(map(len, chosen)), answer_tokens)
    assert step.loss == pytest.approx(sum(losses) / answer_tokens, abs=1e-5)


def test_packing_and_activation_checkpointing_do_not_change_the_curve(base, samples):
    schedule = make_schedule(samples, epochs=2)
    single = dataclasses.replace(
        schedule, steps=[[[number] for row in rows for number in row] for rows in schedule.steps]
    )
    curve = run(load(base), samples, schedule)
    others = [run(load(base, checkpointing=kind), samples, schedule) for kind in (True, "selective")]
    for other in (run(load(base), samples, single), *others):
        assert [step.loss for step in other] == pytest.approx([step.loss for step in curve], abs=1e-5)
        assert [step.grad_norm for step in other] == pytest.approx(
            [step.grad_norm for step in curve], rel=1e-3
        )
    assert curve[-1].loss < curve[0].loss - 1


def test_master_weights_stay_float32_under_bfloat16(base, samples):
    net = load(base, torch.bfloat16)
    steps = run(net, samples, make_schedule(samples, epochs=2))
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert loop.logits(net, packing.collate(samples[:1]), CPU).dtype == torch.bfloat16
    assert steps[-1].loss < steps[0].loss - 1


def test_the_learning_rate_warms_up_and_decays():
    rates = [loop.learning_rate(step, 10, 1.0, 0.2) for step in range(1, 11)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True) and 0 < rates[-1] < 0.1
    assert loop.learning_rate(1, 10, 1.0, 0.0) == 1.0


def test_a_loss_that_is_not_finite_names_its_passages(base, samples):
    net = load(base)
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"step 1 has loss nan .* p\d+, .*learning_rate"):
        run(net, samples, make_schedule(samples))


def test_a_spike_stops_the_run_and_names_its_row(base, samples, monkeypatch):
    """The loss of one sample jumps at step 15, as a broken passage's would."""
    schedule = make_schedule(samples, epochs=6)
    single = dataclasses.replace(
        schedule, steps=[[[number] for row in rows for number in row] for rows in schedule.steps]
    )
    culprit = single.steps[14][2][0]
    net, before = load(base), 0
    losses = loop.token_losses
    calls = []

    def jumping(model, batch, device):
        calls.append(batch)
        jumps = len(calls) == sum(map(len, single.steps[:14])) + 3
        return losses(model, batch, device) * (1000 if jumps else 1)

    monkeypatch.setattr(loop, "token_losses", jumping)
    settings = LoopSettings(peak_rate=1e-3, warmup_share=0.2, max_grad_norm=1.0, loss_spike_factor=5)
    steps = loop.train(net, loop.make_optimizer(net, 0.0), samples, single, settings, device=CPU)
    with pytest.raises(
        UserError, match=rf"step 15 .* first {samples[culprit].passage_id} .*loss_spike_factor"
    ):
        for step in steps:
            before = step.step
    assert before == 14


def test_a_worker_without_a_row_gets_an_empty_one(base, samples):
    net = load(base)
    loss = loop.token_losses(net, packing.empty_batch(), CPU)
    loss.backward()
    assert loss.item() == 0
    assert all(float(parameter.grad.full_tensor().abs().max()) == 0 for parameter in net.parameters())


def test_mean_loss_leaves_the_model_as_it_was(base, plain, samples):
    net = load(base)
    before = copy.deepcopy(net.state_dict())
    rows = packing.pack(range(len(samples)), [len(sample) for sample in samples], 1024)
    losses = [loop.token_losses(plain, packing.collate([sample]), CPU).item() for sample in samples]
    expected = sum(losses) / sum(sample.answer_tokens for sample in samples)
    assert loop.mean_loss(net, samples, rows, CPU) == pytest.approx(expected, abs=1e-5)
    assert net.training and all(isinstance(weight, DTensor) for weight in net.parameters())
    for name, weight in net.state_dict().items():
        assert torch.equal(before[name].full_tensor(), weight.full_tensor())
    assert loop.mean_loss(net, samples, [], CPU) is None


@pytest.mark.parametrize("which", ["base", "tied_base"])
def test_the_exported_student_is_the_trained_model(which, request, samples, tokenizer, tmp_path):
    base = request.getfixturevalue(which)
    net = load(base)
    run(net, samples, make_schedule(samples))
    facts = StudentFacts(template="type", max_tokens=512, base="base", types=())
    weights = export.gather_weights(net, torch.float32)
    export.write_student(tmp_path, AutoConfig.from_pretrained(base), weights, tokenizer, facts)
    student = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert student.dtype == torch.float32 and student.config.use_cache
    batch = packing.collate(samples[:2])
    expected = loop.logits(net, batch, CPU)
    torch.testing.assert_close(loop.logits(student, batch, CPU), expected, atol=1e-6, rtol=0)
    assert (student.lm_head.weight is student.model.embed_tokens.weight) == (which == "tied_base")


def test_frequent_types_come_first():
    assert prepare.frequent_types([("b", "a"), ("b",), ("c", "a", "b")], most=2) == ["b", "a"]
