"""Rehearse a cluster on this machine: python -m infra.rehearsal [--log FILE] [--logs FOLDER], as root.

It needs Linux with network and mount namespaces, iproute2 and util-linux; the cluster of some machines, the
laptop and the object store are namespaces of this machine, which end with the command. Exit code 0: the job's
output equals the laptop's run, without and with faults.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infra.rehearsal.machines import in_own_namespaces, why_not
from infra.rehearsal.rehearsal import Rehearsal

_INSIDE = "UNINER_REHEARSAL_FOLDER"


def rehearse(folder: Path, log: Path | None, logs: Path | None) -> None:
    """Rehearse, in namespaces of this process's own. folder: only to mount something on it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16g", "rehearsal", str(folder)], check=True)
    started = time.monotonic()

    def say(line: str) -> None:
        seconds = int(time.monotonic() - started)
        text = f"{seconds // 60}:{seconds % 60:02} {line}"
        print(text, flush=True)
        if log:
            with log.open("a") as file:
                file.write(f"{text}\n")

    try:
        Rehearsal(folder, say).run()
    except Exception as error:
        say(f"failed: {error}")
        raise
    finally:
        if logs:
            logs.mkdir(parents=True, exist_ok=True)
            for file in folder.glob("*.log"):
                shutil.copy(file, logs)
    say(f"rehearsed in {(time.monotonic() - started) / 60:.1f} minutes")


def main() -> int:
    """Read the command line and rehearse. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m infra.rehearsal")
    parser.add_argument("--log", type=Path, help="also write the lines to this file")
    parser.add_argument("--logs", type=Path, help="copy the logs of the jobs and machines into this folder")
    words = parser.parse_args()
    if folder := os.environ.pop(_INSIDE, None):
        rehearse(Path(folder), words.log, words.logs)
        return 0
    if reason := why_not():
        sys.exit(f"python -m infra.rehearsal: {reason}")
    with tempfile.TemporaryDirectory(prefix="uniner-rehearsal-") as folder:
        again = [sys.executable, "-m", "infra.rehearsal", *sys.argv[1:]]
        return in_own_namespaces(again, {**os.environ, _INSIDE: folder})


if __name__ == "__main__":
    sys.exit(main())
