"""The estimate against known figures of the model and the data; it starts nothing."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3Config,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
)
from typer.testing import CliRunner

from uniner import cli
from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.runtime import gpu_models
from uniner.storage.stage_folder import StageFolder
from uniner.train import activations, estimate, loop, model, packing, prepare, stage, worker
from uniner.train.prepare import config_and_tokenizer, require_window

LLAMA_7B = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    tie_word_embeddings=False,
)
SMALL = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
LOAD = estimate.TrainingLoad(
    conversations=45_889,
    split=0,
    set_aside=0,
    samples=45_889,
    validation=0,
    epochs=3,
    batch=256,
    steps=540,
    warmup=22,
    tokens=82_800_000,
    answer_tokens=5_000_000,
    rows=540 * 5 * 8,
    turns=540 * 5,
    squared_lengths=82_800_000 * 600,
    useful_share=1.0,
    row_tokens=4096,
    row_answers=300,
)


@pytest.fixture(scope="module")
def llama():
    return model.count_weights(LLAMA_7B)


def test_a_7b_model_is_counted_without_being_loaded(llama):
    assert llama.parameters == llama.trained == 6_738_415_616
    assert llama.parameters - llama.body == 2 * 32000 * 4096
    assert llama.layer == pytest.approx(4 * 4096**2 + 3 * 4096 * 11008, rel=1e-3)


def test_tied_weights_are_counted_once(tied_base, base):
    tied, untied = (model.count_weights(AutoConfig.from_pretrained(folder)) for folder in (tied_base, base))
    assert untied.parameters - tied.parameters == tied.output == untied.output
    assert tied.body == untied.body


def test_compute_and_time_are_those_of_the_paper_s_recipe(llama):
    """6 x 6.48e9 x 82.8e6 is 3.217e18; attention and, for the answers, the output layer come on top."""
    operations = estimate.flops(llama, LOAD, checkpointing=False)
    assert operations == pytest.approx(3.217e18 + 0.039e18 + 0.004e18, rel=1e-3)
    assert estimate.flops(llama, LOAD, checkpointing="selective") == operations
    repeated = estimate.flops(llama, LOAD, checkpointing=True)
    assert repeated == pytest.approx(operations * 4 / 3, rel=0.01)
    assert estimate.compute_seconds(operations, LOAD, 8, 989e12, 0.42) / 60 == pytest.approx(16.35, rel=1e-3)
    waiting = dataclasses.replace(LOAD, useful_share=0.5)
    assert estimate.compute_seconds(operations, waiting, 8, 989e12, 0.42) / 60 == pytest.approx(
        32.7, rel=1e-3
    )
    adapters = dataclasses.replace(llama, trained=llama.trained // 100)
    assert estimate.flops(adapters, LOAD, checkpointing=False) == pytest.approx(operations * 2 / 3)


def test_memory_is_sharded_and_checkpointing_saves_most_activations(llama):
    eight = estimate.memory(llama, LOAD, 8, 2, checkpointing=False)
    assert eight.states == pytest.approx(6.738e9 * 16 / 8, rel=1e-3)
    assert estimate.memory(llama, LOAD, 64, 2, False).states == eight.states / 8
    selective, whole = (estimate.memory(llama, LOAD, 8, 2, kind).activations for kind in ("selective", True))
    assert eight.activations > 4 * whole and 0.5 < selective / eight.activations < 0.6
    assert selective - whole == pytest.approx(4096 * 32 * 2 * (6 * 4096 + 2 * 11008), rel=0.01)
    adapters = dataclasses.replace(llama, trained=20_000_000)
    assert estimate.memory(adapters, LOAD, 8, 2, False).states < eight.states / 7
    assert eight.gathered < 2 * 6.738e9 / 5
    packed = dataclasses.replace(adapters, quantized=32 * (4 * 4096**2 + 3 * 4096 * 11008))
    rest = packed.parameters - packed.trained - packed.quantized
    expected = 16 * packed.trained + 2 * rest + packed.quantized * (1 / 2 + 4 / 64)
    assert estimate.memory(packed, LOAD, 1, 2, True).states == pytest.approx(expected)


def test_a_quantized_model_in_one_piece_is_gathered_with_its_packed_bytes(llama):
    small = dataclasses.replace(llama, parameters=900_000_000, trained=9_000_000, body=800_000_000)
    packed = dataclasses.replace(small, quantized=700_000_000)
    whole, by_bytes = (estimate.memory(shape, LOAD, 1, 2, True).gathered for shape in (small, packed))
    unpacked = 2 * llama.hidden * llama.intermediate
    assert by_bytes == pytest.approx(whole - 700_000_000 * (2 - 1 / 2) + unpacked)


def test_activations_are_those_that_autograd_keeps(llama):
    """A norm keeps its input in float32, so a layer keeps 12 hidden + 4 intermediate numbers in bfloat16."""
    numbers = 12 * 4096 + 4 * 11008
    assert llama.kept == pytest.approx(32 * 2 * numbers, rel=0.01)
    config = LlamaConfig(**SMALL, num_attention_heads=4)
    whole, grouped = (
        model.count_weights(LlamaConfig(**SMALL, num_attention_heads=4, num_key_value_heads=heads)).kept
        for heads in (4, 1)
    )
    assert whole - grouped == 2 * 2 * 2 * (64 - 16), "two layers, keys and values in two bytes"
    experts = MixtralConfig(**SMALL, num_attention_heads=4, num_local_experts=2)
    assert model.count_weights(experts).kept > whole
    exact = model.count_weights(config, dtype=torch.float32).kept
    assert exact == pytest.approx(measured_on_cpu(config), rel=0.05)


def test_a_model_that_cannot_run_without_values_counts_as_a_llama(monkeypatch):
    def fail(*_):
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(activations, "_forward", fail)
    guessed = model.count_weights(LlamaConfig(**SMALL))
    assert guessed.kept == 2 * 2 * (12 * 64 + 4 * 96)
    assert guessed.kept_selectively == 2 * 2 * (7 * 64 + 2 * 96)


def row_of(net, tokens):
    """A row's logits at its first token."""
    ids = np.zeros((1, tokens), np.int64)
    batch = packing.Batch(ids, np.arange(tokens)[None], ids)
    return loop.logits(net, batch, torch.device("cpu"), torch.tensor([0]))


