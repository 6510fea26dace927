"""A real OpenAI-compatible HTTP server that answers from recorded replies, by default on loopback.

python -m uniner.teacher.replay_server RECORDING [PORT] serves by itself and prints its address. The annotate
stage starts one for teacher.kind = recording. GET /stats returns the number of completion requests.
"""

import asyncio
import sys
import threading
import time
from typing import Any, Self

import msgspec
from aiohttp import web

from uniner.errors import UserError
from uniner.storage.filesystem import explained, filesystem
from uniner.teacher.prompts import PROBE, passage_in


def load_recording(url: str) -> dict[str, str]:
    """Read a recording, JSON lines (.jsonl, .gz, .zst) of {"passage", "reply"}, as passage to reply.

    Raises:
        UserError: where the file is missing or a line is not such an object.
    """
    system, path = filesystem(url)
    replies: dict[str, str] = {}
    with explained(url), system.open(path, "rb", compression="infer") as lines:
        for number, line in enumerate(lines):
            try:
                row = msgspec.json.decode(line)
                replies[row["passage"]] = row["reply"]
            except (msgspec.DecodeError, KeyError, TypeError):
                raise UserError(
                    f"{url}, line {number + 1}: is not an object with passage and reply, such as "
                    '{"passage": "Ann left.", "reply": "[]"}'
                ) from None
    return replies


class ReplayServer:
    """The server, in a thread of its own. Use it as a context manager."""

    def __init__(self, replies: dict[str, str], port: int = 0, host: str = "127.0.0.1"):
        """host: the address to serve on. Port 0 takes any free one; `base_url` names it once it runs."""
        self._replies, self._port, self._host = replies, port, host
        self.asked = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self.base_url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self) -> None:
        self._loop.run_until_complete(self._run())
        self._loop.close()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/stats", self._stats)
        return app

    async def _run(self) -> None:
        runner = web.AppRunner(self._app(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, backlog=1024)
        await site.start()
        _, port = runner.addresses[0][:2]
        self.base_url = f"http://{self._host}:{port}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _complete(self, request: web.Request) -> web.Response:
        self.asked += 1
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        reply = self._replies.get(passage_in(prompt), "Yes" if prompt == PROBE else None)
        if (
            reply is None
        ):  # a question about something else, such as a type: the recording has its last paragraph
            reply = self._replies.get(prompt.rsplit("\n\n", 1)[-1])
        if reply is None:
            error = {"message": "no reply is recorded for this passage", "type": "invalid_request_error"}
            return web.json_response({"error": error}, status=400)
        return web.json_response(self._completion(body["model"], prompt, reply))

    def _completion(self, model: str, prompt: str, reply: str) -> dict[str, Any]:
        # A real server counts tokens; a recording has no tokenizer, so usage counts words.
        words_in, words_out = len(prompt.split()), len(reply.split())
        return {
            "id": f"chatcmpl-{self.asked}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": reply, "refusal": None},
                }
            ],
            "usage": {
                "prompt_tokens": words_in,
                "completion_tokens": words_out,
                "total_tokens": words_in + words_out,
            },
        }

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response({"completions": self.asked})


def main() -> None:
    """Serve until the process ends."""
    recording, *port = sys.argv[1:]
    with ReplayServer(load_recording(recording), int(port[0]) if port else 0) as server:
        print(server.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
