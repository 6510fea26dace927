"""What training and engines take, against GPUs that are there, promised by node types, or unknown."""

import pytest
from transformers import BertConfig, T5Config

from uniner.config.schema import EngineSection, Student, Train
from uniner.config.systems import BertSystem, GlinerSystem, InstructedSystem, InstructUIESystem
from uniner.preflight import gpus
from uniner.preflight.gpus import GpuKind, MemoryNeed, engine_need, gpu_kinds, judge, memory_of, training_need
from uniner.preflight.models import KnownModel, ModelUse
from uniner.preflight.nodes import Gpu, Machine, NodeFacts
from uniner.runtime.placement import NodeType
from uniner.storage.stage_folder import StageFolder
from uniner.train.prepare import TrainJob

A100_40 = GpuKind("A100", "node type small", (40e9,))
H100 = GpuKind("H100", "node type large", (80e9,))
A100 = GpuKind("A100", "node type gpu", (40e9, 80e9))
UNKNOWN = GpuKind("a GPU of unknown kind", "node type gpu", ())


def need(least, most=None):
    return MemoryNeed("train on GPUs", least, most or least, "raise train.workers")


@pytest.mark.parametrize(
    ("least", "most", "kinds", "level"),
    [
        (30e9, 35e9, [A100_40], "ok"),
        (30e9, 45e9, [A100_40], "warning"),
        (45e9, 50e9, [A100_40], "error"),
        (45e9, 50e9, [A100_40, H100], "warning"),
        (45e9, 50e9, [A100], "warning"),
        (85e9, 90e9, [A100], "error"),
        (30e9, 30e9, [UNKNOWN], "warning"),
        (45e9, 50e9, [], "ok"),
        (900e9, 900e9, [], "warning"),
    ],
)
def test_a_need_is_judged_by_the_gpus_that_there_are(least, most, kinds, level):
    result = judge(need(least, most), kinds)
    assert result.level == level
    assert (level == "ok") != ("raise train.workers" in result.found)


def test_the_line_names_the_gpu_and_what_is_too_much():
    result = judge(need(45e9), [A100_40])
    assert result.found == (
        "takes about 45.0 GB a GPU, more than A100 of node type small has (40.0 GB); raise train.workers"
    )


def test_without_gpus_those_that_are_enough_are_named():
    assert judge(need(45e9), []).found.endswith("enough are H100, H200, A100-80, L40S")


def test_the_memory_of_rays_names():
    assert memory_of("H200") == (141e9,)
    assert set(memory_of("A100")) == {40e9, 80e9}
    assert memory_of("A100-40G") == (40e9,) and memory_of("A100-80G") == (80e9,)
    assert memory_of("T4") == memory_of("") == memory_of("RTX-PRO-6000") == ()


def machine(*found):
    facts = NodeFacts(versions={}, code="", temporary="/tmp", free=0, gpus=found)
    return Machine(name="g", facts=facts)


def test_gpus_are_those_that_run_and_those_that_node_types_promise():
    types = [
        NodeType("cpu", {"CPU": 8}, {}, 4),
        NodeType("gpu", {"CPU": 8, "GPU": 8, "accelerator_type:A100": 1}, {}, 4),
        NodeType("other", {"GPU": 1, "accelerator_type:H100": 1}, {}, 4),
    ]
    running = machine(Gpu("NVIDIA A100-SXM4-40GB", 42e9), Gpu("NVIDIA A100-SXM4-40GB", 42e9))
    assert gpu_kinds([running], types) == [
        GpuKind("NVIDIA A100-SXM4-40GB", "g", (42e9,)),  # its driver tells what the node type leaves open
        GpuKind("H100", "node type other", (80e9,)),
    ]
    assert gpu_kinds([machine(), Machine(name="dead")], None) == []


@pytest.fixture
def llama_7b(monkeypatch):
    """A Llama of 7 B weights, of which there is a config alone."""
    from transformers import LlamaConfig

    config = LlamaConfig(vocab_size=32000, tie_word_embeddings=False)
    monkeypatch.setattr(gpus, "read_model", lambda _, name: KnownModel(name, config, None, {}))
    gpus._shape.cache_clear()
    yield "llama-7b"
    gpus._shape.cache_clear()


