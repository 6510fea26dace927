"""Collective calls: an action that fails on one worker fails on all, so that no worker waits for another."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from uniner.errors import UserError

Result = TypeVar("Result")


def run_on_all(action: Callable[[], Result], group: Any = None) -> Result:
    """Run an action on every worker of a group (default: all workers). Returns this worker's result.

    Raises:
        UserError: on all workers, if any worker raised one.
        Exception: on all workers, if any worker raised another error; the others raise a RuntimeError that
            quotes it.
    """
    result, error = None, None
    try:
        result = action()
    except Exception as caught:
        error = caught
    messages = all_gather(error and (isinstance(error, UserError), f"{error}"), group)
    failures = [message for message in messages if message]
    for is_user_error, text in failures:
        if is_user_error:
            raise UserError(text)
    if error:
        raise error
    if failures:
        raise RuntimeError(f"another worker failed: {failures[0][1]}")
    return result  # type: ignore[return-value]


def run_on_first(action: Callable[[], Result]) -> Result:
    """Run an action on worker 0. Returns its result on every worker; every worker must call this.

    Raises:
        UserError, Exception: as `run_on_all`.
    """
    return all_gather(run_on_all(lambda: action() if dist.get_rank() == 0 else None))[0]  # type: ignore[return-value]


def all_gather(value: Result, group: Any = None) -> list[Result]:
    """Return every worker's value, in the order of their ranks, on every worker."""
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group)
    return values
