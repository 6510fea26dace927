"""Connect to Ray, and find the user's error inside what Ray raises."""

import contextlib
import functools
import logging
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray
from ray import exceptions

from uniner.errors import Stopped, UserError
from uniner.progress import VERBOSE, is_verbose
from uniner.storage.trouble import PATIENCE, patience_s

log = logging.getLogger(__name__)

Ending = TypeVar("Ending", bound=Exception)
Shared = TypeVar("Shared")
_HELD = ("cause", "controller_failure", "health_check_failure")
_DEATHS = (
    exceptions.RayActorError,
    exceptions.OutOfMemoryError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.OwnerDiedError,
)
_RETRY_ADVICE = re.compile(r"\nFailed to .{1,200} after \d+/\d+ attempts \(total backoff.*", re.DOTALL)
"""What Ray Data adds to the message of an error that a task or actor raised."""
_CONNECT_S = 10.0
_LOGICAL_CPUS = 8  # a pipeline of several operators hangs where Ray sees only one or two CPUs


class RayStartError(UserError):
    """Ray cannot be started, or the cluster cannot be used."""


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connect to RAY_ADDRESS (set in a submitted job), or start a local Ray.

    A Ray that this process is already connected to is used and left running.

    Raises:
        RayStartError: there is no Ray.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    level = logging.INFO if is_verbose() else logging.ERROR
    if not is_verbose():
        # Ray's core logs for each actor pool that Ray Data cannot restart it; real failures are raised.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # Nor of calls whose answer nobody reads, such as those to Ray Data's statistics.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        ray._private.worker.print_to_stdstream = _log_message
    logging.getLogger("ray").setLevel(level)
    # Ray Data logs errors that it also raises, at length; the job logs them in one line.
    logging.getLogger("ray.data").setLevel(logging.INFO if is_verbose() else logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": is_verbose(), "logging_level": level}
    variables = {VERBOSE: "1"} if is_verbose() else {}
    if os.environ.get("RAY_ADDRESS"):  # the workers of a local Ray have this process's variables
        variables[PATIENCE] = str(patience_s())
    if variables:
        options["runtime_env"] = {"env_vars": variables}
    with tempfile.TemporaryDirectory(prefix="uniner-ray-", ignore_cleanup_errors=True) as temporary:
        if not os.environ.get("RAY_ADDRESS"):
            cpus = max(_LOGICAL_CPUS, os.cpu_count() or 1)
            options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
            options["_temp_dir"] = temporary
        try:
            _start(options)
            yield
        finally:
            ray.shutdown()


def _start(options: dict[str, Any]) -> None:
    """Connect to Ray or start it.

    Raises:
        RayStartError: it does not answer in time, or refuses, as where its version is another.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        _reach(address)
        with _own_signal_handlers():
            ray.init(**options)
    except Stopped:
        raise
    except Exception as error:  # Ray raises errors of many kinds, a bare Exception among them
        log.debug("Ray did not start", exc_info=error)
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if address:
            raise RayStartError(
                f"Ray at RAY_ADDRESS={address} cannot be used: {reason}; check that its head node runs and "
                "has the same versions of Ray and Python, or unset RAY_ADDRESS to start Ray here"
            ) from error
        raise RayStartError(
            f"Ray did not start on this machine: {reason}; run the same command again, and if that does not "
            f"help, look whether memory, processes or {tempfile.gettempdir()} are used up"
        ) from error


def _reach(address: str) -> None:
    """Open and close a connection, as Ray would try for a quarter of an hour. `auto` and "" have no port."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), _CONNECT_S).close()


def own_address() -> str:
    """Return the address at which the cluster's machines reach this one; in a local Ray 127.0.0.1."""
    return str(ray.util.get_node_ip_address()) if os.environ.get("RAY_ADDRESS") else "127.0.0.1"


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's signal handlers: Ray's would end a driver that is stopped with other exit codes.

    Ray's Python code sets one for SIGTERM. Its C++ code sets one below Python's for several signals, which
    prints the stack, and aborts the process 3 s later if it has not ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread has handlers
        return
    set_handler = signal.signal

    def ignore_ray(number: int, handler: Any) -> Any:
        if str(getattr(handler, "__module__", "")).startswith("ray."):
            return signal.getsignal(number)
        return set_handler(number, handler)

    signal.signal = ignore_ray  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = set_handler
        signal.alarm(0)
        for number in (signal.SIGINT, signal.SIGTERM):
            if (handler := signal.getsignal(number)) is not None:
                signal.signal(number, handler)


def _log_message(message: dict[str, Any], **_: Any) -> None:
    """Log the first sentence of a message from Ray's raylets, which they write a page long."""
    text = " ".join(" ".join(message["lines"]).split())
    log.warning(f"Ray: {text.split('. ', 1)[0][:200]}")


def plain_error(error: BaseException) -> BaseException:
    """Return the Stopped or UserError that a task or actor raised inside Ray's wrappers, else the error."""
    return exception_in(error, Stopped) or user_error_in(error) or error


def user_error_in(error: BaseException) -> UserError | None:
    """Return the UserError that a task or actor raised inside Ray's wrappers."""
    return exception_in(error, UserError)


def exception_in(error: BaseException, kind: type[Ending]) -> Ending | None:
    """Return the first exception of a kind among an error and all that it holds."""
    for current in _exceptions_in(error):
        if isinstance(current, kind):
            return kind(_RETRY_ADVICE.sub("", str(current.args[0]) if current.args else str(current)))
        if getattr(current, "actor_init_failed", False):
            # A later call meets a dead actor, of whose own error Ray keeps the text alone.
            name = re.escape(f"{kind.__module__}.{kind.__name__}")
            lines = re.findall(rf"^{name}: (.+)$", str(current), re.M)
            if lines:
                return kind(lines[-1])
    return None


def _exceptions_in(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes, its group's members, and those that Ray keeps in fields of their own."""
    seen, waiting = set(), [error]
    while waiting:
        current = waiting.pop()
        yield current
        seen.add(id(current))
        causes = (current.__cause__, current.__context__, *(getattr(current, name, None) for name in _HELD))
        workers = getattr(current, "worker_failures", {}).values()
        waiting += [
            cause
            for cause in (*causes, *getattr(current, "exceptions", ()), *workers)
            if isinstance(cause, BaseException) and id(cause) not in seen
        ]


def death_in(error: BaseException) -> str | None:
    """Say in short which process or machine of Ray died, where an error is due to that, and what may help."""
    deaths = [each for each in _exceptions_in(error) if isinstance(each, _DEATHS)]
    deaths = [death for death in deaths if not getattr(death, "actor_init_failed", False)]
    if not deaths:
        return None
    texts = [str(death) for death in deaths]
    # Where memory runs out, processes that depend on the ended one die too: the memory is the cause.
    for text in texts:
        if "running low on memory" in text:
            host, used = _found(r"IP: ([^,)\s]+)", text), _found(r"was (\S+ used / \S+ limit)", text)
            return (
                f"the machine{host and f' {host}'} ran out of memory{used and f' ({used})'}, so Ray ended a "
                "process there; use fewer workers on a machine, smaller batches or more memory"
            )
    name, host = _found(r"class_name: (\S+)", texts[0]), _found(r"\bip: (\S+)", texts[0])
    detail = re.split(r"Worker exit detail: |\n", texts[0])[-1].split(" Some common causes")[0]
    return (
        f"{f'the process {name}' if name else 'a process of Ray'}{host and f' on {host}'} died "
        f"({' '.join(detail.split())[:160]}); look whether it was killed, or the machine is out of memory"
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def share(value: Shared) -> Callable[[], Shared]:
    """Put a value into Ray's object store, once. Return a function that gets it in any actor."""
    return functools.partial(ray.get, ray.put(value))
