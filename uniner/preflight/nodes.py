"""Checks of the machines: the same versions on all, their clocks, their disks."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from uniner.preflight.results import CheckResult, error, ok, size
from uniner.preflight.storage import BucketRights, clock_result, seconds_off
from uniner.storage.manifest import package_versions

if TYPE_CHECKING:
    from uniner.runtime.every_node import NodeAnswer

Value = TypeVar("Value")
_ASK_GPUS = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_MIB = 1 << 20


class Gpu(NamedTuple):
    """A GPU by its driver's name, and its memory in bytes."""

    name: str
    memory: float


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What a machine has. versions: of Python and the packages. code: digest of this package's source.

    temporary: the folder of temporary files, with the bytes that are free on its disk.
    """

    versions: Mapping[str, str]
    code: str
    temporary: str
    free: int
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine: its name, its facts or why there are none, and by how many seconds its clock is off."""

    name: str
    facts: NodeFacts | None = None
    error: str = ""
    seconds_off: float = 0.0


def read_facts() -> NodeFacts:
    """Return the facts of the machine that this process runs on."""
    temporary = tempfile.gettempdir()
    return NodeFacts(
        versions={"Python": platform.python_version(), **package_versions()},
        code=_code_digest(),
        temporary=temporary,
        free=shutil.disk_usage(temporary).free,
        gpus=_gpus(),
    )


def _code_digest() -> str:
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)} ".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _gpus() -> tuple[Gpu, ...]:
    """Ask the driver: torch sees none in a process to which Ray gave none."""
    if not shutil.which(_ASK_GPUS[0]):
        return ()
    asked = subprocess.run(_ASK_GPUS, capture_output=True, text=True, check=False, timeout=30)
    return parse_gpus(asked.stdout) if asked.returncode == 0 else ()


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Read nvidia-smi's lines, such as "NVIDIA H100 80GB HBM3, 81559"."""
    rows = (line.rsplit(",", 1) for line in text.splitlines() if "," in line)
    return tuple(Gpu(name.strip(), float(memory) * _MIB) for name, memory in rows if memory.strip().isdigit())


def ask_machines(function: Callable[[], Value]) -> "list[NodeAnswer[Value]]":
    """Call a function on every machine of the cluster at RAY_ADDRESS. Starts nothing.

    Raises:
        RayStartError: the cluster cannot be used.
    """
    from uniner.runtime.connection import connected
    from uniner.runtime.every_node import on_every_node

    with connected():
        return on_every_node(function)


def machines() -> tuple[Machine, ...]:
    """Return the machines of the cluster at RAY_ADDRESS, else this one alone. Starts nothing."""
    if "RAY_ADDRESS" not in os.environ:
        return (Machine(name="this machine", facts=read_facts()),)
    from uniner.runtime.connection import RayStartError

    try:
        answers = ask_machines(read_facts)
    except RayStartError as failure:
        return (Machine(name=f"the cluster at {os.environ['RAY_ADDRESS']}", error=str(failure)),)
    cure = "give all machines one image (infra/Dockerfile)"
    return tuple(
        Machine(
            name=answer.machine,
            facts=answer.value,
            error=answer.error and f"cannot run this package ({answer.error}); {cure}",
            seconds_off=seconds_off(answer.moment, answer.before, answer.after),
        )
        for answer in answers
    )


def check_machines(found: Sequence[Machine]) -> Iterator[CheckResult]:
    """Yield an error for each machine that gives no facts."""
    for machine in found:
        if machine.facts is None:
            yield error(machine.name, machine.error)


def check_rights(
    setting: str, url: str, answers: "Sequence[NodeAnswer[BucketRights]]"
) -> Iterator[CheckResult]:
    """Yield a line for each identity by which machines reach a bucket, and for what each may not do there.

    The tasks of a run read and write under their machine's identity, not the driver's.
    """
    machines_of: dict[BucketRights, list[str]] = {}
    for answer in answers:
        rights = answer.value or BucketRights(problem=f"gives no answer ({answer.error})")
        machines_of.setdefault(replace(rights, caller=_role(rights.caller)), []).append(answer.machine)
    for rights, names in machines_of.items():
        where = _named(names)
        if rights.problem:
            yield error(f"{setting} on {where}", rights.problem)
        elif rights.denied:
            yield error(
                f"{setting} on {where}",
                f"{url}: {rights.caller} lacks {', '.join(rights.denied)}; allow these for the bucket and "
                "the prefix, as the policy in infra/aws/uniner.yaml does",
            )
        else:
            yield ok(f"{setting} on {where}", f"{url}: {rights.caller} may put, get, list and delete")


