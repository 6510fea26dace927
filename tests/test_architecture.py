"""The lines of the design: where Ray, torch and vLLM may be imported, and that jobs stay thin."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import uniner
from uniner.storage.stage_folder import _provenance

REPOSITORY = Path(__file__).parents[1]
MODULES = sorted((REPOSITORY / "uniner").rglob("*.py"))
JOBS = sorted((REPOSITORY / "jobs").glob("*.py"))


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_importing_the_package_brings_no_heavy_library():
    light = [
        "uniner",
        "uniner.config.schema",
        "uniner.cli",
        "uniner.records",
        "uniner.templates",
        "uniner.storage.stage_folder",
        "uniner.storage.model_folders",
        "uniner.annotate.annotator",
        "uniner.build.conversations",
        "uniner.ingest.chunk_reader",
    ]
    heavy = {"ray", "torch", "vllm", "transformers"}
    code = f"import sys, {', '.join(light)}; print({heavy!r} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_is_thin_and_says_how_it_is_run(path):
    source = path.read_text()
    assert len(source.splitlines()) < 30
    assert not [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    if path.name != "__init__.py":
        assert f"python -m jobs.{path.stem}" in ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_every_file_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_no_installed_distribution_of_the_project_is_needed():
    """A cluster has the code alone, beside the packages that it imports."""
    assert [path.name for path in MODULES if re.search(r"""version\(["']uniner""", path.read_text())] == []
    assert _provenance()["versions"]["uniner"] == uniner.__version__ == metadata.version("uniner")
