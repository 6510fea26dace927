"""The first process of a machine: builds the machine's own root folder, moves into it, and waits.

python -m infra.rehearsal.machine_init ROOT HOSTS [PROJECT], in new mount and process namespaces

The root has the system's programs and Python with its packages, read-only, and a disk of its own for the
rest: /tmp, /scratch, /dev/shm, /home/ray. The project is taken out of the packages where it is installed in
them, so no file of it is on the machine. PROJECT: a folder to put into the home as `uniner` all the same, as
on a developer's laptop.

When this process is killed, the kernel kills all others of the machine, and its mounts and network go too.
"""

import os
import signal
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

HOME = Path("/home/ray")
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr")
_DISK, _SHARED_MEMORY = "6g", "1g"


def mount(*words: object) -> None:
    """Mount something, as `mount` does."""
    subprocess.run(["mount", *map(str, words)], check=True)


def build_root(root: Path, hosts: Path, project: Path | None) -> None:
    """Mount a machine's root folder. hosts: its /etc/hosts, with the names of all machines."""
    mount("-t", "tmpfs", "-o", f"size={_DISK}", "disk", root)
    for name in _SYSTEM:
        original = Path("/") / name
        if original.is_symlink():
            (root / name).symlink_to(original.readlink())
        elif original.is_dir():
            _show(original, root)
    for name in ("tmp", "scratch", "run", "var/tmp", "proc", "sys", "dev", "old"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    _overlay(Path("/etc"), root)
    (root / "etc/hosts").write_text(hosts.read_text())
    (root / HOME.relative_to("/")).mkdir(parents=True)
    _show_packages(root)
    if project:
        _overlay(project, root, HOME / "uniner")
    mount("--rbind", "/dev", root / "dev")
    mount("-t", "tmpfs", "-o", f"size={_SHARED_MEMORY}", "shm", root / "dev/shm")
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "-o", "ro", "sysfs", root / "sys")


def _show(original: Path, root: Path) -> None:
    """Show a folder read-only at the same place of the root."""
    place = root / original.relative_to("/")
    place.mkdir(parents=True, exist_ok=True)
    mount("--bind", original, place)
    mount("-o", "remount,bind,ro", place)


def _overlay(original: Path, root: Path, place: Path | None = None) -> Path:
    """Show a folder in the root; what is written there stays on the machine's own disk. Returns the place."""
    place = root / (place or original).relative_to("/")
    changes = root / ".changes" / original.relative_to("/")
    for folder in (place, changes / "upper", changes / "work"):
        folder.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={original},upperdir={changes / 'upper'},workdir={changes / 'work'}"
    mount("-t", "overlay", "-o", options, "overlay", place)
    return place


def _show_packages(root: Path) -> None:
    """Show Python and its packages, without the project's own."""
    for prefix in sorted({Path(sys.base_prefix), Path(sys.prefix)}):
        if not prefix.is_relative_to("/usr"):
            _show(prefix, root)
    packages = _overlay(Path(sysconfig.get_path("purelib")), root)
    try:
        installed = metadata.distribution("uniner").files or []
    except metadata.PackageNotFoundError:
        return  # it runs from its folder
    for name in sorted({file.parts[0] for file in installed} - {".."}):
        subprocess.run(["rm", "-r", str(packages / name)], check=True)


def main() -> None:
    """Build the root, move into it, say so, and wait until the machine is killed."""
    root, hosts, *project = map(Path, sys.argv[1:])
    build_root(root, hosts, project[0] if project else None)
    subprocess.run(["pivot_root", str(root), str(root / "old")], check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/old"], check=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans become its children: the kernel forgets them
    print("ready", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