def _role(caller: str) -> str:
    """Return an identity without the name of its session, which is the machine's."""
    return caller.rpartition("/")[0] if ":assumed-role/" in caller else caller


def _named(names: Sequence[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more machines" if more > 0 else "")


def check_versions(found: Sequence[Machine], here: NodeFacts) -> Iterator[CheckResult]:
    """Compare the machines' versions with this process's; a machine that differs is an error."""
    alike, known = 0, [(machine.name, machine.facts) for machine in found if machine.facts]
    for name, facts in known:
        differing = [
            f"{package} {there or 'is missing'}, here {ours or 'missing'}"
            for package in sorted({*here.versions, *facts.versions})
            for there, ours in [(facts.versions.get(package), here.versions.get(package))]
            if _public(there) != _public(ours)
        ]
        if not differing and facts.code != here.code:
            differing = [f"another source of uniner ({facts.code}, here {here.code})"]
        if differing:
            yield error(
                f"versions on {name}", f"{'; '.join(differing)}; give all machines one image and code"
            )
        alike += not differing
    if alike:
        listed = ", ".join(f"{name} {version}" for name, version in here.versions.items())
        yield ok("versions", f"alike on {alike:,} of {len(known):,} machines: {listed}")


def _public(version: str | None) -> str | None:
    """Return a version without its build, such as +cu130: CPU machines may have a build of their own."""
    return version and version.split("+")[0]


def check_clocks(found: Sequence[Machine]) -> Iterator[CheckResult]:
    """Yield the result for each clock that is off, else one for all."""
    results = [
        clock_result(f"clock of {machine.name}", machine.seconds_off) for machine in found if machine.facts
    ]
    doubtful = [result for result in results if result.level != "ok"]
    yield from doubtful
    if results and not doubtful:
        most = max(abs(machine.seconds_off) for machine in found)
        yield ok("clocks", f"{len(results):,} machines are within {max(1.0, most):.0f} s of this one")


def check_disks(
    found: Sequence[Machine], everywhere: Mapping[str, float], on_gpus: Mapping[str, float]
) -> Iterator[CheckResult]:
    """Compare the free bytes of the machines' temporary folders with what is copied there, by its name.

    everywhere: on every machine. on_gpus: besides, on machines with GPUs.
    """
    with_gpus = [machine for machine in found if machine.facts and machine.facts.gpus]
    others = [machine for machine in found if machine.facts and not machine.facts.gpus]
    yield from _check_room(others, everywhere)
    yield from _check_room(with_gpus, {**everywhere, **on_gpus})
    if on_gpus and not with_gpus:
        kept = _in_words({**everywhere, **on_gpus})
        yield ok("disks of GPU machines", f"none is known; each needs a temporary folder for {kept}")


def _check_room(found: Sequence[Machine], needed: Mapping[str, float]) -> Iterator[CheckResult]:
    known = [(machine.name, machine.facts) for machine in found if machine.facts]
    small = [(name, facts) for name, facts in known if facts.free < sum(needed.values())]
    for name, facts in small:
        yield error(
            f"disk of {name}",
            f"{facts.temporary} has {size(facts.free)} free, which is too little for {_in_words(needed)}; "
            "point TMPDIR at a larger disk",
        )
    if known and not small:
        least = min((facts for _, facts in known), key=lambda facts: facts.free)
        where = f"disk of {known[0][0]}" if len(known) == 1 else f"disks of {len(known):,} machines"
        yield ok(where, f"{least.temporary} has {size(least.free)} free, for {_in_words(needed)}")


def _in_words(needed: Mapping[str, float]) -> str:
    listed = ", ".join(f"{name} {size(count)}" for name, count in needed.items() if count)
    return f"{size(sum(needed.values()))} ({listed})" if listed else "small files alone"
