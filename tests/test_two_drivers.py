"""Two drivers on one run, as processes: the second is refused, and takes over when the first is killed.

The first driver's Ray workers are paused (SIGSTOP), so that it works for as long as the test needs. What is
left of it when it is killed must not keep its lease.
"""

import contextlib
import json
import time
from dataclasses import replace

import psutil
import pytest

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


class SlowBatchApi(BatchApi):
    """Answers its batches when it is told to."""

    def __init__(self):
        super().__init__(looks=10**9)

    def answer(self):
        for batch in self.batches.values():
            self._finish(batch)


@pytest.fixture(scope="module")
def servers():
    """A teacher that answers at once, and a batch server that does so once the test says so."""
    with ReplayServer({**REPLIES, **QUESTIONS}) as teacher, SlowBatchApi() as batches:
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


class PausedDriver:
    """A driver whose Ray workers can be paused."""

    def __init__(self, process):
        self.process, self._paused = process, {}

    def pause_workers(self):
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    title = " ".join(child.cmdline())
                    if title.startswith("ray::") and "Agent" not in title and child not in self._paused:
                        child.suspend()
                        self._paused[child] = True

    def kill(self):
        """Kill the driver alone, as the kernel does that is out of memory."""
        self.process.kill()
        self.process.wait()

    def end(self):
        for child in self._paused:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def holder_of(run, stage):
    """Return the number of the process that holds a stage's lease; None if there is no lease."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads(Folder(run).read(f"{stage}.lease.json"))["pid"]
    return None


@pytest.mark.parametrize("mode", MODES)
def test_a_second_driver_is_refused_and_takes_over_after_a_kill(
    mode, root, prepared, servers, job, wait_until
):
    words, stage, run = prepared(mode), mode.split()[0], f"{root}/r"
    first = PausedDriver(job(stage, *words))
    try:

        def works():
            assert first.process.poll() is None, first.process.communicate(timeout=60)[0]
            return holder_of(run, stage) == first.process.pid

        wait_until(works)
        started, ended = time.monotonic(), {}
        second, other_command = job(stage, *words), job(stage, "absent.toml")  # this one only starts and ends
        while len(ended) < 2:
            first.pause_workers()
            time.sleep(0.2)  # the S3 server is in this process: looking for workers takes its time
            for process in (second, other_command):
                if process.poll() is not None:
                    ended.setdefault(process, time.monotonic() - started)
        took = ended[second] - ended[other_command]
        output = second.communicate(timeout=60)[0]
        assert (second.returncode, first.process.poll()) == (2, None)
        (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert f"process {first.process.pid}, works here" in error and "Traceback" not in output
        assert took < 7, "with a start of 3 s on a machine that is not busy, that is more than 10 s"
        first.kill()
        servers["batches"].answer()
        started = time.monotonic()
        third = job(stage, *words)
        wait_until(lambda: third.poll() is not None or holder_of(run, stage) == third.pid)
        waited = time.monotonic() - started
        output = third.communicate(timeout=300)[0]
        assert third.returncode == 0, output
        assert "no sign of life" not in output and waited < 60
        assert (StageFolder(run) / stage).manifest() and holder_of(run, stage) is None
        start = ended[other_command]
        print(f"{mode}: refused in {took:.1f} s + a start of {start:.1f} s, taken over in {waited:.1f} s")
    finally:
        first.end()


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
