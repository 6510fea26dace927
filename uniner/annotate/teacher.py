"""Ask the teacher about one passage, through the openai client, until there is an answer.

408, 409, 429, 5xx, time-outs, lost connections and answers that are no chat completion are tried again, with
full-jitter back-off; a 429 lets all requests cool down for as long as Retry-After says. What the server says
of one passage is that passage's rejection; what is wrong with the server, the key or the model is an error.
"""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import openai
from openai import AsyncOpenAI
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from uniner.annotate.limits import Gate, Want
from uniner.annotate.prompts import JSON_SCHEMA, Prompt
from uniner.errors import UserError

# Statuses that tell of the key, the model or the load; any other 4xx is about the passage that was sent.
_NOT_OF_A_PASSAGE = {401, 403, 404, 408, 409, 429}
_TRANSIENT = {408, 409, 429}
_LONGEST_PAUSE_S = 3600.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 60.0
# OpenAI's rule of thumb for English; what the server counts corrects it as replies come.
CHARACTERS_A_TOKEN = 4.0
_PROBE = [{"role": "user", "content": "Reply with one word."}]


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

    def request(self, passage: str) -> dict[str, Any]:
        """Return what is asked about a passage: model, messages and sampling parameters."""
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": self.prompt.messages(passage),
            "temperature": self.temperature,
            "max_tokens": self.max_reply_tokens,
        }
        return asked | ({"response_format": JSON_SCHEMA} if self.reply_format == "json_schema" else {})

    def usd(self, tokens_in: float, tokens_out: float) -> float:
        """Return the price of so many tokens."""
        return (tokens_in * self.usd_per_million_in + tokens_out * self.usd_per_million_out) / 1e6


@dataclass(frozen=True)
class Reply:
    """A completion as the server gave it; `attempts` are the requests it took."""

    text: str
    finish_reason: str
    refusal: str
    tokens_in: int
    tokens_out: int
    attempts: int


@dataclass(frozen=True)
class Rejection:
    """Why there is no reply for a passage: outcome rejected, filtered or failed, and what the server said."""

    outcome: str
    said: str
    attempts: int


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class _GarbageError(Exception):
    """A 200 whose body is no chat completion."""


