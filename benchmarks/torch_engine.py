"""What `QuestionAsker` needs of an engine, by torch alone: a student answers where vLLM is not installed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from uniner.inference.engine import EngineAnswer
from uniner.inference.mention_scores import split_answer
from uniner.storage.model_folders import load_tokenizer

DROP_EVERY, ROUND = 8, 48
"""Tokens after which answers that have ended leave the batch, and after which the others wait until all
questions have as many: the few long answers of all batches are one batch."""


@dataclass
class _Request:
    """A question. limit: tokens of the longest answer. ids, logprobs: of the answer so far."""

    prompt: Sequence[int]
    limit: int
    answer: asyncio.Future[EngineAnswer]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TorchEngine:
    """Answers questions greedily in large batches, the longest prompts first.

    model: local folder. max_prompt_tokens: longest prompt. max_answer_tokens: longest answer, unless a
    question allows more. batch: questions that are decoded at a time.
    """

    def __init__(
        self,
        model: str,
        *,
        max_prompt_tokens: int,
        max_answer_tokens: int,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
        batch: int = 512,
    ):
        self.tokenizer: Any = load_tokenizer(model)
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(device).eval()
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self.window = min(max_prompt_tokens + max_answer_tokens, limit or max_prompt_tokens)
        self.max_prompt_tokens = min(max_prompt_tokens, self.window - max_answer_tokens)
        self._longest, self._device, self._batch = max_answer_tokens, device, batch
        self._open: list[_Request] = []
        self._decoding: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def admitted(self, questions: int) -> AsyncIterator[None]:  # noqa: ARG002
        """Admit all: their prompts wait in a list."""
        yield

    async def ask(
        self, prompts: Sequence[Sequence[int]], *, answer_limit: int | None = None
    ) -> list[EngineAnswer]:
        """Answer prompts, in their order, together with those of other callers."""
        loop = asyncio.get_running_loop()
        requests = [
            _Request(prompt, max(self._longest, answer_limit or 0), loop.create_future())
            for prompt in prompts
        ]
        self._open += requests
        if self._decoding is None:
            self._decoding = asyncio.create_task(self._decode())
        return [await request.answer for request in requests]

    async def _decode(self) -> None:
        waiting = -1
        while waiting != len(self._open):  # callers that are ready add theirs first
            waiting = len(self._open)
            await asyncio.sleep(0)
        end = self.tokenizer.eos_token_id
        while self._open:
            # Those that have waited last; of the others the longest first.
            self._open.sort(key=lambda request: (len(request.ids), -len(request.prompt)))
            batch, self._open = self._open[: self._batch], self._open[self._batch :]
            begun = len(batch[0].ids)
            self._generate(batch, self.window if begun else ROUND)
            for request in batch:
                full = len(request.ids) >= min(request.limit, self.window - len(request.prompt))
                if full or request.ids[-1] == end:
                    request.answer.set_result(self._answer(request.ids, request.logprobs))
                else:
                    self._open.append(request)
        self._decoding = None

    @torch.inference_mode()
    def _generate(self, requests: Sequence[_Request], most: int) -> None:
        """Continue answers up to the end token, to their limits, or by `most` tokens."""
        end, device = self.tokenizer.eos_token_id, self._device
        prompts = [[*request.prompt, *request.ids] for request in requests]
        width = max(map(len, prompts))
        most = min(most, max(request.limit - len(request.ids) for request in requests), self.window - width)
        ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        rows = torch.arange(len(prompts), device=device)
        ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        written: list[tuple[torch.Tensor, torch.Tensor]] = []
        cache = DynamicCache()
        for number in range(1, most + 1):
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            best, token = output.logits[:, -1].float().log_softmax(-1).max(-1)
            written.append((token, best))
            ended |= token == end
            ids, mask = token[:, None], torch.cat([mask, torch.ones_like(token)[:, None]], 1)
            if number % DROP_EVERY == 0 or number == most:
                _keep([requests[row] for row in rows.tolist()], written, end)
                written.clear()
                kept = (~ended).nonzero()[:, 0]
                if not len(kept):
                    break
                if len(kept) < len(rows):
                    cache.batch_select_indices(kept)
                    ids, mask, rows, ended = ids[kept], mask[kept], rows[kept], ended[kept]

    def _answer(self, ids: list[int], logprobs: list[float]) -> EngineAnswer:
        pieces = split_answer(self.tokenizer, ids, logprobs)
        text = "".join(piece.text for piece in pieces).strip()
        finish = "stop" if ids[-1] == self.tokenizer.eos_token_id else "length"
        return EngineAnswer(text, finish, pieces, len(ids))


def _keep(
    requests: Sequence[_Request], written: Sequence[tuple[torch.Tensor, torch.Tensor]], end: int
) -> None:
    """Add what was written to the answers, up to their end token or limit."""
    tokens, logprobs = (torch.stack(part, 1).tolist() for part in zip(*written, strict=True))
    for request, more, of_more in zip(requests, tokens, logprobs, strict=True):
        room = request.limit - len(request.ids)
        cut = min(room, more.index(end) + 1 if end in more else len(more))
        request.ids += more[:cut]
        request.logprobs += of_more[:cut]
