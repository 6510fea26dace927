"""What Ray raises when processes and machines die, in one line."""

import threading
from types import SimpleNamespace

import pytest
from ray import exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from uniner import cli
from uniner.errors import UserError
from uniner.runtime.connection import connected, death_in, user_error_in
from uniner.runtime.trainer import _plain_failure

OUT_OF_MEMORY = exceptions.OutOfMemoryError(
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: "
    "2bf7) was 2.93GB used / 23.54GB limit (0.124455)\nOOM kill reason: Memory usage exceeded threshold\n"
    "Top 10 memory users: PID MEM(GB) COMMAND\n1 0.5 python"
)
KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
    "detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes "
    "include: (1) the process was killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop "
    "--force is called."
)


def died(name="RayTrainWorker"):
    context = ActorDiedErrorContext(
        class_name=name, actor_id=b"a" * 16, pid=7, node_ip_address="192.0.2.3", error_message=KILLED
    )
    return exceptions.ActorDiedError(context)


def caused(error, cause):
    try:
        raise error from cause
    except Exception as raised:
        return raised


SECONDARY = RuntimeError("[gloo] Connection closed by peer")
MEMORY = "the machine 192.0.2.2 ran out of memory (2.93GB used / 23.54GB limit), so Ray ended a process there"
WORKER = "the process RayTrainWorker on 192.0.2.3 died (Worker unexpectedly exits with a connection error"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OUT_OF_MEMORY, MEMORY),
        (ControllerError(OUT_OF_MEMORY), MEMORY),
        (WorkerGroupError("page", {0: SECONDARY, 1: OUT_OF_MEMORY}), MEMORY),
        (WorkerGroupError("page", {0: died(), 1: OUT_OF_MEMORY}), MEMORY),
        (caused(RuntimeError("failed to start"), OUT_OF_MEMORY), MEMORY),
        (died(), WORKER),
        (WorkerGroupError("page", {0: SECONDARY, 1: WorkerHealthCheckFailedError("page", died())}), WORKER),
        (died("TrainController"), "the process TrainController on 192.0.2.3 died ("),
        (exceptions.WorkerCrashedError(), "a process of Ray died (The worker died unexpectedly"),
        (exceptions.NodeDiedError("the node is dead"), "a process of Ray died (the node is dead)"),
    ],
)
def test_a_death_is_one_line_that_says_where_and_what_to_do(error, line):
    text = death_in(error)
    assert text.startswith(line) and "\n" not in text and len(text) < 400
    assert "memory" in text.split(";", 1)[1]
    plain = _plain_failure(error, "train")
    assert isinstance(plain, UserError)
    assert str(plain) == f"train: {text}; the same command goes on from the last checkpoint"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a mistake in the code"),
        WorkerGroupError("page", {0: ValueError("a mistake in the code")}),
        # An actor that its own __init__ ended.
        exceptions.ActorDiedError(exceptions.RayTaskError("A.__init__", "traceback", ValueError("mistake"))),
    ],
)
def test_a_mistake_in_the_code_stays_what_it_is(error):
    assert death_in(error) is None
    assert _plain_failure(error, "train") is error


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (None, r"^Ray did not start on this machine: The current node timed out .*; run the same comm"),
        ("auto", r"^Ray at RAY_ADDRESS=auto cannot be used: The current node timed out .*; check that its"),
        ("127.0.0.1:9", r"^Ray at RAY_ADDRESS=127\.0\.0\.1:9 cannot be used: .*Connection refused; check"),
    ],
)
def test_a_ray_that_does_not_start_in_time_is_one_line(address, line, monkeypatch, capfd):
    def time_out(**_):
        raise Exception("The current node timed out during startup.\nThis could happen because some")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", time_out)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=line) as caught, connected():
        pytest.fail("there is no Ray")
    assert "\n" not in str(caught.value)
    assert cli._exit_code(lambda: cli._run_checked([])) == 1
    assert capfd.readouterr().err.startswith("error: Ray ")


def test_a_users_error_comes_before_the_deaths_that_follow_it():
    error = WorkerGroupError("page", {0: died(), 1: UserError("train: loss 7")})
    assert str(user_error_in(error)) == str(_plain_failure(error, "train")) == "train: loss 7"


def test_what_ray_adds_to_a_users_error_is_left_out():
    from ray.data._internal.util import iterate_with_retry

    def work():
        raise UserError("tag: the type 'x' is too long")
        yield

    with pytest.raises(UserError) as raised:
        list(iterate_with_retry(work, "apply UDF transform", max_attempts=1))
    assert "DataContext" in str(raised.value), "Ray adds its advice"
    assert str(user_error_in(raised.value)) == "tag: the type 'x' is too long"


def test_a_users_error_in_an_actors_init_is_found_in_the_text_that_ray_keeps_of_it():
    page = "ray::MapWorker.__init__() (pid=7)\n  File x\nValueError: x\n\nuniner.errors.UserError: no: GPU"
    error = exceptions.ActorDiedError(exceptions.RayTaskError("A.__init__", page, UserError("no: GPU")))
    assert not isinstance(error.__cause__, UserError)
    assert str(user_error_in(WorkerGroupError("page", {0: error}))) == "no: GPU"


def test_the_pages_that_raylets_write_are_a_line_each(monkeypatch, caplog, capfd):
    from ray._private import worker

    class Messages:
        def subscribe(self):
            pass

        def poll(self):
            if not caplog.text:
                return None, {"job_id": None, "error_message": "A worker died. To troubleshoot,\nread this"}
            raise OSError("the end")

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with connected():
        pass
    fake = SimpleNamespace(
        gcs_error_subscriber=Messages(), current_job_id=SimpleNamespace(binary=lambda: b"")
    )
    worker.listen_error_messages(fake, threading.Event())
    assert "Ray: A worker died\n" in caplog.text
    assert "troubleshoot" not in caplog.text + "".join(capfd.readouterr())
