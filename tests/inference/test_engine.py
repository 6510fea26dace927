"""The engine around vLLM: retries, hangs, crashes, settings. All tests but one use a stand-in for vLLM."""

import asyncio
import json
import os
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest

from uniner.config.schema import EngineSection
from uniner.config.teachers import VllmTeacher
from uniner.errors import UserError
from uniner.inference.engine import Engine, EngineSettings
from uniner.inference.engine_pool import chunks_in_flight, engine_pool
from uniner.inference.questions import QuestionAsker
from uniner.inference.vllm_arguments import vllm_arguments
from uniner.runtime.gpu import STAND_IN, require_gpu
from uniner.templates import SINGLE_TYPE

ANSWER = json.dumps([f"Ann {number}" for number in range(12)])


class ProcessExit(BaseException):
    """Takes the place of the process's end: nothing after it runs."""


@pytest.fixture
def no_exit(monkeypatch):
    def end(code):
        raise ProcessExit(code)

    monkeypatch.setattr(os, "_exit", end)


class StandInLLM:
    """Gives each prompt the same answer, up to the token limit, and continues an answer that was cut."""

    def __init__(self, tokenizer):
        self.answer = [*tokenizer(ANSWER, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        self.output_processor = SimpleNamespace(request_states={})
        self.requests = []

    async def generate(self, prompt, sampling, request_id):
        ids = prompt["prompt_token_ids"]
        self.requests.append((ids, sampling.max_tokens))
        done = next((n for n in range(len(self.answer), 0, -1) if ids[-n:] == self.answer[:n]), 0)
        tokens = self.answer[done : done + sampling.max_tokens]
        finish = "stop" if done + len(tokens) == len(self.answer) else "length"
        logprobs = SimpleNamespace(logprobs=[-0.5] * len(tokens))
        output = SimpleNamespace(token_ids=tokens, logprobs=logprobs, finish_reason=finish)
        yield SimpleNamespace(outputs=[output], num_cached_tokens=7)


@pytest.fixture
def make_engine(base):
    """Return a function that makes an engine with a stand-in for vLLM."""

    def make(llm=StandInLLM, **settings):
        settings = EngineSettings(**{"max_prompt_tokens": 512, "gpus": 0, **settings})
        engine = Engine(str(base), settings, lazy=True)
        engine._llm = llm(engine.tokenizer)
        return engine

    return make


def ask(engine, prompts):
    return asyncio.run(engine.ask(prompts))


def test_an_answer_that_is_cut_continues_once_to_the_larger_limit(make_engine):
    engine = make_engine(max_answer_tokens=4, retry_answer_tokens=200)
    length = len(engine._llm.answer)
    assert 8 < length < 200
    (answer,) = ask(engine, [[5, 6]])
    assert (answer.text, answer.finish, answer.retried, answer.tokens) == (ANSWER, "stop", True, length)
    assert "".join(piece.text for piece in answer.pieces) == ANSWER
    assert sum(piece.logprob for piece in answer.pieces) == pytest.approx(-0.5 * length, abs=0.5)
    # The tokens of the first try are not asked for again, and count towards the limit.
    assert engine._llm.requests == [([5, 6], 4), ([5, 6, *engine._llm.answer[:4]], 196)]
    reply = asyncio.run(QuestionAsker(engine, SINGLE_TYPE).ask("Ann.", ["person", "city"]))
    assert {answer.outcome for answer in reply.answers} == {"ok"}
    assert (reply.figures["retried"], reply.figures["answer_tokens"]) == (2, 2 * length)


@pytest.mark.parametrize(("retry", "limits"), [(0, [4]), (3, [4]), (9, [4, 5])])
def test_an_answer_that_is_still_cut_is_too_long(make_engine, retry, limits):
    engine = make_engine(max_answer_tokens=4, retry_answer_tokens=retry)
    reply = asyncio.run(QuestionAsker(engine, SINGLE_TYPE).ask("Ann.", ["person"]))
    assert [answer.outcome for answer in reply.answers] == ["too_long"]
    assert [limit for _, limit in engine._llm.requests] == limits
    assert reply.figures["retried"] == len(limits) - 1


def test_an_answer_that_grows_with_its_passage_has_a_limit_of_its_own_within_the_window(make_engine):
    engine = make_engine(max_prompt_tokens=100, max_answer_tokens=4, retry_answer_tokens=0)
    assert engine.window == 104
    for prompt, limit, used in (([5, 6], 60, 60), ([5] * 80, 60, 24), ([5] * 100, 60, 4), ([5, 6], 2, 4)):
        engine._llm.requests.clear()
        asyncio.run(engine.ask([prompt], answer_limit=limit))
        assert engine._llm.requests == [(prompt, used)]


def test_a_retry_stays_in_the_window_and_the_prompt_keeps_its_length(make_engine):
    engine = make_engine(max_prompt_tokens=2040, max_answer_tokens=4, retry_answer_tokens=1024)
    assert (engine.window, engine.max_prompt_tokens) == (2048, 2040)  # the model's own limit is 2,048
    ask(engine, [[5] * 2040, [5] * 2038])
    assert [limit for _, limit in engine._llm.requests] == [4, 4, 4, 6]
    assert all(len(ids) + limit <= engine.window for ids, limit in engine._llm.requests)


class Hangs(StandInLLM):
    """Answers only the prompts that begin with 9, and never the others."""

    async def generate(self, prompt, sampling, request_id):
        if prompt["prompt_token_ids"][0] != 9:
            await asyncio.Event().wait()
        async for output in super().generate(prompt, sampling, request_id):
            yield output


class Slow(StandInLLM):
    """Has one token more each time its progress is read, and answers after the fifth."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.reads, self.done = 0, asyncio.Event()
        self.output_processor.request_states["1"] = SimpleNamespace(
            detokenizer=SimpleNamespace(num_output_tokens=self.read)
        )

    def read(self):
        self.reads += 1
        if self.reads == 5:
            self.done.set()
        return self.reads

    async def generate(self, prompt, sampling, request_id):
        await self.done.wait()
        async for output in super().generate(prompt, sampling, request_id):
            yield output


def test_the_process_ends_when_its_engine_hangs(make_engine, no_exit, caplog):
    engine = make_engine(Hangs, hang_timeout_s=0.05)
    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(asyncio.wait_for(engine.ask([[9], [5]]), 30))
    assert caught.group_contains(ProcessExit, match="1")
    assert "returned no token for 0.05 s" in caplog.text


def test_a_slow_engine_may_finish(make_engine, no_exit):
    engine = make_engine(Slow, hang_timeout_s=0.05)
    (answer,) = ask(engine, [[5]])
    assert answer.finish == "stop" and engine._llm.reads >= 5


def test_the_process_ends_when_its_engine_died(make_engine, no_exit):
    from vllm.v1.engine.exceptions import EngineDeadError

    class Dead(StandInLLM):
        async def generate(self, prompt, sampling, request_id):
            raise EngineDeadError
            yield

    with pytest.raises(ProcessExit, match="1"):
        ask(make_engine(Dead), [[5]])


def test_settings_reach_vllm(base):
    def arguments(**settings):
        return Engine(str(base), EngineSettings(max_prompt_tokens=512, **settings), lazy=True)._arguments

    plain = arguments()
    assert (plain["quantization"], plain["kv_cache_dtype"], plain["max_model_len"]) == (None, "auto", 768)
    fp8 = arguments(quantization="fp8", kv_cache_dtype="fp8", retry_answer_tokens=1024)
    assert (fp8["quantization"], fp8["kv_cache_dtype"], fp8["max_model_len"]) == ("fp8", "fp8", 1536)
    half = arguments(gpus=0.5)  # two engines share the GPU's memory
    assert (half["gpu_memory_utilization"], half["tensor_parallel_size"]) == (0.45, 1)


def test_cpus_take_the_place_of_a_gpu_only_where_a_machine_says_so(base, monkeypatch):
    def eager():
        return Engine(str(base), EngineSettings(max_prompt_tokens=512, gpus=1), lazy=True)._arguments[
            "enforce_eager"
        ]

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for value in (None, "0"):
        if value:
            monkeypatch.setenv(STAND_IN, value)
        assert not eager()
        with pytest.raises(UserError, match="Ray gave this process a GPU on"):
            require_gpu()
    monkeypatch.setenv(STAND_IN, "1")
    require_gpu()
    assert eager()


def test_settings_come_from_the_config_section():
    values = {
        "dtype": "float16", "gpus": 2.0, "cpus": 3.0, "max_num_seqs": 7, "max_num_batched_tokens": 70,
        "gpu_memory_utilization": 0.5, "block_size": 16,
    }  # fmt: skip
    lengths = {"max_answer_tokens": 9, "retry_answer_tokens": 10}
    fp8 = {"quantization": "fp8", "kv_cache_dtype": "fp8"}
    section = EngineSection(**values, **lengths, **fp8, hang_timeout_s=11, actors=5, min_actors=4)
    settings = EngineSettings.of(section, max_prompt_tokens=12)
    expected = {**values, **lengths, **fp8, "hang_timeout_s": 11, "max_prompt_tokens": 12}
    assert {field.name: getattr(settings, field.name) for field in fields(settings)} == expected
    assert EngineSettings.of(section, max_prompt_tokens=12, retry_answer_tokens=0).retry_answer_tokens == 0
    teacher = EngineSettings.of(VllmTeacher(model="m", **values, max_prompt_tokens=13))
    assert (teacher.max_prompt_tokens, teacher.dtype, teacher.quantization) == (13, "float16", None)
    pool = engine_pool(section, lambda: None, 50)
    assert (pool.actors, pool.min_actors, pool.cpus, pool.gpus) == (5, 4, 3, 2)
    assert pool.chunks_in_flight == chunks_in_flight(section, 50)
    assert pool.max_chunk_crashes == section.max_chunk_crashes


@pytest.mark.parametrize(
    ("questions", "chunks"), [(20_480, 2), (1_280, 2), (1_000, 3), (100, 14), (1, 64), (0, 64)]
)
def test_the_chunks_in_flight_fill_the_engine_while_one_of_them_ends(questions, chunks):
    section = EngineSection(max_num_seqs=1024)
    assert chunks_in_flight(section, questions) == chunks
    assert chunks_in_flight(EngineSection(chunks_in_flight=5), questions) == 5


def test_a_full_decoding_step_has_a_cuda_graph():
    def largest_graph(**settings):
        arguments = vllm_arguments("m", EngineSettings(max_prompt_tokens=9, **settings), 9, False)
        return arguments.get("max_cudagraph_capture_size")

    assert largest_graph(max_num_seqs=1024) == 1024
    assert largest_graph(max_num_seqs=512) is None, "vLLM's own choice covers 512"
    assert largest_graph(max_num_seqs=1024, gpus=0) is None


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM's CPU memory is looked up in Linux's /proc")
def test_vllm_without_memory_ends_in_one_line(base, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1000000")
    with pytest.raises(
        UserError, match=r"too little memory to start the engine \(ValueError: Available memory on node"
    ):
        Engine(str(base), EngineSettings(max_prompt_tokens=512, dtype="float32", gpus=0, block_size=32))
    assert "VLLM_LOGGING_CONFIG_PATH" not in os.environ


@pytest.mark.parametrize(("name", "capability", "refused"), [
    ("NVIDIA A100-SXM4-40GB", (8, 0), True), ("NVIDIA L40S", (8, 9), False), ("NVIDIA H100", (9, 0), False),
])  # fmt: skip
def test_an_8_bit_cache_is_refused_on_a_gpu_without_kernels(
    make_engine, monkeypatch, name, capability, refused
):
    platform = SimpleNamespace(
        get_device_capability=lambda: SimpleNamespace(major=capability[0], minor=capability[1]),
        get_device_name=lambda: name,
    )
    monkeypatch.setattr("vllm.platforms.current_platform", platform, raising=False)
    if refused:
        with pytest.raises(
            UserError, match=r"kv_cache_dtype = fp8: NVIDIA A100.*8\.0\) has no such kernels; unset"
        ):
            make_engine(gpus=1, kv_cache_dtype="fp8")
    else:
        make_engine(gpus=1, kv_cache_dtype="fp8")


def test_without_vllm_the_error_says_what_to_install(base, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs vLLM, which is not installed .* pip install 'uniner\[gpu\]'"):
        Engine(base, EngineSettings(max_prompt_tokens=9))
