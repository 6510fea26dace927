"""Connect to Ray, and find the user's error inside what Ray raises."""

import contextlib
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray

from uniner.errors import UserError

Ending = TypeVar("Ending", bound=Exception)
Shared = TypeVar("Shared")
_LOGICAL_CPUS = 8  # pipelines of several operators hang where Ray believes in one or two CPUs


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Be in the cluster that RAY_ADDRESS names (a submitted job has it), else in a Ray of our own.

    A Ray that this process is in already stays as it is.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Its core would print of each actor pool that Ray Data could not be restarted; what fails is raised.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with tempfile.TemporaryDirectory(prefix="uniner-ray-", ignore_cleanup_errors=True) as temporary:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**common)
        else:
            cpus = max(_LOGICAL_CPUS, os.cpu_count() or 1)
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, _temp_dir=temporary, **common)
        try:
            yield
        finally:
            ray.shutdown()


def user_error_in(error: BaseException) -> UserError | None:
    """Find the UserError that a task or an actor raised inside the layers that Ray puts around it."""
    return exception_in(error, UserError)


def exception_in(error: BaseException, kind: type[Ending]) -> Ending | None:
    seen, waiting = set(), [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, kind):
            return kind(str(found.args[0]) if found.args else str(found))
        seen.add(id(found))
        causes = (found.__cause__, getattr(found, "cause", None), found.__context__)
        waiting += [
            cause
            for cause in (*causes, *getattr(found, "exceptions", ()))
            if isinstance(cause, BaseException) and id(cause) not in seen
        ]
    return None


def share(value: Shared) -> Callable[[], Shared]:
    """Put a value into Ray's object store, once. Return a function that gets it in any actor."""
    return functools.partial(ray.get, ray.put(value))
