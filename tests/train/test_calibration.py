"""The speed of training on CPU, measured with parts of a model, against the speed of the whole model."""

import time
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, Gemma3TextConfig
from typer.testing import CliRunner

from uniner import cli
from uniner.storage.stage_folder import StageFolder
from uniner.train import calibration, loop, model, packing
from uniner.train.loop import LoopSettings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def deep_base(save_llama):
    """A base of more layers than are measured."""
    return save_llama(num_hidden_layers=8)


def seconds_of_steps(base, row, rows_a_step):
    """The CPU seconds of each step of the whole model, after a warm-up."""
    net = model.load_sharded(AutoConfig.from_pretrained(base), model.read_base(str(base)), torch.float32, CPU)
    schedule = packing.Schedule([[list(range(len(row)))] * rows_a_step] * 4, frozenset())
    settings = LoopSettings(peak_rate=1e-5, warmup_share=0.0, max_grad_norm=1.0)
    steps = loop.train(net, loop.make_optimizer(net, 0.0), row, schedule, settings, device=CPU)
    times = [time.process_time(), *(time.process_time() for _ in steps)]
    return sorted(end - start for start, end in pairwise(times))[:3]


def test_parts_of_a_model_tell_the_speed_of_the_whole(deep_base, samples):
    """In CPU seconds, so that other work on the machine counts little; within a factor, as it does count."""
    row, threads = samples[:4], torch.get_num_threads()
    speed = calibration.cpu_speed(AutoConfig.from_pretrained(deep_base), row, torch.float32)
    assert torch.get_num_threads() == threads and not dist.is_initialized()
    with calibration._only_worker():
        measured = seconds_of_steps(deep_base, row, rows_a_step=2)
    assert 0.5 < (2 * speed.row_seconds + speed.step_seconds) / measured[1] < 2


def test_a_long_row_is_measured_in_part(samples):
    whole = samples * (2 + 2048 // sum(map(len, samples)))
    row, share = calibration._shortened(whole)
    assert sum(map(len, row)) == 1024 and share == 1024 / sum(map(len, whole))
    short, share = calibration._shortened(samples[:2])
    assert list(map(len, short)) == list(map(len, samples[:2])) and share == 1.0


def test_a_part_of_a_config_keeps_its_kinds_of_layers():
    whole = Gemma3TextConfig(num_hidden_layers=12)
    part = calibration._part(whole, 2, 64)
    assert part.layer_types == whole.layer_types[:2] and (part.vocab_size, part.pad_token_id) == (64, None)
    assert whole.num_hidden_layers == 12 and calibration._part(whole, 1, None).vocab_size == whole.vocab_size


def test_the_estimate_of_a_run_on_cpu_tells_its_time(base, conversations, write_build, tmp_path):
    write_build(StageFolder(str(tmp_path)) / "r" / "build", conversations)
    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}"\nname = "r"\n[student]\nbase = "{base}"\nmax_tokens = 256\n'
        '[ingest]\nshards = ["none"]\n[train]\nuse_gpu = false\nworkers = 2\ndtype = "float32"\n'
    )
    result = CliRunner().invoke(cli.app, ["train", str(config), "--estimate"])
    assert result.exit_code == 0
    last = result.stdout.splitlines()[-1]
    assert last.startswith("2 x CPU") and "tokens/s" in last and "H100" not in result.stdout
