"""What all training processes do in step: what fails on one fails on all, so that none waits for another."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from uniner.errors import UserError

Result = TypeVar("Result")


def together(action: Callable[[], Result], group: Any = None) -> Result:
    """Do something on every worker of a group (default: all) and return what this one made.

    Raises:
        UserError: on all, where it was raised on any.
        Exception: where anything else went wrong: the worker's own, on the others one that tells it.
    """
    result, error = None, None
    try:
        result = action()
    except Exception as caught:
        error = caught
    told = everyones(error and (isinstance(error, UserError), f"{error}"), group)
    problems = [problem for problem in told if problem]
    for by_user, text in problems:
        if by_user:
            raise UserError(text)
    if error:
        raise error
    if problems:
        raise RuntimeError(f"another worker failed: {problems[0][1]}")
    return result  # type: ignore[return-value]


def everyones(mine: Result, group: Any = None) -> list[Result]:
    """Return what each worker has, by rank, to all of them."""
    told: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(told, mine, group)
    return told
