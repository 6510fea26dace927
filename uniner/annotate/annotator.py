"""Ask the teacher about passages, many at a time, through the openai client.

The client retries 408, 409, 429, 5xx, time-outs and lost connections with back-off and honours Retry-After.
What the server says of one passage is that row's outcome; what is wrong with the server, the key or the model
ends the stage, and the same command goes on later.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai
from openai import AsyncOpenAI

from uniner.annotate.prompts import JSON_SCHEMA, Prompt
from uniner.annotate.replies import Pair, judge
from uniner.errors import UserError
from uniner.records import ANNOTATION, Annotation, Entity, Passage, from_table, to_table
from uniner.storage import Chunk
from uniner.templates import locate

# Statuses that tell of the key, the model or the load; any other 4xx is about the passage that was sent.
_NOT_OF_A_PASSAGE = {401, 403, 404, 408, 409, 429}


@dataclass(frozen=True)
class Teacher:
    """How to reach and ask the teacher. Prices are US dollars a million tokens."""

    model: str
    base_url: str | None
    prompt: Prompt
    reply_format: str
    temperature: float
    max_reply_tokens: int
    in_flight: int
    timeout_s: float
    retries: int
    usd_per_million_in: float
    usd_per_million_out: float


class Annotator:
    """The stage's worker: a chunk of passages in, the same passages annotated out, in the same order."""

    def __init__(self, teacher: Teacher, api_key: str | None = None):
        self._teacher = teacher
        self._client = AsyncOpenAI(
            api_key=api_key, base_url=teacher.base_url, max_retries=teacher.retries, timeout=teacher.timeout_s
        )
        self._format: Any = {"response_format": JSON_SCHEMA} if teacher.reply_format == "json_schema" else {}
        self._free = asyncio.Semaphore(teacher.in_flight)

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Annotate a chunk."""
        passages = from_table(chunk.table, Passage)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._annotate(passage)) for passage in passages]
        annotations = [task.result() for task in tasks]
        figures = {
            "requests": sum(annotation.attempts for annotation in annotations),
            "tokens_in": sum(annotation.tokens_in for annotation in annotations),
            "tokens_out": sum(annotation.tokens_out for annotation in annotations),
            "cost_usd": sum(annotation.cost_usd for annotation in annotations),
            "entities": sum(len(annotation.entities) for annotation in annotations),
        }
        return Chunk(chunk.key, to_table(annotations, ANNOTATION), figures=figures)

    async def _annotate(self, passage: Passage) -> Annotation:
        async with self._free:
            try:
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=self._teacher.model,
                    messages=self._teacher.prompt.messages(passage.text),  # type: ignore[arg-type]
                    temperature=self._teacher.temperature,
                    max_tokens=self._teacher.max_reply_tokens,
                    **self._format,
                )
            except openai.APIStatusError as error:
                if error.status_code in _NOT_OF_A_PASSAGE or error.status_code >= 500:
                    raise UserError(self._explain(error)) from error
                return self._record(passage, _rejection(error), _said(error), 0, 0, 1)
            except openai.OpenAIError as error:
                raise UserError(self._explain(error)) from error
        completion, attempts = raw.parse(), raw.retries_taken + 1
        choice = completion.choices[0]
        reply = choice.message.content or ""
        usage = completion.usage
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        outcome, pairs = judge(reply, choice.finish_reason, choice.message.refusal)
        return self._record(passage, outcome, reply, *tokens, attempts, pairs)

    def _record(
        self,
        passage: Passage,
        outcome: str,
        reply: str,
        tokens_in: int,
        tokens_out: int,
        attempts: int,
        pairs: tuple[Pair, ...] = (),
    ) -> Annotation:
        teacher = self._teacher
        cost = (tokens_in * teacher.usd_per_million_in + tokens_out * teacher.usd_per_million_out) / 1e6
        return Annotation(
            passage.passage_id,
            passage.doc_id,
            passage.text,
            outcome,
            reply,
            entities_of(passage.text, pairs),
            teacher.model,
            tokens_in,
            tokens_out,
            cost,
            attempts,
        )

    def _explain(self, error: openai.OpenAIError) -> str:
        where = f"teacher {self._teacher.model} at {self._client.base_url}"
        said = _said(error)[:200]
        if isinstance(error, openai.APITimeoutError):
            return (
                f"{where}: no answer in {self._teacher.timeout_s:g} s after {self._teacher.retries} retries"
            )
        if isinstance(error, openai.APIConnectionError):
            return f"{where}: cannot be reached ({said}); check annotate.base_url and that the server runs"
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            return f"{where}: refuses the key ({said}); check OPENAI_API_KEY"
        if isinstance(error, openai.NotFoundError):
            return f"{where}: not found ({said}); check annotate.model and annotate.base_url"
        return f"{where}: {said}"


def _said(error: openai.OpenAIError) -> str:
    return " ".join(str(error).split())


def _rejection(error: openai.APIStatusError) -> str:
    # Azure puts a content filter on the prompt into a 400.
    return "filtered" if error.code == "content_filter" else "rejected"


def entities_of(text: str, pairs: Sequence[Pair]) -> tuple[Entity, ...]:
    """Locate the teacher's pairs in the passage: every occurrence, or one at -1 where there is none."""
    found = []
    for mention, type_name in pairs:
        spans, _ = locate(text, mention)
        found += [Entity(text[start:end], type_name, start, end) for start, end in spans]
        if not spans:
            found.append(Entity(mention, type_name, -1, -1))
    return tuple(dict.fromkeys(found))
