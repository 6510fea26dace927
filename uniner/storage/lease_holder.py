"""Who holds a lease, and whether that process is known to have ended."""

import json
import os
import socket
import sys
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from uniner.display import visible
from uniner.errors import printable


@dataclass(frozen=True, kw_only=True)
class LeaseHolder:
    """A driver, as it writes itself into a lease.

    boot, processes: ids of the host's start and of the container's process numbers. started: the process's
    start, as process numbers are used again. renewals: counts up, so that each renewal has other bytes.
    """

    id: str
    host: str
    boot: str
    processes: str
    pid: int
    started: str
    command: str
    renewals: int = 0

    @classmethod
    def this_process(cls) -> Self:
        """Return a holder of a new id for this process."""
        words = [Path(sys.argv[0]).name, *sys.argv[1:]]
        pid = os.getpid()
        return cls(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            boot=_boot(),
            processes=_process_namespace(),
            pid=pid,
            started=_start_of(pid),
            command=printable(" ".join(words))[:200],
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a lease's content; a lease cut short, or of another version, names nobody."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError):
            return cls(id="", host="", boot="", processes="", pid=0, started="", command="")

    def content(self) -> bytes:
        """Return the lease's content."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_gone(self) -> bool:
        """Tell whether the process is known to have ended: only where it would be visible from here.

        Host names are not unique, and containers share a host's boot id, so all three ids must be ours.
        """
        here = (socket.gethostname(), _boot(), _process_namespace())
        if not all(here) or (self.host, self.boot, self.processes) != here:
            return False
        return _start_of(self.pid) != self.started

    def __str__(self) -> str:
        if not self.id:
            return "another driver"
        return visible(f"`{self.command}` on {self.host}, process {self.pid},")


def _boot() -> str:
    """Return the id of the host's start; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process_namespace() -> str:
    """Return the id of the container's own process numbers; empty where the system has none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty if it has ended, reaped or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may have spaces
    return "" if state in "ZX" else fields[18]
