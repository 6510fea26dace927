"""One driver at a time in a folder: on disk, on S3, on storage that ignores conditions or has no locks."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import pytest

from benchmarks.s3_server import Fault, S3Proxy
from uniner.errors import Stopped, UserError
from uniner.storage import lease
from uniner.storage.filesystem import filesystem
from uniner.storage.folder import Folder
from uniner.storage.lease import LeaseTimes, hold_lease, require_free
from uniner.storage.lease_holder import LeaseHolder

TIMES = LeaseTimes(renew=0.1, watch=0.4, expire=1.5, settle=0.2, lock=0.2, trouble=1.0, stop=5.0)
KINDS = ("disk", "disk-without-locks", "s3", "s3-without-conditions")
renewed = pytest.mark.parametrize("folder", KINDS[1:], indirect=True)  # a lock is not renewed


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def s3_through(bucket, s3_endpoint, monkeypatch, tmp_path):
    """Return a function that puts a proxy before the S3 server; returns it with the folder.

    The lease alone goes through it: the tests' own client, which lives on, is made before.
    """
    Folder(bucket).sizes()
    with ExitStack() as stack:

        def start(conditions=True):
            proxy = stack.enter_context(S3Proxy(s3_endpoint, conditions=conditions))
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            return proxy, Folder(f"{bucket}/{tmp_path.name}") / "annotate"

        yield start


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    """A stage's folder on each kind of storage."""
    if request.param == "disk-without-locks":
        request.getfixturevalue("without_locks")
    if request.param == "s3-without-conditions":
        return request.getfixturevalue("s3_through")(conditions=False)[1]
    if request.param == "s3":
        return Folder(request.getfixturevalue("bucket")) / tmp_path.name / "annotate"
    return Folder(str(tmp_path)) / "annotate"


@pytest.fixture
def other_driver(monkeypatch):
    """Return a function that lets this process act as another one that holds nothing yet, in a context."""

    class OtherDriver:
        def __enter__(self):
            self._patch = monkeypatch.context()
            patch = self._patch.__enter__()
            patch.setattr(lease, "_held", type(lease._held)())
            patch.setattr(lease, "_first_seen", {})
            return patch

        def __exit__(self, *ending):
            return self._patch.__exit__(*ending)

    return OtherDriver


