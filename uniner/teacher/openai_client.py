"""The client of a teacher on an OpenAI-compatible server. It retries a request until there is an answer.

It retries 408, 409, 429, 5xx, time-outs, lost connections and responses that are not replies, with
full-jitter back-off. Retry-After pauses all requests for as long as it says. An error about one passage is
that passage's rejection; an error about the server, the key or the model is raised.

Each try reserves the most that it can cost and settles it by the reply's usage. Without a usage that makes
sense, and where the reply is lost (a time-out, a connection that breaks, a gateway's error), the whole
reservation counts as spent. A try that the server did not take costs nothing.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import aiohttp
import httpx2
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from uniner.errors import UserError, printable
from uniner.runtime.gate import Gate
from uniner.runtime.rate_limits import Reservation
from uniner.teacher.completion import (
    ChatRequest,
    Rejection,
    Teacher,
    TeacherReply,
    TokenCounts,
    may_have_cost,
    most_tokens,
    read_rejection,
)
from uniner.teacher.completion_reader import Completion, InvalidCompletionError, read_completion
from uniner.teacher.prompts import PROBE
from uniner.teacher.request_form import RequestForm

_TRANSIENT = {408, 409, 429}
_LONGEST_PAUSE_S = 3600.0
_LONGEST_CONNECT_S = 10.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 60.0
# OpenAI's rule of thumb for English; the server's counts replace it as replies arrive.
CHARACTERS_PER_TOKEN = 4.0
# Room for connections that are still closing.
_SPARE_CONNECTIONS = 16
_PROBE_MESSAGES = [{"role": "user", "content": PROBE}]


@dataclass(frozen=True, kw_only=True)
class OpenAIServer:
    """A server (None is OpenAI's) and how to use it.

    section, api_key_env: the config section and the environment variable that error messages name. form: the
    form of requests to begin with.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_key_env: str = "OPENAI_API_KEY"
    in_flight: int = 64
    timeout_s: float = 60.0
    retries: int = 6
    section: str = "teacher"
    form: RequestForm = field(default_factory=RequestForm)


class OpenAIClient:
    """An actor's client: at most `in_flight` requests at once, each let through by the gate."""

    def __init__(self, teacher: Teacher, server: OpenAIServer, gate: Gate):
        self._teacher, self._server, self._gate = teacher, server, gate
        # On aiohttp: the default transport scans all of its connections for each request, and takes twice the
        # CPU at 128 in flight.
        connections = httpx2.Limits(max_connections=server.in_flight + _SPARE_CONNECTIONS)
        self._client = AsyncOpenAI(
            api_key=server.api_key,
            base_url=server.base_url,
            max_retries=0,
            # A connection that is not made in time costs nothing, so it is told from a reply that is late.
            timeout=httpx2.Timeout(
                server.timeout_s, connect=min(_LONGEST_CONNECT_S, server.timeout_s * 0.75)
            ),
            http_client=DefaultAioHttpClient(limits=connections),
        )
        self._slots = asyncio.Semaphore(server.in_flight)
        self._form, self._refused_forms = server.form, set[RequestForm]()
        self._characters = self._tokens_in = self._tokens_out = self._counted = 0
        self._most_over = TokenCounts(0, 0)
        self._last_reply, self._probing = 0.0, asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, request: ChatRequest) -> tuple[TeacherReply, Reservation] | Rejection:
        """Send a request until there is a reply. The caller settles the reservation that comes with it.

        Raises:
            UserError: an error about the server, the key or the model.
            Stopped: the budget is spent, or the run stops.
        """
        attempts = 0
        retrying = AsyncRetrying(
            sleep=self._gate.sleep,
            stop=stop_after_attempt(self._server.retries + 1),
            wait=seconds_before_retry,
            retry=retry_if_exception(is_transient),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                attempts = attempt.retry_state.attempt_number
                if attempts > 1:
                    self._gate.retried()
                with attempt:
                    return await self._try(request, attempts)
        except openai.APIStatusError as error:
            rejection = read_rejection(error.status_code, error.code, _one_line(error), attempts)
            if rejection and (rejection.outcome == "filtered" or await self._accepts_others(request)):
                return rejection
            return await self._give_up(error, attempts)
        except (openai.OpenAIError, TimeoutError, InvalidCompletionError) as error:
            return await self._give_up(error, attempts)
        raise AssertionError("tenacity ends with a result or an error")

    async def ask_once(self, request: ChatRequest) -> tuple[TeacherReply, Reservation]:
        """Send a request once, to learn whether there is a reply. The caller settles the reservation.

        Raises:
            UserError: there is none.
        """
        try:
            return await self._try(request, 1)
        except (openai.OpenAIError, TimeoutError, InvalidCompletionError) as error:
            raise UserError(self._explain(error)) from error

    async def _try(self, request: ChatRequest, attempt: int) -> tuple[TeacherReply, Reservation]:
        most = most_tokens(request)
        async with self._slots:
            reservation = self._reservation(request, most)
            await self._gate.enter(reservation)
            try:
                completion = await self._send(request)
                reply = completion.reply(most, attempt)
            except BaseException as error:
                self._settle_failure(reservation, error)
                if isinstance(error, openai.APIStatusError) and is_transient(error):
                    self._pause(error, attempt)
                raise
        self._last_reply = time.monotonic()
        self._learn(request, most, completion.tokens(most))
        return reply, reservation

    async def _send(self, request: ChatRequest) -> Completion:
        while True:
            form = self._form
            try:
                # The openai client's time-out is per read: a server that trickles would never exceed it.
                async with asyncio.timeout(self._server.timeout_s):
                    # Not chat.completions.create, which walks through the request by its types and changes
                    # nothing.
                    response = await self._client.post(
                        "/chat/completions", body=form.body(request), cast_to=httpx2.Response
                    )
                return read_completion(response.content)
            except openai.APIStatusError as error:
                # Such a refusal costs nothing, so the reservation holds for the request in another form.
                if not self._takes_form_from(error, form):
                    raise

    def _takes_form_from(self, error: openai.APIStatusError, sent: RequestForm) -> bool:
        """Tell whether an error refuses a parameter that requests have no more from now on."""
        other = sent.after(error.status_code, error.param, _one_line(error))
        if other is None:
            return False
        self._refused_forms.add(sent)
        if self._form == sent and other not in self._refused_forms:
            self._form = other
            self._gate.say(f"{self._teacher.model} {sent.change(other)}")
        return self._form != sent

    def _settle_failure(self, reservation: Reservation, error: BaseException) -> None:
        """Settle a try without a reply by what it may have cost."""
        usd = reservation.usd
        if isinstance(error, InvalidCompletionError) and error.tokens:
            usd = self._teacher.usd(*error.tokens)
        elif _was_not_sent(error) or (
            isinstance(error, openai.APIStatusError) and not may_have_cost(error.status_code)
        ):
            usd = 0.0
        self._gate.settle(reservation, usd=usd)

    def _pause(self, error: openai.APIStatusError, attempt: int) -> None:
        """Pause all requests where the server asks for it: a 429, or Retry-After with another error."""
        asked = _retry_after(error)
        if asked is not None:
            self._gate.pause(asked)
        elif isinstance(error, openai.RateLimitError):
            self._gate.pause(_jitter(attempt))

    def _learn(self, request: ChatRequest, most: TokenCounts, tokens: TokenCounts | None) -> None:
        """Note a reply's tokens for the estimates and reservations of the next requests."""
        if tokens is None:
            return
        self._characters += _characters(request)
        self._tokens_in += tokens.tokens_in
        self._tokens_out += tokens.tokens_out
        self._counted += 1
        over = (used - limit for used, limit in zip(tokens, most, strict=True))
        self._most_over = TokenCounts(*map(max, self._most_over, over))

    async def _accepts_others(self, request: ChatRequest) -> bool:
        """Tell whether the server rejects only this passage. Until it has answered any request, probe it: the
        same request with a few words in place of the passage."""
        async with self._probing:
            probe: ChatRequest = {**request, "messages": _PROBE_MESSAGES}
            return bool(self._last_reply) or await self._probe(probe, 1) is not False

    async def _give_up(self, error: Exception, attempts: int) -> Rejection:
        """Return the rejection of a passage that the server cannot answer.

        Raises:
            UserError: where the server does not answer a request of one word either.
        """
        given_up = time.monotonic()
        if is_transient(error):
            async with self._probing:
                if self._last_reply >= given_up or await self._is_alive():
                    return Rejection(outcome="failed", reason=self._explain(error), attempts=attempts)
        raise UserError(self._explain(error)) from error

    async def _is_alive(self) -> bool:
        request: ChatRequest = {"model": self._teacher.model, "messages": _PROBE_MESSAGES, "max_tokens": 1}
        for attempt in range(1, min(self._server.retries, 3) + 2):
            if await self._probe(request, attempt) is not None:
                return True
            await self._gate.sleep(_jitter(attempt))
        return False

    async def _probe(self, request: ChatRequest, attempt: int) -> bool | None:
        """Tell whether the server answers a probe (True) or rejects it (False); None: neither."""
        try:
            reply, reservation = await self._try(request, attempt)
        except openai.APIStatusError as error:
            rejected = read_rejection(error.status_code, error.code, _one_line(error), attempt)
            return False if rejected else None
        except (openai.APIConnectionError, TimeoutError, InvalidCompletionError):
            return None
        tokens = (reply.tokens_in, reply.tokens_out)
        self._gate.settle(reservation, sum(tokens), self._teacher.usd(*tokens))
        return True

    def _reservation(self, request: ChatRequest, most: TokenCounts) -> Reservation:
        """Reserve the tokens that are likely, and the money that is needed at most.

        A server that added to a prompt, or went on beyond a reply's limit, may do so again.
        """
        characters = _characters(request)
        per_character = self._tokens_in / self._characters if self._tokens_in else 1 / CHARACTERS_PER_TOKEN
        per_reply = self._tokens_out / self._counted if self._tokens_out else most.tokens_out
        return Reservation(
            tokens=characters * per_character + per_reply,
            usd=self._teacher.usd(*(sum(counts) for counts in zip(most, self._most_over, strict=True))),
        )

    def _explain(self, error: Exception) -> str:
        return explain(error, self._teacher.model, self._server, str(self._client.base_url))


def explain(error: Exception, model: str, server: OpenAIServer, base_url: str) -> str:
    """Return one line that tells the user what is wrong with the server, the key or the model.

    Credentials in addresses are left out.
    """
    return printable(_explanation(error, model, server, base_url))


def _explanation(error: Exception, model: str, server: OpenAIServer, base_url: str) -> str:
    where = f"teacher {model} at {base_url}"
    message = _one_line(error.__cause__ or error)[:200]
    if _timed_out(error):
        return f"{where}: no answer in {server.timeout_s:g} s after {server.retries} retries"
    if isinstance(error, openai.APIStatusError) and (pause := _retry_after(error) or 0) > _LONGEST_PAUSE_S:
        return f"{where}: asks to wait {pause:,.0f} s (Retry-After); run the same command then ({message})"
    if isinstance(error, openai.APIConnectionError):
        return (
            f"{where}: cannot be reached ({message}); "
            f"check {server.section}.base_url and that the server runs"
        )
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        return f"{where}: refuses the key ({message}); check {server.api_key_env}"
    if isinstance(error, openai.NotFoundError):
        return f"{where}: not found ({message}); check {server.section}.model and base_url"
    if isinstance(error, openai.APIStatusError) and error.status_code == 402:
        return f"{where}: requires payment ({message}); add credit, then run the same command to go on"
    return f"{where}: {message}"


def _characters(request: ChatRequest) -> int:
    return sum(len(message["content"]) for message in request["messages"])


def _was_not_sent(error: BaseException | None) -> bool:
    """Tell whether a request failed before a connection was made. The HTTP library has the same exception for
    that and for a connection that broke, so that the cause decides."""
    if error is None or isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return error is not None
    return _was_not_sent(error.__cause__)


def _timed_out(error: BaseException | None) -> bool:
    """Look for a time-out among the causes: openai's own exception also means a lost connection."""
    return error is not None and (isinstance(error, TimeoutError) or _timed_out(error.__cause__))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _jitter(attempt: int) -> float:
    """Return seconds of full-jitter back-off: evenly drawn up to a bound that doubles with each attempt."""
    return random.uniform(0, min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (attempt - 1)))


def seconds_before_retry(state: RetryCallState) -> float:
    """Return the seconds until the next attempt: Retry-After and jitter."""
    error = state.outcome.exception() if state.outcome else None
    pause = _retry_after(error) if isinstance(error, openai.APIStatusError) else None
    return (pause or 0.0) + _jitter(state.attempt_number)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed at another attempt."""
    if isinstance(error, openai.APIStatusError):
        # A spent quota is a 429 too, but waiting does not help.
        hopeless = error.code == "insufficient_quota" or (_retry_after(error) or 0.0) > _LONGEST_PAUSE_S
        return not hopeless and (error.status_code in _TRANSIENT or error.status_code >= 500)
    return isinstance(error, (openai.APIConnectionError, TimeoutError, InvalidCompletionError))


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Return the seconds that Retry-After asks for, as a number or as a date."""
    headers = error.response.headers
    value = headers.get("retry-after")
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return None if value is None else max(0.0, float(value))
    except ValueError:
        pass  # a date
    try:
        return max(0.0, parsedate_to_datetime(str(value)).timestamp() - time.time())
    except ValueError:
        return None
