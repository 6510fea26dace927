"""The engine around vLLM: second tries, hangs, deaths, failed starts. vLLM itself is a stand-in but once."""

import asyncio
import json
import logging
import multiprocessing
import os
import sys
import tempfile
from types import SimpleNamespace

import pytest
from filelock import FileLock, Timeout

from uniner.errors import UserError
from uniner.inference.engine import Engine
from uniner.inference.engine_process import Cause, CauseHandler, alone_on_gpu, not_started
from uniner.inference.questions import Asker
from uniner.templates import SINGLE_TYPE

SAID = json.dumps([f"Ann {number}" for number in range(12)])


class Ended(BaseException):
    """Stands for the end of the process: nothing after it runs."""


@pytest.fixture
def ended(monkeypatch):
    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)


class LLM:
    """Gives each prompt the same answer, a limited number of tokens at once; goes on where it left off."""

    def __init__(self, tokenizer):
        self.answer = [*tokenizer(SAID, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        self.output_processor = SimpleNamespace(request_states={})
        self.asked = []

    async def generate(self, prompt, sampling, request_id):
        ids = prompt["prompt_token_ids"]
        self.asked.append((ids, sampling.max_tokens))
        standing = next((n for n in range(len(self.answer), 0, -1) if ids[-n:] == self.answer[:n]), 0)
        said = self.answer[standing : standing + sampling.max_tokens]
        finish = "stop" if standing + len(said) == len(self.answer) else "length"
        logprobs = SimpleNamespace(logprobs=[-0.5] * len(said))
        output = SimpleNamespace(token_ids=said, logprobs=logprobs, finish_reason=finish)
        yield SimpleNamespace(outputs=[output], num_cached_tokens=7)


@pytest.fixture
def make_engine(base):
    """Return a function that makes an engine with a stand-in for vLLM's."""

    def make(llm=LLM, **settings):
        engine = Engine(str(base), lazy=True, **{"max_tokens": 512, "gpus": 0, **settings})
        engine._llm = llm(engine.tokenizer)
        return engine

    return make


def ask(engine, prompts):
    return asyncio.run(engine.ask(prompts))


def test_an_answer_that_is_cut_goes_on_once_to_the_larger_limit(make_engine):
    engine = make_engine(max_answer_tokens=4, retry_answer_tokens=200)
    length = len(engine._llm.answer)
    assert 8 < length < 200
    (answer,) = ask(engine, [[5, 6]])
    assert (answer.text, answer.finish, answer.retried, answer.tokens) == (SAID, "stop", True, length)
    assert "".join(piece.text for piece in answer.pieces) == SAID
    assert sum(piece.logprob for piece in answer.pieces) == pytest.approx(-0.5 * length, abs=0.5)
    # What it had said is not asked for again, and counts towards the limit.
    assert engine._llm.asked == [([5, 6], 4), ([5, 6, *engine._llm.answer[:4]], 196)]
    asked = asyncio.run(Asker(engine, SINGLE_TYPE).ask("Ann.", ["person", "city"]))
    assert {reply.outcome for reply in asked.replies} == {"ok"}
    assert (asked.figures["retried"], asked.figures["answer_tokens"]) == (2, 2 * length)


@pytest.mark.parametrize(("retry", "limits"), [(0, [4]), (3, [4]), (9, [4, 5])])
def test_an_answer_that_is_still_cut_is_too_long(make_engine, retry, limits):
    engine = make_engine(max_answer_tokens=4, retry_answer_tokens=retry)
    asked = asyncio.run(Asker(engine, SINGLE_TYPE).ask("Ann.", ["person"]))
    assert [reply.outcome for reply in asked.replies] == ["too_long"]
    assert [limit for _, limit in engine._llm.asked] == limits
    assert asked.figures["retried"] == len(limits) - 1


def test_a_second_try_stays_in_the_window_and_takes_nothing_from_the_prompt(make_engine):
    engine = make_engine(max_tokens=2040, max_answer_tokens=4, retry_answer_tokens=1024)
    assert (engine.window, engine.max_prompt_tokens) == (2048, 2040)  # the model's own limit is 2,048
    ask(engine, [[5] * 2040, [5] * 2038])
    assert [limit for _, limit in engine._llm.asked] == [4, 4, 4, 6]
    assert all(len(ids) + limit <= engine.window for ids, limit in engine._llm.asked)


class Hangs(LLM):
    """Answers nothing, ever, but the prompts that begin with 9."""

    async def generate(self, prompt, sampling, request_id):
        if prompt["prompt_token_ids"][0] != 9:
            await asyncio.Event().wait()
        async for output in super().generate(prompt, sampling, request_id):
            yield output


class Slow(LLM):
    """Gives a token each time that somebody looks, and answers after the fifth."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.looks, self.done = 0, asyncio.Event()
        self.output_processor.request_states["1"] = SimpleNamespace(
            detokenizer=SimpleNamespace(num_output_tokens=self.look)
        )

    def look(self):
        self.looks += 1
        if self.looks == 5:
            self.done.set()
        return self.looks

    async def generate(self, prompt, sampling, request_id):
        await self.done.wait()
        async for output in super().generate(prompt, sampling, request_id):
            yield output


def test_a_process_whose_engine_hangs_ends(make_engine, ended, caplog):
    engine = make_engine(Hangs, hang_seconds=0.05)
    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(asyncio.wait_for(engine.ask([[9], [5]]), 30))
    assert caught.group_contains(Ended, match="1")
    assert "has given no token for 0.05 s" in caplog.text


def test_an_engine_that_is_slow_is_waited_for(make_engine, ended):
    engine = make_engine(Slow, hang_seconds=0.05)
    (answer,) = ask(engine, [[5]])
    assert answer.finish == "stop" and engine._llm.looks >= 5


def test_a_process_whose_engine_died_ends(make_engine, ended):
    from vllm.v1.engine.exceptions import EngineDeadError

    class Dead(LLM):
        async def generate(self, prompt, sampling, request_id):
            raise EngineDeadError
            yield

    with pytest.raises(Ended, match="1"):
        ask(make_engine(Dead), [[5]])


def test_what_is_set_reaches_vllm(base):
    def arguments(**settings):
        return Engine(str(base), max_tokens=512, lazy=True, **settings)._arguments

    plain = arguments()
    assert (plain["quantization"], plain["kv_cache_dtype"], plain["max_model_len"]) == (None, "auto", 768)
    fp8 = arguments(quantization="fp8", kv_cache_dtype="fp8", retry_answer_tokens=1024)
    assert (fp8["quantization"], fp8["kv_cache_dtype"], fp8["max_model_len"]) == ("fp8", "fp8", 1536)
    half = arguments(gpus=0.5)  # two engines share the GPU's memory
    assert (half["gpu_memory_utilization"], half["tensor_parallel_size"]) == (0.45, 1)


FAILED = RuntimeError(
    "Engine core initialization failed. See root cause above. Failed core proc(s): {'E': 1}"
)
KILLED = RuntimeError(
    "Engine core initialization failed. See root cause above. Failed core proc(s): {'E': -9}"
)


@pytest.mark.parametrize(
    ("error", "kind", "said", "told"),
    [
        (FAILED, "OutOfMemoryError", "CUDA out of memory. Wanted\n2 GiB", "memory .*2 GiB.*max_num_seqs"),
        (FAILED, "ValueError", "No available memory for the cache", "little memory .*max_num_seqs"),
        (FAILED, "ValueError", "Free memory on device 0 is less", "lower engine.gpu_memory_util"),
        (KILLED, "", "", "too little memory .*process was killed"),
        (FAILED, "ValueError", "fp8 needs another", "does not start with this.*fp8 needs another"),
        (ValueError("no such backend"), "", "", "does not start with this model.*no such backend"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_start_says_in_one_line_what_to_do(error, kind, said, told):
    causes = [Cause(kind, said, "..."), Cause("Exception", "WorkerProc failed", "...")] if kind else []
    raised = not_started("students/a", error, causes)
    assert isinstance(raised, UserError) and "\n" not in str(raised)
    with pytest.raises(UserError, match=f"^students/a: .*{told}"):
        raise raised


@pytest.mark.parametrize(
    "causes", [[], [Cause("AttributeError", "no attribute 'x'", "  File core.py, line 3")]]
)
def test_a_defect_is_shown_with_its_traceback_and_not_as_the_users(causes):
    raised = not_started("students/a", FAILED, causes)
    assert isinstance(raised, RuntimeError)
    assert ("line 3" if causes else "Engine core initialization failed") in str(raised)


def fail(file):
    log = logging.getLogger("vllm.test")
    log.addHandler(CauseHandler(file))
    try:
        raise ValueError("too\nlittle")
    except ValueError:
        log.exception("EngineCore failed to start.")
    log.error("no exception")


def test_causes_come_from_another_process_whole(tmp_path):
    file = tmp_path / "causes.jsonl"
    process = multiprocessing.get_context("spawn").Process(target=fail, args=[str(file)])
    process.start()
    process.join()
    (line,) = file.read_text().splitlines()
    found = Cause(**json.loads(line))
    assert (found.kind, found.said) == ("ValueError", "too\nlittle") and "in fail" in found.trace
    (tmp_path / "gone").mkdir()
    fail(str(tmp_path / "none" / "causes.jsonl"))  # the start is over: the log alone has it


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM's CPU memory is looked up in Linux's /proc")
def test_vllm_itself_without_memory_ends_in_one_line(base, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1000000")
    with pytest.raises(
        UserError, match=r"too little memory to start it \(ValueError: Available memory on node"
    ):
        Engine(str(base), max_tokens=512, dtype="float32", gpus=0, block_size=32)
    assert "VLLM_LOGGING_CONFIG_PATH" not in os.environ


def test_engines_that_share_a_gpu_start_one_by_one(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with alone_on_gpu(False):
        assert not list(tmp_path.iterdir())
    with alone_on_gpu(True):
        (lock,) = tmp_path.iterdir()
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
        with alone_on_gpu(True):
            pass  # another GPU's engines need not wait
    with FileLock(lock).acquire(timeout=0):
        pass