@pytest.fixture
def stop_on_sigterm():
    """Stop on SIGTERM as the command line does."""

    def stop(*_):
        raise Stopped("stopped by SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


def lease_file(folder):
    return Folder(folder.url.rpartition("/")[0]), f"{folder.name}.lease.json"


def read_lease(folder):
    place, name = lease_file(folder)
    return json.loads(place.read(name)) if place.exists(name) else None


def write_lease(folder, holder):
    place, name = lease_file(folder)
    place.write(name, holder.content())


def elsewhere(**changes):
    """A driver on another host."""
    return replace(LeaseHolder.this_process(), host="other-host", boot="other-boot", pid=7, **changes)


def test_a_folder_is_held_and_freed_and_nothing_is_left(folder):
    for _ in range(2):
        with hold_lease(folder, TIMES):
            assert read_lease(folder)["pid"] == os.getpid()
        assert read_lease(folder) is None
    assert not folder.sizes()


def test_a_second_driver_is_refused_and_told_who_works_there(folder, other_driver):
    patient = replace(TIMES, watch=60, expire=120)
    with hold_lease(folder, TIMES), other_driver():
        for enter in (require_free, lambda *words: hold_lease(*words).__enter__()):
            started = time.monotonic()
            with pytest.raises(UserError) as refused:
                enter(folder, patient)
            assert time.monotonic() - started < 10
            line = str(refused.value)
            assert line.startswith(f"{folder.url}: `") and f"process {os.getpid()}, works here" in line
            assert LeaseHolder.this_process().host in line and "run.name=my-run-2" in line
    require_free(folder, TIMES)


def test_the_same_process_may_enter_again(folder):
    with hold_lease(folder, TIMES):
        require_free(folder, TIMES)
        with hold_lease(folder, TIMES):
            pass
        assert read_lease(folder), "the inner one freed what the outer one holds"
    assert read_lease(folder) is None


def test_a_free_folder_is_checked_without_a_trace(folder):
    require_free(folder, TIMES)
    place, _ = lease_file(folder)
    assert place.tree() == []


@renewed
def test_a_silent_driver_of_another_host_is_waited_for_and_then_replaced(folder, caplog):
    write_lease(folder, elsewhere(command="uniner annotate c.toml"))
    require_free(folder, TIMES)  # it may be dead: only the stage waits for longer
    started = time.monotonic()
    with hold_lease(folder, TIMES):
        assert TIMES.expire - TIMES.watch - 0.2 < time.monotonic() - started < TIMES.expire + 10
        assert read_lease(folder)["pid"] == os.getpid()
    assert "`uniner annotate c.toml` on other-host, process 7, has shown no sign of life for" in caplog.text


def test_the_checks_watching_counts_for_the_stage(tmp_path, without_locks):
    """Else two and a half minutes would not be enough on another host."""
    folder = Folder(str(tmp_path)) / "annotate"
    write_lease(folder, elsewhere())
    require_free(folder, TIMES)
    with hold_lease(folder, replace(TIMES, expire=TIMES.watch, renew=10_000)):  # it would sleep for long
        assert read_lease(folder)["pid"] == os.getpid()


@contextmanager
def rewritten(folder, contents):
    """Another driver's lease, written again and again."""
    ended, (place, name) = threading.Event(), lease_file(folder)

    def live():
        for content in contents:
            place.write(name, content)
            if ended.wait(TIMES.renew):
                return

    driver = threading.Thread(target=live)
    driver.start()
    try:
        while not place.exists(name):
            time.sleep(0.01)
        yield
    finally:
        ended.set()
        driver.join()


@renewed
def test_a_living_driver_of_another_host_is_never_replaced(folder):
    other = elsewhere()
    with rewritten(folder, (replace(other, renewals=number).content() for number in count())):
        for enter in (require_free, lambda *words: hold_lease(*words).__enter__()):
            with pytest.raises(UserError, match=r"other-host, process 7, works here"):
                enter(folder, TIMES)


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("end", ["gone", "reused", "zombie"])
def test_a_process_of_this_host_is_known_to_have_ended(end):
    here = LeaseHolder.this_process()
    assert not here.is_gone
    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        ended = {
            "gone": {"pid": dead_process()},
            "reused": {"started": str(int(here.started) - 1)},
            "zombie": {"pid": zombie.pid},
        }
        assert replace(here, **ended[end]).is_gone


@renewed
def test_a_driver_of_this_host_that_ended_is_replaced_at_once(folder):
    write_lease(folder, replace(LeaseHolder.this_process(), pid=dead_process()))
    started, patient = time.monotonic(), replace(TIMES, watch=60, expire=120)
    require_free(folder, patient)
    with hold_lease(folder, patient):
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("field", ["host", "boot", "processes"])
def test_a_process_of_another_host_boot_or_container_is_not_known_to_have_ended(field):
    here = replace(LeaseHolder.this_process(), pid=dead_process())
    assert here.is_gone
    assert not replace(here, **{field: "other"}).is_gone


@pytest.mark.parametrize("folder", ["s3"], indirect=True)
@pytest.mark.parametrize("data", [b'{"id": "a", "new_field": 1}', b'{"id": "a"', b'"text"'])
def test_a_lease_of_another_version_or_cut_short_is_respected(folder, data, caplog):
    with (
        rewritten(folder, (data + b" " * number for number in count())),
        pytest.raises(UserError, match=r"another driver works here"),
    ):
        require_free(folder, TIMES)
    with hold_lease(folder, TIMES):
        assert "another driver has shown no sign of life" in caplog.text


@renewed
def test_a_driver_whose_lease_is_taken_over_stops(folder, stop_on_sigterm):
    started, other = time.monotonic(), elsewhere()

    def taker(number):
        return replace(other, renewals=number).content()

    lost = pytest.raises(UserError, match=r"took the lease over.*this driver stops")
    with lost, hold_lease(folder, TIMES), rewritten(folder, (taker(number) for number in count())):
        time.sleep(20)
    assert time.monotonic() - started < 8
    assert read_lease(folder)["host"] == "other-host", "the other's lease was deleted"


def test_a_driver_that_does_not_stop_is_ended(tmp_path, without_locks, wait_until):
    """In a process of its own, whose main thread passes over SIGTERM."""
    code = (
        "import errno, fcntl, sys, time\n"
        "def refuse(*_): raise OSError(errno.ENOLCK, 'none')\n"
        "fcntl.flock = refuse\n"
        "from uniner.progress import set_up_logging\n"
        "from uniner.storage.folder import Folder\n"
        "from uniner.storage.lease import LeaseTimes, hold_lease\n"
        "set_up_logging()\n"
        "with hold_lease(Folder(sys.argv[1]), LeaseTimes(renew=0.1, settle=0, stop=0.2)):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    folder = Folder(str(tmp_path / "annotate"))
    driver = subprocess.Popen(
        [sys.executable, "-c", code, folder.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    )
    assert driver.stdout.readline() == "held\n"

    def has_ended():
        write_lease(folder, elsewhere())  # as the other driver, which renews its lease too
        return driver.poll() is not None

    wait_until(has_ended, 30)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert "this driver stops, so that nothing is done twice" in errors and "Traceback" not in errors


def test_trouble_of_the_server_is_not_the_loss_of_the_lease(s3_through, stop_on_sigterm, wait_until):
    proxy, folder = s3_through()
    with hold_lease(folder, replace(TIMES, expire=60)):
        for fault in (Fault(kind="error", status=500), Fault(kind="hang_up"), Fault(kind="cut")):
            before = read_lease(folder)["renewals"]
            proxy.faults.set(fault)
            wait_until(lambda kind=fault.kind: proxy.faults.counts[kind] >= 2 or kind == "cut", 20)
            proxy.faults.set()
            wait_until(lambda before=before: read_lease(folder)["renewals"] > before + 1, 20)
    assert read_lease(folder) is None


def test_a_lease_that_cannot_be_renewed_is_given_up_before_others_take_it(s3_through, stop_on_sigterm):
    proxy, folder = s3_through()
    lost = pytest.raises(UserError, match=r"could not be renewed for .*SlowDown.*this driver stops")
    with lost, hold_lease(folder, replace(TIMES, expire=4.0)):
        proxy.faults.set(Fault(kind="error", methods=["PUT"]))
        started = time.monotonic()
        time.sleep(20)
    assert time.monotonic() - started < 4.0


def test_a_put_whose_answer_is_lost_counts(s3_through, stop_on_sigterm, wait_until):
    """The put has succeeded, and its repetition is refused: by our own lease, which nobody took over."""
    proxy, folder = s3_through()
    lost = Fault(kind="lose", methods=["PUT"], times=1)
    proxy.faults.set(lost)
    with hold_lease(folder, replace(TIMES, expire=60)):
        for number in range(1, 5):
            wait_until(lambda number=number: proxy.faults.counts["lose"] == number, 20)
            before = read_lease(folder)["renewals"]
            wait_until(lambda before=before: read_lease(folder)["renewals"] > before, 20)
            proxy.faults.set(lost)
    assert read_lease(folder) is None


STARTED_AT_ONCE = """
import sys, time
from uniner.storage.folder import Folder
from uniner.storage.lease import LeaseTimes, hold_lease
print("ready", flush=True)
sys.stdin.readline()
try:
    with hold_lease(Folder(sys.argv[1]), LeaseTimes(renew=0.3, watch=1, settle=1.0)):
        print("works", flush=True)
        sys.stdin.readline()
except Exception as error:
    print(error, flush=True)
"""


def test_of_two_drivers_that_start_at_once_one_works(s3_through):
    """Where the server ignores conditions both write, and the one whose lease was overwritten is refused."""
    for conditions in (True, False):
        _, folder = s3_through(conditions)
        command = [sys.executable, "-c", STARTED_AT_ONCE, f"{folder.url}-{conditions}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        drivers = [subprocess.Popen(command, **pipes) for _ in range(2)]
        for driver in drivers:
            assert driver.stdout.readline() == "ready\n"
        for driver in drivers:
            driver.stdin.write("start\n")
            driver.stdin.flush()
        first = {driver: driver.stdout.readline() for driver in drivers}
        assert sorted(line == "works\n" for line in first.values()) == [False, True], first
        assert sum("works here; wait" in line for line in first.values()) == 1
        for driver in drivers:
            driver.communicate("end\n")


def test_a_storage_that_ignores_conditions_is_named(s3_through, caplog):
    _, folder = s3_through(conditions=False)
    with hold_lease(folder, TIMES):
        assert "this storage ignores conditional puts" in caplog.text
    caplog.clear()
    _, folder = s3_through()
    with hold_lease(folder, TIMES):
        assert "this storage ignores" not in caplog.text


def test_a_server_that_does_not_know_the_header_counts_as_one_that_ignores_it(
    s3_through, monkeypatch, caplog
):
    from benchmarks import s3_server

    _, folder = s3_through()

    async def refuse(self, request):
        return s3_server._error(501, "NotImplemented") if "If-None-Match" in request.headers else None

    monkeypatch.setattr(S3Proxy, "_refusal", refuse)
    with hold_lease(folder, TIMES):
        assert "this storage ignores conditional puts" in caplog.text
        assert read_lease(folder)["pid"] == os.getpid()


def test_an_unreachable_or_missing_place_is_one_line(bucket, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no such bucket"), hold_lease(Folder("s3://no-such/run/tag"), TIMES):
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"is a file, not a folder|file"),
        hold_lease(Folder(str(tmp_path / "file/run/tag")), TIMES),
    ):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot be reached .*AWS_ENDPOINT_URL"):
        require_free(Folder(f"{bucket}/run/tag"), TIMES)


HOLD = (
    "import os, subprocess, sys, time\n"
    "from uniner.storage.folder import Folder\n"
    "from uniner.storage.lease import hold_lease\n"
    "with hold_lease(Folder(sys.argv[1])):\n"
    "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], close_fds=False)\n"
    "    forked = os.fork()\n"
    "    if not forked: time.sleep(60)\n"
    "    print(child.pid, forked, flush=True)\n"
    "    time.sleep(60)\n"
)


def test_the_children_of_a_killed_driver_do_not_keep_its_lock(tmp_path):
    folder = Folder(str(tmp_path / "annotate"))
    driver = subprocess.Popen([sys.executable, "-c", HOLD, folder.url], stdout=subprocess.PIPE, text=True)
    children = [int(word) for word in driver.stdout.readline().split()]
    try:
        with pytest.raises(UserError, match=rf"process {driver.pid}, works here"):
            require_free(folder)
        driver.kill()
        driver.wait()
        assert all(Path(f"/proc/{child}").exists() for child in children)
        with hold_lease(folder):
            assert read_lease(folder)["pid"] == os.getpid()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_a_lock_on_a_file_that_its_holder_deletes_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """The driver before ends between opening and locking: the lock would be on a deleted file."""
    folder, real = Folder(str(tmp_path)) / "annotate", fcntl.flock
    path = Path(filesystem(folder.url)[1] + ".lease.json")
    path.touch()

    def delete_first(descriptor, kind):
        monkeypatch.setattr(fcntl, "flock", real)
        path.unlink()
        return real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    with hold_lease(folder, TIMES):
        assert path.exists()


def test_the_lease_says_no_credentials(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/uniner", "annotate", "run.root=s3://me:secret@host/x"])
    holder = LeaseHolder.this_process()
    assert holder.command == "uniner annotate run.root=s3://***@host/x"
    assert "secret" not in json.dumps(asdict(holder))
