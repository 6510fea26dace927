"""Measure the tag stage's engine against plain ways to ask vLLM the same questions.

python -m benchmarks.tag [--gpu] [passages] [repeats]

Passages have 256 tokens, 10 types and answers of 8 tokens. The model is a Llama with random weights on CPU;
the KV cache holds a part of the passages, as a real one does. Each method has its own process. The methods
take turns, and each turn has new passages, so that the prefix cache starts cold:

    ours            Engine and QuestionAsker: a passage's questions together, in passage order, as token ids
    vllm.LLM        one `LLM.generate` over all questions, as text, in passage order (the original's way)
    without cache   the same without prefix caching (vLLM as it was when the original was written)
    shuffled        the same with prefix caching, the questions in random order
    ray.data.llm    a row a question, as token ids (Ray Data may separate a passage's questions)

All have the same engine options. Time runs from the first question to the last answer; for ray.data.llm from
the first question that its engine scheduled, without its start. It prints passages a second, our ratio to
each method (median of the turns), and computed prompt tokens over those that an unlimited cache would leave
to compute; vLLM gives no such figure for ray.data.llm's rows.

--gpu: only ours, with a Llama-7B in bfloat16 on one GPU. It also prints the share of PEAK_TFLOPS (by default
an H100's 989) and the GPU's idle time by nvidia-smi. THIS PART HAS NOT BEEN RUN YET.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from uniner.quickstart.prepare import BASE
from uniner.templates import SINGLE_TYPE, Renderer

TYPES = [
    "person", "organization", "location", "date", "product", "event", "disease", "chemical", "law", "work",
]  # fmt: skip
METHODS = ("ours", "vllm.LLM", "without cache", "shuffled", "ray.data.llm")
PASSAGE_TOKENS, ANSWER_TOKENS, BLOCK = 256, 8, 32
CPU = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6}
GPU = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA_7B = 6.74e9
ENGINE: dict[str, Any] = {
    "max_model_len": 1024,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2048,
    "block_size": BLOCK,
    "num_gpu_blocks_override": 512,
    "dtype": "float32",
    "load_format": "dummy",
    "seed": 0,
    "enforce_eager": True,
    "disable_log_stats": True,
    "distributed_executor_backend": "uni",  # the default on one GPU; on CPU vLLM would add a process
}


def make_model(folder: Path, sizes: dict[str, int]) -> None:
    """Write a Llama's config and the quickstart's tokenizer; vLLM makes random weights when it loads."""
    from transformers import AutoTokenizer, LlamaConfig

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.save_pretrained(folder)
    LlamaConfig(
        **sizes,
        vocab_size=max(len(tokenizer), 32_000 if sizes is GPU else 0),
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        architectures=["LlamaForCausalLM"],
        torch_dtype="bfloat16" if sizes is GPU else "float32",
    ).save_pretrained(folder)


def make_passages(turn: int, count: int, tokenizer: Any) -> list[str]:
    """Return passages of PASSAGE_TOKENS tokens; each turn has new words."""
    chance = random.Random(turn)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    passages = []
    for _ in range(count):
        words = " ".join("".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(300))
        offsets = tokenizer(words, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        passages.append(words[: offsets[PASSAGE_TOKENS - 1][1]])
    return passages


def prompts_of(passages: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Return the questions' token ids, in passage order."""
    renderer, questions = Renderer(tokenizer), [SINGLE_TYPE.question([name]) for name in TYPES]
    return [list(prompt) for passage in passages for prompt in renderer.prompts(passage, questions)]


