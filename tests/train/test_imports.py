"""The training loop, its benchmark and the gpu tests run on a bare GPU machine, without Ray or vLLM."""

import subprocess
import sys
from pathlib import Path

LIGHT = ("checkpoint", "collective", "loop", "lora", "model", "packing")
ABSENT = ("pydantic", "msgspec", "ray", "vllm", "zstandard")


def test_the_loop_and_its_benchmark_run_without_what_a_bare_machine_lacks():
    blocked = dict.fromkeys(ABSENT)
    imports = ", ".join([*(f"uniner.train.{module}" for module in LIGHT), "benchmarks.gpu"])
    code = f"import sys; sys.modules.update({blocked}); import {imports}"
    subprocess.run([sys.executable, "-c", code], check=True)
    tests = sorted(str(path) for path in Path("tests/gpu").glob("test_*.py"))
    assert tests
    code = f"import sys; sys.modules.update({blocked}); import runpy; [*map(runpy.run_path, {tests})]"
    subprocess.run([sys.executable, "-c", code], check=True)
