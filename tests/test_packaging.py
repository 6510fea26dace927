"""The package as users install it: what a wheel holds, and, slowly, a wheel in an empty environment."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SMALL = (
    "ingest.max_passages=200",
    "train.max_steps=6",
    "train.workers=1",
    "train.validation_questions=0",
    "encoder.max_steps=6",
    "encoder.eval_passages=20",
    "evaluate.max_passages=10",
)
"""Settings of a quickstart that runs every stage on a few passages."""
TAG = """
import uniner
texts = ["Manager Zesk Vepux moved from Topreskra to the head office.", ""]
run = "small/quickstart"
for model in (run, run + "/train-encoder/encoder"):
    tagged = uniner.tag_texts(texts, model, ["person", "city"], settings={"tag.min_score": 0})
    assert len(tagged) == 2 and tagged[0].text == texts[0], tagged
    assert "uniner-texts" in tagged._repr_html_() and len(tagged.to_pandas().columns) == 7
    print(tagged)
"""


def test_every_file_that_the_code_reads_is_in_the_wheel():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    tracked = subprocess.run(
        ["git", "ls-files", "uniner", "jobs"], cwd=REPOSITORY, capture_output=True, text=True
    )
    files = [Path(line) for line in tracked.stdout.splitlines() if not line.endswith(".py")]
    if not files:
        pytest.skip("needs the repository's list of files (git)")
    for file in files:
        package = max(
            (name for name in data if file.is_relative_to(name.replace(".", "/"))), key=len, default=""
        )
        assert package, f"{file}: no package of tool.setuptools.package-data has it"
        inside = file.relative_to(package.replace(".", "/")).as_posix()
        assert any(fnmatch.fnmatch(inside, pattern) for pattern in data[package]), f"{file}: not in the wheel"


def test_readme_has_the_lines_that_the_slow_test_runs():
    readme = (REPOSITORY / "README.md").read_text()
    for line in install_lines("dist/uniner-0.1.0-py3-none-any.whl[cpu]"):
        assert f"pip install {line}\n" in readme or f"pip {line}\n" in readme, line
    version = re.search('^__version__ = "(.+)"$', (REPOSITORY / "uniner/__init__.py").read_text(), re.M)
    assert version and f"dist/uniner-{version[1]}-py3" in readme


def install_lines(wheel: str) -> list[str]:
    """What follows `pip` in README's lines for a machine without a GPU."""
    (torch,) = re.findall(r"^torch==([\d.]+)\+cpu$", (REPOSITORY / "requirements/cpu.txt").read_text(), re.M)
    return [
        f"install torch=={torch} --index-url {CPU_INDEX}",
        f"install '{wheel}'",
        "uninstall -y torchvision torchaudio torchcodec",
    ]


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_wheel_in_an_empty_environment_runs_the_quickstart_and_tags(tmp_path):
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    venv = tmp_path / "venv"

    def run(*command, check=True, **changes):
        done = subprocess.run(
            [*map(str, command)], cwd=tmp_path, env={**clean, **changes}, capture_output=True, text=True
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    run(sys.executable, "-m", "venv", venv)
    pip = venv / "bin" / "pip"
    for folder in ("uniner", "jobs"):
        shutil.copytree(REPOSITORY / folder, tmp_path / "source" / folder)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, tmp_path / "source")
    run(pip, "wheel", "--quiet", "--no-deps", "-w", tmp_path / "dist", tmp_path / "source")
    (wheel,) = (tmp_path / "dist").glob("uniner-*.whl")
    torch, uniner, removed = (line.replace("'", "").split() for line in install_lines(f"{wheel}[cpu]"))
    # The CPU build may lie in the index that pip is set up with, as for `make setup`.
    if run(pip, "install", "--quiet", f"{torch[1]}+cpu", check=False).returncode:
        run(pip, *torch)
    run(pip, *uniner)
    run(pip, *removed)

    command = venv / "bin" / "uniner"
    assert "quickstart" in run(command, "--help").stdout
    assert "[tag]" in run(command, "settings").stdout
    python = venv / "bin" / "python"
    where = run(python, "-c", "import sys, uniner; print(uniner.__file__, 'torch' in sys.modules)").stdout
    assert where.startswith(str(venv)) and where.endswith("False\n")
    output = run(command, "quickstart", "run.root=small", *SMALL).stdout
    assert "report: " in output and (tmp_path / "small/quickstart/report.html").exists()
    assert run(python, "-c", TAG).stdout.count("TaggedTexts(2 texts") == 2