def measured_on_cpu(config):
    """What a token really keeps, from rows of two lengths on the CPU."""
    net, kept = AutoModelForCausalLM.from_config(config, dtype=torch.float32), []
    weights = {weight.untyped_storage().data_ptr() for weight in net.parameters()}
    for tokens in (100, 200):
        storages = {}

        def pack(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = row_of(net, tokens)
        kept.append(sum(storage.nbytes() for at, storage in storages.items() if at not in weights))
        del output
    return (kept[1] - kept[0]) / 100


def test_selective_checkpointing_keeps_what_the_estimate_counts(monkeypatch):
    """On CPU, whose attention keeps its sums in float32 too: what the layers save, and their inputs."""
    config, caches = LlamaConfig(**SMALL, num_attention_heads=4, num_key_value_heads=2), []
    make = activations.create_selective_checkpoint_contexts

    def collect(policy):
        contexts = make(policy)
        caches.append(contexts[0].storage)
        return contexts

    monkeypatch.setattr(activations, "create_selective_checkpoint_contexts", collect)
    net, kept = AutoModelForCausalLM.from_config(config, dtype=torch.float32), []
    activations.checkpoint_layers(activations.decoder_layers(net), "selective")
    for tokens in (100, 200):
        caches.clear()
        output = row_of(net, tokens)
        saved = [each.val for cache in caches for results in cache.values() for each in tensors_of(results)]
        kept.append(sum(tensor.untyped_storage().nbytes() for tensor in saved))
        del output
    counted = model.count_weights(config, dtype=torch.float32).kept_selectively
    assert counted == pytest.approx((kept[1] - kept[0]) / 100 + 2 * 4 * 64, rel=0.01)


def tensors_of(results):
    """What is saved of an operator's calls; what is computed again is a mark."""
    leaves = torch.utils._pytree.tree_leaves(list(results.values()))
    return [leaf for leaf in leaves if isinstance(getattr(leaf, "val", None), torch.Tensor)]


def test_a_worker_on_cpu_needs_its_process_and_a_copy_for_checkpoints(llama):
    gpu, cpu = (estimate.memory(llama, LOAD, 4, 2, False, on_cpu=on_cpu) for on_cpu in (False, True))
    copy = 12 * llama.trained / 4
    assert cpu.total == pytest.approx(0.7e9 + 1.3 * (gpu.total + copy))


def test_between_nodes_the_network_may_decide(llama):
    """A row costs 8 bytes a weight: with few tokens a row, sending takes longer than computing."""
    fast = estimate.TrainingEstimate(
        base="llama",
        shape=llama,
        load=dataclasses.replace(LOAD, turns=540),
        memory=estimate.memory(llama, LOAD, 64, 2, False),
        flops=estimate.flops(llama, LOAD, False),
        traffic=estimate.traffic(llama, dataclasses.replace(LOAD, turns=540), 64, 2),
        workers=64,
        fewest_workers=8,
        shards=64,
        copies_traffic=0.0,
        share_of_peak=0.4,
        usd_per_gpu_hour=2.0,
    )
    assert fast.traffic == pytest.approx(540 * 8 * 6.738e9, rel=1e-3)
    assert fast.hours("H100") == pytest.approx(fast.traffic / 50e9 / 3600)
    assert "64 x H100   10 min, 20.70 USD limited by the network" in fast.text()
    eight = dataclasses.replace(fast, workers=8, shards=8)
    assert eight.hours("H100") == pytest.approx(fast.flops / (8 * 989e12 * 0.4) / 3600)
    assert estimate.traffic(llama, LOAD, 1, 2) == 0
    # Copies of eight: weights are gathered within a node, an eighth of the gradients crosses nodes.
    between = estimate.copies_traffic(llama, fast.load, 64, 8)
    assert between == pytest.approx(540 * 8 * 6.738e9 / 8, rel=1e-3)
    assert estimate.copies_traffic(llama, fast.load, 8, 8) == 0
    copies = dataclasses.replace(fast, shards=8, copies_traffic=between)
    seconds = fast.traffic / 450e9 + between / 50e9
    others = copies._compute_seconds("H100"), copies._launch_seconds("H100")
    assert copies.hours("H100") == pytest.approx(max(seconds, *others) / 3600)
    assert ", 8 share a copy" in copies.text()


def test_a_gpu_s_peak_is_found_by_its_name():
    assert gpu_models.peak_flops("NVIDIA H200") == gpu_models.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert gpu_models.peak_flops("NVIDIA A100-SXM4-40GB") == 312e12
    assert gpu_models.peak_flops("Tesla T4") is None


def test_the_estimate_is_printed_and_nothing_starts(base, conversations, write_build, tmp_path):
    """By the command line, before Ray starts: figures counted from the data, exit code 0."""
    write_build(StageFolder(str(tmp_path)) / "r" / "build", conversations)
    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}"\nname = "r"\n[student]\nbase = "{base}"\nmax_tokens = 256\n'
        '[ingest]\nshards = ["none"]\n[train]\nepochs = 2\nbatch_conversations = 6\nworkers = [8, 64]\n'
    )
    words = ["train", str(config), "--estimate", "train.usd_per_gpu_hour=1000000"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0
    text = result.stdout
    assert "21 conversations (0 split), 21 samples, 0 questions set aside; 3 for validation" in text
    assert "8, 1 of them warm-up: 2 epochs, 6 conversations a step" in text
    weights = model.count_weights(AutoConfig.from_pretrained(base)).parameters
    assert f"{weights:,} weights, all learn" in text
    # memory is of the fewest workers, time and price of the most
    assert "a worker of 8" in text and "64 x H200" in text and " USD" in text
    assert not (tmp_path / "r" / "train").exists()


@pytest.fixture
def run_estimate(base, conversations, write_build, tmp_path):
    """Return a function that asks for the estimate of a run by the command line."""
    write_build(StageFolder(str(tmp_path)) / "r" / "build", conversations)
    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}"\nname = "r"\n[student]\nbase = "{base}"\nmax_tokens = 256\n'
        "[train]\nbatch_conversations = 6\n"
    )
    return lambda *words: CliRunner().invoke(cli.app, ["train", str(config), "--estimate", *words])


