"""The training loop and checkpoints run on a bare GPU machine: without pydantic, msgspec and Ray."""

import subprocess
import sys

LIGHT = ("checkpoint", "collective", "loop", "lora", "model", "packing")


def test_the_loop_imports_neither_pydantic_nor_msgspec_nor_ray():
    blocked = dict.fromkeys(("pydantic", "msgspec", "ray"))
    imports = ", ".join(f"uniner.train.{module}" for module in LIGHT)
    code = f"import sys; sys.modules.update({blocked}); import {imports}"
    subprocess.run([sys.executable, "-c", code], check=True)
