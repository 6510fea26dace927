"""Every code block of README and docs is loaded, read or run, or says why not.

    toml    loaded as a config, over the settings that every config needs
    bash    run by bash with recorders in place of the programs: each `uniner`, `python -m jobs.STAGE` and job
            for Ray is then read by the real command line, which knows the command, its options and its
            settings; a target of make, a file or an extra of pip must exist
    sql     run by DuckDB on small tables of a run
    python  run beside them, with a small encoder in place of the models it names
    json    read as rules of tag.rules, a line each
    text    no code: what a command prints

The line above another block is `<!-- not run: REASON -->`, or `<!-- run by tests/FILE.py -->`.
"""

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from tests.encoder.conftest import make_base, make_encoder, one_thread  # noqa: F401
from uniner import cli
from uniner.config.loader import load
from uniner.encoder.folder import save_encoder
from uniner.records import TAGGED_PASSAGE, TaggedEntity, TaggedPassage, to_table
from uniner.storage.model_folders import ENCODER, FACTS, StudentFacts
from uniner.storage.sealed_json import sealed_json
from uniner.tag import texts as tagged_by
from uniner.tag.rule_file import read_rules

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODELS = (
    "runs/quickstart", "runs/news/train/student", "urchade/gliner_medium-v2.1", "s3://my-bucket/gliner",
)  # fmt: skip
PROGRAMS = ("uniner", "python", "make", "ray", "pip")
NEEDED = """
[run]
root = "runs"
name = "r"
[student]
base = "b"
[ingest]
shards = ["x.jsonl"]
[teacher]
model = "m"
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text and the comment above it."""

    where: str
    language: str
    text: str
    note: str


def blocks_of(page: Path) -> list[Block]:
    found, note, lines = [], "", iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if line.lstrip().startswith("```"):  # in a list it is indented
            text = []
            for _, inner in lines:
                if inner.lstrip().startswith("```"):
                    break
                text.append(inner)
            block = textwrap.dedent("\n".join(text))
            found.append(Block(f"{page.name}:{number}", line.strip(" `"), block, note))
        note = line
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
MARKED = re.compile(r"<!-- (not run: .{8,}|run by (tests/\S+\.py)) -->")


def these(language):
    chosen = [block for block in BLOCKS if block.language == language and not MARKED.match(block.note)]
    return pytest.mark.parametrize("block", chosen, ids=lambda block: block.where)


def test_every_block_is_checked_here_or_says_why_not():
    assert len(BLOCKS) > 50
    for block in BLOCKS:
        marked = MARKED.match(block.note)
        assert marked or block.language in ("toml", "bash", "sql", "python", "json", "text"), block.where
        assert not marked or not marked[2] or (ROOT / marked[2]).exists(), block.where


def write_config(folder: Path, text: str, name: str = "CONFIG.toml") -> Path:
    """Write a block as a config over the settings that all need; `like` may name one of jobs/configs."""
    for shipped in (ROOT / "jobs" / "configs").glob("*.toml"):
        (folder / shipped.name).write_text(shipped.read_text())
    (folder / "needed.toml").write_text(NEEDED)
    (folder / "my-run.toml").write_text(NEEDED)
    like = "" if "like" in tomllib.loads(text) else 'like = "needed.toml"\n'
    (folder / name).write_text(like + text)
    return folder / name


@these("toml")
def test_a_config_loads(block, tmp_path):
    load([str(write_config(tmp_path, block.text))])


@these("bash")
def test_commands_exist_with_their_options_and_settings(block, tmp_path):
    calls = record(block, tmp_path)
    assert calls, "no program was called"
    for call in calls:
        check_call(call, tmp_path)


def record(block: Block, folder: Path) -> list[list[str]]:
    """Run a block with recorders in place of the programs. Returns the calls."""
    programs, calls = folder / "bin", folder / "calls"
    programs.mkdir()
    for program in PROGRAMS:
        recorder = programs / program
        recorder.write_text(
            f"#!{sys.executable}\nimport json, sys\n"
            f"with open({str(calls)!r}, 'a') as file:\n"
            f"    print(json.dumps([{program!r}, *sys.argv[1:]]), file=file)\n"
        )
        recorder.chmod(0o755)
    script = "source() { :; }\n" + block.text
    done = subprocess.run(
        ["/bin/bash", "-c", script], env={"PATH": str(programs)}, cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), "a program is not known here: mark the block"
    return [json.loads(line) for line in calls.read_text().splitlines()]


