"""Addresses: globs, and errors of the object store in one clear line."""

import os
import subprocess
import sys

import pytest

from uniner.errors import UserError
from uniner.storage.filesystem import expand, explained
from uniner.storage.folder import Folder


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
        with pytest.raises(UserError, match=r"access denied .*check the AWS_\* credentials"):
            expand([f"{bucket}/a.zst"])
    finally:
        enforce(b"inf")


def test_an_unreachable_server_is_one_clear_line():
    code = (
        "from uniner.storage.filesystem import expand\nfrom uniner.errors import UserError\n"
        "try: expand(['s3://bucket/a'])\nexcept UserError as error: print(error)"
    )
    closed = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "UNINER_STORAGE_PATIENCE_S": "0.2"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=closed, capture_output=True, text=True, check=True
    )
    assert "s3://bucket/a: cannot be reached" in found.stdout


def test_other_errors_are_not_swallowed():
    with pytest.raises(ZeroDivisionError), explained("x"):
        raise ZeroDivisionError


def test_credentials_in_a_buckets_address_are_refused_without_being_told():
    for address in ("s3://AKIA:s3cr3t@bucket/x/*.jsonl", "s3://AKIA:s3c/r3t@bucket/x"):
        with pytest.raises(UserError) as raised:
            expand([address])
        assert "s3://***@bucket/x" in str(raised.value) and "r3t" not in str(raised.value)
        assert "an address has no credentials; set AWS_ACCESS_KEY_ID" in str(raised.value)


def test_a_protocol_that_needs_a_host_is_one_clear_line():
    with pytest.raises(UserError, match="this kind of address is not supported"):
        expand(["ftp://127.0.0.1:1/x.jsonl"])
