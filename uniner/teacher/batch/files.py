"""The files of the Batch API: requests out, what became of each back in. Both are JSON lines by `custom_id`.

The output file has a line for each request that was answered with 200, the error file for each other one.
What was refused stands in `response` (status and the server's words) or, where there was no HTTP answer at
all, in `error`; a batch that expired or was cancelled may have no line for a request.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from uniner.errors import UserError
from uniner.teacher.completion import GarbageError, Rejection, Reply, rejection, reply_of
from uniner.teacher.openai_client import Teacher

ENDPOINT: Final = "/v1/chat/completions"
# What a line says of a request that was not got round to.
_NOT_ASKED = {"batch_expired", "batch_cancelled"}


@dataclass(frozen=True)
class Room:
    """What a file may hold: requests, bytes, and US dollars at the most. OpenAI takes 50,000 and 200 MB."""

    requests: int = 50_000
    bytes: int = 100_000_000
    usd: float = math.inf


class RequestFile:
    """A file of requests, each under its key, and the chunks that they are of. At most `room` in memory."""

    def __init__(self, teacher: Teacher, room: Room):
        self._teacher, self._room = teacher, room
        self._keys: set[str] = set()
        self._lines: list[bytes] = []
        self._bytes = 0
        self.chunks: list[str] = []
        self.usd = 0.0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, chunk: str, requests: Mapping[str, dict[str, Any]]) -> bool:
        """Add a chunk's requests; those that are in the file already are asked once.

        A chunk goes in whole, or as far as there is room where it is the file's first. Returns False where
        nothing of it went in: the file is full.
        """
        lines = {key: request_line(key, asked) for key, asked in requests.items() if key not in self._keys}
        fits = self._fitting(list(lines.values()))
        if fits < len(lines) and (self.chunks or not fits):
            return False
        self.chunks.append(chunk)
        for key, line in list(lines.items())[:fits]:
            self._keys.add(key)
            self._lines.append(line)
            self._bytes += len(line)
            self.usd += self._usd_at_most(line)
        return True

    def data(self) -> bytes:
        """Return the file."""
        return b"".join(self._lines)

    def _fitting(self, lines: list[bytes]) -> int:
        size, usd = self._bytes, self.usd
        for number, line in enumerate(lines):
            size += len(line)
            usd += self._usd_at_most(line)
            full = len(self) + number >= self._room.requests
            if full or size > self._room.bytes or usd > self._room.usd:
                return number
        return len(lines)

    def _usd_at_most(self, line: bytes) -> float:
        # No tokenizer makes more tokens than there are bytes.
        return self._teacher.usd(len(line), self._teacher.max_reply_tokens)


def request_line(key: str, request: dict[str, Any]) -> bytes:
    """Return the line that asks a request under a key."""
    asked = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": request}
    return msgspec.json.encode(asked) + b"\n"


class _Response(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Outcome(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


@dataclass
class Answers:
    """What became of a batch's requests, by key: replied, refused for the passage's sake, or (with the
    server's words) broken for the server's. A request in none of them was not asked."""

    replies: dict[str, Reply] = field(default_factory=dict)
    refused: dict[str, Rejection] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def read(self, data: bytes, name: str) -> None:
        """Add what an output or error file says.

        Raises:
            UserError: where a line is no answer of the Batch API.
        """
        for number, line in enumerate(data.split(b"\n")):
            if line.strip():
                try:
                    self._take(msgspec.json.decode(line, type=_Outcome))
                except msgspec.DecodeError as error:
                    raise UserError(f"{name}, line {number + 1}: is no answer of a batch ({error})") from None

    def _take(self, line: _Outcome) -> None:
        if line.response and line.response.status_code:
            self._take_response(line.custom_id, line.response)
        elif line.error is None or line.error.code not in _NOT_ASKED:
            error = line.error or _Error()
            self.broken[line.custom_id] = f"{error.code or 'no answer'}: {error.message or ''}"

    def _take_response(self, key: str, response: _Response) -> None:
        body = bytes(response.body)
        if response.status_code == 200:
            try:
                self.replies[key] = reply_of(body, 1)
            except GarbageError as error:
                self.broken[key] = str(error)
            return
        said = json.loads(body)
        told = said.get("error", said) if isinstance(said, dict) else None
        code, message = (told.get("code"), told.get("message")) if isinstance(told, dict) else (None, said)
        # As the client words it where the same is said online.
        words = " ".join(f"Error code: {response.status_code} - {message}".split())
        refused = rejection(response.status_code, code, words, 1)
        if refused:
            self.refused[key] = refused
        else:
            self.broken[key] = words
