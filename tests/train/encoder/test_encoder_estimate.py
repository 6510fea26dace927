"""The estimate of the encoder's training: counts, memory against the training's own, price, and preflight."""

import re

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as fused
from transformers import AttentionInterface, AttentionMaskInterface, AutoModel
from typer.testing import CliRunner

from uniner import cli
from uniner.encoder.model import EncoderModel
from uniner.preflight import gpus
from uniner.preflight.gpus import GpuKind
from uniner.train.encoder import estimate, worker
from uniner.train.encoder.task import LabelledBatch

CPU = torch.device("cpu")


def rows_of(job):
    """The encoder without weights, its data, and the samples of each row."""
    encoder = worker.read_encoder(job, whole=False)
    data = worker.prepare(job, encoder)
    samples = data.training.samples
    rows = [[samples[number] for number in row] for step in data.schedule.steps for row in step]
    return encoder, data, rows


@pytest.mark.parametrize(("kind", "head"), [("bert", "span"), ("modernbert", "token"), ("deberta", "span")])
def test_the_activations_counted_are_those_that_training_keeps(make_job, kind, head):
    """For real on CPU. Attention keeps no matrix of all pairs there either, but for DeBERTa's own."""
    encoder, _, rows = rows_of(make_job(kind=kind, head=head))
    task, row = estimate.task_of(encoder), max(rows, key=len)
    batch = task.batch(row)
    batch = LabelledBatch(batch.inputs, batch.spans[:0])
    counted = estimate.row_cost(estimate._counted_model(encoder, "float32"), task, batch)
    net = EncoderModel(AutoModel.from_config(encoder.model.text_encoder.config), encoder.model.shape).train()
    if kind != "deberta":
        AttentionInterface.register(
            "fused", lambda _, q, k, v, *__, **___: (fused(q, k, v).transpose(1, 2), None)
        )
        AttentionMaskInterface.register("fused", lambda *_, **__: None)
        net.text_encoder.set_attn_implementation("fused")
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = task.loss(net, batch, CPU)
    really = sum(storage.nbytes() for storage in kept.values())
    assert loss.requires_grad and counted.kept == pytest.approx(really, rel=0.1)
    assert (
        counted.flops
        > 2 * sum(weight.numel() for weight in net.layers()[0].parameters()) * batch.inputs.input_ids.size
    )


@pytest.fixture
def run_estimate(make_job, tmp_path):
    """Return a function that asks for the estimate of a run by the command line."""
    job = make_job()
    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}"\nname = "run"\n[student]\nbase = "unused"\n'
        f'[encoder]\nbase = "{job.base_address}"\n'
        "max_width = 4\nbatch_passages = 6\nepochs = 2\nrow_tokens = 512\n"
    )
    return lambda *words: CliRunner().invoke(cli.app, ["train-encoder", str(config), "--estimate", *words])


def test_the_estimate_counts_steps_and_tokens_and_prices_gpus(run_estimate, make_job, tmp_path):
    result = run_estimate("train.usd_per_gpu_hour=1000000")
    assert result.exit_code == 0, result.output
    text = result.stdout
    _, data, rows = rows_of(make_job(epochs=2, row_tokens=512))
    tokens = sum(len(sample) for row in rows for sample in row)
    assert f"steps      {len(data.schedule.steps)}, 1 of them warm-up: 2 epochs, 6 passages a step" in text
    assert f"tokens     {tokens:,}, and " in text and "21 passages in " in text
    assert re.search(r"1 x H100 .* USD limited by starting kernels", text) and "1 x L40S" in text
    assert "price" not in text and not (tmp_path / "run" / "train-encoder").exists()


def test_on_cpu_the_speed_is_measured(run_estimate):
    result = run_estimate("encoder.use_gpu=false", "encoder.dtype=float32")
    assert result.exit_code == 0, result.output
    assert re.search(r"1 x CPU    .* at [\d,]+ tokens/s, if each worker", result.stdout)
    assert "H100" not in result.stdout and "the process and a checkpoint's copy" in result.stdout


def test_without_a_base_or_build_the_estimate_says_what_to_do(run_estimate, tmp_path):
    assert run_estimate("encoder.base=default").output.startswith(
        "error: encoder.base is not set; set it, such as "
    )
    result = run_estimate("run.name=other")
    assert result.exit_code == 2 and "other/build" in result.output


def test_twice_the_passages_a_row_take_twice_the_activations(make_job):
    job = make_job(dtype="bfloat16", use_gpu=True)
    encoder, _, _ = rows_of(job)
    short = estimate.full_row_memory(job, encoder, 1)
    long = estimate.full_row_memory(make_job(dtype="bfloat16", use_gpu=True, row_tokens=16_384), encoder, 1)
    assert long.activations == pytest.approx(2 * short.activations, rel=0.05)
    assert long.states == short.states == 16 * sum(weight.numel() for weight in encoder.model.parameters())
    sharded = make_job(dtype="bfloat16", use_gpu=True, workers=4, shard_workers=4)
    assert estimate.full_row_memory(sharded, encoder, 1).states == short.states / 4


@pytest.mark.parametrize("built", [True, False])
def test_preflight_says_before_anything_is_bought_that_an_encoder_does_not_fit(make_job, built):
    job = make_job(use_gpu=True, dtype="bfloat16", row_tokens=4096)
    need = gpus.encoder_need(job, built)
    fits, small = (GpuKind("H100", "node type gpu", (memory,)) for memory in (80e9, need.least / 2))
    (good,) = gpus.check_encoder_training(job, built, lambda: [fits])
    (bad,) = gpus.check_encoder_training(job, built, lambda: [small])
    assert (good.level, bad.level) == ("ok", "error")
    assert bad.subject == "train-encoder on GPUs" and "lower encoder.row_tokens" in bad.found
    assert ("its --estimate says it exactly" in bad.found) is not built
