"""A check's results, and the checks run one after another."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from uniner.errors import Stopped, UserError
from uniner.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckResult:
    """One line: what was looked at, what was found, what to do.

    warning: the run may still go well. error: it will not.
    """

    level: Literal["ok", "warning", "error"]
    subject: str
    found: str

    def line(self) -> str:
        """Return the line."""
        return f"{self.level:<8} {self.subject}: {self.found.removeprefix(f'{self.subject}: ')}"


def ok(subject: str, found: str) -> CheckResult:
    """Return the result of a check that passed."""
    return CheckResult("ok", subject, found)


def warning(subject: str, found: str) -> CheckResult:
    """Return the result of a check that leaves a doubt."""
    return CheckResult("warning", subject, found)


def error(subject: str, found: str) -> CheckResult:
    """Return the result of a check that failed."""
    return CheckResult("error", subject, found)


@dataclass(frozen=True)
class Check:
    """A check: what it looks at, and a function that yields its results. A UserError is one too."""

    subject: str
    run: Callable[[], Iterable[CheckResult]]


def run_checks(checks: Sequence[Check], say: Callable[[str], None]) -> int:
    """Run checks, and say each result's line as it comes. Returns the number of errors.

    An error that an earlier check has found already is said in short. The progress line names the check that
    is running.
    """
    running, errors, first = "", 0, dict[str, str]()
    with Progress("preflight", len(checks), "checks", more=lambda: running) as progress:
        for number, check in enumerate(checks):
            running = check.subject
            progress.add(1 if number else 0)
            for result in results_of(check):
                if result.level == "error":
                    errors += 1
                    before = first.setdefault(result.found, result.subject)
                    if before != result.subject:
                        result = error(result.subject, f"the same as {before}")
                say(result.line())
    return errors


def results_of(check: Check) -> Iterator[CheckResult]:
    """Yield a check's results; what it raises is an error among them."""
    try:
        yield from check.run()
    except Stopped:
        raise
    except UserError as found:
        yield error(check.subject, str(found))
    except Exception as fault:
        # The other checks still tell something; --verbose shows where this one broke off.
        log.debug(f"preflight: the check of {check.subject} broke off", exc_info=fault)
        yield error(check.subject, f"the check broke off ({type(fault).__name__}: {short(fault)})")


def short(fault: BaseException) -> str:
    """Return an error's message in one line of limited length."""
    return " ".join(str(fault).split())[:200] or type(fault).__name__


def size(count: float) -> str:
    """Return a number of bytes in words, such as "1.2 GB"."""
    for unit, bytes_ in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count:,.0f} bytes"
