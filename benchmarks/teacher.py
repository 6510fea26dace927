"""A slow teacher: a minimal HTTP/1.1 server in its own process.

It answers each chat completion after a seeded time, uniform from half to one and a half times the mean. So no
client is faster than its requests in flight divided by the mean. One event loop on uvloop and no framework:
the server takes little of the machine from the client.
"""

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import uvloop

REPLY = '[("Ann", "person"), ("Bonn", "city"), ("Ajax Corporation", "company"), ("May 2019", "date")]'
_BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": REPLY}}
        ],
        "usage": {"prompt_tokens": 400, "completion_tokens": 40, "total_tokens": 440},
    }
).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY)


class _Connection(asyncio.Protocol):
    """A connection: requests one after the other, each with a Content-Length."""

    now = peak = answered = 0
    first = last = 0.0

    def __init__(self, mean_s: float, chance: random.Random):
        self._mean_s, self._chance, self._data = mean_s, chance, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(self._data) < end + 4 + length:
                return
            self._data = self._data[end + 4 + length :]
            _Connection.first = _Connection.first or time.monotonic()
            _Connection.now += 1
            _Connection.peak = max(_Connection.peak, _Connection.now)
            wait_s = self._mean_s * self._chance.uniform(0.5, 1.5)
            asyncio.get_running_loop().call_later(wait_s, self._answer)

    def _answer(self) -> None:
        _Connection.now -= 1
        if not self._transport.is_closing():
            _Connection.answered += 1
            _Connection.last = time.monotonic()
            self._transport.write(_ANSWER + _BODY)


async def _serve(mean_s: float) -> None:
    chance, stop, loop = random.Random(0), asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: _Connection(mean_s, chance), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    seconds = _Connection.last - _Connection.first
    print(json.dumps([_Connection.answered, _Connection.peak, seconds]), flush=True)


class SlowTeacher:
    """The server's process: its address, and after `close` its counts."""

    def __init__(self, process: subprocess.Popen[str]):
        assert process.stdout
        self._process, self._out = process, process.stdout
        self.base_url = f"http://127.0.0.1:{int(self._out.readline())}/v1"
        self.answered, self.peak, self.seconds = 0, 0, 0.0

    def close(self) -> None:
        """Stop the server and read its counts.

        answered, peak (requests in flight), seconds (from the first request to the last reply).
        """
        self._process.terminate()
        self.answered, self.peak, self.seconds = json.loads(self._out.readline())
        self._process.wait()


@contextlib.contextmanager
def slow_teacher(mean_s: float) -> Iterator[SlowTeacher]:
    """Run the server for the block."""
    command = [sys.executable, "-m", "benchmarks.teacher", str(mean_s)]
    server = SlowTeacher(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    try:
        yield server
    finally:
        server.close()


if __name__ == "__main__":
    uvloop.run(_serve(float(sys.argv[1])))
