"""vLLM's asynchronous engine: token ids in, answers out. No Ray, no config.

The questions of a passage are sent together: vLLM keeps the blocks of their common prefix from the step in
which the first of them is scheduled, so that the passage is computed once, whatever the number of types.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from uniner.errors import UserError
from uniner.inference.engine_process import (
    alone_on_gpu,
    causes_noted,
    children_watched,
    not_started,
    set_environment,
)
from uniner.inference.mention_scores import Piece, pieces

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What the model said to one question.

    finish: stop (the end token came) or length (cut at the limit). pieces: the text, not stripped, cut by
    its tokens, with their log-probabilities. cached: prompt tokens that came from the prefix cache. retried:
    it was cut at first, and then asked for with the larger limit.
    """

    text: str
    finish: str
    pieces: tuple[Piece, ...]
    tokens: int
    cached: int = 0
    retried: bool = False


class Engine:
    """A model that answers questions given as token ids; where greedily, deterministic on CPU in float32.

    model: local folder or hub name. max_tokens: longest prompt (of a student, the longest conversation that
    it was trained on); the window is that and an answer, or the model's own limit where that is shorter. An
    answer cut at max_answer_tokens goes on to retry_answer_tokens, as far as the window lets it; 0: it is
    cut. gpus: 0 runs on CPU, more than 1 splits the model over so many; where it is less than 1, so is what
    gpu_memory_utilization is the share of. It, quantization, kv_cache_dtype, max_num_seqs, block_size and
    max_num_batched_tokens are vLLM's. Where nothing comes of questions for hang_seconds, this process ends.
    Takes half a minute to start, of a large model minutes: `lazy` leaves that to the first question.
    with_schemas: answers may be made to follow a JSON schema.

    Raises:
        UserError: where the model cannot be asked: no end token, no room for a question and an answer, too
            little memory, or vLLM refuses it (an architecture it does not know, attention heads that the GPUs
            cannot share).
    """

    def __init__(
        self,
        model: str,
        *,
        max_tokens: int,
        max_answer_tokens: int = 256,
        retry_answer_tokens: int = 0,
        dtype: str = "auto",
        quantization: str | None = None,
        kv_cache_dtype: str = "auto",
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
        cpus: float = 2,
        gpus: float = 1,
        gpu_memory_utilization: float = 0.9,
        block_size: int | None = None,
        hang_seconds: float = 600,
        with_schemas: bool = False,
        lazy: bool = False,
    ):
        set_environment(cpus, on_cpu=gpus == 0)
        from transformers import AutoConfig, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        if self.tokenizer.eos_token_id is None:
            raise UserError(f"{model}: its tokenizer has no end-of-sequence token, so no answer would end")
        limit = getattr(AutoConfig.from_pretrained(model).get_text_config(), "max_position_embeddings", None)
        longest = max(max_answer_tokens, retry_answer_tokens)
        self.window = min(max_tokens + longest, limit or sys.maxsize)
        self.max_prompt_tokens = min(max_tokens, self.window - max_answer_tokens)
        if self.max_prompt_tokens < 1:
            raise UserError(
                f"{model} takes {limit} tokens, which leaves no room beside answers of {max_answer_tokens}; "
                "lower engine.max_answer_tokens, or annotate.max_reply_tokens of a teacher"
            )
        devices = max(1, round(gpus))
        self._max_answer_tokens, self._retry_answer_tokens = max_answer_tokens, retry_answer_tokens
        self._hang_seconds, self._shares_gpu = hang_seconds, 0 < gpus < 1
        self._arguments: dict[str, Any] = {
            "model": model,
            "dtype": dtype,
            "quantization": quantization,
            "kv_cache_dtype": kv_cache_dtype,
            "max_model_len": self.window,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max(max_num_batched_tokens, max_num_seqs),
            "gpu_memory_utilization": gpu_memory_utilization * (gpus if 0 < gpus < 1 else 1),
            "block_size": block_size,
            "enable_prefix_caching": True,
            "enforce_eager": gpus == 0,  # compiling for a CPU takes longer than it saves
            "tensor_parallel_size": devices,
            # Named, because inside a Ray actor vLLM would otherwise ask Ray for workers of its own.
            "distributed_executor_backend": "uni" if devices == 1 else "mp",
            "skip_tokenizer_init": not with_schemas,  # ids in, ids out
            "generation_config": "vllm",  # greedy, whatever the model's folder says
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "seed": 0,
        }
        # A quarter more than the engine decodes at once: it never waits for us, and the passages at work are
        # few enough that the cache still holds their prefixes when their last questions are scheduled.
        self._places = max_num_seqs + max(1, max_num_seqs // 4)
        self._free = asyncio.Semaphore(self._places)
        self._door = asyncio.Lock()
        self._asked = self._answered = 0
        self._llm: Any = None
        self._starting: asyncio.Task[None] | None = None
        if not lazy:
            self._start()

    def _start(self) -> None:
        from pydantic import ValidationError
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        model = self._arguments["model"]
        causes: list[Any] = []
        try:
            with (
                alone_on_gpu(self._shares_gpu),
                children_watched() as self._watch,
                causes_noted() as (noting, causes),
            ):
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments, **noting))
        except ValidationError as error:
            said = " ".join(error.errors()[0]["msg"].split())
            raise UserError(f"{model}: vLLM refuses it with these settings: {said}") from None
        except (ValueError, OSError, NotImplementedError, RuntimeError) as error:
            raise not_started(model, error, causes) from error

    async def _started(self) -> None:
        """Start it where it was left to the first question: once, whoever waits, also where it fails."""
        if self._llm is None:
            self._starting = self._starting or asyncio.create_task(asyncio.to_thread(self._start))
            await asyncio.shield(self._starting)

    @contextlib.asynccontextmanager
    async def admitted(self, questions: int) -> AsyncIterator[None]:
        """Wait, first come first served, until the engine has room for so many questions."""
        needed = min(questions, self._places)
        async with self._door:  # one at a time, or two could wait for ever, each with half of its places
            for _ in range(needed):
                await self._free.acquire()
        try:
            yield
        finally:
            for _ in range(needed):
                self._free.release()

    async def ask(
        self,
        prompts: Sequence[Sequence[int]],
        temperature: float = 0.0,
        schema: dict[str, Any] | None = None,
    ) -> list[Answer]:
        """Answer a passage's prompts, all sent at once. No prompt may be longer than `max_prompt_tokens`.

        schema: the JSON schema that the answers must follow. Where the engine itself died, or hangs, this
        process ends too: whoever runs it then starts another.
        """
        await self._started()
        from vllm.v1.engine.exceptions import EngineDeadError

        sampling = self._sampling(temperature, schema)
        try:
            async with asyncio.TaskGroup() as asking:
                tasks = [asking.create_task(self._answer(prompt, sampling)) for prompt in prompts]
                await self._watch_over(tasks)
        except ExceptionGroup as group:
            if group.subgroup(EngineDeadError):
                _end("the vLLM engine died")
            raise
        return [task.result() for task in tasks]

    async def _watch_over(self, tasks: Collection[asyncio.Task[Answer]]) -> None:
        """Wait for answers, and end this process where nothing at all comes from the engine for too long."""
        before = None  # looked at only once it takes long: to look costs as much as all that is in hand
        while tasks:
            _, tasks = await asyncio.wait(tasks, timeout=self._hang_seconds)
            if tasks and (now := self._progress()) == before:
                _end(f"the vLLM engine has given no token for {self._hang_seconds:g} s")
            elif tasks:
                before = now

    def _progress(self) -> tuple[int, int]:
        """Return what changes with each step of the engine: answers given, and tokens of those in hand."""
        in_hand = self._llm.output_processor.request_states.values()
        return self._answered, sum(state.detokenizer.num_output_tokens() for state in in_hand)

    def _sampling(self, temperature: float, schema: dict[str, Any] | None) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        return SamplingParams(
            temperature=temperature,
            max_tokens=self._max_answer_tokens,
            stop_token_ids=[self.tokenizer.eos_token_id],
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
            skip_clone=True,  # else vLLM makes a deep copy a question
        )

    async def _answer(self, prompt: Sequence[int], sampling: Any) -> Answer:
        """Answer a prompt; an answer that is cut goes on from there to the larger limit, once."""
        output = await self._generate(prompt, sampling)
        (completion,) = output.outputs
        ids, logprobs = [*completion.token_ids], [*completion.logprobs.logprobs]
        more = min(self._retry_answer_tokens, self.window - len(prompt)) - len(ids)
        retried = completion.finish_reason == "length" and more > 0
        if retried:
            sampling = sampling.clone()
            sampling.max_tokens = more
            # What it has said so far is in the prefix cache too: only what was cut off is computed.
            (completion,) = (await self._generate([*prompt, *ids], sampling)).outputs
            ids += completion.token_ids
            logprobs += completion.logprobs.logprobs
        cut = pieces(self.tokenizer, ids, logprobs)
        text = "".join(piece.text for piece in cut).strip()
        cached = output.num_cached_tokens or 0
        self._answered += 1
        return Answer(text, completion.finish_reason, cut, len(ids), cached, retried)

    async def _generate(self, prompt: Sequence[int], sampling: Any) -> Any:
        """Return vLLM's output of one request, once it is finished."""
        from vllm.inputs import tokens_input

        self._asked += 1
        # Marked as ids: of what it takes for text, vLLM hands each prompt to a thread and back.
        async for output in self._llm.generate(tokens_input(list(prompt)), sampling, str(self._asked)):
            (completion,) = output.outputs
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a question with {completion.finish_reason}")
        return output

    async def close(self) -> None:
        """End the engine's processes. A worker that is simply killed needs no close."""
        if self._llm is None:
            return
        handler = self._llm.output_handler
        self._llm.shutdown()
        if handler:
            await asyncio.wait([handler])
        del self._llm
        if self._watch:
            await asyncio.to_thread(self._watch.communicate)


def _end(why: str) -> NoReturn:
    """End this process at once, and with it what vLLM has started."""
    log.critical("%s; this process ends", why)
    os._exit(1)