def least_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Return the prompt tokens to compute with an unlimited prefix cache of whole blocks."""
    seen: set[int] = set()
    least = 0
    for prompt in prompts:
        ends = range(BLOCK, len(prompt), BLOCK)  # the last token is always computed
        blocks = [hash(tuple(prompt[:end])) for end in ends]
        known = next((number for number, block in enumerate(blocks) if block not in seen), len(blocks))
        least += len(prompt) - known * BLOCK
        seen.update(blocks)
    return least


Ask = Callable[[Sequence[str]], dict[str, float]]


def ours(folder: str, gpu: bool) -> Ask:
    """Return a function that asks as the tag stage does."""
    from uniner.inference.engine import Engine, EngineSettings
    from uniner.inference.questions import QuestionAsker
    from uniner.storage.manifest import merge

    seqs, batched = (1024, 16384) if gpu else (ENGINE["max_num_seqs"], ENGINE["max_num_batched_tokens"])
    settings = EngineSettings(
        max_prompt_tokens=ENGINE["max_model_len"] - ANSWER_TOKENS,
        max_answer_tokens=ANSWER_TOKENS,
        dtype="bfloat16" if gpu else ENGINE["dtype"],
        max_num_seqs=seqs,
        max_num_batched_tokens=batched,
        gpus=1 if gpu else 0,
        block_size=None if gpu else BLOCK,
    )
    engine = Engine(folder, settings, lazy=True)
    engine._arguments["load_format"] = "dummy"
    if not gpu:
        engine._arguments["num_gpu_blocks_override"] = ENGINE["num_gpu_blocks_override"]
    asker, loop = QuestionAsker(engine, SINGLE_TYPE), asyncio.new_event_loop()

    def ask(passages: Sequence[str]) -> dict[str, float]:
        started = time.monotonic()
        asked = loop.run_until_complete(asker.ask_all([(passage, TYPES) for passage in passages]))
        seconds = time.monotonic() - started
        figures = merge(answered.figures for answered in asked)
        computed = figures["prompt_tokens"] - figures.get("cached_tokens", 0)
        return {"seconds": seconds, "computed": computed, "answer_tokens": figures["answer_tokens"]}

    return ask


def plain(folder: str, shuffled: bool, cached: bool) -> Ask:
    """Return a function that gives vLLM's `LLM.generate` all questions at once, as text."""
    from vllm import LLM, SamplingParams

    llm = LLM(folder, enable_prefix_caching=cached, **ENGINE)
    tokenizer = llm.get_tokenizer()
    sampling = SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS)

    def ask(passages: Sequence[str]) -> dict[str, float]:
        texts = tokenizer.batch_decode(prompts_of(passages, tokenizer))
        if shuffled:
            random.Random(0).shuffle(texts)
        started = time.monotonic()
        outputs = llm.generate(texts, sampling, use_tqdm=False)
        seconds = time.monotonic() - started
        computed = sum(len(output.prompt_token_ids) - (output.num_cached_tokens or 0) for output in outputs)
        answers = sum(len(output.outputs[0].token_ids) for output in outputs)
        return {"seconds": seconds, "computed": computed, "answer_tokens": answers}

    return ask


def ray_data_llm(folder: str) -> Ask:
    """Return a function that runs Ray Data's vLLM processor, a row a question."""
    import ray
    import ray.data.llm
    from transformers import AutoTokenizer

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = ray.data.llm.vLLMEngineProcessorConfig(
        model_source=folder,
        engine_kwargs={**ENGINE, "disable_log_stats": False},  # the rows' times need the statistics
        log_engine_metrics=False,  # needs Ray Serve
        concurrency=1,
        batch_size=ENGINE["max_num_seqs"],  # 8 batches at once: more than the engine decodes together
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
    )
    sampling = {"temperature": 0, "max_tokens": ANSWER_TOKENS, "detokenize": False}
    processor = ray.data.llm.build_processor(
        config,
        preprocess=lambda row: {"tokenized_prompt": row["ids"], "sampling_params": sampling},
        postprocess=lambda row: {
            "first": row["metrics"]["scheduled_ts"],
            "last": row["metrics"]["last_token_ts"],
            "tokens": row["num_generated_tokens"],
        },
    )

    def ask(passages: Sequence[str]) -> dict[str, float]:
        rows = [{"ids": prompt} for prompt in prompts_of(passages, tokenizer)]
        done = processor(ray.data.from_items(rows)).take_all()
        seconds = max(row["last"] for row in done) - min(row["first"] for row in done)
        return {"seconds": seconds, "answer_tokens": sum(row["tokens"] for row in done)}

    return ask


