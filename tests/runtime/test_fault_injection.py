"""Run the tag stage while actors, a node and the driver are killed.

`python -m benchmarks.fault_injection` is the long version; it also kills an S3 server.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_each_row_is_written_once_whatever_is_killed():
    command = [sys.executable, "-m", "benchmarks.fault_injection", "4", "--disk", "--seconds", "0.3"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 kills" in run.stdout and "2 actor, 1 driver" in run.stdout and "1 node" in run.stdout
