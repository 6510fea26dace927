"""Ask the teacher about one passage, through the openai client, until there is an answer.

408, 409, 429, 5xx, time-outs, lost connections and answers that are no chat completion are tried again, with
full-jitter back-off; a 429 lets all requests cool down for as long as Retry-After says. What the server says
of one passage is that passage's rejection; what is wrong with the server, the key or the model is an error.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from uniner.errors import UserError
from uniner.runtime.rate_limits import Gate, Want
from uniner.teacher.completion import GarbageError, Rejection, Reply, rejection, reply_of
from uniner.teacher.prompts import JSON_SCHEMA, PROBE, Prompt

_TRANSIENT = {408, 409, 429}
_LONGEST_PAUSE_S = 3600.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 60.0
# OpenAI's rule of thumb for English; what the server counts corrects it as replies come.
CHARACTERS_A_TOKEN = 4.0
# Connections that are still closing.
_SPARE_CONNECTIONS = 16
_PROBE = [{"role": "user", "content": PROBE}]


@dataclass(frozen=True)
class Teacher:
    """How to reach and ask the teacher. Prices are US dollars a million tokens. section: of its settings."""

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
    section: str = "annotate"

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


class Line:
    """An actor's line to the teacher: at most `in_flight` requests at once, each let go by the gate."""

    def __init__(self, teacher: Teacher, api_key: str | None, gate: Gate):
        self._teacher, self._gate = teacher, gate
        # On aiohttp: the client's own transport looks at all of its connections for each request, and takes
        # twice the CPU at 128 in flight.
        connections = httpx2.Limits(max_connections=teacher.in_flight + _SPARE_CONNECTIONS)
        self._client = AsyncOpenAI(
            api_key=api_key,
            base_url=teacher.base_url,
            max_retries=0,
            timeout=teacher.timeout_s,
            http_client=DefaultAioHttpClient(limits=connections),
        )
        self._free = asyncio.Semaphore(teacher.in_flight)
        self._characters = self._tokens_in = self._tokens_out = self._replies = 0
        self._answered, self._probing = 0.0, asyncio.Lock()

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.close()

    async def ask(self, request: dict[str, Any]) -> tuple[Reply, Want] | Rejection:
        """Ask until there is a reply. It comes with what the gate holds for it: the caller lets the gate go.

        Raises:
            UserError: what is wrong with the server, the key or the model.
            Stopped: the budget is spent.
        """
        attempts = 0
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._teacher.retries + 1),
            wait=pause_before,
            retry=retry_if_exception(transient),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                attempts = attempt.retry_state.attempt_number
                with attempt:
                    return await self._try(request, attempts)
        except openai.APIStatusError as error:
            refused = rejection(error.status_code, error.code, _said(error), attempts)
            if refused and (refused.outcome == "filtered" or await self._takes_others(request)):
                return refused
            return await self._given_up(error, attempts)
        except (openai.OpenAIError, TimeoutError, GarbageError) as error:
            return await self._given_up(error, attempts)
        raise AssertionError("tenacity ends with a result or an error")

    async def _try(self, request: dict[str, Any], attempt: int) -> tuple[Reply, Want]:
        want = self._want(request)
        async with self._free:
            await self._gate.enter(want)
            try:
                reply = await self._send(request, attempt)
            except BaseException as error:
                self._gate.leave(want)
                if isinstance(error, openai.RateLimitError) and transient(error):
                    self._gate.cool(_pause(error) or _jitter(attempt))
                raise
        self._learn(request, reply.tokens_in, reply.tokens_out)
        return reply, want

    async def _send(self, request: dict[str, Any], attempt: int) -> Reply:
        # The client's own time-out is for each read: a server that trickles would never meet it.
        async with asyncio.timeout(self._teacher.timeout_s):
            # Not chat.completions.create: it walks through the request by its types, and changes nothing.
            response = await self._client.post("/chat/completions", body=request, cast_to=httpx2.Response)
        reply = reply_of(response.content, attempt)
        self._answered = time.monotonic()
        return reply

    async def _takes_others(self, request: dict[str, Any]) -> bool:
        """Tell whether it is a passage that is refused, or all that is asked like this: as long as nothing
        was answered, a few words are asked in the same way."""
        async with self._probing:
            return bool(self._replies) or await self._probe({**request, "messages": _PROBE}, 1) is not False

    async def _given_up(self, error: Exception, attempts: int) -> Rejection:
        """Tell a passage that the server cannot answer from a server that cannot answer.

        Raises:
            UserError: where the server gives no reply to a request of one word either.
        """
        given_up = time.monotonic()
        if transient(error):
            async with self._probing:
                if self._answered >= given_up or await self._answers():
                    return Rejection("failed", self._explain(error), attempts)
        raise UserError(self._explain(error)) from error

    async def _answers(self) -> bool:
        request = {"model": self._teacher.model, "messages": _PROBE, "max_tokens": 1}
        for attempt in range(1, min(self._teacher.retries, 3) + 2):
            if await self._probe(request, attempt) is not None:
                return True
            await asyncio.sleep(_jitter(attempt))
        return False

    async def _probe(self, request: dict[str, Any], attempt: int) -> bool | None:
        """Tell whether a request that is no passage's has a reply, or is refused; None: neither."""
        try:
            reply, want = await self._try(request, attempt)
        except openai.APIStatusError as error:
            return False if rejection(error.status_code, error.code, _said(error), attempt) else None
        except (openai.APIConnectionError, TimeoutError, GarbageError):
            return None
        tokens = (reply.tokens_in, reply.tokens_out)
        self._gate.leave(want, sum(tokens), self._teacher.usd(*tokens))
        return True

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

    def _explain(self, error: Exception) -> str:
        return explain(error, self._teacher, str(self._client.base_url))


