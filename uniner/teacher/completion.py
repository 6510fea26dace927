"""What the teacher's server says of a passage: a chat completion, or why there is none."""

import json
from dataclasses import dataclass

import msgspec

# Statuses that tell of the key, the credit, the model or the load; any other 4xx is about what was sent.
_NOT_OF_A_PASSAGE = {401, 402, 403, 404, 408, 409, 429}


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


class GarbageError(Exception):
    """A 200 whose body is no chat completion."""


def rejection(status: int, code: str | None, said: str, attempts: int) -> Rejection | None:
    """Return a passage's rejection where a status is about the passage that was sent, else None."""
    if status >= 500 or status in _NOT_OF_A_PASSAGE:
        return None
    # Azure puts a content filter on the prompt into a 400.
    return Rejection("filtered" if code == "content_filter" else "rejected", said, attempts)


def reply_of(body: bytes, attempts: int) -> Reply:
    """Read a chat completion.

    Raises:
        GarbageError: where the body is none.
    """
    completion = _completion(body)
    choice, usage = completion.choices[0], completion.usage or _Usage()
    message = choice.message
    # Half of a surrogate pair could not be stored.
    text, refusal = (
        (said or "").encode(errors="replace").decode() for said in (message.content, message.refusal)
    )
    tokens_in, tokens_out = usage.prompt_tokens, usage.completion_tokens or 0
    return Reply(text, choice.finish_reason or "", refusal, tokens_in, tokens_out, attempts)


def _completion(body: bytes) -> _Completion:
    try:
        completion = msgspec.json.decode(body, type=_Completion)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:  # json takes half a surrogate pair, which msgspec does not
            completion = msgspec.convert(json.loads(body), _Completion)
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            raise GarbageError(f"the answer is no chat completion: {error}") from None
    if not completion.choices:
        raise GarbageError("the answer has no choices")
    return completion
