"""Adapters in the same loop: the base is unchanged, a resumed run is the same, the student is exact."""

import dataclasses
import gzip
import json
from itertools import islice

import pytest
import torch
from peft import PeftModel
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from uniner.errors import UserError
from uniner.storage.stage_folder import StageFolder
from uniner.train import export, loop, model, packing
from uniner.train.checkpoint import Checkpoints, TrainState, fetched, load
from uniner.train.loop import LoopSettings
from uniner.train.lora import LoraSettings, add_adapters, merge_adapters
from uniner.train.worker import train

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("group")


@pytest.fixture(scope="module")
def lora(base):
    return LoraSettings(rank=4, alpha=8.0, dropout=0.1, modules="all-linear", base=str(base))


def make(base, lora, dtype=torch.float32):
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(base)
    net = model.load_sharded(config, model.read_base(str(base), lora), dtype, CPU, lora=lora)
    return net, loop.make_optimizer(net, 0.0)


def run(net, optimizer, samples, done=()):
    lengths = [len(sample) for sample in samples]
    schedule = packing.schedule(lengths, [1] * len(samples), seed=0, epochs=4, batch=12, row_tokens=1024)
    settings = LoopSettings(peak_rate=3e-2, warmup_share=0.1, max_grad_norm=1.0)
    return loop.train(net, optimizer, samples, schedule, settings, losses=done, device=CPU)


def test_adapters_learn_the_base_is_unchanged_and_the_merged_student_is_exact(base, lora, samples, tmp_path):
    net, optimizer = make(base, lora)
    steps = list(run(net, optimizer, samples))
    assert steps[-1].loss < steps[0].loss - 0.15
    batch = packing.collate(samples[:3])
    expected = loop.logits(net.eval(), batch, CPU).detach()

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    weights = export.gather_weights(net, torch.float32)
    before = plain.state_dict()
    frozen = {
        name.replace(".base_layer", ""): weight for name, weight in weights.items() if "lora_" not in name
    }
    assert frozen.keys() == before.keys()
    assert all(torch.equal(frozen[name], before[name]) for name in before)

    config = AutoConfig.from_pretrained(base)
    student = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    student.load_state_dict(merge_adapters(model.empty_model(config), lora, weights, tmp_path))
    torch.testing.assert_close(loop.logits(student, batch, CPU), expected, atol=1e-5, rtol=0)
    # peft reads the exported adapter.
    beside = PeftModel.from_pretrained(plain, tmp_path)
    torch.testing.assert_close(loop.logits(beside, batch, CPU), expected, atol=1e-5, rtol=0)


def test_resumed_adapters_learn_the_same_and_the_base_is_not_stored(base, lora, samples, tmp_path):
    whole = [step.loss for step in run(*make(base, lora), samples)]
    net, optimizer = make(base, lora)
    steps = run(net, optimizer, samples)
    state = TrainState("digest", [next(steps) for _ in range(3)])
    with Checkpoints(StageFolder(str(tmp_path)), 1, None, CPU) as checkpoints:
        checkpoints.save(net, optimizer, state)
    (folder,) = tmp_path.iterdir()
    again, fresh = make(base, lora)
    with fetched(StageFolder(str(folder))) as checkpoint:
        assert load(checkpoint, again, fresh, "digest").steps == 3
    assert [step.loss for step in run(again, fresh, samples, whole[:3])] == pytest.approx(whole[3:], abs=1e-6)
    stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    learned = [name for name in stored if name.startswith(("model.", "optimizer.state."))]
    assert learned and all("lora_" in name for name in learned)


def test_frozen_weights_take_the_forward_pass_s_format(base, lora, samples):
    net, optimizer = make(base, lora, torch.bfloat16)
    first, *_, last = run(net, optimizer, samples)
    assert last.loss < first.loss - 0.15
    assert {weight.dtype for weight in net.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in net.parameters() if not weight.requires_grad} == {torch.bfloat16}


def test_layers_are_chosen_and_counted(base, lora):
    config = AutoConfig.from_pretrained(base)
    some = dataclasses.replace(lora, modules=("q_proj", "v_proj"))
    hidden, layers, queries, values = 32, 2, 4 * 32, 2 * 32
    assert model.count_weights(config, some).trained == layers * 4 * ((hidden + queries) + (hidden + values))
    assert model.count_weights(config, some).parameters > model.count_weights(config).parameters
    with pytest.raises(UserError, match=r"train.lora_modules = \('nowhere',\): "):
        model.count_weights(config, dataclasses.replace(lora, modules=("nowhere",)))