def explain(error: Exception, teacher: Teacher, base_url: str) -> str:
    """Return the line that tells the user what is wrong with the server, the key or the model."""
    where = f"teacher {teacher.model} at {base_url}"
    said = _said(error.__cause__ or error)[:200]
    if _timed_out(error):
        return f"{where}: no answer in {teacher.timeout_s:g} s after {teacher.retries} retries"
    if isinstance(error, openai.APIConnectionError):
        return (
            f"{where}: cannot be reached ({said}); check {teacher.section}.base_url and that the server runs"
        )
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        return f"{where}: refuses the key ({said}); check OPENAI_API_KEY"
    if isinstance(error, openai.NotFoundError):
        return f"{where}: not found ({said}); check {teacher.section}.model and base_url"
    if isinstance(error, openai.APIStatusError) and error.status_code == 402:
        return f"{where}: wants to be paid ({said}); put that right and the same command goes on"
    return f"{where}: {said}"


def _characters(request: dict[str, Any]) -> int:
    return sum(len(message["content"]) for message in request["messages"])


def _timed_out(error: BaseException | None) -> bool:
    """Look for a time-out among the causes: on aiohttp, openai's own stands for a lost connection too."""
    return error is not None and (isinstance(error, TimeoutError) or _timed_out(error.__cause__))


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())


def _jitter(attempt: int) -> float:
    """Return seconds of full-jitter back-off: anything up to a bound that doubles with each attempt."""
    return random.uniform(0, min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (attempt - 1)))


def pause_before(state: RetryCallState) -> float:
    """Return the seconds until the next try: what Retry-After asks for, and a jitter."""
    error = state.outcome.exception() if state.outcome else None
    pause = _pause(error) if isinstance(error, openai.APIStatusError) else None
    return (pause or 0.0) + _jitter(state.attempt_number)


def transient(error: BaseException) -> bool:
    """Tell whether the same request may well be answered at another try."""
    if isinstance(error, openai.APIStatusError):
        # A spent quota comes as a 429 too, but no waiting helps.
        patient = error.code != "insufficient_quota" and (_pause(error) or 0.0) <= _LONGEST_PAUSE_S
        return patient and (error.status_code in _TRANSIENT or error.status_code >= 500)
    return isinstance(error, (openai.APIConnectionError, TimeoutError, GarbageError))


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
