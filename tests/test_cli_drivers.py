"""Each command that works in a stage's folder holds its lease; signals stop a driver with exit code 3."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import psutil
import pytest

from uniner import cli
from uniner.errors import UserError
from uniner.runtime import connection
from uniner.storage import lease

WORKING = [stage for stage in cli.STAGES if stage != "report"]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(f'[run]\nroot = "{tmp_path}"\nname = "r"\n[student]\nbase = "{tmp_path}"\n')
    return str(path)


@pytest.fixture(autouse=True)
def handlers():
    """Put the handlers of signals back that a command sets."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def no_stage(context):
    """A stage's check that finds nothing, and its parents where it has none."""
    return ()


@pytest.fixture
def events(monkeypatch):
    """What stages and Ray do, in order. Both are stand-ins: `events.work` is what each stage does."""
    seen = SimpleNamespace(list=[], work=lambda context: None)

    def module(stage):
        def run(context):
            seen.list.append(("run", context.stage))
            seen.work(context)

        def check(context):
            seen.list.append(("check", context.stage))

        return SimpleNamespace(
            __name__=f"uniner.{stage}.stage", SECTIONS=(), check=check, parents=no_stage, run=run
        )

    @contextlib.contextmanager
    def connected():
        try:
            yield
        finally:
            seen.list.append(("ray ended", held(seen.folder) if hasattr(seen, "folder") else ()))

    monkeypatch.setattr(cli, "_module", module)
    monkeypatch.setattr(connection, "connected", connected)
    return seen


def held(folder):
    """Which stages of a run are held."""
    return tuple(stage for stage in cli.STAGES if lease._held[(folder / stage).url])


@pytest.mark.parametrize("stage", WORKING)
def test_a_stage_holds_its_folder_while_it_works(stage, config, events):
    seen = []
    events.work = lambda context: seen.append(held(context.run_folder))
    assert cli.run([stage], [config]) == 0
    assert seen == [(stage,)]


def test_a_pipeline_holds_each_stage_in_turn_and_the_report_needs_none(config, events):
    seen = []
    events.work = lambda context: seen.append(held(context.run_folder))
    assert cli.run(cli.STAGES, [config]) == 0
    assert seen == [*((stage,) for stage in WORKING), ()]


@contextlib.contextmanager
def another_driver(tmp_path, stage):
    """Another process holds a stage's folder."""
    code = (
        "import sys; from uniner.storage.folder import Folder\n"
        "from uniner.storage.lease import hold_lease\n"
        "with hold_lease(Folder(sys.argv[1])): print(flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r" / stage)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        driver.stdout.readline()
        yield driver
        driver.communicate("\n")


def test_where_another_driver_works_nothing_is_checked_or_started(config, events, tmp_path, capsys):
    with another_driver(tmp_path, "build") as driver:
        assert cli.run(["build"], [config]) == 2
        assert events.list == []
        said = capsys.readouterr().err.splitlines()
        # A Ray that an earlier test started may log a line meanwhile.
        [line] = [line for line in said if " Ray: " not in line]
        assert f"process {driver.pid}, works here; wait until it ends" in line
        assert cli.run(["tag"], [config]) == 0
        assert cli.run(["report"], [config]) == 0
        assert cli.run(cli.STAGES, [config]) == 2
    assert cli.run(["build"], [config]) == 0


def test_a_driver_that_comes_between_the_check_and_the_work_ends_it_with_1(config, events, tmp_path, capsys):
    with contextlib.ExitStack() as others:

        def work(context):
            if context.stage == "build":
                others.enter_context(another_driver(tmp_path, "train"))

        events.work = work
        assert cli.run(["build", "train", "tag"], [config]) == 1
    assert [name for what, name in events.list if what == "run"] == ["build"]
    assert "works here; wait until it ends" in capsys.readouterr().err


@pytest.mark.parametrize("error", [UserError("broken"), None])
def test_a_stage_that_fails_or_is_stopped_keeps_its_folder_until_ray_has_ended(config, events, error):
    """Its actors may write until then."""

    def work(context):
        events.folder = context.run_folder
        if error:
            raise error
        os.kill(os.getpid(), signal.SIGTERM)

    events.work = work
    assert cli.run(["build"], [config]) == (1 if error else 3)
    assert events.list[-1] == ("ray ended", ("build",))
    assert held(events.folder) == ()


def test_a_lost_lease_ends_the_stage_with_1_and_its_own_line(config, events, monkeypatch, capsys):
    class LostLease:
        def release(self):
            raise UserError("r: another driver took the lease over; this driver stops")

    monkeypatch.setattr(lease, "_take", lambda folder, times: LostLease())
    events.work = lambda context: os.kill(os.getpid(), signal.SIGTERM)
    assert cli.run(["build", "tag"], [config]) == 1
    assert capsys.readouterr().err == "error: r: another driver took the lease over; this driver stops\n"