def training(base, tmp_path, **settings):
    train = Train(activation_checkpointing=True, **settings)
    run = StageFolder(str(tmp_path))
    return TrainJob(student=Student(base=base), train=train, seed=0, run=run, base_address=base)


def test_training_needs_the_states_of_a_shard_and_a_full_row(llama_7b, tmp_path):
    one, eight = (training_need(training(llama_7b, tmp_path, workers=w), built=False) for w in (1, 8))
    assert 16 * 6.7e9 * 1.1 < one.least < one.most < 1.2 * 16 * 6.8e9
    assert 15e9 < eight.least < eight.most < 25e9
    assert "6,738,415,616 weights on 8 workers" in eight.detail
    assert judge(one, [A100_40]).level == "error" and judge(eight, [A100_40]).level == "ok"
    files = gpus.training_files(training(llama_7b, tmp_path, workers=16))
    assert files["a checkpoint's shards"] == pytest.approx(12 * 6.74e9 / 2, rel=0.01)
    assert files["the student"] == pytest.approx(2 * 6.74e9, rel=0.01)


def test_once_build_is_done_the_estimate_counts_the_conversations(base, tmp_path, monkeypatch):
    from uniner.train import prepare

    class Known:
        class memory:
            total = 9e9

    monkeypatch.setattr(prepare, "estimate_job", lambda job: Known)
    known = training_need(training(str(base), tmp_path), built=True)
    assert known.least == known.most == pytest.approx(9e9 * 1.1 + 1e9)
    assert "once build is done" not in known.cure


def engine(model, **settings):
    return engine_need(ModelUse("student.base", model, EngineSection(**settings), window=2048))


def test_an_engine_needs_the_weights_and_the_cache_of_a_question(llama_7b):
    whole = engine(llama_7b)
    cache = 2048 * 2 * 32 * 4096 * 2
    assert whole.least == pytest.approx(6_738_415_616 * 2 + cache)
    assert engine(llama_7b, gpus=2).least == pytest.approx(whole.least / 2)
    assert engine(llama_7b, quantization="fp8", kv_cache_dtype="fp8").least == pytest.approx(whole.least / 2)
    assert engine(llama_7b, dtype="float32").least == pytest.approx(whole.least * 2)
    a10 = GpuKind("A10G", "x", (24e9,))
    assert judge(whole, [a10]).level == "ok"
    assert judge(engine(llama_7b, gpus=0.5), [a10]).level == "error", "it may use half of 24 GB"
    assert judge(engine(llama_7b, gpu_memory_utilization=0.65), [a10]).level == "warning"


def test_a_model_without_countable_weights_is_told(monkeypatch):
    from transformers import T5Config

    monkeypatch.setattr(gpus, "read_model", lambda _, name: KnownModel(name, T5Config(), None, {}))
    use = ModelUse("evaluate.system.x", "t5", EngineSection(), window=512)
    (result,) = gpus.check_engine(use, list)
    assert result.level == "ok" and "its size is not known" in result.found


@pytest.mark.parametrize(
    ("system", "config", "words"),
    [
        (
            BertSystem(kind="bert", model="m", train={"a": "b"}),
            BertConfig(),
            ["takes about 2.9 GB", "109,482,240 weights of 16 bytes", "passages take more"],
        ),
        (
            InstructUIESystem(kind="instructuie", model="m"),
            T5Config(num_layers=2),
            ["weights of 2 bytes; passages take more", "A100 of node type small has (40.0 GB)"],
        ),
        (GlinerSystem(kind="gliner", model="m"), None, ["m: not checked; its library alone knows its size"]),
        (InstructedSystem(kind="vicuna", model="m"), None, None),  # its engine is checked
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_systems_without_an_engine(system, config, words, monkeypatch):
    monkeypatch.setattr(gpus, "read_model", lambda _, name: KnownModel(name, config, None, {}))
    on_gpu = gpus.check_system("evaluate.system.x", "m", system, EngineSection(), lambda: [A100_40])
    results = list(on_gpu)
    assert len(results) == (words is not None)
    assert all(word in results[0].found for word in words or ())
    if isinstance(system, BertSystem):
        system = system.model_copy(update={"use_gpu": False})
    assert not list(gpus.check_system("x", "m", system, EngineSection(gpus=0), lambda: [A100_40]))
