"""The benchmarks' table, and other tools in their own environments."""

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
    """A row of the table: our figure beside a limit's or a peer's.

    reference is None where the peer could not be measured; peer then says why.
    """

    what: str
    ours: float
    unit: str
    peer: str
    reference: float | None
    goal: str


def show(rows: Sequence[Measured]) -> None:
    """Print the rows as a table."""
    table = Table(title="ours against a limit or a peer")
    for column in ("what", "ours", "compared with", "theirs", "ratio", "goal"):
        table.add_column(column, justify="right" if column in ("ours", "theirs", "ratio") else "left")
    for row in rows:
        theirs = "-" if row.reference is None else f"{row.reference:,.1f} {row.unit}"
        ratio = f"{row.ours / row.reference:.2f}" if row.reference else "-"
        table.add_row(row.what, f"{row.ours:,.1f} {row.unit}", row.peer, theirs, ratio, row.goal)
    Console(width=max(120, Console().width)).print(table)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def python_with(name: str, packages: Sequence[str]) -> str | None:
    """Return a Python with the packages, from an environment kept in the user's cache folder.

    None if they cannot be installed.
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
    """Run a command and return the last line of its output; None if it fails, after printing its stderr.

    core: the one core to run on. given: its standard input.
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