class Line:
    """An actor's line to the teacher: at most `in_flight` requests at once, each let go by the gate."""

    def __init__(self, teacher: Teacher, api_key: str | None, gate: Gate):
        self._teacher, self._gate = teacher, gate
        self._client = AsyncOpenAI(
            api_key=api_key, base_url=teacher.base_url, max_retries=0, timeout=teacher.timeout_s
        )
        self._free = asyncio.Semaphore(teacher.in_flight)
        self._characters = self._tokens_in = self._tokens_out = self._replies = 0
        self._answered, self._probing = 0.0, asyncio.Lock()

    async def ask(self, request: dict[str, Any]) -> tuple[Reply, Want] | Rejection:
        """Ask until there is a reply. It comes with what the gate holds for it: the caller lets the gate go.

        Raises:
            UserError: what is wrong with the server, the key or the model.
            Stopped: the budget is spent.
        """
        attempts = 0
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._teacher.retries + 1),
            wait=self._wait,
            retry=retry_if_exception(_transient),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                attempts = attempt.retry_state.attempt_number
                with attempt:
                    return await self._try(request, attempts)
        except openai.APIStatusError as error:
            if error.status_code < 500 and error.status_code not in _NOT_OF_A_PASSAGE:
                # Azure puts a content filter on the prompt into a 400.
                outcome = "filtered" if error.code == "content_filter" else "rejected"
                return Rejection(outcome, _said(error), attempts)
            return await self._given_up(error, attempts)
        except (openai.OpenAIError, TimeoutError, _GarbageError) as error:
            return await self._given_up(error, attempts)
        raise AssertionError("tenacity ends with a result or an error")

    async def _try(self, request: dict[str, Any], attempt: int) -> tuple[Reply, Want]:
        want = self._want(request)
        async with self._free:
            await self._gate.enter(want)
            try:
                completion = await self._send(request)
            except BaseException as error:
                self._gate.leave(want)
                if isinstance(error, openai.RateLimitError) and _transient(error):
                    self._gate.cool(_pause(error) or _jitter(attempt))
                raise
        choice, usage = completion.choices[0], completion.usage or _Usage()
        tokens_in, tokens_out = usage.prompt_tokens, usage.completion_tokens or 0
        self._learn(request, tokens_in, tokens_out)
        message = choice.message
        # Half of a surrogate pair could not be stored.
        text, refusal = (
            (said or "").encode(errors="replace").decode() for said in (message.content, message.refusal)
        )
        reply = Reply(text, choice.finish_reason or "", refusal, tokens_in, tokens_out, attempt)
        return reply, want

    async def _send(self, request: dict[str, Any]) -> _Completion:
        # The client's own time-out is for each read: a server that trickles would never meet it.
        async with asyncio.timeout(self._teacher.timeout_s):
            raw = await self._client.chat.completions.with_raw_response.create(**request)
        completion = _completion(raw.content)
        self._answered = time.monotonic()
        return completion

    async def _given_up(self, error: Exception, attempts: int) -> Rejection:
        """Tell a passage that the server cannot answer from a server that cannot answer.

        Raises:
            UserError: where the server gives no reply to a request of one word either.
        """
        given_up = time.monotonic()
        if _transient(error):
            async with self._probing:
                if self._answered >= given_up or await self._answers():
                    return Rejection("failed", self._explain(error), attempts)
        raise UserError(self._explain(error)) from error

    async def _answers(self) -> bool:
        request = {"model": self._teacher.model, "messages": _PROBE, "max_tokens": 1}
        for attempt in range(1, min(self._teacher.retries, 3) + 2):
            try:
                reply, want = await self._try(request, attempt)
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code not in _NOT_OF_A_PASSAGE:
                    return True
            except (openai.APIConnectionError, TimeoutError, _GarbageError):
                pass
            else:
                tokens = (reply.tokens_in, reply.tokens_out)
                self._gate.leave(want, sum(tokens), self._teacher.usd(*tokens))
                return True
            await asyncio.sleep(_jitter(attempt))
        return False

    def _want(self, request: dict[str, Any]) -> Want:
        characters = _characters(request)
        rate = self._tokens_in / self._characters if self._tokens_in else 1 / CHARACTERS_A_TOKEN
        longest = request["max_tokens"]
        usual = self._tokens_out / self._replies if self._tokens_out else longest
        return Want(characters * rate + usual, self._teacher.usd(characters * rate, longest))

    def _learn(self, request: dict[str, Any], tokens_in: int, tokens_out: int) -> None:
        self._characters += _characters(request)
        self._tokens_in += tokens_in
        self._tokens_out += tokens_out
        self._replies += 1

    @staticmethod
    def _wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        pause = _pause(error) if isinstance(error, openai.APIStatusError) else None
        return (pause or 0.0) + _jitter(state.attempt_number)

    def _explain(self, error: Exception) -> str:
        where = f"teacher {self._teacher.model} at {self._client.base_url}"
        said = _said(error)[:200]
        if isinstance(error, (openai.APITimeoutError, TimeoutError)):
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


def _completion(body: bytes) -> _Completion:
    try:
        completion = msgspec.json.decode(body, type=_Completion)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:  # json takes half a surrogate pair, which msgspec does not
            completion = msgspec.convert(json.loads(body), _Completion)
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            raise _GarbageError(f"the answer is no chat completion: {error}") from None
    if not completion.choices:
        raise _GarbageError("the answer has no choices")
    return completion


def _characters(request: dict[str, Any]) -> int:
    return sum(len(message["content"]) for message in request["messages"])


def _said(error: Exception) -> str:
    return " ".join(str(error).split())


def _jitter(attempt: int) -> float:
    """Return seconds of full-jitter back-off: anything up to a bound that doubles with each attempt."""
    return random.uniform(0, min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (attempt - 1)))


def _transient(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        # A spent quota comes as a 429 too, but no waiting helps.
        patient = error.code != "insufficient_quota" and (_pause(error) or 0.0) <= _LONGEST_PAUSE_S
        return patient and (error.status_code in _TRANSIENT or error.status_code >= 500)
    return isinstance(error, (openai.APIConnectionError, TimeoutError, _GarbageError))


def _pause(error: openai.APIStatusError) -> float | None:
    """Return the seconds that Retry-After asks for: a number, or a date."""
    headers = error.response.headers
    said = headers.get("retry-after")
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return None if said is None else max(0.0, float(said))
    except ValueError:
        pass  # a date, then
    try:
        return max(0.0, parsedate_to_datetime(str(said)).timestamp() - time.time())
    except ValueError:
        return None