def check_call(call: list[str], folder: Path) -> None:
    match call:
        case ["uniner", command, *words]:
            check_command(command, words, folder)
        case ["python", "-m", module, *words] if module.startswith("jobs."):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists()
            check_command(module.removeprefix("jobs.").replace("_", "-"), words, folder)
        case ["python", "-m", module, *words]:
            source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
            options = [word.split("=")[0] for word in words if word.startswith("--")]
            assert all(f'"{option}"' in source for option in options), f"{module} has not all of {options}"
        case ["ray", "job", "submit", *words]:
            check_call(words[words.index("--") + 1 :], folder)
        case ["make", *targets]:
            known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert set(targets) <= set(known)
        case ["pip", "install", *words]:
            check_installation(words)
        case _:
            raise AssertionError(f"mark the block, which calls {call}")


def check_installation(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        if named := re.fullmatch(r"(?:\.|uniner|\S+\.whl)\[([\w,]+)\]", word):
            assert set(named[1].split(",")) <= extras.keys()
        if word.endswith(".txt"):
            assert (ROOT / word).exists()


def check_command(command: str, words: list[str], folder: Path) -> None:
    """Read a command as the command line does, and its config and settings as the stage does."""
    group = typer.main.get_command(cli.app)
    known = group.commands[command]
    values = known.make_context(command, list(words)).params  # raises where an option does not exist
    config = values.get("config")
    if config is None:
        return
    path = ROOT / config
    if not path.exists():
        path = write_config(folder, "", Path(config).name)
    load([str(path), *(values.get("settings") or [])])


@these("json")
def test_rules_are_read(block, tmp_path):
    (tmp_path / "rules.jsonl").write_text(block.text + "\n")
    assert read_rules(str(tmp_path / "rules.jsonl"), "en")


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Small tables of a run, and the folder that the blocks' paths begin in."""
    entity = TaggedEntity(text="Ann", type="person", start=0, end=3, score=0.9, grounding="exact")
    row = TaggedPassage(
        doc_id="d", passage_id="p", char_start=0, entities=(entity,), outcome="ok", failed_types=()
    )
    flat = {"doc_id": "d", "passage_id": "p", "source": "news", "type": "person", "text": "Ann",
            "start": 0, "end": 3, "score": 0.9, "grounding": "exact"}  # fmt: skip
    parts = {"tag": "source=news", "runs/quickstart/tag": "."}
    for run, part in parts.items():
        folder = tmp_path / run / "entities" / part
        folder.mkdir(parents=True)
        pq.write_table(to_table([row], TAGGED_PASSAGE), tmp_path / run / "chunk-0.parquet")
        columns = [name for name in flat if name != "source" or part == "."]
        pq.write_table(pa.Table.from_pylist([flat]).select(columns), folder / "part-0.parquet")
    monkeypatch.chdir(tmp_path)


@these("sql")
@pytest.mark.usefixtures("tables")
def test_queries_find_the_rows(block):
    for query in re.sub("^--.*$", "", block.text, flags=re.MULTILINE).split(";")[:-1]:
        assert duckdb.sql(query).fetchall(), query


@these("python")
@pytest.mark.usefixtures("tables", "one_thread")
def test_python_runs(block, make_encoder, tmp_path, monkeypatch):  # noqa: F811
    # What it imports of the Python door runs in this process, also where other tests have started Ray.
    monkeypatch.setattr(tagged_by, "uses_ray", lambda: False)
    encoder = make_encoder()
    save_encoder(tmp_path / "model", encoder, encoder.model.state_dict())
    facts = StudentFacts(template=ENCODER, max_tokens=64, base="b", types=("person", "city"))
    (tmp_path / "model" / FACTS).write_bytes(sealed_json(facts.as_dict()))
    code = re.sub(rf'"({"|".join(map(re.escape, MODELS))})"', repr(str(tmp_path / "model")), block.text)
    exec(compile(code, block.where, "exec"), {})
