"""The benchmarks' table, and other systems in environments of their own, beside which ours is measured."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Measured:
    """A line: what was measured, ours, what it is compared with (and how that did), the ratio, the goal.

    than is None where it could not be measured; against says why.
    """

    what: str
    ours: float
    unit: str
    against: str
    than: float | None
    goal: str


def show(lines: Sequence[Measured]) -> None:
    """Print the lines as a table."""
    table = Table(title="ours against a limit or a peer")
    for column in ("what", "ours", "compared with", "theirs", "ratio", "goal"):
        table.add_column(column, justify="right" if column in ("ours", "theirs", "ratio") else "left")
    for line in lines:
        theirs = "-" if line.than is None else f"{line.than:,.1f} {line.unit}"
        ratio = f"{line.ours / line.than:.2f}" if line.than else "-"
        table.add_row(line.what, f"{line.ours:,.1f} {line.unit}", line.against, theirs, ratio, line.goal)
    Console(width=max(120, Console().width)).print(table)


def say(text: str) -> None:
    """Say at once what goes on."""
    print(text, flush=True)


def python_with(name: str, packages: Sequence[str]) -> str | None:
    """Return a Python that has the packages, from an environment made once in the user's cache folder.

    None where they cannot be installed.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uniner-benchmarks" / name
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        say(f"installing {' '.join(packages)} into {folder}")
        commands = [[sys.executable, "-m", "venv", str(folder)]]
        commands += [[str(python), "-m", "pip", "install", "--quiet", *packages]]
        for command in commands:
            if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
                return None
        ready.touch()
    return str(python)


def last_line(
    command: Sequence[str],
    environment: dict[str, str] | None = None,
    core: int | None = None,
    given: str | None = None,
) -> str | None:
    """Run a command, on one core if asked to, and return the last line it prints; None where it fails.

    given is what it reads from stdin. What a failed one wrote to stderr is printed.
    """
    run = subprocess.run(
        command,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", **(environment or {})},
        input=given,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )
    if run.returncode:
        say(f"{' '.join(command[:4])} failed:\n{run.stderr[-2000:]}")
        return None
    return (run.stdout.strip().splitlines() or [""])[-1]