def answer_turns(method: str, folder: str, gpu: bool) -> None:
    """Read lines "turn count" and answer each with a line of its figures."""
    from uniner.inference.engine_process import set_environment

    set_environment(os.cpu_count() or 1, on_cpu=not gpu)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the libraries' prints go to stderr
    if method == "ours":
        ask = ours(folder, gpu)
    elif method == "ray.data.llm":
        ask = ray_data_llm(folder)
    else:
        ask = plain(folder, shuffled=method == "shuffled", cached=method != "without cache")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for line in sys.stdin:
        turn, count = map(int, line.split())
        passages = make_passages(turn, count, tokenizer)
        least = least_tokens(prompts_of(passages, tokenizer))
        figures = ask(passages)
        out.write(json.dumps({**figures, "rate": count / figures["seconds"], "least": least}) + "\n")


def gpu_busy() -> Iterator[list[float]]:
    """Sample the GPU's utilisation five times a second; the list fills when the iterator goes on."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    samples: list[float] = []
    yield samples
    process.terminate()
    samples += [float(line) / 100 for line in process.communicate()[0].split() if line.isdecimal()]


class Method:
    """A method's process, which reads a turn a line and answers with the turn's figures."""

    def __init__(self, name: str, folder: str, gpu: bool, log: IO[str]):
        command = [sys.executable, "-m", "benchmarks.tag", "method", name, folder, *["--gpu"] * gpu]
        self.name, self._log, self.turns = name, log, list[dict[str, float]]()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )

    def turn(self, number: int, passages: int) -> dict[str, float]:
        """Ask about a turn's passages. Returns the figures."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{number} {passages}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self._log.seek(0)
            sys.exit(f"{self.name} failed:\n{self._log.read()[-4000:]}")
        figures: dict[str, float] = json.loads(line)
        return figures


def main(gpu: bool, count: int, repeats: int) -> None:
    """Make the model, let the methods take turns, print the table."""
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), GPU if gpu else CPU)
        log = (Path(folder) / "log").open("w+")
        methods = [Method(name, folder, gpu, log) for name in (METHODS[:1] if gpu else METHODS)]
        try:
            for method in methods:
                if method.name != "ray.data.llm":  # its engine starts anew each turn
                    method.turn(0, 2)  # start and warm up
            for number in range(1, repeats + 1):
                for method in methods:
                    samples = gpu_busy() if gpu else iter([[]])
                    busy = next(samples)
                    method.turns.append(method.turn(number, count))
                    next(samples, None)
                    if gpu:
                        print_gpu(method.turns[-1], busy)
        finally:
            for method in methods:
                method.process.communicate()  # closes its input, which ends it
    print(f"{count} passages of {PASSAGE_TOKENS} tokens, {len(TYPES)} types, median of {repeats} turns")
    for method in methods:
        print_method(method, methods[0], count)


def print_method(method: Method, ours: Method, count: int) -> None:
    """Print a method's figures, and the ratio of ours to them."""
    rate = statistics.median(figures["rate"] for figures in method.turns)
    ratio = statistics.median(
        mine["rate"] / other["rate"] for mine, other in zip(ours.turns, method.turns, strict=True)
    )
    last = method.turns[-1]
    excess = f"{last['computed'] / last['least']:6.3f}" if "computed" in last else "     -"
    print(
        f"{method.name:14} {rate:8.2f} passages/s   ours is {ratio:5.2f} x   computed over least {excess}   "
        f"{last['answer_tokens'] / count / len(TYPES):.1f} tokens an answer"
    )


def print_gpu(figures: dict[str, float], busy: list[float]) -> None:
    """Print a turn's share of the GPU's peak and its idle time."""
    peak = float(os.environ.get("PEAK_TFLOPS", 989)) * 1e12
    used = 2 * LLAMA_7B * (figures["computed"] + figures["answer_tokens"]) / figures["seconds"] / peak
    print(f"{figures['rate']:.1f} passages/s, {used:.0%} of peak, GPU idle {1 - statistics.mean(busy):.0%}")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--gpu"]
    on_gpu = "--gpu" in sys.argv
    if words[:1] == ["method"]:
        answer_turns(words[1], words[2], on_gpu)
    else:
        main(on_gpu, int(words[0]) if words else 2000 if on_gpu else 100, int(words[1]) if words[1:] else 3)
