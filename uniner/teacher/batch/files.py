"""The files of the Batch API: requests out, their answers in. Both are JSON lines with a `custom_id`.

The output file has a line for each request answered with 200, the error file one for each other answer. An
HTTP error is in `response` (status and message). Where there was no HTTP answer at all, the reason is in
`error`. A batch that expired or was cancelled may have no line for a request.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from uniner.errors import UserError
from uniner.teacher.completion import (
    ChatRequest,
    Rejection,
    Teacher,
    may_have_cost,
    most_tokens,
    read_rejection,
)
from uniner.teacher.completion_reader import Completion, InvalidCompletionError, read_completion
from uniner.teacher.request_form import RequestForm

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

    def __init__(self, teacher: Teacher, limits: BatchFileLimits, form: RequestForm | None = None):
        self._teacher, self._limits, self._form = teacher, limits, form or RequestForm()
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
        new = {key: asked for key, asked in requests.items() if key not in self._keys}
        lines = {
            key: _FileLine(request_line(key, self._form.body(asked)), self._teacher.usd(*most_tokens(asked)))
            for key, asked in new.items()
        }
        count = self._count_fitting(list(lines.values()))
        if count < len(lines) and (self.chunks or not count):
            return False
        self.chunks.append(chunk)
        for key, line in list(lines.items())[:count]:
            self._keys.add(key)
            self._lines.append(line.data)
            self._bytes += len(line.data)
            self.usd += line.usd_at_most
        return True

    def data(self) -> bytes:
        """Return the file's content."""
        return b"".join(self._lines)

    def _count_fitting(self, lines: list["_FileLine"]) -> int:
        size, usd = self._bytes, self.usd
        for number, line in enumerate(lines):
            size += len(line.data)
            usd += line.usd_at_most
            full = len(self) + number >= self._limits.requests
            if full or size > self._limits.bytes or usd > self._limits.usd:
                return number
        return len(lines)


class _FileLine(NamedTuple):
    data: bytes
    usd_at_most: float


def request_line(key: str, body: Mapping[str, Any]) -> bytes:
    """Return a request's line in the file."""
    line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
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

    billed: completions that were no replies, and None for other errors that may have cost something. form:
    the form of requests that a refusal asks for; such a request has an error. A request in none of them was
    not asked.
    """

    replies: dict[str, Completion] = field(default_factory=dict)
    rejections: dict[str, Rejection] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    billed: dict[str, Completion | None] = field(default_factory=dict)
    sent: RequestForm = field(default_factory=RequestForm)
    form: RequestForm | None = None

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
            self.billed[line.custom_id] = None

    def _add_response(self, key: str, response: _Response) -> None:
        body = bytes(response.body)
        if response.status_code == 200:
            self._add_completion(key, body)
            return
        error = _error_in(json.loads(body))
        # In the openai client's words, so that a rejection reads the same online.
        reason = " ".join(f"Error code: {response.status_code} - {error.message}".split())
        form = self.sent.after(response.status_code, error.param, reason)
        rejection = None if form else read_rejection(response.status_code, error.code, reason, 1)
        self.form = form or self.form
        if rejection:
            self.rejections[key] = rejection
            return
        self.errors[key] = reason
        if may_have_cost(response.status_code):
            self.billed[key] = None

    def _add_completion(self, key: str, body: bytes) -> None:
        try:
            completion = read_completion(body)
        except InvalidCompletionError as error:
            self.errors[key], self.billed[key] = str(error), None
            return
        if completion.failure:
            self.errors[key], self.billed[key] = completion.failure, completion
        else:
            self.replies[key] = completion


class _RefusalError(NamedTuple):
    code: str | None
    param: str | None
    message: Any


def _error_in(body: Any) -> _RefusalError:
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return _RefusalError(None, None, body)
    param = error.get("param")
    return _RefusalError(error.get("code"), param if isinstance(param, str) else None, error.get("message"))
