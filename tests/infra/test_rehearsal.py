"""The rehearsal of a cluster on one machine: its machines, that nothing of it stays, and its faults."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.rehearsal import machines

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("two_machines.py")
RUNNER = """
import os, sys
from infra.rehearsal.machines import in_own_namespaces
sys.exit(in_own_namespaces([sys.executable, *sys.argv[1:]], dict(os.environ)))
"""


@pytest.fixture(scope="module", autouse=True)
def allowed():
    """Where machines cannot be made, the reason for which all is skipped."""
    if reason := machines.why_not():
        pytest.skip(reason)


@pytest.fixture
def start():
    """Return a function that starts a program; all are ended after the test."""
    started = []

    def start_one(*command):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, *map(str, command)]
        started.append(subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start_one
    for program in started:
        program.kill()
        program.communicate()


def test_a_machine_shares_nothing_with_another_but_the_network(start):
    output, _ = (program := start("-c", RUNNER, PROGRAM)).communicate(timeout=60)
    assert program.returncode == 0
    seen = json.loads(output)
    assert seen["addresses"] == ["10.77.0.2", "10.77.0.3"] and seen["names"] == ["one\n", "two\n"]
    # Where the packages lie below /tmp, the machines see the way to them.
    assert ["mine" in listing for listing in seen["tmp"]] == [True, False]
    assert ["uniner" in listing for listing in seen["home"]] == [False, True]
    assert seen["packages"] == [True, True]
    assert seen["project"] == [False, True] and not seen["project's folder"]
    assert sorted(seen["links"]) == ["eth0", "lo"]
    assert seen["reached"] == [True, False, True, False], "cut off, back, switched off"
    assert seen["processes"] == 1 and seen["server"] == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_nothing_stays(number, start, wait_until):
    program = start("-c", RUNNER, PROGRAM, "wait")
    assert program.stdout.readline() == "waits\n"
    started: list[psutil.Process] = []

    def both_sleep():
        started[:] = psutil.Process(program.pid).children(recursive=True)
        return sum(command_of(process) == "sleep 1000" for process in started) == 2

    wait_until(both_sleep, 20)
    links = psutil.net_if_addrs().keys()
    program.send_signal(number)
    program.wait(20)
    wait_until(lambda: not any(map(is_alive, started)), 20)
    assert program.returncode in (-number, 128 + number)
    assert psutil.net_if_addrs().keys() == links and not {"bridge", "to-one"} & links
    assert "uniner-rehearsal" not in Path("/proc/self/mounts").read_text()


def command_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def is_alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_the_rehearsal_with_all_its_faults(start, tmp_path):
    program = start("-m", "infra.rehearsal", "--logs", tmp_path)
    output, _ = program.communicate()
    assert program.returncode == 0, output
    for line in (
        r"job calm-1: its ([\d,]+) rows and its student equal the laptop's",
        r"train: waiting for 1 CPU; the cluster has 1 machine with no CPUs for work now",
        r"train: resuming after step",
        r"evaluate student: waiting for 1 GPU, 2 CPUs",
        r"gpu-2 joins again",
        r"job faults-2: its ([\d,]+) rows and its student equal the laptop's",
    ):
        assert re.search(line, output), f"{line}\n{output}"
