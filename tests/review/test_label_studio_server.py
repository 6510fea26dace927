"""A round through Label Studio's own server: tasks in, corrected in between, and its export read back."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request

import pytest
from typer.testing import CliRunner

from uniner.cli import app

SERVER = os.environ.get("LABEL_STUDIO") or shutil.which("label-studio")
TOKEN = "0123456789abcdef0123456789abcdef01234567"
RUNNER = CliRunner()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # its first start makes a database, in minutes on a busy machine
    pytest.mark.skipif(
        SERVER is None,
        reason="needs Label Studio, in an environment of its own: python -m venv ~/label-studio && "
        "~/label-studio/bin/pip install label-studio; then LABEL_STUDIO=~/label-studio/bin/label-studio",
    ),
]


class Studio:
    """A server's HTTP API."""

    def __init__(self, address):
        self._address = address

    def __call__(self, path, body=None):
        request = urllib.request.Request(
            f"{self._address}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.loads(reply.read() or b"null")

    def is_up(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self._address}/health", timeout=5):
            return True
        return False


@pytest.fixture
def studio(tmp_path, wait_until):
    """Label Studio on 127.0.0.1, with its data in the test's folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLLECT_ANALYTICS": "False",
                   "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "LATEST_VERSION_CHECK": "False"}  # fmt: skip
    command = [SERVER, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port),
               "--data-dir", str(tmp_path / "studio"), "--username", "ann@example.com",
               "--password", "a-password-of-tests", "--user-token", TOKEN,
               "--enable-legacy-api-token"]  # fmt: skip
    log = tmp_path / "studio.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path
        )
    api = Studio(f"http://127.0.0.1:{port}")
    try:
        wait_until(lambda: server.poll() is not None or api.is_up(), seconds=1500)
        assert server.poll() is None, log.read_text()[-3000:]
        yield api
    finally:
        server.terminate()
        server.wait(60)


def corrected(task):
    """The prediction's result as a person corrects it: Rome is a city, and Bonn is one too."""
    text, result = task["data"]["text"], task["predictions"][0]["result"]
    for each in result:
        if each["value"]["text"].startswith("Rome"):
            each["value"]["labels"] = ["city"]
    start = text.index("Bonn")
    value = {"start": start, "end": start + 6, "text": text[start : start + 6], "labels": ["city"]}
    return [*result, {**result[0], "id": "added", "value": value}]


def test_tasks_go_through_the_server_and_come_back_with_right_spans(studio, tagged_run, passages, tmp_path):
    run = tagged_run(passages(), settings="passages = 12\nrandom_share = 0.5")
    assert RUNNER.invoke(app, ["review", "export", run.config]).exit_code == 0
    given = run.folder / "review" / "round-001"
    project = studio(
        "/api/projects/", {"title": "round 1", "label_config": (given / "label-studio.xml").read_text()}
    )["id"]
    tasks = json.loads((given / "label-studio.json").read_text())
    imported = studio(f"/api/projects/{project}/import", tasks)
    assert (imported["task_count"], imported["prediction_count"]) == (12, 12)

    known = studio(f"/api/tasks?project={project}&fields=all&page_size=100")["tasks"]
    assert [task["data"] for task in known] == [task["data"] for task in tasks]  # line ends and emoji too
    for number, task in enumerate(known[:11]):
        body = {"result": [], "was_cancelled": True} if number == 10 else {"result": corrected(task)}
        studio(f"/api/tasks/{task['id']}/annotations/", body)
    export = tmp_path / "export.json"
    export.write_text(json.dumps(studio(f"/api/projects/{project}/export?exportType=JSON")))

    result = RUNNER.invoke(app, ["review", "import", run.config, "--file", str(export)])
    output = " ".join(result.output.split())
    assert result.exit_code == 0, output
    assert "10 of 12 passages reviewed by label-studio-1, 1 skipped" in output
    assert "10 kept, 0 dropped, 10 given another type; 10 added" in output
    for row in run.rows("gold.jsonl"):
        assert [(each["text"][:4].rstrip("0123456789"), each["type"]) for each in row["entities"]] == [
            ("Ann", "person"),
            ("Bonn", "city"),
            ("Rome", "city"),
        ]
        assert all(row["text"][each["start"] : each["end"]] == each["text"] for each in row["entities"])
    (review, *_) = run.rows("round-001/reviews.jsonl")
    assert review["reviewer"] == "label-studio-1" and review["at"].startswith("20")
