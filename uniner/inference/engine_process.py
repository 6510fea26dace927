"""The processes that vLLM starts: what they read, why they did not start, and that they end with this one."""

import contextlib
import copy
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniner.errors import UserError

_MARK = "UNINER_ENGINE"
_CPU_KV_CACHE_GIB = "1"
_LOGGING = "VLLM_LOGGING_CONFIG_PATH"


def set_environment(cpus: float, on_cpu: bool) -> None:
    """Set what vLLM reads from the environment, before it is imported; what the user has set of it stands."""
    settings = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "SPT_NOENV": "1",  # a process that gives itself a title keeps the environment by which it is known
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked engine would hold the watch's pipe open
    }
    if on_cpu:
        # nobind: else all engines of a machine bind to its same first cores. PASSIVE: threads that wait do
        # not spin, which on a busy machine made an engine 6 times slower.
        settings |= {
            "VLLM_CPU_KVCACHE_SPACE": _CPU_KV_CACHE_GIB,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(cpus) - 1))  # one is for the engine's own work
    for name, value in settings.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def alone_on_gpu(shared: bool) -> Iterator[None]:
    """Let one engine at a time start on a GPU that several share: vLLM finds out what room there is for its
    cache by the GPU's free memory before and after, so that nobody else may take or leave any meanwhile."""
    if not shared:
        yield
        return
    from filelock import FileLock

    gpu = re.sub(r"\W+", "-", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    with FileLock(Path(tempfile.gettempdir()) / f"uniner-gpu-{gpu}.lock"):
        yield


@dataclass(frozen=True)
class Cause:
    """An exception that ended one of vLLM's processes: its class's name, what it said, its traceback."""

    kind: str
    said: str
    trace: str


class CauseHandler(logging.Handler):
    """Writes the exceptions that vLLM logs into a file, a JSON line each, from whichever process."""

    def __init__(self, file: str):
        super().__init__(logging.ERROR)
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's exception, if it has one."""
        if not record.exc_info or not record.exc_info[1]:
            return
        error = record.exc_info[1]
        trace = "".join(traceback.format_exception(error))
        line = json.dumps({"kind": type(error).__name__, "said": str(error), "trace": trace})
        # Once the engine has started, the file is gone, and the log alone has it.
        with contextlib.suppress(FileNotFoundError), Path(self._file).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextlib.contextmanager
def causes_noted() -> Iterator[tuple[dict[str, Any], list[Cause]]]:
    """Note why a process of vLLM's that is started in this block ends: vLLM itself only says that one did.

    Yields vLLM's arguments for that, and a list that holds the causes, the first to come first, once the
    block is left. A user's own configuration of vLLM's log stands; there are no causes then.
    """
    causes: list[Cause] = []
    if os.environ.get(_LOGGING):
        yield {}, causes
        return
    from vllm.config.logging import LoggingConfig
    from vllm.logger import DEFAULT_LOGGING_CONFIG

    with tempfile.TemporaryDirectory(prefix="uniner-engine-") as folder:
        noted, settings = Path(folder) / "causes.jsonl", Path(folder) / "logging.json"
        noted.touch()
        config = copy.deepcopy(DEFAULT_LOGGING_CONFIG)
        handler = {"class": f"{__name__}.{CauseHandler.__name__}", "file": str(noted)}
        config["handlers"]["causes"] = handler
        config["loggers"]["vllm"]["handlers"].append("causes")
        settings.write_text(json.dumps(config))
        os.environ[_LOGGING] = str(settings)  # for processes that the engine's process starts
        try:
            yield {"logging_config": LoggingConfig(pylogging_config_file=str(settings))}, causes
        finally:
            del os.environ[_LOGGING]
            causes += [Cause(**json.loads(line)) for line in noted.read_text().splitlines()]


_MEMORY = re.compile(
    "out of memory|available memory|free memory|memory for the cache|kv cache is needed|can't allocate memory"
    "|cannot allocate memory|exceed the desired gpu memory",
    re.IGNORECASE,
)
_REFUSALS = {
    "ValueError",
    "OSError",
    "FileNotFoundError",
    "NotImplementedError",
    "RuntimeError",
    "SafetensorError",
}
"""What vLLM raises of a model or settings that it cannot use; anything else is a defect, its own or ours."""
_LONGEST = 500


def not_started(model: str, error: Exception, causes: list[Cause]) -> Exception:
    """Return what to raise where vLLM did not start: a UserError where the user can mend it.

    Else an exception with the traceback of the process that failed, which nobody would see otherwise.
    """
    if not causes and re.search(r": -9\b", str(error)):
        return _too_little_memory(model, "its process was killed, as systems do that have none left")
    # The first to come: the process above one that failed only says that one did.
    cause = causes[0] if causes else Cause(type(error).__name__, str(error), "")
    said = " ".join(f"{cause.kind}: {cause.said}".split())[:_LONGEST]
    if cause.kind == "OutOfMemoryError" or _MEMORY.search(said):
        return _too_little_memory(model, said)
    if cause.kind in _REFUSALS and (causes or cause.kind != "RuntimeError"):
        return UserError(f"{model}: vLLM does not start with this model and these settings: {said}")
    return RuntimeError(f"{model}: vLLM does not start: {said}\n{cause.trace}")


def _too_little_memory(model: str, said: str) -> UserError:
    return UserError(
        f"{model}: too little memory to start it ({said}); where something else holds the memory, lower "
        "engine.gpu_memory_utilization; where the model fills it, lower engine.max_num_seqs and "
        "engine.max_num_batched_tokens or take more engine.gpus (a served teacher's stand in [teacher])"
    )


# Several passes: a process has no environment to read for a moment while it starts.
_WATCH = """
import os, sys, time
sys.stdin.buffer.read()
mark = sys.argv[1].encode()
for _ in range(5):
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                marked = mark in file.read().split(bytes(1))
            if marked:
                os.kill(int(pid), 9)
        except OSError:
            pass
    time.sleep(0.2)
"""


@contextlib.contextmanager
def children_watched() -> Iterator[subprocess.Popen[bytes] | None]:
    """Let none of the processes that are started in this block outlive this one, however it ends.

    vLLM's engine process does not notice when its parent is killed: it would keep the GPU's memory, and the
    actor that is started in the killed one's place would find none (ray#54364, vllm#34643). Ray's process
    group cleanup cures it where it is on (tried: off, the engine stays for good); this does so everywhere. A
    small process holds the reading end of a pipe; when this process is gone it kills all that inherited our
    mark.
    """
    if not sys.platform.startswith("linux"):
        yield None
        return
    mark = uuid.uuid4().hex
    unmarked = {name: value for name, value in os.environ.items() if name != _MARK}
    command = [sys.executable, "-S", "-E", "-c", _WATCH, f"{_MARK}={mark}"]
    watch = subprocess.Popen(command, stdin=subprocess.PIPE, env=unmarked, start_new_session=True)
    os.environ[_MARK] = mark
    try:
        yield watch
    finally:
        del os.environ[_MARK]
