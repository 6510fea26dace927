"""A teacher, the chat completion request that it gets, and the server's answer: a reply or a rejection."""

import json
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec

from uniner.teacher.prompts import JSON_SCHEMA, Prompt

# Statuses that concern the key, the credit, the model or the load. Any other 4xx concerns the request.
_NOT_ABOUT_THE_REQUEST = {401, 402, 403, 404, 408, 409, 429}


class ChatRequest(TypedDict, total=False):
    """The body of a chat completion request."""

    model: str
    messages: list[dict[str, str]]
    temperature: float
    max_tokens: int
    response_format: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """What a teacher is asked, and its prices. The reply cache's key derives from the request alone."""

    model: str
    prompt: Prompt
    reply_format: str = "tuples"
    temperature: float = 0.0
    max_reply_tokens: int = 1024
    usd_per_million_in: float = 0.0
    usd_per_million_out: float = 0.0

    def request(self, passage: str) -> ChatRequest:
        """Return the request about a passage."""
        request = ChatRequest(
            model=self.model,
            messages=self.prompt.messages(passage),
            temperature=self.temperature,
            max_tokens=self.max_reply_tokens,
        )
        if self.reply_format == "json_schema":
            request["response_format"] = JSON_SCHEMA
        return request

    def usd(self, tokens_in: float, tokens_out: float) -> float:
        """Return the price of a number of tokens."""
        return (tokens_in * self.usd_per_million_in + tokens_out * self.usd_per_million_out) / 1e6


@dataclass(frozen=True, kw_only=True)
class TeacherReply:
    """A completion as the server gave it. `attempts` counts the requests that it took."""

    text: str
    finish_reason: str
    refusal: str
    tokens_in: int
    tokens_out: int
    attempts: int


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why a passage has no reply: the outcome (rejected, filtered, failed, poison) and the server's words."""

    outcome: str
    reason: str
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


class InvalidCompletionError(Exception):
    """A response of status 200 whose body is not a chat completion."""


def read_rejection(status: int, code: str | None, reason: str, attempts: int) -> Rejection | None:
    """Return the rejection that an error status means for a passage; None where it concerns the server."""
    if status >= 500 or status in _NOT_ABOUT_THE_REQUEST:
        return None
    # Azure reports a content filter on the prompt as a 400.
    outcome = "filtered" if code == "content_filter" else "rejected"
    return Rejection(outcome=outcome, reason=reason, attempts=attempts)


def read_reply(body: bytes, attempts: int) -> TeacherReply:
    """Read a chat completion.

    Raises:
        InvalidCompletionError: where the body is not one.
    """
    completion = _read_completion(body)
    choice, usage = completion.choices[0], completion.usage or _Usage()
    return TeacherReply(
        text=_storable(choice.message.content),
        finish_reason=choice.finish_reason or "",
        refusal=_storable(choice.message.refusal),
        tokens_in=usage.prompt_tokens,
        tokens_out=usage.completion_tokens or 0,
        attempts=attempts,
    )


def _storable(text: str | None) -> str:
    # Parquet cannot store half of a surrogate pair.
    return (text or "").encode(errors="replace").decode()


def _read_completion(body: bytes) -> _Completion:
    try:
        completion = msgspec.json.decode(body, type=_Completion)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:  # json accepts half a surrogate pair, msgspec does not
            completion = msgspec.convert(json.loads(body), _Completion)
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            raise InvalidCompletionError(f"the response is not a chat completion: {error}") from None
    if not completion.choices:
        raise InvalidCompletionError("the response has no choices")
    return completion
