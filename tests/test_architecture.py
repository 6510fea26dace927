"""The design's boundaries: import directions, Ray in one package, unique class names, thin jobs."""

import ast
import functools
import re
import shutil
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest

import uniner
from uniner.storage.manifest import package_versions

REPOSITORY = Path(__file__).parents[1]
MODULES = sorted((REPOSITORY / "uniner").rglob("*.py"))
JOBS = sorted((REPOSITORY / "jobs").glob("*.py"))
STAGES = {
    "generate", "ingest", "annotate", "describe", "build", "train", "evaluate", "tag", "review", "report",
}  # fmt: skip
LEVELS = (
    {"cli", "jobs", "quickstart"},
    {"preflight"},
    STAGES,
    {"teacher"},
    {"inference"},
    {"encoder"},
    {"metrics", "gold"},
    {"runtime"},
    {"storage"},
    {
        "config",
        "records",
        "passages",
        "labels",
        "templates",
        "grounding",
        "overlaps",
        "display",
        "type_descriptions",
    },
    {"normalized_text"},
    {"errors", "progress"},
)
"""The package's parts, top to bottom: a part imports from its own level and those below it."""
CONFIG_READERS = {"uniner/cli.py", "uniner/runtime/stage_context.py"}


parse = functools.cache(ast.parse)


def modules(root: Path) -> list[tuple[str, ast.Module]]:
    """Every module of the package and the jobs: its path below the root and its syntax tree."""
    paths = sorted([*(root / "uniner").rglob("*.py"), *(root / "jobs").rglob("*.py")])
    return [(path.relative_to(root).as_posix(), parse(path.read_text())) for path in paths]


def imported_names(tree: ast.Module) -> set[str]:
    """Dotted names that a module imports, those inside its functions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: str) -> str:
    """The package part of a module's path: uniner/tag/stage.py is tag, uniner/records.py is records."""
    return "jobs" if path.startswith("jobs/") else path.split("/")[1].removesuffix(".py")


def upward_imports(root: Path) -> list[str]:
    """Imports from a level above, and a stage's imports from another stage."""
    level = {part: number for number, parts in enumerate(LEVELS) for part in parts}
    violations = []
    for path, tree in modules(root):
        importer = part_of(path)
        if importer == "__init__":
            continue
        targets = {name.split(".")[1] for name in imported_names(tree) if name.startswith("uniner.")}
        for target in sorted(targets & level.keys()):
            other_stage = {importer, target} <= STAGES and importer != target
            if level[target] < level[importer] or other_stage:
                violations.append(f"{path} imports {target}")
    return violations


def parts_without_a_level(root: Path) -> list[str]:
    """Parts of the package that LEVELS leaves out."""
    known = {"__init__"}.union(*LEVELS)
    return sorted({part_of(path) for path, _ in modules(root)} - known)


def ray_outside_runtime(root: Path) -> list[str]:
    return [
        path
        for path, tree in modules(root)
        if not path.startswith("uniner/runtime/")
        and any(name.split(".")[0] == "ray" for name in imported_names(tree))
    ]


def repeated_class_names(root: Path) -> list[str]:
    counts = Counter(
        node.name for _, tree in modules(root) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    return sorted(name for name, count in counts.items() if count > 1)


def whole_config_imports(root: Path) -> list[str]:
    """Modules that import the whole Config, which only the edge of the program may know."""
    return [
        path
        for path, tree in modules(root)
        if not (path in CONFIG_READERS or path.endswith("/stage.py"))
        and part_of(path) not in {"config", "quickstart", "jobs"}
        and any(
            name.startswith("uniner.config") and name.endswith(".Config") for name in imported_names(tree)
        )
    ]


RULES = (
    upward_imports,
    parts_without_a_level,
    ray_outside_runtime,
    repeated_class_names,
    whole_config_imports,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    assert rule(REPOSITORY) == []


PLANTED = (
    (upward_imports, "uniner/storage/new.py", "import uniner.runtime.connection", "imports runtime"),
    (upward_imports, "uniner/records.py", "from uniner import teacher", "imports teacher"),
    (upward_imports, "uniner/tag/stage.py", "from uniner.train.packing import fit", "imports train"),
    (upward_imports, "uniner/ingest/new.py", "def f():\n    from uniner.cli import run", "imports cli"),
    (parts_without_a_level, "uniner/utils.py", "", "utils"),
    (ray_outside_runtime, "uniner/tag/new.py", "import ray.data", "uniner/tag/new.py"),
    (ray_outside_runtime, "uniner/new.py", "def f():\n    from ray import train", "uniner/new.py"),
    (repeated_class_names, "uniner/tag/new.py", "class UserError: ...", "UserError"),
    (whole_config_imports, "uniner/tag/new.py", "from uniner.config.schema import Config", "tag/new.py"),
)


@pytest.mark.parametrize(
    ("rule", "path", "code", "violation"),
    PLANTED,
    ids=[f"{rule.__name__}-{path}" for rule, path, *_ in PLANTED],
)
def test_a_planted_violation_is_found(rule, path, code, violation, tmp_path):
    for package in ("uniner", "jobs"):
        for source in (REPOSITORY / package).rglob("*.py"):
            copy = tmp_path / source.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    before = Counter(rule(tmp_path))
    with (tmp_path / path).open("a") as file:
        file.write(f"\n{code}\n")
    planted = [*(Counter(rule(tmp_path)) - before)]
    assert len(planted) == 1 and violation in planted[0]


def modules_loaded_by(imports: list[str]) -> set[str]:
    code = f"import sys, {', '.join(imports)}; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_importing_the_package_loads_no_heavy_library():
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
    assert modules_loaded_by(light) & {"ray", "torch", "vllm", "transformers"} == set()


def test_the_training_loop_runs_on_a_bare_gpu_machine():
    loaded = modules_loaded_by(["uniner.train.checkpoint", "uniner.train.loop"])
    assert loaded & {"pydantic", "msgspec", "ray"} == set()


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
    """A cluster has the project's code and its dependencies, but no installed uniner package."""
    assert [path.name for path in MODULES if re.search(r"""version\(["']uniner""", path.read_text())] == []
    assert package_versions()["uniner"] == uniner.__version__ == metadata.version("uniner")
