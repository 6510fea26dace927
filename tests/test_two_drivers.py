"""Two drivers on one run, as processes: the second is refused, and takes over when the first is killed.

The first driver waits at its stage's first act, with Ray started and its lease held, for as long as the test
needs it.
"""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from tests.teacher.batch.test_runner import BatchApi
from uniner.evaluate.systems.instructions import INSTRUCTIONS
from uniner.storage.filesystem import filesystem
from uniner.storage.folder import Folder
from uniner.storage.lease_holder import LeaseHolder
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.replay_server import ReplayServer

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
TEXTS = [f"Ann {number} met Bob in Bonn." for number in range(48)]
REPLIES = dict.fromkeys(TEXTS, '[("Bonn", "city"), ("Bob", "person")]')
QUESTIONS = {INSTRUCTIONS["published"].text(text, ["city"]): '["Bonn"]' for text in TEXTS}
PARENTS = {"annotate": (), "build": ("annotate",), "train": ("build",), "evaluate": (), "tag": ("train",)}
MODES = ("annotate", "annotate in batches", "build", "train", "evaluate", "tag")


@pytest.fixture(scope="module")
def config(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("two-drivers")
    gold = folder / "gold.jsonl"
    city = {"start": 0, "end": 3, "text": "Ann", "type": "city"}
    gold.write_text("".join(json.dumps({"text": text, "entities": [city]}) + "\n" for text in TEXTS))
    path = folder / "config.toml"
    path.write_text(
        f'[run]\nroot = "{folder}/runs"\nname = "r"\n[student]\nbase = "{base}"\nmax_tokens = 256\n'
        '[ingest]\nshards = ["unused"]\n[build]\nvalidation_share = 0.1\n'
        '[train]\nmax_steps = 4\nbatch_conversations = 8\ndtype = "float32"\nuse_gpu = false\n'
        "check_export = false\ncheckpoint_steps = 2\n"
        '[engine]\ndtype = "float32"\ngpus = 0\nblock_size = 32\nmax_answer_tokens = 8\nmax_bad_share = 1.0\n'
        f'[tag]\ntypes = ["city"]\n[evaluate]\ngold = {{ones = "{gold}"}}\nsystems = ["chatty"]\n'
    )
    return path


class FastBatchApi(BatchApi):
    """Has a batch done when it is first asked about it."""

    async def _look(self, request):
        batch = self.batches[request.match_info["id"]]
        if batch["status"] != "completed":
            self._finish(batch)
        return web.json_response(batch)


@pytest.fixture(scope="module")
def servers():
    """A teacher that answers online, and one that answers batches."""
    with ReplayServer({**REPLIES, **QUESTIONS}) as teacher, FastBatchApi() as batches:
        yield {"teacher": teacher, "batches": batches}


@pytest.fixture
def prepared(config, servers, root, write_passages, run_here):
    """Return a function that prepares a run for a stage; returns the words of its command."""
    made = StageFolder(str(config.parent / "runs")) / "r"

    def make_parents(stage):
        for parent in PARENTS[stage]:
            make_parents(parent)
            if (made / parent).manifest() is None:
                code, output = run_here(parent, *words_of(parent))
                assert code == 0, output

    def words_of(mode):
        server = servers["batches" if "batches" in mode else "teacher"]
        words = [f"teacher.base_url={server.base_url}", f"teacher.cache={root}/cache"]
        if "batches" in mode:
            words.append("teacher.kind=batch")
        teacher = f'{{model = "m", base_url = "{server.base_url}"}}'
        words.append(f'evaluate.system.chatty={{kind = "chat", teacher = {teacher}}}')
        return [config, *words]

    def prepare(mode):
        if made.manifest() is None and (made / "ingest").manifest() is None:
            write_passages(made / "ingest", TEXTS, 4)
        make_parents(mode.split()[0])
        system, path = filesystem(root)
        system.makedirs(path, exist_ok=True)
        system.put(str(made.url), f"{path}/r", recursive=True)
        return [*words_of(mode), f"run.root={root}"]

    return prepare


WAITING_DRIVER = """
import sys, time
from pathlib import Path
from uniner import cli
from uniner.storage.stage_folder import StageFolder

def wait(*_):
    Path(mark).touch()
    while True:
        time.sleep(1)

StageFolder.begin = wait
mark, command = sys.argv.pop(1), sys.argv.pop(1)
cli.main(command)
"""


@pytest.fixture
def waiting_driver(tmp_path, wait_until):
    """Return a function that starts a driver which waits in its stage."""
    with contextlib.ExitStack() as stack:

        def start(stage, words):
            mark, log = tmp_path / "waits", tmp_path / "log"
            command = [sys.executable, "-c", WAITING_DRIVER, str(mark), stage, *map(str, words)]
            with log.open("wb") as output:
                driver = subprocess.Popen(command, stdout=output, stderr=output)
            stack.callback(driver.kill)
            wait_until(lambda: mark.exists() or driver.poll() is not None)
            assert driver.poll() is None, log.read_text()
            return driver

        yield start


def files_of_children(driver):
    """Return the files that a driver's Ray has open."""
    files = set()
    for child in psutil.Process(driver.pid).children(recursive=True):
        for descriptor in Path(f"/proc/{child.pid}/fd").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                files.add(str(descriptor.readlink()))
    return files


def holder_of(run, stage):
    """Return the number of the process that holds a stage's lease; None if there is no lease."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads(Folder(run).read(f"{stage}.lease.json"))["pid"]
    return None


@pytest.mark.parametrize("mode", MODES)
def test_a_second_driver_is_refused_and_takes_over_after_a_kill(
    mode, root, prepared, waiting_driver, job, wait_until
):
    words, stage, run = prepared(mode), mode.split()[0], f"{root}/r"
    first = waiting_driver(stage, words)
    assert holder_of(run, stage) == first.pid
    opened = files_of_children(first)
    assert opened and not [name for name in opened if "lease" in name]
    started = time.monotonic()
    imports = subprocess.Popen([sys.executable, "-c", f"import uniner.cli, uniner.{stage}.stage"])
    second = job(stage, *words)
    imports.wait()
    start = time.monotonic() - started
    output = second.communicate(timeout=120)[0]
    took = time.monotonic() - started
    assert (second.returncode, first.poll()) == (2, None)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert f"process {first.pid}, works here" in error and "Traceback" not in output
    assert took - start < max(6, start), "where a start takes 4 s, that is more than 10 s in all"
    first.kill()
    first.wait()
    started = time.monotonic()
    third = job(stage, *words)
    wait_until(lambda: third.poll() is not None or holder_of(run, stage) == third.pid)
    waited = time.monotonic() - started
    output = third.communicate(timeout=300)[0]
    assert third.returncode == 0, output
    assert "no sign of life" not in output
    assert (StageFolder(run) / stage).manifest() and holder_of(run, stage) is None
    print(f"{mode}: refused in {took:.1f} s (start {start:.1f} s), held {waited:.1f} s after the restart")


@pytest.mark.parametrize("root", ["s3"], indirect=True)  # a lock on disk is freed with its process
def test_a_driver_of_another_host_is_replaced_within_two_and_a_half_minutes(root, prepared, job, wait_until):
    words, run = prepared("annotate"), f"{root}/r"
    dead = replace(LeaseHolder.this_process(), host="other-host", boot="other-boot")
    Folder(run).write("annotate.lease.json", dead.content())
    started = time.monotonic()
    driver = job("annotate", *words)
    wait_until(lambda: driver.poll() is not None or holder_of(run, "annotate") == driver.pid, 200)
    waited = time.monotonic() - started
    output = driver.communicate(timeout=200)[0]
    assert driver.returncode == 0, output
    assert 110 < waited < 150, "the lease expires after 120 s"
    assert f"on other-host, process {dead.pid}, has shown no sign of life" in output
    print(f"taken over {waited:.1f} s after its start")