def test_the_worker_writes_a_student_and_its_adapter(make_job, local_session, tmp_path):
    job, session = make_job(epochs=1, lora_rank=4), local_session()
    result = train(job, session)
    note = session.reports[-2][2]
    assert result.figures.steps == 4 and note.startswith("loss ")
    assert "gradient" in note and "tokens/s" in note
    (line,) = session.lines
    assert "4 steps of 6 conversations" in line and "6,400 of " in line and "weights learn" in line
    folder = tmp_path / "run/train"
    packed = json.loads(gzip.decompress((folder / "packing.json.gz").read_bytes()))
    scheduled = sorted(sample for rows in packed["steps"] for row in rows for sample in row)
    assert scheduled == list(range(len(packed["samples"]))) and packed["epoch_ends"] == [4]
    history = json.loads((folder / "history.json").read_text())
    assert len(packed["digest"]) == 33 and history["validation"][-1]["questions"] == 6
    student = AutoModelForCausalLM.from_pretrained(folder / "student")
    plain = AutoModelForCausalLM.from_pretrained(job.student.base)
    beside = PeftModel.from_pretrained(plain, folder / "adapter")
    for name, weight in beside.merge_and_unload().state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], weight, atol=1e-5, rtol=0)
    assert "adapters of rank 4" in (folder / "student/README.md").read_text()


@pytest.fixture
def four_bits(lora):
    pytest.importorskip("bitsandbytes", reason="train.lora_bits needs bitsandbytes")
    return dataclasses.replace(lora, dropout=0.0, bits=4)


def test_four_bits_learn_like_the_rounded_base_and_the_student_is_exact(
    base, four_bits, samples, tokenizer, tmp_path
):
    import bitsandbytes.functional as nf4

    def losses(steps, most=3):
        return [step.loss for step in islice(steps, most)]

    rounded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    linears = [layer for layer in rounded.model.layers.modules() if isinstance(layer, torch.nn.Linear)]
    for layer in linears:
        layer.weight.data = nf4.dequantize_4bit(*nf4.quantize_4bit(layer.weight.data, quant_type="nf4"))
    rounded.save_pretrained(tmp_path / "rounded")
    tokenizer.save_pretrained(tmp_path / "rounded")
    plain = dataclasses.replace(four_bits, bits=None)
    expected = losses(run(*make(tmp_path / "rounded", plain), samples), 4)

    net, optimizer = make(base, four_bits)
    packed = [weight for name, weight in net.named_parameters() if name.endswith(".packed")]
    assert len(packed) == len(linears) and {weight.dtype for weight in packed} == {torch.uint8}
    assert sum(weight.numel() for weight in packed) == sum(layer.weight.numel() for layer in linears) / 2
    steps = list(islice(run(net, optimizer, samples), 3))
    assert [step.loss for step in steps] == pytest.approx(expected[:3], abs=1e-5)

    with Checkpoints(StageFolder(str(tmp_path / "kept")), 1, None, CPU) as checkpoints:
        checkpoints.save(net, optimizer, TrainState("digest", steps))
    (folder,) = (tmp_path / "kept").iterdir()
    stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    assert not [name for name in stored if "packed" in name or "scales" in name]
    again, fresh = make(base, four_bits)
    with fetched(StageFolder(str(folder))) as checkpoint:
        load(checkpoint, again, fresh, "digest")
    assert losses(run(again, fresh, samples, expected[:3]), 1) == pytest.approx(expected[3:], abs=1e-5)

    config, batch = AutoConfig.from_pretrained(base), packing.collate(samples[:3])
    weights = export.gather_weights(net, torch.float32)
    student = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    student.load_state_dict(
        merge_adapters(model.empty_model(config), four_bits, weights, tmp_path / "adapter")
    )
    trained = loop.logits(net.eval(), batch, CPU).detach()
    torch.testing.assert_close(loop.logits(student, batch, CPU), trained, atol=1e-5, rtol=0)


def test_four_bits_are_counted(base, four_bits):
    config = AutoConfig.from_pretrained(base)
    plain, packed = (
        model.count_weights(config, dataclasses.replace(four_bits, bits=bits)) for bits in (None, 4)
    )
    assert packed.quantized == packed.body - (plain.trained + (2 * 2 + 1) * 32)  # without adapters and norms
    assert dataclasses.replace(packed, quantized=0) == plain


def test_layers_that_are_not_linear_are_refused_in_four_bits(four_bits):
    net = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=64, n_positions=64))
    with pytest.raises(UserError, match=r"lora_bits = 4: the layer \S+ is a Conv1D, and only Linear can be"):
        add_adapters(net, four_bits)


def test_packed_weights_count_as_two_for_one_piece(base, four_bits, monkeypatch):
    counted = []
    monkeypatch.setattr(model, "in_one_piece", lambda weights, world: counted.append(weights) or True)
    make(base, dataclasses.replace(four_bits, bits=None))
    make(base, four_bits)
    assert counted[0] == counted[1]
