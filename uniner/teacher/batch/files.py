"""The files of the Batch API: requests out, their answers in. Both are JSON lines with a `custom_id`.

The output file has a line for each request answered with 200, the error file one for each other answer. An
HTTP error is in `response` (status and message). Where there was no HTTP answer at all, the reason is in
`error`. A batch that expired or was cancelled may have no line for a request.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from uniner.errors import UserError
from uniner.teacher.completion import (
    ChatRequest,
    InvalidCompletionError,
    Rejection,
    Teacher,
    TeacherReply,
    read_rejection,
    read_reply,
)

ENDPOINT: Final = "/v1/chat/completions"
# The error codes of requests that the server did not get to.
_NOT_ASKED = {"batch_expired", "batch_cancelled"}


@dataclass(frozen=True, kw_only=True)
class BatchFileLimits:
    """The most that a file may hold: requests, bytes and USD. OpenAI takes 50,000 requests and 200 MB."""

    requests: int = 50_000
    bytes: int = 100_000_000
    usd: float = math.inf


class RequestFile:
    """A file of requests by key, and the chunks that they come from. Its `limits` also bound its memory."""

    def __init__(self, teacher: Teacher, limits: BatchFileLimits):
        self._teacher, self._limits = teacher, limits
        self._keys: set[str] = set()
        self._lines: list[bytes] = []
        self._bytes = 0
        self.chunks: list[str] = []
        self.usd = 0.0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, chunk: str, requests: Mapping[str, ChatRequest]) -> bool:
        """Add a chunk's requests. A request that the file already has is not added again.

        The whole chunk is added, or as much as fits where it is the file's first. Returns False where nothing
        is added because the file is full.
        """
        lines = {key: request_line(key, asked) for key, asked in requests.items() if key not in self._keys}
        count = self._count_fitting(list(lines.values()))
        if count < len(lines) and (self.chunks or not count):
            return False
        self.chunks.append(chunk)
        for key, line in list(lines.items())[:count]:
            self._keys.add(key)
            self._lines.append(line)
            self._bytes += len(line)
            self.usd += self._usd_at_most(line)
        return True

    def data(self) -> bytes:
        """Return the file's content."""
        return b"".join(self._lines)

    def _count_fitting(self, lines: list[bytes]) -> int:
        size, usd = self._bytes, self.usd
        for number, line in enumerate(lines):
            size += len(line)
            usd += self._usd_at_most(line)
            full = len(self) + number >= self._limits.requests
            if full or size > self._limits.bytes or usd > self._limits.usd:
                return number
        return len(lines)

    def _usd_at_most(self, line: bytes) -> float:
        # No tokenizer makes more tokens than there are bytes.
        return self._teacher.usd(len(line), self._teacher.max_reply_tokens)


def request_line(key: str, request: ChatRequest) -> bytes:
    """Return a request's line in the file."""
    line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": request}
    return msgspec.json.encode(line) + b"\n"


class _Response(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _AnswerLine(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


@dataclass
class BatchAnswers:
    """A batch's answers by request key: replies, rejections of the passage, or the server's own errors.

    A request in none of them was not asked.
    """

    replies: dict[str, TeacherReply] = field(default_factory=dict)
    rejections: dict[str, Rejection] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def read(self, data: bytes, name: str) -> None:
        """Add the answers in an output or error file.

        Raises:
            UserError: where a line is not an answer of the Batch API.
        """
        for number, line in enumerate(data.split(b"\n")):
            if line.strip():
                try:
                    self._add(msgspec.json.decode(line, type=_AnswerLine))
                except msgspec.DecodeError as error:
                    raise UserError(
                        f"{name}, line {number + 1}: is not an answer of the Batch API ({error})"
                    ) from None

    def _add(self, line: _AnswerLine) -> None:
        if line.response and line.response.status_code:
            self._add_response(line.custom_id, line.response)
        elif line.error is None or line.error.code not in _NOT_ASKED:
            error = line.error or _Error()
            self.errors[line.custom_id] = f"{error.code or 'no answer'}: {error.message or ''}"

    def _add_response(self, key: str, response: _Response) -> None:
        body = bytes(response.body)
        if response.status_code == 200:
            try:
                self.replies[key] = read_reply(body, 1)
            except InvalidCompletionError as error:
                self.errors[key] = str(error)
            return
        code, message = _code_and_message(json.loads(body))
        # In the openai client's words, so that a rejection reads the same online.
        reason = " ".join(f"Error code: {response.status_code} - {message}".split())
        rejection = read_rejection(response.status_code, code, reason, 1)
        if rejection:
            self.rejections[key] = rejection
        else:
            self.errors[key] = reason


def _code_and_message(body: Any) -> tuple[str | None, Any]:
    error = body.get("error", body) if isinstance(body, dict) else None
    return (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, body)
