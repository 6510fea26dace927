"""The recommended length of packed rows, by the memory that they take of each kind of GPU."""

import dataclasses
from functools import partial

import pytest
import torch
from transformers import LlamaConfig

from uniner.train import estimate, model, prepare, worker
from uniner.train.estimate import GPUS, TrainingLoad
from uniner.train.row_length import recommended_rows

SIZES = {"vocab_size": 32_000, "tie_word_embeddings": False}
SMALL = LlamaConfig(
    hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, **SIZES
)
LARGE = LlamaConfig(
    hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32, **SIZES
)
LOAD = TrainingLoad(
    conversations=46_000, split=0, set_aside=0, samples=46_000, validation=0, epochs=1, batch=256, steps=180,
    warmup=8, tokens=180 * 256 * 460, answer_tokens=180 * 256 * 25, rows=180 * 120, turns=180 * 15,
    useful_share=1.0, squared_lengths=180 * 256 * 460**2, row_tokens=1024, row_answers=70,
)  # fmt: skip


@pytest.fixture(scope="module", params=[SMALL, LARGE], ids=["0.4B", "7B"])
def student(request):
    return model.count_weights(request.param)


def rows_of(shape, checkpointing=False, workers=8, load=LOAD, shortest=1024):
    needs = partial(
        estimate.memory, shape, workers=workers, number_bytes=2, checkpointing=checkpointing, on_cpu=False
    )
    return recommended_rows(needs, load, workers, shortest)


def estimate_of(student, flops, rows):
    return estimate.TrainingEstimate(
        base="b", shape=student, load=LOAD, memory=estimate.memory(student, LOAD, 8, 2, True), flops=flops,
        traffic=0.0, workers=8, fewest_workers=8, shards=8, copies_traffic=0.0, share_of_peak=0.4,
        usd_per_gpu_hour=0.0, rows=rows,
    )  # fmt: skip


def test_small_students_have_long_rows_and_large_ones_what_fits(student):
    rows = rows_of(student)
    if student.layers == 28:
        assert rows == dict.fromkeys(GPUS, 16_384)
        return
    assert rows["H200"] > rows["H100"] == rows["A100-80"] > rows["A100-40"]
    assert rows["H100"] < rows_of(student, "selective")["H100"] <= rows_of(student, True)["H100"]
    assert "A100-40" not in rows_of(student, workers=2), "the weights alone do not fit"
    for kind, row in rows.items():
        taken = estimate.memory(
            student, dataclasses.replace(LOAD, row_tokens=row, row_answers=row // 14), 8, 2, False
        )
        assert 1.1 * taken.total + 1e9 < 0.95 * GPUS[kind].memory


def test_rows_are_no_longer_than_a_worker_s_share_of_a_step_and_no_shorter_than_a_conversation(student):
    few = dataclasses.replace(LOAD, tokens=180 * 8 * 2000)
    assert set(rows_of(student, True, load=few).values()) == {2048}
    assert set(rows_of(student, True, load=few, shortest=4096).values()) == {4096}


def test_a_run_with_short_rows_says_that_longer_ones_fit(student):
    rows = rows_of(student, True)
    expected = estimate_of(student, 1e15, rows)
    hint = expected.row_hint("NVIDIA H100 80GB HBM3")
    assert f"train.pack_tokens={rows['H100']}" in hint and "at most 1,024 tokens" in hint
    assert expected.row_hint("Tesla T4") is None
    assert f"; train.pack_tokens={rows['H200']} fits" in expected.text()
    chosen = dataclasses.replace(expected, chosen_rows=True)
    assert f"; rows of {rows['H200']:,} tokens" in chosen.text()
    full = dataclasses.replace(expected, load=dataclasses.replace(LOAD, row_tokens=rows["H100"] - 100))
    assert full.row_hint("NVIDIA H100 80GB HBM3") is None


def test_starting_kernels_limits_short_rows_and_long_ones_less(student):
    expected = estimate_of(student, 1e12, {"H100": 4096})
    assert expected.hours("H100") * 3600 == pytest.approx(LOAD.turns * student.layers * 0.009)
    assert "limited by starting kernels" in expected.text()
    chosen = dataclasses.replace(expected, chosen_rows=True)
    assert chosen.hours("H100") == pytest.approx(expected.hours("H100") / 4)
    assert chosen.hours("L40S") == expected.hours("H100"), "no row is known for it"


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(("changes", "attention", "longer"), [
    ({}, "varlen", True), ({"pack_tokens": 300}, "varlen", False), ({}, None, False), ({}, "sdpa", False),
])  # fmt: skip
def test_a_gpu_gets_long_rows_of_the_same_steps(make_job, monkeypatch, changes, attention, longer):
    monkeypatch.setattr(worker, "choose_attention", lambda *_: attention)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    job = make_job(use_gpu=True, batch_conversations=40, **changes)
    config, tokenizer = prepare.config_and_tokenizer(job.base_address)
    read = prepare.read_conversations(job)
    data = prepare.prepare(job, read, prepare.tokenize(job, read, tokenizer), tokenizer, config)
    same, _ = worker._in_long_rows(job, data, config, torch.device("cpu"))
    long, expected = worker._in_long_rows(job, data, config, torch.device("cuda"))
    assert same is data and long.digest() == data.digest(), "a checkpoint resumes under either"
    assert (len(long.schedule.steps[0]) < len(data.schedule.steps[0])) == longer
    assert expected.load.row_tokens == max(
        sum(len(long.training.samples[number]) for number in row)
        for step in long.schedule.steps
        for row in step
    )