def test_on_cpu_workers_without_a_row_take_no_time_and_are_named(run_estimate, monkeypatch):
    """A step has six conversations: from six workers on, each has a row of its own or none."""
    speed = estimate.CpuSpeed(row_seconds=1000.0, step_seconds=0.0)
    monkeypatch.setattr(prepare, "_cpu_speed", lambda *_: speed)

    def estimated(workers):
        result = run_estimate("train.use_gpu=false", "train.dtype=float32", f"train.workers={workers}")
        assert result.exit_code == 0, result.output
        return re.search(r"x CPU +(.*?) at", result.stdout)[1], "have nothing to do" in result.stdout

    one, six, many = estimated(1), estimated(6), estimated(600)
    assert six[0] == many[0] != one[0]
    assert (one[1], six[1], many[1]) == (False, False, True)
    words = ("train.use_gpu=false", "train.dtype=float32", "train.workers=600")
    assert "most of the 600 have nothing to do: a step has about 6 rows; train.workers=6 " in (
        run_estimate(*words).stdout
    )


def test_an_estimate_goes_on_without_libraries_that_only_the_workers_need(run_estimate, monkeypatch, caplog):
    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None)
    result = run_estimate("train.float8=true", "train.attention=flash_attention_3", "train.tracker=wandb")
    assert result.exit_code == 0 and "21 conversations" in result.output
    for line in ("train.float8 = true needs the library torchao", "train.tracker = wandb needs the library"):
        assert line in caplog.text
    on_cpu = run_estimate("train.attention=flash_attention_2", "train.use_gpu=false")
    assert on_cpu.exit_code == 2
    assert "flash_attention_2 trains only on GPUs; set train.attention=auto on CPU" in on_cpu.output


