"""A teacher on loopback that writes a bill, and can be told to fail in the ways that servers do.

python -m benchmarks.billing_teacher RECORDING PORT BILL serves the recording's replies. The bill is a file
with a line for each request that was worked on, whether or not its reply arrived: the tokens of prompt and
reply. It is written before the reply is sent, so a killed server's bill is complete.

POST /fault with {"kind": ..., "count": n} makes the next n requests fail:

    500, 503    the status, unbilled
    late        the reply comes after 20 s, billed
    cut         the body ends in the middle, billed
    empty       a reply without text, billed
    no usage    a reply without token counts, billed
"""

import asyncio
import json
import os
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from uniner.teacher.replay_server import ReplayServer, load_recording

FAULTS = ("500", "503", "late", "cut", "empty", "no usage")
_LATE_S = 20.0
_REPLY_S = 0.3


class Bill(NamedTuple):
    """The requests worked on, and their tokens."""

    requests: int
    tokens_in: int
    tokens_out: int

    @classmethod
    def read(cls, path: Path) -> "Bill":
        """Read a server's bill."""
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return cls(len(lines), sum(int(line[0]) for line in lines), sum(int(line[1]) for line in lines))


class BillingTeacher(ReplayServer):
    """The server. Replies take a third of a second, so that faults meet requests in flight."""

    def __init__(self, replies: dict[str, str], port: int, bill: Path):
        super().__init__(replies, port)
        self._bill = os.open(bill, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._faults: deque[str] = deque()

    def _app(self) -> web.Application:
        app = super()._app()
        app.router.add_post("/fault", self._fault)
        return app

    async def _fault(self, request: web.Request) -> web.Response:
        fault = await request.json()
        self._faults.extend([fault["kind"]] * fault["count"])
        return web.json_response({})

    async def _complete(self, request: web.Request) -> web.Response:
        fault = self._faults.popleft() if self._faults else ""
        if fault in ("500", "503"):
            return web.json_response({"error": {"message": "overloaded"}}, status=int(fault))
        await asyncio.sleep(_REPLY_S)
        response = await super()._complete(request)
        if response.status != 200:
            return response
        body = json.loads(response.body)
        usage = body["usage"]
        os.write(self._bill, f"{usage['prompt_tokens']} {usage['completion_tokens']}\n".encode())
        return await self._spoilt(request, fault, body)

    async def _spoilt(self, request: web.Request, fault: str, body: dict[str, Any]) -> Any:
        if fault == "late":
            await asyncio.sleep(_LATE_S)
        elif fault == "empty":
            body["choices"][0]["message"]["content"] = ""
        elif fault == "no usage":
            del body["usage"]
        elif fault == "cut":
            data = json.dumps(body).encode()
            response = web.StreamResponse(headers={"Content-Length": str(len(data))})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport
            request.transport.close()
            return response
        return web.json_response(body)


def main() -> None:
    """Serve until the process ends."""
    recording, port, bill = sys.argv[1:]
    with BillingTeacher(load_recording(recording), int(port), Path(bill)) as server:
        print(server.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
