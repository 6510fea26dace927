"""The processes that vLLM starts: their environment, the causes of a failed start, and their end."""

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

_FP8_CACHE = (8, 9)
"""The least compute capability for an 8-bit KV cache: Triton's kernels need it, FlashAttention's need 9."""

_MARK = "UNINER_ENGINE"
_CPU_KV_CACHE_GIB = "1"
_LOGGING_CONFIG = "VLLM_LOGGING_CONFIG_PATH"


def set_environment(cpus: float, on_cpu: bool) -> None:
    """Set the variables that vLLM reads; call it before vLLM is imported. The user's own values are kept."""
    variables = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "SPT_NOENV": "1",  # setting a process title must not erase the environment, where the mark is read
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked engine would hold the watcher's pipe open
    }
    if on_cpu:
        # nobind: else all engines of a machine bind to the same first cores. PASSIVE: waiting threads do not
        # spin, which made an engine 6 times slower on a busy machine.
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": _CPU_KV_CACHE_GIB,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(cpus) - 1))  # one core is for the engine's own work
    for name, value in variables.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def gpu_start_lock(shared: bool) -> Iterator[None]:
    """Let only one engine at a time start on a GPU that several engines share.

    vLLM sizes its cache by the GPU's free memory before and after loading, so no other process may allocate
    or free memory meanwhile.
    """
    if not shared:
        yield
        return
    from filelock import FileLock

    gpu = re.sub(r"\W+", "-", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    with FileLock(Path(tempfile.gettempdir()) / f"uniner-gpu-{gpu}.lock"):
        yield


@dataclass(frozen=True, kw_only=True)
class StartupError:
    """An exception that ended one of vLLM's processes: class name, message and traceback."""

    kind: str
    message: str
    trace: str


class StartupErrorHandler(logging.Handler):
    """Appends the exceptions that vLLM logs, in any of its processes, to a file of JSON lines."""

    def __init__(self, file: str):
        super().__init__(logging.ERROR)
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's exception, if it has one."""
        if not record.exc_info or not record.exc_info[1]:
            return
        error = record.exc_info[1]
        trace = "".join(traceback.format_exception(error))
        line = json.dumps({"kind": type(error).__name__, "message": str(error), "trace": trace})
        # The file is deleted once the engine has started. Later exceptions are in the log only.
        with contextlib.suppress(FileNotFoundError), Path(self._file).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextlib.contextmanager
def startup_errors_recorded() -> Iterator[tuple[dict[str, Any], list[StartupError]]]:
    """Record why a vLLM process that starts in this block ends: vLLM itself only reports that one ended.

    Yields the arguments that vLLM needs for this, and a list that holds the errors, earliest first, after the
    block. Where the user configures vLLM's log (VLLM_LOGGING_CONFIG_PATH), nothing is recorded.
    """
    errors: list[StartupError] = []
    if os.environ.get(_LOGGING_CONFIG):
        yield {}, errors
        return
    from vllm.config.logging import LoggingConfig
    from vllm.logger import DEFAULT_LOGGING_CONFIG

    with tempfile.TemporaryDirectory(prefix="uniner-engine-") as folder:
        recorded, settings = Path(folder) / "errors.jsonl", Path(folder) / "logging.json"
        recorded.touch()
        config = copy.deepcopy(DEFAULT_LOGGING_CONFIG)
        handler = {"class": f"{__name__}.{StartupErrorHandler.__name__}", "file": str(recorded)}
        config["handlers"]["startup_errors"] = handler
        config["loggers"]["vllm"]["handlers"].append("startup_errors")
        settings.write_text(json.dumps(config))
        os.environ[_LOGGING_CONFIG] = str(settings)  # for the processes that the engine's process starts
        try:
            yield {"logging_config": LoggingConfig(pylogging_config_file=str(settings))}, errors
        finally:
            del os.environ[_LOGGING_CONFIG]
            errors += [StartupError(**json.loads(line)) for line in recorded.read_text().splitlines()]


_OUT_OF_MEMORY = re.compile(
    "out of memory|available memory|free memory|memory for the cache|kv cache is needed|can't allocate memory"
    "|cannot allocate memory|exceed the desired gpu memory",
    re.IGNORECASE,
)
_USER_ERRORS = {
    "ValueError",
    "OSError",
    "FileNotFoundError",
    "NotImplementedError",
    "RuntimeError",
    "SafetensorError",
}
"""What vLLM raises for a model or settings that it cannot use. Any other exception is a defect."""
_MESSAGE_CHARACTERS = 500


def startup_exception(model: str, error: Exception, errors: list[StartupError]) -> Exception:
    """Return the exception to raise when vLLM did not start: a UserError if the user can fix the cause.

    Any other exception includes the traceback of the process that failed, which is not shown elsewhere.
    """
    if not errors and re.search(r": -9\b", str(error)):
        return _too_little_memory(model, "its process was killed, as systems do when memory runs out")
    # The earliest is the cause: the parent of a failed process only reports that the process failed.
    cause = errors[0] if errors else StartupError(kind=type(error).__name__, message=str(error), trace="")
    message = " ".join(f"{cause.kind}: {cause.message}".split())[:_MESSAGE_CHARACTERS]
    if cause.kind == "OutOfMemoryError" or _OUT_OF_MEMORY.search(message):
        return _too_little_memory(model, message)
    if cause.kind in _USER_ERRORS and (errors or cause.kind != "RuntimeError"):
        return UserError(f"{model}: vLLM does not start with this model and these settings: {message}")
    return RuntimeError(f"{model}: vLLM does not start: {message}\n{cause.trace}")


def _too_little_memory(model: str, message: str) -> UserError:
    return UserError(
        f"{model}: too little memory to start the engine ({message}); if another process holds the memory, "
        "lower engine.gpu_memory_utilization; if the model fills it, lower engine.max_num_seqs and "
        "engine.max_num_batched_tokens or raise engine.gpus (for a served teacher, set these in [teacher])"
    )


# Several passes: the environment of a process cannot be read for a moment while the process starts.
_WATCHER = """
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
    """Let no process that starts in this block outlive this process, however this process ends.

    vLLM's engine process does not notice when its parent is killed: it would keep the GPU's memory, and the
    actor that replaces the killed one would find none free (ray#54364, vllm#34643). Ray's process group
    cleanup does the same where it is enabled (measured: without it the engine stays forever); this works
    everywhere. A small process holds the reading end of a pipe. When this process is gone, it kills all
    processes that inherited the mark in their environment.
    """
    if not sys.platform.startswith("linux"):
        yield None
        return
    mark = uuid.uuid4().hex
    unmarked = {name: value for name, value in os.environ.items() if name != _MARK}
    command = [sys.executable, "-S", "-E", "-c", _WATCHER, f"{_MARK}={mark}"]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, env=unmarked, start_new_session=True)
    os.environ[_MARK] = mark
    try:
        yield watcher
    finally:
        del os.environ[_MARK]


def require_fp8_cache() -> None:
    """Check that this machine's GPU can keep the KV cache in 8 bits. Does not use the GPU.

    Raises:
        UserError: it cannot.
    """
    from vllm.platforms import current_platform

    capability = current_platform.get_device_capability()
    if capability is None or (capability.major, capability.minor) >= _FP8_CACHE:
        return
    raise UserError(
        f"engine.kv_cache_dtype = fp8: {current_platform.get_device_name()} (compute capability "
        f"{capability.major}.{capability.minor}) has no such kernels; unset it, or take a GPU of 8.9 or "
        "more, such as L40S, H100 or H200"
    )