def test_rows_that_are_long_already_get_no_hint_of_shorter_ones(run_estimate):
    words = ["train.batch_conversations=21", "train.workers=1"]
    hint = "; train.pack_tokens="
    assert hint in run_estimate(*words, "train.pack_tokens=1024").output
    assert hint not in run_estimate(*words, "train.pack_tokens=1000000000").output
    assert "; rows of 4,096 tokens" in run_estimate(*words).output, "unset, they are chosen"


def test_a_max_tokens_that_no_conversation_fits_names_one_that_does(run_estimate):
    result = run_estimate("student.max_tokens=20")
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert "student.max_tokens = 20: all 21 conversations to train on are longer" in result.output
    enough = re.search(r"set student\.max_tokens=(\d+), which takes 21 of them", result.output)[1]
    fitting = run_estimate(f"student.max_tokens={enough}")
    assert fitting.exit_code == 0 and "21 conversations" in fitting.output
    assert ", 0 questions set aside" in fitting.output


def test_where_no_window_takes_a_conversation_the_passages_must_be_shorter(save_llama, run_estimate):
    base = save_llama(max_position_embeddings=30)
    result = run_estimate("student.max_tokens=20", f"student.base={base}")
    assert result.exit_code == 2
    assert "the base model takes at most 30, so lower ingest.max_tokens in another run" in result.output


def test_a_base_whose_answers_could_not_end_is_one_line(base, run_estimate, stage_context, tmp_path):
    folder = tmp_path / "endless"
    shutil.copytree(base, folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in settings.items() if name != "eos_token"}))
    line = f"student.base {folder}: the tokenizer has no end-of-sequence token"
    result = run_estimate(f"student.base={folder}")
    assert result.exit_code == 2 and result.output.startswith(f"error: {line}")
    run, student = {"root": str(tmp_path), "name": "r"}, {"base": str(folder), "max_tokens": 256}
    config = Config.model_validate({"run": run, "student": student})
    with pytest.raises(UserError, match=line):
        stage.check(stage_context(stage, config))


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (MambaConfig(num_hidden_layers=2), "mamba has layers without attention"),
        (
            Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]),
            r"without attention \(conv\)",
        ),
    ],
)
def test_a_base_that_mixes_the_conversations_of_a_row_is_refused(config, layers, base, tmp_path):
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"student.base {tmp_path}: .*{layers}.* Llama, Qwen or Mistral"):
        config_and_tokenizer(str(tmp_path))


def test_the_window_is_read_from_a_nested_text_config(base, tmp_path):
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    Gemma3Config(text_config={"num_hidden_layers": 2, "max_position_embeddings": 64}).save_pretrained(
        tmp_path
    )
    config, _ = config_and_tokenizer(str(tmp_path))
    with pytest.raises(UserError, match=r"student\.max_tokens = 65: the base model takes at most 64"):
        require_window(65, config)
    require_window(64, config)


@pytest.mark.usefixtures("group")
def test_out_of_gpu_memory_is_one_line_and_is_not_tried_again(monkeypatch, make_job, local_session):
    """Ray starts the workers again; they return the line, which ends the run."""
    tries = []

    def fail(job, session):
        tries.append(job)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(worker, "_train", fail)
    line = r"GPU memory \(CUDA out of memory.*lower train\.pack_tokens"
    with pytest.raises(UserError, match=line):
        worker.train(make_job(), local_session())
    result = worker.train(make_job(), local_session())
    assert re.search(line, result.error) and len(tries) == 1
