"""A storage in trouble: what passes is waited for, what does not is one clear line, and nothing is lost."""

import contextlib
import errno
import functools
import http.server
import io
import logging
import os
import pickle
import resource
import signal
import socket
import threading
import urllib.request
from collections import Counter

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.storage import patient_filesystem, trouble
from uniner.storage.filesystem import expand, filesystem, read_part
from uniner.storage.folder import Folder
from uniner.storage.line_reader import read_lines
from uniner.storage.stage_folder import Chunk, StageFolder

TABLE = pa.table({"outcome": ["ok", "ok"], "n": [1, 2]})


class ProxyInTrouble:
    """An HTTP proxy in front of the S3 server that fails the next requests as told, then passes them on.

    fail: kind of failure and how many requests it hits; a status, or "reset", "cut" (half of the body) or
    "expired". only: the method that fails; None: all. seen: requests by method.
    """

    def __init__(self, target: str, port: int = 0):
        self.target, self.seen = target, Counter()
        self.kind, self.left, self.only = None, 0, None
        handler = functools.partial(_Handler, self)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def fail(self, kind, left=10**9, only=None):
        self.kind, self.left, self.only = kind, left, only
        self.seen.clear()

    def next_failure(self, method):
        self.seen[method] += 1
        if self.left > 0 and self.only in (None, method):
            self.left -= 1
            return self.kind
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, proxy, *arguments):
        self.proxy = proxy
        super().__init__(*arguments)

    def log_message(self, *_):
        pass

    def handle_any(self):
        body = self.read_body()
        failure = self.proxy.next_failure(self.command)
        if failure == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if failure not in (None, "cut"):
            status, code = (400, "ExpiredToken") if failure == "expired" else (failure, "Trouble")
            self.reply(status, {}, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())
            return
        request = urllib.request.Request(f"{self.proxy.target}{self.path}", body or None, method=self.command)
        request.add_header("Content-Type", "application/octet-stream")  # urllib's own would be a form's
        for name, value in self.headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "expect"):
                request.add_header(name, value)
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.reply(answer.status, answer.headers, answer.read(), cut=failure == "cut")

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def reply(self, status, headers, body, cut=False):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any


