"""Machines in namespaces of one machine: each has its own address, processes, disk and home.

They are connected by a bridge in the network namespace of this process, which must be one of its own
(`in_own_namespaces`): the machine's real network is not touched. Whatever ends this process ends them all.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from infra.rehearsal.machine_init import HOME

GATEWAY = "10.77.0.1"
"""The address of this process on the machines' network; a server on it is shared by all."""
_NETWORK = "10.77.0"
_FIRST = 2
_UNSHARE = ("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child")
_ROOT = Path(__file__).parents[2]
# Tries once each thing that the machines need.
_PROBE = """
set -e
ip link add name probe type bridge
ip link add name one type veth peer name two
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/both
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/both
"""


def why_not() -> str:
    """Return why no machines can be made here; empty where they can."""
    try:
        probe = subprocess.run(
            [*_UNSHARE, "--mount-proc", "sh", "-c", _PROBE], capture_output=True, text=True
        )
    except FileNotFoundError as error:
        return f"needs the program {error.filename} (util-linux)"
    lines = probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"]
    return (
        f"namespaces, bridges or overlay mounts are not allowed here: {lines[-1]}" if probe.returncode else ""
    )


def in_own_namespaces(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command in new namespaces and return its exit code. It ends with this process, however that ends.

    SIGTERM and Ctrl-C kill it. The kernel then removes its processes, mounts and networks.
    """
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *_UNSHARE, "--mount-proc", *command],
        env=environment,
        start_new_session=True,  # Ctrl-C reaches this process alone
    )

    def stop(number: int, _: object) -> None:
        for each in stopping:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    stopping = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in stopping:
        signal.signal(number, stop)
    try:
        return process.wait()
    finally:
        process.kill()
        process.wait()


class Network:
    """The bridge that connects the machines, with this process's address on it."""

    def __init__(self, names: Sequence[str], folder: Path):
        """names: of all machines that there will be. folder: for their roots and logs."""
        self._folder = folder
        self._addresses = {name: f"{_NETWORK}.{number}" for number, name in enumerate(names, _FIRST)}
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "name", "bridge", "type", "bridge")
        _ip("address", "add", f"{GATEWAY}/24", "dev", "bridge")
        _ip("link", "set", "bridge", "up")
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._addresses.items())]
        (folder / "hosts").write_text("".join(f"{line}\n" for line in lines))

    def address(self, name: str) -> str:
        """Return a machine's address."""
        return self._addresses[name]

    def machine(self, name: str, environment: Mapping[str, str], project: Path | None = None) -> "Machine":
        """Start one of the machines. project: a folder that it has as ~/uniner."""
        return Machine(name, self._addresses[name], self._folder, environment, project)


class Machine:
    """A running machine."""

    def __init__(
        self, name: str, address: str, folder: Path, environment: Mapping[str, str], project: Path | None
    ):
        self.name, self.address = name, address
        self.log = folder / f"{name}.log"
        self._environment = {
            "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(HOME),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self._port = f"to-{name}"
        root = folder / name
        root.mkdir(exist_ok=True)
        module = (sys.executable, "-m", "infra.rehearsal.machine_init")
        words = [root, folder / "hosts", *([project] if project else [])]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*_UNSHARE, *module, *map(str, words)],
                cwd=_ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the machine {name} did not start: {self.log.read_text()}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self._init = int(children)
        self._plug_in()

    def _plug_in(self) -> None:
        init = str(self._init)
        _ip("link", "add", "name", self._port, "type", "veth", "peer", "name", "eth0", "netns", init)
        _ip("link", "set", self._port, "master", "bridge", "up")
        self.run("hostname", self.name)
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            subprocess.run(["nsenter", "--target", init, "--net", "ip", *words], check=True)

    def _command(self, command: Sequence[str], folder: str) -> list[str]:
        enter = ("nsenter", "--target", str(self._init), "--all", f"--wdns={HOME / folder}")
        return [*enter, *map(str, command)]

    def run(
        self, *command: str, folder: str = "", check: bool = True, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine and return what it printed. folder: below the home."""
        done = subprocess.run(
            self._command(command, folder),
            env={**self._environment, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}")
        if check and done.returncode:
            raise RuntimeError(
                f"{self.name}: {' '.join(command)} ended with {done.returncode}: {done.stdout}"
            )
        return done

    def start(self, *command: str, folder: str = "", output: IO[str]) -> "subprocess.Popen[bytes]":
        """Start a command on the machine."""
        return subprocess.Popen(
            self._command(command, folder),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def write(self, path: Path, content: str) -> None:
        """Write a file of the machine that only its user may read."""
        command = f"mkdir -p {path.parent} && umask 077 && cat > {path}"
        subprocess.run(self._command(("sh", "-c", command), ""), input=content, text=True, check=True)

    def path(self, path: Path) -> Path:
        """Return where this process finds a file of the machine's disk."""
        return Path(f"/proc/{self._init}/root") / path.relative_to("/")

    def processes(self) -> list[str]:
        """Return the command lines of the machine's processes, without its first."""
        mine = Path(f"/proc/{self._init}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "ns/pid").readlink() == mine and int(entry.name) != self._init:
                    found.append((entry / "cmdline").read_text(errors="replace").replace("\0", " ").strip())
            except OSError:
                continue  # it has ended
        return found

    def cut(self) -> None:
        """Pull the machine's network cable."""
        _ip("link", "set", self._port, "down")

    def mend(self) -> None:
        """Plug the machine's network cable in again."""
        _ip("link", "set", self._port, "up")

    def kill(self) -> None:
        """Switch the machine off: all its processes end at once, and its disk is lost."""
        os.kill(self._init, signal.SIGKILL)
        self._process.wait()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
