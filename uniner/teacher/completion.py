"""A teacher, the chat completion request that it gets, and the server's answer: a reply or a rejection."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import msgspec

from uniner.teacher.prompts import JSON_SCHEMA, Prompt

# Statuses that concern the key, the credit, the model or the load. Any other 4xx concerns the request.
_NOT_ABOUT_THE_REQUEST = {401, 402, 403, 404, 408, 409, 429}
# Most tokens that a chat template adds to a request (the longest known ones tell the date and the model's
# name), and to each message.
_TEMPLATE_TOKENS, _MESSAGE_TOKENS = 128, 16
_REPLY_LIMITS = ("max_tokens", "max_completion_tokens")


class ChatRequest(TypedDict, total=False):
    """The body of a chat completion request. `Teacher.extra_body` may add other fields."""

    model: str
    messages: list[dict[str, str]]
    temperature: float
    max_tokens: int
    response_format: dict[str, Any]


class TokenCounts(NamedTuple):
    """Tokens of prompts and of replies."""

    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """What a teacher is asked, and its prices. The reply cache's key derives from the request alone.

    extra_body: more fields of each request. server: the address that the cache knows the server by, "" for a
    model that has none.
    """

    model: str
    prompt: Prompt
    reply_format: str = "tuples"
    temperature: float = 0.0
    max_reply_tokens: int = 1024
    usd_per_million_in: float = 0.0
    usd_per_million_out: float = 0.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    server: str = ""

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
        if self.extra_body:
            request.update(self.extra_body)  # type: ignore[typeddict-item]
        return request

    def usd(self, tokens_in: float, tokens_out: float) -> float:
        """Return the price of a number of tokens."""
        return (tokens_in * self.usd_per_million_in + tokens_out * self.usd_per_million_out) / 1e6


@dataclass(frozen=True, kw_only=True)
class TeacherReply:
    """A completion as the server gave it. `attempts` counts the requests that it took.

    tokens_in, tokens_out: by the server's count; where it gave none that makes sense, the most there can be.
    """

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


def most_tokens(request: ChatRequest) -> TokenCounts:
    """Return the most tokens that a request's prompt and reply can have.

    No tokenizer makes more tokens than there are bytes. The whole request is counted, as a server may put a
    schema and the names of roles into the prompt.
    """
    messages = request["messages"]
    prompt = len(msgspec.json.encode(request)) + _TEMPLATE_TOKENS + _MESSAGE_TOKENS * len(messages)
    limits = [request.get(name) for name in _REPLY_LIMITS]
    return TokenCounts(prompt, max(limit for limit in limits if isinstance(limit, int)))


def sensible_usage(usage: Any, most: TokenCounts, *, has_text: bool) -> TokenCounts | None:
    """Return the tokens that a completion's usage tells; None where it is missing or makes no sense.

    A server may add to a prompt and exceed a reply's limit, but not by far. Some leave the thoughts out of
    completion_tokens and count them in total_tokens alone.
    """
    if not isinstance(usage, dict):
        return None
    tokens_in, tokens_out, total = (
        _count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    if not tokens_in or (tokens_out is None and usage.get("completion_tokens") is not None):
        return None
    tokens_out = max(tokens_out or 0, (total or 0) - tokens_in)
    too_many = tokens_in > 10 * most.tokens_in + 10_000 or tokens_out > 10 * most.tokens_out + 100_000
    too_few = has_text and not tokens_out
    return None if too_many or too_few else TokenCounts(tokens_in, tokens_out)


def _count(value: Any) -> int | None:
    """Return a number of tokens; a few servers write whole numbers as 12.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value >= 0 else None


def may_have_cost(status: int) -> bool:
    """Tell whether a request that ended with an error status may have been billed.

    Not where the server refused it: a 4xx, or a 503 or 529 for its load. 408 and the other 5xx may follow
    work that was done, such as a gateway's time-out.
    """
    return status == 408 or (status >= 500 and status not in (503, 529))


def read_rejection(status: int, code: str | None, reason: str, attempts: int) -> Rejection | None:
    """Return the rejection that an error status means for a passage; None where it concerns the server."""
    if status >= 500 or status in _NOT_ABOUT_THE_REQUEST:
        return None
    # Azure reports a content filter on the prompt as a 400.
    outcome = "filtered" if code == "content_filter" else "rejected"
    return Rejection(outcome=outcome, reason=reason, attempts=attempts)