@pytest.fixture(scope="module")
def server(s3_endpoint):
    """The proxy, as the storage of this module; botocore tries each request once."""
    proxy = ProxyInTrouble(s3_endpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        _forget_clients()
        yield proxy
    _forget_clients()
    proxy.server.shutdown()


@pytest.fixture
def proxy(server, bucket, monkeypatch):
    """The proxy, which fails nothing yet."""
    server.fail(None, 0)
    monkeypatch.setenv(trouble.PATIENCE, "20")
    monkeypatch.setattr(trouble.random, "uniform", lambda *_: 0.1)
    return server


def _forget_clients():
    import s3fs

    patient_filesystem._client.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def folder(proxy, bucket, tmp_path):
    folder = StageFolder(f"{bucket}/{tmp_path.name}")
    folder.write("a/file.jsonl", b"1\n2\n")
    folder.write_chunk(Chunk("k", TABLE))
    return folder


OPERATIONS = {
    "write": lambda folder: folder.write("new", b"data"),
    "write_chunk": lambda folder: folder.write_chunk(Chunk("l", TABLE)).rows == 2,
    "read": lambda folder: folder.read("a/file.jsonl") == b"1\n2\n",
    "part": lambda folder: read_part(folder.path("a/file.jsonl"), 0, 1) == b"1",
    "read_columns": lambda folder: folder.read_columns("k", ["n"]).num_rows == 2,
    "read_summary": lambda folder: folder.read_summary("k").rows == 2,
    "lines": lambda folder: len(list(read_lines(folder.path("a/file.jsonl")))) == 2,
    "exists": lambda folder: folder.exists("a/file.jsonl") and not folder.exists("absent"),
    "sizes": lambda folder: "chunk-k.parquet" in folder.sizes(),
    "tree": lambda folder: "a/file.jsonl" in folder.tree(),
    "glob": lambda folder: len(expand([f"{folder.url}/*/*.jsonl"])) == 1,
    "remove": lambda folder: folder.remove(["a/file.jsonl", "absent"]),
    "remove_all": lambda folder: (folder / "a").remove_all(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_waits_for_a_storage_that_answers_503(folder, proxy, operation):
    proxy.fail(503, left=4)
    assert OPERATIONS[operation](folder) in (None, True)
    assert proxy.left == 0


@pytest.mark.parametrize("kind", [500, 502, 504, 429, "reset", "cut"])
def test_every_trouble_that_may_pass_is_waited_for(folder, proxy, kind):
    proxy.fail(kind, left=3)
    assert folder.read("a/file.jsonl") == b"1\n2\n"
    assert proxy.left == 0


def test_a_server_that_is_away_for_a_while_loses_nothing(folder, proxy, s3_endpoint, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    _forget_clients()
    written = threading.Event()

    def write():
        folder.write("late", b"data")
        written.set()

    threading.Thread(target=write).start()
    assert not written.wait(0.5)
    back = ProxyInTrouble(s3_endpoint, port)
    assert written.wait(20) and folder.read("late") == b"data"
    _forget_clients()
    back.server.shutdown()


def test_trouble_that_does_not_pass_ends_in_one_line_with_place_and_cure(folder, proxy, monkeypatch, caplog):
    monkeypatch.setenv(trouble.PATIENCE, "0.6")
    monkeypatch.setattr(trouble, "_SILENT_S", 0.2)
    for operation, only in (("write", None), ("exists", "HEAD"), ("glob", None)):
        caplog.clear()
        proxy.fail(503, only=only)
        with pytest.raises(UserError) as raised, caplog.at_level(logging.WARNING):
            OPERATIONS[operation](folder)
        message = str(raised.value)
        assert message.startswith(folder.url) and "answers 503" in message and "\n" not in message
        assert "run the same command again" in message and "run.storage_patience_s" in message
        said = [record.message for record in caplog.records if "trying again for up to 1 s" in record.message]
        assert len(said) == 1


@pytest.mark.parametrize(
    ("kind", "words"), [(403, "access denied"), (507, "no space is left"), (400, "the storage refuses")]
)
def test_what_the_user_must_mend_is_told_at_once(folder, proxy, kind, words):
    proxy.fail(kind)
    with pytest.raises(UserError, match=words):
        folder.write_chunk(Chunk("l", TABLE))
    assert proxy.seen == {"PUT": 1}


def test_expired_credentials_are_read_again_once(folder, proxy):
    proxy.fail("expired", left=1)
    folder.write("new", b"data")
    proxy.fail("expired")
    with pytest.raises(UserError, match=r"the credentials have expired .* renew"):
        folder.write("new", b"data")
    assert proxy.seen == {"PUT": 2}


def test_a_missing_file_is_no_trouble(folder, proxy):
    proxy.fail(None, 0)
    with pytest.raises(FileNotFoundError):
        folder.read("absent")
    assert folder.read_json("absent") is None and not (folder / "absent").sizes()


def test_a_patient_file_system_travels_to_other_processes(bucket):
    system, path = filesystem(f"{bucket}/x")
    assert pickle.loads(pickle.dumps(system)).exists(path) is False


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EDQUOT, "a quota or limit of size is reached"),
        (errno.EROFS, "read-only file system"),
        (errno.EACCES, "access denied"),
        (errno.EIO, "the disk fails"),
    ],
)
def test_a_disk_that_fails_is_one_line_and_leaves_no_temporary_file(tmp_path, monkeypatch, number, words):
    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    folder = Folder(str(tmp_path / "f"))
    with pytest.raises(UserError, match=words) as raised:
        folder.write("file", b"x" * 100)
    assert str(raised.value).startswith(folder.path("file"))
    assert list((tmp_path / "f").iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_no_temporary_file(tmp_path):
    """The limit of a file's size stands for the disk's end: the kernel refuses the write in its middle."""
    folder = Folder(str(tmp_path / "f"))
    with _largest_file(1 << 16), pytest.raises(UserError, match="a quota or limit of size is reached"):
        folder.write("file", b"x" * (1 << 20))
    assert list((tmp_path / "f").iterdir()) == []


@contextlib.contextmanager
def _largest_file(size):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_other_protocols_wait_too(monkeypatch):
    """fsspec's memory: any remote file system."""
    monkeypatch.setattr(trouble.random, "uniform", lambda *_: 0.1)
    system, path = filesystem("memory://folder/file")
    failures = [TimeoutError("slow"), ConnectionResetError("reset")]

    def cat_file(path, start=None, end=None):
        if failures:
            raise failures.pop()
        return b"data"

    monkeypatch.setattr(system._client, "cat_file", cat_file)
    assert system.cat_file(path) == b"data" and not failures


def test_compressed_files_are_read_through_it(bucket):
    import gzip

    Folder(bucket).write("x.gz", gzip.compress(b"text"))
    system, path = filesystem(f"{bucket}/x.gz")
    with system.open(path, "rb", compression="infer") as file:
        assert io.BytesIO(file.read()).getvalue() == b"text"
