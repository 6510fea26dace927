"""Connect to Ray, and find the user's error inside what Ray raises."""

import contextlib
import functools
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray

from uniner.errors import Stopped, UserError
from uniner.progress import VERBOSE, is_verbose
from uniner.storage.trouble import PATIENCE, patience_s

Ending = TypeVar("Ending", bound=Exception)
Shared = TypeVar("Shared")
_LOGICAL_CPUS = 8  # a pipeline of several operators hangs where Ray sees only one or two CPUs


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connect to RAY_ADDRESS (set in a submitted job), or start a local Ray.

    A Ray that this process is already connected to is used and left running.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    level = logging.INFO if is_verbose() else logging.ERROR
    if not is_verbose():
        # Ray's core logs for each actor pool that Ray Data cannot restart it; real failures are raised.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
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
            with _own_signal_handlers():
                ray.init(**options)
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's signal handlers: Ray's would end a driver that is stopped with other exit codes.

    Ray's Python code sets one for SIGTERM. Its C++ code sets one below Python's for several signals, which
    prints the stack, and aborts the process 3 s later if it has not ended.
    """
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
            signal.signal(number, signal.getsignal(number))


def plain_error(error: BaseException) -> BaseException:
    """Return the Stopped or UserError that a task or actor raised inside Ray's wrappers, else the error."""
    return exception_in(error, Stopped) or user_error_in(error) or error


def user_error_in(error: BaseException) -> UserError | None:
    """Return the UserError that a task or actor raised inside Ray's wrappers."""
    return exception_in(error, UserError)


def exception_in(error: BaseException, kind: type[Ending]) -> Ending | None:
    """Return the first exception of a kind among an error, its causes and its groups' members."""
    seen, waiting = set(), [error]
    while waiting:
        current = waiting.pop()
        if isinstance(current, kind):
            return kind(str(current.args[0]) if current.args else str(current))
        seen.add(id(current))
        causes = (current.__cause__, getattr(current, "cause", None), current.__context__)
        waiting += [
            cause
            for cause in (*causes, *getattr(current, "exceptions", ()))
            if isinstance(cause, BaseException) and id(cause) not in seen
        ]
    return None


def share(value: Shared) -> Callable[[], Shared]:
    """Put a value into Ray's object store, once. Return a function that gets it in any actor."""
    return functools.partial(ray.get, ray.put(value))
