"""Folders, chunks and manifests, on disk and on a real S3 server alike."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.storage.filesystem import expand, explained
from uniner.storage.model_folders import localised
from uniner.storage.stage_folder import Chunk, Folder

TABLE = pa.table({"outcome": ["ok", "ok", "refused"], "n": [1, 2, 3]})


@pytest.fixture
def folder(root):
    return Folder(root) / "run" / "stage"


def test_a_chunk_comes_back_with_its_summary(folder):
    written = folder.write_chunk(Chunk("00001-00002", TABLE, 1.5, {"cost_usd": 0.25}, {"line": 7}))
    assert folder.read_chunk("00001-00002").equals(TABLE)
    assert folder.read_summary("00001-00002") == written
    assert (written.rows, written.outcomes, written.figures) == (
        3,
        {"ok": 2, "refused": 1},
        {"cost_usd": 0.25},
    )
    assert written.bytes == folder.sizes()["chunk-00001-00002.parquet"]
    assert folder.chunk_keys() == {"00001-00002"}


def test_the_manifest_adds_the_chunks_up_and_comes_last(folder):
    plan = {"stage": "stage", "config": {"a": 1}, "parents": {}}
    assert folder.begin(plan) is False
    summaries = [folder.write_chunk(Chunk(key, TABLE, 0, {"cost_usd": 1})) for key in ("b", "a")]
    assert folder.manifest() is None
    with pytest.raises(UserError, match="is not done"):
        folder.digest()
    manifest = folder.finish(plan, summaries)
    assert (manifest["rows"], manifest["outcomes"]) == (6, {"ok": 4, "refused": 2})
    assert [chunk["key"] for chunk in manifest["chunks"]] == ["a", "b"]
    assert folder.begin(plan) is True
    assert folder.read_rows().num_rows == 6


def test_other_settings_are_refused_by_name(folder):
    folder.begin({"config": {"a": 1, "b": {"c": 2}}})
    with pytest.raises(UserError, match=r"config\.b\.c was 2, now 3; take another run\.name"):
        folder.begin({"config": {"a": 1, "b": {"c": 3}}})


def test_globs_and_lists_of_files(root):
    folder = Folder(root)
    for name in ("b.zst", "a.zst", "c.txt"):
        folder.write(name, b"x")
    assert expand([folder.path("*.zst")]) == [folder.path("a.zst"), folder.path("b.zst")]
    assert expand([folder.path("c.txt"), folder.path("*.txt")]) == [folder.path("c.txt")]
    with pytest.raises(UserError, match="the glob matches no file"):
        expand([folder.path("*.gz")])
    with pytest.raises(UserError, match="no such file"):
        expand([folder.path("d.zst")])


def test_a_model_folder_is_copied_once_to_the_node(folder, tmp_path):
    folder.write("config.json", b"{}")
    first = localised(folder.url, tmp_path / "cache")
    assert first == localised(folder.url, tmp_path / "cache")
    assert (Path(first) / "config.json").read_bytes() == b"{}"
    folder.write("config.json", b"[]")  # trained again: as many bytes, others
    assert (Path(localised(folder.url, tmp_path / "cache")) / "config.json").read_bytes() == b"[]"


def test_one_of_a_node_s_processes_copies_a_model_and_the_others_wait(bucket, tmp_path, monkeypatch):
    folder = Folder(f"{bucket}/{tmp_path.name}")
    folder.write("config.json", b"{}")
    downloads, download = [], Folder.download

    def counted(self, target):
        downloads.append(target)
        download(self, target)

    monkeypatch.setattr(Folder, "download", counted)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: localised(folder.url, tmp_path / "cache"), range(4)))
    assert len(found) == len(downloads) == 1
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == ["", ".lock"]


def test_a_writer_killed_in_the_middle_leaves_no_file(tmp_path):
    """SIGKILL while a big file is being written over and over: whatever stands is whole."""
    code = (
        "import sys; from uniner.storage import Folder\n"
        "folder = Folder(sys.argv[1])\n"
        "while True: folder.write('file', b'x' * 30_000_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "f")])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((tmp_path / "f").glob(".*.tmp")):
        time.sleep(0.001)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    folder = Folder(str(tmp_path / "f"))
    assert folder.sizes().get("file", 30_000_000) == 30_000_000
    folder.begin({})
    assert not list((tmp_path / "f").glob(".*.tmp"))


def test_no_bucket_is_one_clear_line(s3_endpoint):
    with pytest.raises(UserError, match=r"s3://no-such-bucket-here/.*no such bucket"):
        expand(["s3://no-such-bucket-here/a.zst"])


def test_wrong_credentials_are_one_clear_line(bucket, s3_endpoint):
    import urllib.request

    def enforce(after: bytes) -> None:
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{s3_endpoint}/moto-api/reset-auth", after, plain, method="POST")
        urllib.request.urlopen(request).close()

    enforce(b"0")
    try:
        with pytest.raises(UserError, match=r"access refused .*check the AWS_\* credentials"):
            expand([f"{bucket}/a.zst"])
    finally:
        enforce(b"inf")


def test_an_unreachable_server_is_one_clear_line():
    code = (
        "from uniner.storage.filesystem import expand\nfrom uniner.errors import UserError\n"
        "try: expand(['s3://bucket/a'])\nexcept UserError as error: print(error)"
    )
    closed = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=closed, capture_output=True, text=True, check=True
    )
    assert "s3://bucket/a: cannot be reached" in found.stdout


def test_other_errors_are_not_swallowed():
    with pytest.raises(ZeroDivisionError), explained("x"):
        raise ZeroDivisionError
