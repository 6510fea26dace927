"""vLLM's asynchronous engine: token ids in, answers out. No Ray, no config.

The questions of a passage are sent together: vLLM keeps the blocks of their common prefix from the step in
which the first of them is scheduled, so that the passage is computed once, whatever the number of types.
"""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from uniner.errors import UserError
from uniner.tag.confidence import Piece, pieces

log = logging.getLogger(__name__)
_MARK = "UNINER_ENGINE"
_CPU_KV_CACHE_GIB = "1"


@dataclass(frozen=True)
class Answer:
    """What the model said to one question.

    finish: stop (the end token came) or length (cut at the limit). pieces: the text, not stripped, cut by
    its tokens, with their log-probabilities. cached: prompt tokens that came from the prefix cache.
    """

    text: str
    finish: str
    pieces: tuple[Piece, ...]
    tokens: int
    cached: int = 0


class Engine:
    """A model that answers questions given as token ids; where greedily, deterministic on CPU in float32.

    model: local folder or hub name. max_tokens: longest prompt (of a student, the longest conversation that
    it was trained on); the window is that and an answer, or the model's own limit where that is shorter.
    gpus: 0 runs on CPU, more than 1 splits the model over so many. max_num_seqs, max_num_batched_tokens,
    block_size and gpu_memory_utilization are vLLM's. Takes half a minute to start, of a large model minutes:
    `lazy` leaves that to the first question. with_schemas: answers may be made to follow a JSON schema.

    Raises:
        UserError: where the model cannot be asked: no end token, no room for a question and an answer, or
            vLLM refuses it (an architecture it does not know, attention heads that the GPUs cannot share).
    """

    def __init__(
        self,
        model: str,
        *,
        max_tokens: int,
        max_answer_tokens: int = 256,
        dtype: str = "auto",
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
        cpus: float = 2,
        gpus: float = 1,
        gpu_memory_utilization: float = 0.9,
        block_size: int | None = None,
        with_schemas: bool = False,
        lazy: bool = False,
    ):
        _set_environment(cpus, on_cpu=gpus == 0)
        from transformers import AutoConfig, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        if self.tokenizer.eos_token_id is None:
            raise UserError(f"{model}: its tokenizer has no end-of-sequence token, so no answer would end")
        limit = getattr(AutoConfig.from_pretrained(model).get_text_config(), "max_position_embeddings", None)
        self.window = min(max_tokens + max_answer_tokens, limit or sys.maxsize)
        self.max_prompt_tokens = self.window - max_answer_tokens
        if self.max_prompt_tokens < 1:
            raise UserError(
                f"{model} takes {limit} tokens, which leaves no room beside answers of {max_answer_tokens}; "
                "lower engine.max_answer_tokens, or annotate.max_reply_tokens of a teacher"
            )
        devices = max(1, round(gpus))
        self._max_answer_tokens = max_answer_tokens
        self._arguments: dict[str, Any] = {
            "model": model,
            "dtype": dtype,
            "max_model_len": self.window,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max(max_num_batched_tokens, max_num_seqs),
            "gpu_memory_utilization": gpu_memory_utilization,
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
        self._asked = 0
        self._llm: Any = None
        self._starting: asyncio.Task[None] | None = None
        if not lazy:
            self._start()

    def _start(self) -> None:
        from pydantic import ValidationError
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            with _children_watched() as self._watch:
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments))
        except ValidationError as error:
            said = " ".join(error.errors()[0]["msg"].split())
            raise UserError(
                f"{self._arguments['model']}: vLLM refuses it with these settings: {said}"
            ) from None

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

        schema: the JSON schema that the answers must follow. Where the engine itself died, this process ends
        too: whoever runs it then starts another.
        """
        await self._started()
        from vllm.v1.engine.exceptions import EngineDeadError

        sampling = self._sampling(temperature, schema)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(prompt, sampling)) for prompt in prompts]
        except* EngineDeadError:
            log.critical("the vLLM engine died; this process ends")
            os._exit(1)
        return [task.result() for task in tasks]

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
        )

    async def _answer(self, prompt: Sequence[int], sampling: Any) -> Answer:
        from vllm import TokensPrompt

        self._asked += 1
        outputs = self._llm.generate(TokensPrompt(prompt_token_ids=list(prompt)), sampling, str(self._asked))
        async for output in outputs:
            (completion,) = output.outputs
            ids = [*completion.token_ids]
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a question with {completion.finish_reason}")
        cut = pieces(self.tokenizer, ids, completion.logprobs.logprobs)
        text = "".join(piece.text for piece in cut).strip()
        return Answer(text, completion.finish_reason, cut, len(ids), output.num_cached_tokens or 0)

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


def _set_environment(cpus: float, on_cpu: bool) -> None:
    """Set what vLLM reads from the environment, before it is imported; what the user has set of it stands."""
    settings = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked engine would hold the watch's pipe open
    }
    if on_cpu:
        # nobind: else all engines of a machine bind to its same first cores. PASSIVE: threads that wait do
        # not spin, which on a busy machine made an engine 6 times slower.
        settings |= {
            "VLLM_CPU_KVCACHE_SPACE": _CPU_KV_CACHE_GIB,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(cpus) - 1))  # one is for the engine's own work
    for name, value in settings.items():
        os.environ.setdefault(name, value)


# Several passes: a process has no environment to read for a moment while it starts.
_WATCH = """
import os, sys, time
sys.stdin.buffer.read()
mark = sys.argv[1].encode()
for _ in range(5):
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                marked = mark in file.read().split(bytes(1))
            if marked:
                os.kill(int(pid), 9)
        except OSError:
            pass
    time.sleep(0.2)
"""


@contextlib.contextmanager
def _children_watched() -> Iterator[subprocess.Popen[bytes] | None]:
    """Let none of the processes that are started in this block outlive this one, however it ends.

    vLLM's engine process does not notice when its parent is killed: it would keep the GPU's memory, and the
    actor that is started in the killed one's place would find none (ray#54364, vllm#34643). Ray's process
    group cleanup cures it where it is on (tried: off, the engine stays for good); this does so everywhere. A
    small process holds the reading end of a pipe; when this process is gone it kills all that inherited our
    mark.
    """
    if not sys.platform.startswith("linux"):
        yield None
        return
    mark = uuid.uuid4().hex
    unmarked = {name: value for name, value in os.environ.items() if name != _MARK}
    command = [sys.executable, "-S", "-E", "-c", _WATCH, f"{_MARK}={mark}"]
    watch = subprocess.Popen(command, stdin=subprocess.PIPE, env=unmarked, start_new_session=True)
    os.environ[_MARK] = mark
    try:
        yield watch
    finally:
        del os.environ[_MARK]
