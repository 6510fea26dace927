"""The processes that vLLM starts: errors of a failed start, and one start at a time on a shared GPU."""

import json
import logging
import multiprocessing
import tempfile

import pytest
from filelock import FileLock, Timeout

from uniner.errors import UserError
from uniner.inference.engine_process import (
    StartupError,
    StartupErrorHandler,
    gpu_start_lock,
    startup_exception,
)


def startup_error(kind, message, trace="..."):
    return StartupError(kind=kind, message=message, trace=trace)


FAILED = RuntimeError(
    "Engine core initialization failed. See root cause above. Failed core proc(s): {'E': 1}"
)
KILLED = RuntimeError(
    "Engine core initialization failed. See root cause above. Failed core proc(s): {'E': -9}"
)


@pytest.mark.parametrize(
    ("error", "kind", "message", "shown"),
    [
        (FAILED, "OutOfMemoryError", "CUDA out of memory. Wanted\n2 GiB", "memory .*2 GiB.*max_num_seqs"),
        (FAILED, "ValueError", "No available memory for the cache", "little memory .*max_num_seqs"),
        (FAILED, "ValueError", "Free memory on device 0 is less", "lower engine.gpu_memory_util"),
        (KILLED, "", "", "too little memory .*process was killed"),
        (FAILED, "ValueError", "fp8 needs another", "does not start with this.*fp8 needs another"),
        (ValueError("no such backend"), "", "", "does not start with this model.*no such backend"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_start_says_in_one_line_what_to_do(error, kind, message, shown):
    parent = startup_error("Exception", "WorkerProc failed")
    errors = [startup_error(kind, message), parent] if kind else []
    raised = startup_exception("students/a", error, errors)
    assert isinstance(raised, UserError) and "\n" not in str(raised)
    with pytest.raises(UserError, match=f"^students/a: .*{shown}"):
        raise raised


@pytest.mark.parametrize(
    "errors", [[], [startup_error("AttributeError", "no attribute 'x'", "  File core.py, line 3")]]
)
def test_a_defect_is_shown_with_its_traceback_and_is_not_a_user_error(errors):
    raised = startup_exception("students/a", FAILED, errors)
    assert isinstance(raised, RuntimeError)
    assert ("line 3" if errors else "Engine core initialization failed") in str(raised)


def fail(file):
    log = logging.getLogger("vllm.test")
    log.addHandler(StartupErrorHandler(file))
    try:
        raise ValueError("too\nlittle")
    except ValueError:
        log.exception("EngineCore failed to start.")
    log.error("no exception")


def test_errors_of_another_process_are_recorded_whole(tmp_path):
    file = tmp_path / "errors.jsonl"
    process = multiprocessing.get_context("spawn").Process(target=fail, args=[str(file)])
    process.start()
    process.join()
    (line,) = file.read_text().splitlines()
    error = StartupError(**json.loads(line))
    assert (error.kind, error.message) == ("ValueError", "too\nlittle") and "in fail" in error.trace
    fail(str(tmp_path / "deleted" / "errors.jsonl"))  # after the start, errors are in the log only


def test_engines_that_share_a_gpu_start_one_by_one(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with gpu_start_lock(False):
        assert not list(tmp_path.iterdir())
    with gpu_start_lock(True):
        (lock,) = tmp_path.iterdir()
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
        with gpu_start_lock(True):
            pass  # another GPU's engines need not wait
    with FileLock(lock).acquire(timeout=0):
        pass
