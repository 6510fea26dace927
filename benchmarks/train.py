"""Measure training speed on one core, against the released code's way.

python -m benchmarks.train [steps]
python -m benchmarks.train checkpoints [rounds]

Both train the same small Llama on the same made-up conversations with UniversalNER's lengths: a passage of at
most 256 tokens, about 8 questions and answers. The two take turns, a step each:

    released   each conversation alone, padded to 1,024 tokens, logits of all tokens
    packed     the train stage's loop: conversations packed into rows, logits of the answers alone

It prints conversation tokens (without padding) a CPU second, so that other work on the machine counts little,
and their ratio; the goal is 2. Then it prints, for the paper's steps of 256 conversations in rows of 4,096
tokens, the share of all workers' time that goes into tokens; the goal is 97 %.

The second form trains a Llama of 50 M weights with a checkpoint on disk every few steps, in turns waited for
and written in the background. It prints the share of time outside the steps, and the seconds a step in all.
"""

import sys
import tempfile
import time
from itertools import pairwise

import numpy as np
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from uniner.storage.folder import Folder
from uniner.train import loop, model, packing, varlen
from uniner.train.checkpoint import Checkpoints, TrainState
from uniner.train.loop import LoopSettings
from uniner.train.packing import IGNORED, Sample, collate

PADDED = 1024
BATCH = 16
EVERY, ROUND = 3, 2  # steps between checkpoints, and checkpoints a round
VOCABULARY = 2048
CPU = torch.device("cpu")
SETTINGS = LoopSettings(peak_rate=1e-4, warmup_share=0.0, max_grad_norm=1.0)


def make_samples(count: int, seed: int = 0) -> list[Sample]:
    """Make conversations of random ids, with the passage lengths of 882 annotated passages of the Pile."""
    chance = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        passage = int(np.clip(chance.normal(271, 89), 20, 256))
        marks = [np.zeros(35 + passage, bool)]  # 35: the system line and "I've read this text."
        for _ in range(1 + chance.poisson(6.8)):
            marks += [np.zeros(18, bool), np.ones(3 + chance.geometric(0.25), bool)]
        loss = np.concatenate(marks)[:PADDED]
        samples.append(Sample(f"{number}", chance.integers(0, VOCABULARY, len(loss), np.int32), loss))
    return samples


def make_model(hidden: int = 256, layers: int = 4) -> LlamaForCausalLM:
    """Make a Llama of 4 M weights, few of them in the output layer, as in a large model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        max_position_embeddings=PADDED,
        use_cache=False,
    )
    return LlamaForCausalLM(config).train()


def released_step(net: LlamaForCausalLM, optimizer: torch.optim.Optimizer, samples: list[Sample]) -> None:
    """Train a step as the released code does, a conversation a row."""
    for sample in samples:
        batch = collate([sample])
        space = PADDED - len(sample)
        ids = torch.nn.functional.pad(torch.from_numpy(batch.input_ids), (0, space))
        labels = torch.nn.functional.pad(torch.from_numpy(batch.labels), (0, space), value=IGNORED)
        mask = torch.nn.functional.pad(torch.ones(1, len(sample), dtype=torch.long), (0, space))
        (net(input_ids=ids, attention_mask=mask, labels=labels).loss / len(samples)).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def measure(steps: int) -> dict[str, list[float]]:
    """Return each method's tokens a CPU second, step by step, after a warm-up step."""
    samples = make_samples((steps + 1) * BATCH)
    lengths = [len(sample) for sample in samples]
    schedule = packing.schedule(lengths, [1] * len(lengths), seed=0, epochs=1, batch=BATCH, row_tokens=PADDED)
    released, packed = make_model(), make_model()
    model.set_attention(packed, varlen.NAME)  # as train.attention = "auto" does on CPU
    model.shard(packed, torch.float32, CPU)
    optimizer = loop.make_optimizer(released, 0.0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    packed_optimizer = loop.make_optimizer(packed, 0.0)
    packed_steps = loop.train(packed, packed_optimizer, samples, schedule, SETTINGS, device=CPU)
    rates: dict[str, list[float]] = {"released": [], "packed": []}
    for rows in schedule.steps:
        chosen = [samples[number] for row in rows for number in row]
        times = [time.process_time()]
        released_step(released, optimizer, chosen)
        times.append(time.process_time())
        next(packed_steps)
        times.append(time.process_time())
        tokens = sum(map(len, chosen))
        for method, (start, end) in zip(rates, pairwise(times), strict=True):
            rates[method].append(tokens / (end - start))
    return {method: figures[1:] for method, figures in rates.items()}


def measure_checkpoints(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return for each way of writing checkpoints the seconds of each round and of its steps."""
    samples = make_samples(1 + 2 * rounds * ROUND * EVERY)
    lengths = [len(sample) for sample in samples]
    schedule = packing.schedule(lengths, [1] * len(lengths), seed=0, epochs=1, batch=1, row_tokens=PADDED)
    net = make_model(576, 12)
    model.shard(net, torch.float32, CPU)
    optimizer = loop.make_optimizer(net, 0.0)
    steps = loop.train(net, optimizer, samples, schedule, SETTINGS, device=CPU)
    state = TrainState("benchmark", [next(steps)])
    print(f"{net.num_parameters():,} weights, a checkpoint every {EVERY} steps")
    rounds_of: dict[str, list[tuple[float, float]]] = {"waited for": [], "background": []}
    with (
        tempfile.TemporaryDirectory(prefix="uniner-bench-") as folder,
        Checkpoints(Folder(folder), 1, None, CPU) as checkpoints,
    ):
        for _ in range(rounds):
            for method, times in rounds_of.items():
                started, within = time.perf_counter(), 0.0
                for _ in range(ROUND):
                    state.history.append(state.history[0])
                    checkpoints.save(net, optimizer, state)
                    if method == "waited for":
                        checkpoints.wait()
                    within += sum(next(steps).seconds for _ in range(EVERY))
                checkpoints.wait()
                times.append((time.perf_counter() - started, within))
    return rounds_of


def main_checkpoints(rounds: int) -> None:
    """Print the figures of both ways of writing checkpoints."""
    for method, times in measure_checkpoints(rounds).items():
        seconds, within = (sum(column) for column in zip(*times, strict=True))
        steps = rounds * ROUND * EVERY
        outside, step_s = 1 - within / seconds, seconds / steps
        print(f"{method:10} {outside:6.1%} outside the steps, {step_s:6.2f} s a step in all")


def main() -> None:
    """Print the figures of both methods and of the packing."""
    if sys.argv[1:2] == ["checkpoints"]:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        main_checkpoints(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
        dist.destroy_process_group()
        return
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    rates = {method: float(np.median(figures)) for method, figures in measure(steps).items()}
    for method, rate in rates.items():
        print(f"{method:10} {rate:8,.0f} tokens/s")
    print(f"ratio      {rates['packed'] / rates['released']:8.2f}")
    dist.destroy_process_group()
    lengths = [len(sample) for sample in make_samples(5120)]
    print(f"packing of {len(lengths):,} conversations, {np.mean(lengths):.0f} tokens each on average")
    for workers in (1, 8, 16, 64):
        schedule = packing.schedule(
            lengths, [1] * len(lengths), seed=0, epochs=1, batch=256, row_tokens=4096, workers=workers
        )
        share = packing.useful_share(schedule.steps, lengths, workers)
        print(f"{workers:3} workers {share:8.1%} useful")


if __name__ == "__main__":
    main()
