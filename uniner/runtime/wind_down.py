"""What the driver does at the first signal, before the run stops. Does not import Ray.

A part of a run that has something to finish, such as paid requests in flight, says so with `wind_down_first`.
The command line's signal handler then starts that instead of raising `Stopped`. Whoever winds down raises the
signal again when it is done, and the user may do so too: both stop the run at once.
"""

import contextlib
from collections.abc import Callable, Iterator

Start = Callable[[int], None]
"""Begins to wind down, given the signal's number. Called in a signal handler: it must only leave a note."""
_start: Start | None = None


@contextlib.contextmanager
def wind_down_first(start: Start) -> Iterator[None]:
    """Have the first signal within the block begin to wind down."""
    global _start
    _start = start
    try:
        yield
    finally:
        _start = None


def begin_wind_down(number: int) -> bool:
    """Begin to wind down at a signal. Returns False where there is nothing to finish, or it was begun before:
    then the run stops now."""
    global _start
    start, _start = _start, None
    if start is None:
        return False
    start(number)
    return True
