"""Read chat completions in the shapes that servers send.

OpenAI's shape is the common core. Others send the content in parts (Mistral), thoughts in a field of their
own (vLLM, OpenRouter, DeepSeek), the raw channels of gpt-oss, other finish reasons, errors with status 200
(OpenRouter), and usage absent, null or wrong.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from uniner.teacher.completion import TeacherReply, TokenCounts, sensible_usage

_FINISH = {
    **dict.fromkeys(
        (
            "length", "max_tokens", "max_length", "model_length", "token_limit", "max_output_tokens",
            "model_context_window_exceeded",
        ),
        "length",
    ),
    **dict.fromkeys(
        (
            "content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content",
            "spii", "sensitive", "guardrail_intervened",
        ),
        "content_filter",
    ),
    **dict.fromkeys(
        (
            "error", "abort", "aborted", "cancelled", "canceled", "network_error", "timeout", "load",
            "unload", "insufficient_system_resource",
        ),
        "error",
    ),
}  # fmt: skip
"""Finish reasons of servers, by ours: `length` (cut at a limit), `content_filter`, `error`."""
_TEXT_PARTS = {None, "text", "output_text", "refusal"}
# gpt-oss writes thoughts and reply into channels. A server that hides special tokens leaves the names.
_CHANNEL, _FINAL, _MESSAGE = "<|channel|>", "<|channel|>final", "<|message|>"
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_BARE_THOUGHTS, _BARE_FINAL = "analysis", "assistantfinal"


class InvalidCompletionError(Exception):
    """A response of status 200 without a reply: not a chat completion, an error, or no content.

    tokens: what it cost by its usage; None where that is missing or makes no sense.
    """

    def __init__(self, message: str, tokens: TokenCounts | None = None):
        super().__init__(message)
        self.tokens = tokens


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A chat completion. usage: as the server sent it. failure: why it is no reply, "" if it is one."""

    text: str
    finish_reason: str
    refusal: str
    usage: Any
    failure: str = ""

    def tokens(self, most: TokenCounts) -> TokenCounts | None:
        """Return its tokens by its usage; None where that is missing or makes no sense for `most`."""
        return sensible_usage(self.usage, most, has_text=bool(self.text))

    def reply(self, most: TokenCounts, attempts: int) -> TeacherReply:
        """Return the reply to a request that can cost `most` tokens.

        Raises:
            InvalidCompletionError: where it is no reply.
        """
        tokens = self.tokens(most)
        if self.failure:
            raise InvalidCompletionError(self.failure, tokens)
        tokens_in, tokens_out = tokens or most
        return TeacherReply(
            text=self.text,
            finish_reason=self.finish_reason,
            refusal=self.refusal,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            attempts=attempts,
        )


class _Message(msgspec.Struct):
    content: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: Any = None
    error: Any = None


class _Body(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


def read_completion(body: bytes) -> Completion:
    """Read a response of status 200.

    Raises:
        InvalidCompletionError: where it is not a chat completion.
    """
    completion = _decode(body)
    if not completion.choices:
        reason = _words(completion.error) or "the response has no choices"
        raise InvalidCompletionError(reason)
    choice = completion.choices[0]
    text, refusal = _text_and_refusal(choice.message)
    finish = finish_reason(choice.finish_reason)
    if finish == "refusal":
        finish, refusal = "stop", refusal or text or "refused"
    error = _words(choice.error) or _words(completion.error)
    return Completion(
        text=text,
        finish_reason=finish,
        refusal=refusal,
        usage=completion.usage,
        failure=error or failure_of(text, finish, refusal),
    )


def failure_of(text: str, finish: str, refusal: str) -> str:
    """Return why a completion is no reply but a failed try; "" where it is a reply.

    A reply without text is one only if it says why: a refusal, a filter, or thoughts up to the limit.
    """
    if finish_reason(finish) == "error":
        return f"the server ended the reply with an error (finish_reason {finish})"
    if not text.strip() and not refusal and finish_reason(finish) not in ("length", "content_filter"):
        return f"the reply has no content (finish_reason {finish or 'missing'})"
    return ""


def finish_reason(reason: Any) -> str:
    """Return a server's finish reason by its name at OpenAI, other ones in lower case."""
    name = reason.lower() if isinstance(reason, str) else ""
    return _FINISH.get(name, name)


def _text_and_refusal(message: _Message) -> tuple[str, str]:
    texts: list[str] = []
    refusals = [message.refusal] if isinstance(message.refusal, str) else []
    for kind, text in _parts(message.content):
        (refusals if kind == "refusal" else texts).append(text)
    return _storable(_final_channel("".join(texts))), _storable("".join(refusals))


def _parts(content: Any) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of a content's parts, without thoughts."""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield "text", part
        elif isinstance(part, dict) and part.get("type") in _TEXT_PARTS and not part.get("thought"):
            for kind in ("text", "refusal"):
                text = part.get(kind)
                if isinstance(text, dict):
                    text = text.get("value")
                if isinstance(text, str):
                    yield kind, text


def _final_channel(text: str) -> str:
    """Return the final channel of a text in gpt-oss's raw channels; "" where it only has thoughts."""
    if text.startswith(_BARE_THOUGHTS) and _BARE_FINAL in text:
        return text[text.rindex(_BARE_FINAL) + len(_BARE_FINAL) :]
    if _CHANNEL not in text[:64]:
        return text
    message = text.find(_MESSAGE, text.rfind(_FINAL)) if _FINAL in text else -1
    if message < 0:
        return ""
    start = message + len(_MESSAGE)
    end = _CHANNEL_END.search(text, start)
    return text[start : end.start() if end else None]


def _words(error: Any) -> str:
    """Return an error's message in one line; "" where there is no error."""
    if isinstance(error, dict):
        error = error.get("message") or error
    return " ".join(str(error).split()) if error else ""


def _storable(text: str) -> str:
    # Parquet cannot store half of a surrogate pair.
    return text.encode(errors="replace").decode()


def _decode(body: bytes) -> _Body:
    try:
        return msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:  # json accepts half a surrogate pair and NaN, msgspec does not
            return msgspec.convert(json.loads(body), _Body)
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            raise InvalidCompletionError(f"the response is not a chat completion: {error}") from None