def test_reading_commands_need_no_lease(config, tmp_path, monkeypatch):
    module = SimpleNamespace(__name__="uniner.tag.stage", SECTIONS=())
    module.estimate = module.tag_text = lambda *words: "done"
    monkeypatch.setattr(cli, "_module", lambda stage: module)
    with another_driver(tmp_path, "tag"):
        for words in (["tag", config, "--estimate"], ["tag", config, "--text", "x"], ["status", config]):
            assert cli.app(words, standalone_mode=False) == 0


@pytest.fixture
def ray_start(monkeypatch):
    """Let Ray's start only set the handler that Ray sets, and do what a test wants then."""
    from ray._private.utils import set_sigterm_handler

    start = SimpleNamespace(do=lambda: None)

    def init(**_):
        def sigterm_handler(number, frame):
            sys.exit(number)

        sigterm_handler.__module__ = "ray._private.worker"
        set_sigterm_handler(sigterm_handler)
        start.do()

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    return start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("library", ["lets it through", "catches it", "raises another error"])
def test_a_signal_while_ray_starts_stops_with_3(library, number, config, ray_start, monkeypatch, capsys):
    ran = []

    def start():
        try:
            os.kill(os.getpid(), number)
        except Exception:
            if library == "lets it through":
                raise
            if library == "raises another error":
                raise RuntimeError("Ray did not start") from None

    ray_start.do = start
    module = SimpleNamespace(__name__="uniner.build.stage", SECTIONS=(), check=no_stage, parents=no_stage)
    module.run = ran.append
    monkeypatch.setattr(cli, "_module", lambda stage: module)
    assert cli.run(["build"], [config]) == 3
    assert not ran
    text = capsys.readouterr().err
    assert text == f"stopped by {signal.Signals(number).name}; the same command goes on from here\n"


def test_a_stop_that_a_stage_swallows_ends_the_pipeline_before_the_next(config, events):
    def work(context):
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)

    events.work = work
    assert cli.run(["build", "tag"], [config]) == 3
    assert [name for what, name in events.list if what == "run"] == ["build"]


def test_a_second_signal_while_ray_starts_ends_the_process_at_once(config, ray_start):
    def start():
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    ray_start.do = start
    assert cli.run(["report"], [config]) in (2, 3)


MOMENTS = {
    "before its processes": "ray._private.node.Node._init_temp",
    "after its first process": "ray._private.node.Node.start_raylet",
    "once its C++ code has set handlers": "ray._raylet.GcsErrorSubscriber",
    "once it has started": "uniner.cli.hold_lease",
}
KILL_AT = """
import importlib, signal, sys, threading
module, _, name = sys.argv[1].rpartition(".")
try:
    owner = importlib.import_module(module)
except ModuleNotFoundError:
    owner = getattr(importlib.import_module(module.rpartition(".")[0]), module.rpartition(".")[2])
real = getattr(owner, name)
def stopped(*words, **options):
    print("STOPPED AT", name, file=sys.stderr, flush=True)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
    return real(*words, **options)
setattr(owner, name, stopped)
from types import SimpleNamespace
from uniner import cli
none = lambda context: ()
module = SimpleNamespace(__name__="uniner.build.stage", SECTIONS=(), check=none, parents=none, run=None)
cli._module = lambda stage: module
sys.exit(cli.run(["build"], [sys.argv[2]]))
"""


STOP_WITH_THREADS = """
import atexit, os, signal, sys
from contextlib import nullcontext
from types import SimpleNamespace
from uniner import cli
from uniner.runtime import connection
atexit.register(os._exit, 139)  # Python's own end, where a thread waits in Ray's C++ code
connection.connected = nullcontext
stop = lambda context: os.kill(os.getpid(), signal.SIGTERM)
none = lambda context: ()
module = SimpleNamespace(__name__="uniner.build.stage", SECTIONS=(), check=none, parents=none, run=stop)
cli._module = lambda stage: module
sys.argv[0] = "uniner"
cli.main("build")
"""


def test_a_stopped_driver_ends_with_3_whatever_its_threads_wait_for(config):
    command = [sys.executable, "-c", STOP_WITH_THREADS, config]
    driver = subprocess.run(command, capture_output=True, text=True, check=False)
    assert driver.returncode == 3, driver.stderr
    assert driver.stderr.endswith("stopped by SIGTERM; the same command goes on from here\n")


@pytest.fixture
def short_folder():
    """A temporary folder with a path short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="u", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_sigterm_while_the_real_ray_starts_ends_with_3_and_leaves_no_process(moment, config, short_folder):
    environment = {**os.environ, "TMPDIR": short_folder}
    command = [sys.executable, "-c", KILL_AT, MOMENTS[moment], config]
    driver = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert driver.returncode == 3, driver.stderr
    assert "STOPPED AT" in driver.stderr and "Traceback" not in driver.stderr
    assert driver.stderr.endswith("stopped by SIGTERM; the same command goes on from here\n")
    left = [process for process in psutil.process_iter(["cmdline"]) if any(
        short_folder in word for word in process.info["cmdline"] or ())]  # fmt: skip
    _, alive = psutil.wait_procs(left, timeout=20)
    assert not alive
