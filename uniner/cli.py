"""What every job does around its stages: read the words, check, start Ray, run, and end with an exit code.

0 done, or the plan that was asked for is told; 1 failed; 2 bad config or input before Ray starts; 3 stopped
on purpose (the same command goes on).
"""

import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from uniner.config.loader import describe, load
from uniner.config.schema import Config
from uniner.errors import Planned, Stopped, UserError
from uniner.progress import say

STAGES = ("generate", "ingest", "annotate", "build", "train", "evaluate", "tag", "report")


def run(stages: Sequence[str], words: list[str], prepare: Callable[[Config], Config] | None = None) -> int:
    """Run stages in order on the config that the words name. Returns the exit code.

    `prepare`, where given, makes what the stages read and returns the config that names it.
    """
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: python -m jobs.STAGE CONFIG.toml [section.key=value ...]\n{describe()}")
        return 0 if words else 2
    _stop_on_signals()
    try:
        config = load(words)
        if prepare:
            config = prepare(config)
        modules = [_module(stage) for stage in stages]
        for module in modules:
            module.check(config)
        return _run(modules, config)
    except UserError as error:
        return _fail(error, 2)
    except Planned:
        return 0
    except Stopped as stopped:
        say(f"{stopped}; the same command goes on from here")
        return 3


def _run(modules: Sequence[Any], config: Config) -> int:
    """Run checked stages. Returns the exit code: a user's error from here on is 1."""
    from uniner.runtime import connection  # Ray takes seconds to import: only once the config is right

    try:
        with connection.connected():
            _stop_on_signals()  # again: Ray sets a SIGTERM handler of its own
            for module in modules:
                module.run(config)
    except (Planned, Stopped):
        raise
    except Exception as error:
        user_error = connection.user_error_in(error)
        if user_error is None:
            raise
        return _fail(user_error, 1)
    return 0


def _module(stage: str) -> Any:
    return importlib.import_module(f"uniner.{stage}.stage")


def _fail(error: UserError, code: int) -> int:
    say(f"error: {error}")
    return code


def _stop_on_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the job at once
    raise Stopped(f"stopped by {signal.Signals(number).name}")


def main(*stages: str, prepare: Callable[[Config], Config] | None = None) -> None:
    """Run as a command: the words come from the command line, the exit code goes to the shell."""
    sys.exit(run(stages or STAGES, sys.argv[1:], prepare))
