"""The command line: commands, options, help, settings, and how each ends."""

import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from uniner.cli import STAGES, app
from uniner.config.schema import Config
from uniner.runtime.spending import SpendingFile
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk, run_folder

RUNNER = CliRunner()
COMMANDS = (*STAGES, "pipeline", "quickstart", "preflight", "status", "settings")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(f'[run]\nroot = "{tmp_path}"\nname = "r"\n[student]\nbase = "{tmp_path}"\n')
    return str(path)


def invoke(*words):
    return RUNNER.invoke(app, list(words), prog_name="uniner")


def test_help_lists_every_command_in_a_screen():
    result = invoke("--help")
    assert result.exit_code == 0 and len(result.output.splitlines()) <= 80
    assert set(COMMANDS) <= set(re.findall(r"^  ([\w-]+)  ", result.output, re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_its_options_and_its_own_settings_in_a_screen(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0 and len(result.output.splitlines()) <= 80
    shown = set(re.findall(r"^  (\w+) \(", result.output, re.MULTILINE))
    section = {"train-encoder": "encoder"}.get(command, command)
    if section in Config.model_fields:
        assert set(Config.model_fields[section].annotation.model_fields) <= shown
    else:
        assert not shown


def test_settings_show_types_and_allowed_values_of_a_section_or_of_all():
    result = invoke("settings", "tag")
    assert result.exit_code == 0 and len(result.output.splitlines()) <= 80
    assert 'occurrences  ("all" | "best", default "all")' in result.output
    every = invoke("settings").output
    assert all(f"[{name}" in every for name in ("run", "teacher, kind = vllm", "evaluate.system.NAME, kind"))
    wrong = invoke("settings", "tagg")
    assert wrong.exit_code == 2 and "there is no section tagg" in wrong.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ingest", "CONFIG", "--estimate"], "No such option: --estimate"),
        (["build", "CONFIG", "--text", "x"], "No such option: --text"),
        (["quickstart", "--datasets"], "No such option: --datasets"),
        (["tag", "CONFIG", "--serve", "0"], "greater than or equal to 1"),
        (["tag"], "Missing argument 'CONFIG'"),
        (["tagg", "CONFIG"], "No such command 'tagg'"),
        (["tag", "CONFIG", "tag.plan=true"], "tag.plan moved: use the option --estimate"),
        (["evaluate", "CONFIG", "evaluate.catalogue=true"], "evaluate.catalogue moved: use the option --dat"),
        (["status", "absent.toml"], "config file absent.toml: No such file or directory; name a TOML file"),
    ],
)
def test_a_mode_of_another_command_or_a_wrong_word_is_an_error_and_runs_nothing(words, message, config):
    result = invoke(*(config if word == "CONFIG" else word for word in words))
    assert result.exit_code == 2
    assert message in result.output


def test_status_tells_what_is_complete_begun_and_missing_and_what_was_spent(config, tmp_path):
    import pyarrow as pa

    run = run_folder(str(tmp_path), "r")
    table = pa.table({"n": [1, 2]})
    ingest = Identity(stage="ingest", settings={})
    (run / "ingest").begin(ingest)
    summaries = [(run / "ingest").write_chunk(Chunk(key, table)) for key in "abc"]
    (run / "ingest").write_manifest(Manifest.of(ingest, summaries, 1))
    (run / "annotate").begin(Identity(stage="annotate", settings={}))
    (run / "annotate").write_chunk(Chunk("a", table, figures={"cost_usd": 0.25}))
    for stage in ("train", "train-encoder"):
        (run / stage).begin(Identity(stage=stage, settings={}))
    for step, file in ((900, "state.json"), (1200, "state.json"), (1500, "shard")):
        (run / f"train/checkpoints/step-{step:08d}-a").write(file, b"{}")
    result = invoke("status", config)
    assert result.exit_code == 0
    lines = [line.split(maxsplit=1) for line in result.output.splitlines()[1:]]
    assert ["ingest", "complete, 6 passages"] in lines
    assert ["annotate", "begun, 1 of 3 chunks, 2 rows, 0.25 USD"] in lines
    assert ["train", "begun, 1,200 steps in its last checkpoint"] in lines
    assert ["train-encoder", "begun, no checkpoint yet"] in lines
    assert ["tag", "not begun"] in lines
    assert ["spent", "0.25 USD"] in lines
    SpendingFile(run / "annotate").write(0.75, exact=False)
    assert "0.75 USD" in invoke("status", config).output, "with requests in flight and unfinished chunks"


def test_verbose_lets_the_logs_of_ray_and_vllm_through(config, monkeypatch):
    from uniner.progress import VERBOSE, is_verbose

    monkeypatch.setenv(VERBOSE, "0")
    assert not is_verbose()
    invoke("ingest", config, "--verbose")
    assert is_verbose()


def test_a_job_is_the_same_command(config):
    job = subprocess.run(
        [sys.executable, "-m", "jobs.tag", config, "tag.plan=true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == 2
    assert "error: tag.plan moved: use the option --estimate" in job.stderr


def test_a_terminal_that_is_not_utf_8_shows_what_it_can(config, tmp_path):
    command = "from uniner import cli; cli.main('status')"
    status = subprocess.run(
        [sys.executable, "-c", command, config, f"run.root={tmp_path}/Ło"],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert status.returncode == 0, status.stderr
    assert f"run {tmp_path}/\\u0141o/r" in status.stdout


def test_a_submitted_job_with_a_relative_root_is_refused(config, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    result = invoke("ingest", config, "run.root=runs")
    assert result.exit_code == 2
    assert "run.root = 'runs' is relative" in result.output and "such as run.root=s3://" in result.output
    assert invoke("status", config).exit_code == 0
