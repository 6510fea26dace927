"""Rights in a bucket and on a disk: a real S3 server, with policies that deny and proxies that hurt."""

import json
import os

import boto3
import pytest

from benchmarks.s3_server import Fault, S3Proxy
from uniner.preflight.results import Check, results_of
from uniner.preflight.storage import (
    BucketRights,
    bucket_rights,
    check_place,
    check_store_clock,
    clock_result,
    seconds_off,
)
from uniner.storage.file_lock import NoLocksError

ALL_THERE = "arn:aws:sts::123456789012:user/moto may put, get, list and delete"


@pytest.fixture
def own_bucket(s3_endpoint):
    """A bucket of this test's own, emptied and deleted afterwards."""
    client, name = boto3.client("s3"), f"preflight-{os.urandom(4).hex()}"
    client.create_bucket(Bucket=name)
    yield name
    client.delete_bucket_policy(Bucket=name)
    for item in client.list_objects_v2(Bucket=name).get("Contents", []):
        client.delete_object(Bucket=name, Key=item["Key"])
    client.delete_bucket(Bucket=name)


@pytest.fixture
def deny(own_bucket):
    """Return a function that denies actions on the bucket's objects by its policy."""

    def deny(*actions):
        statement = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": actions,
            "Resource": f"arn:aws:s3:::{own_bucket}/*",
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        boto3.client("s3").put_bucket_policy(Bucket=own_bucket, Policy=policy)

    return deny


def keys(bucket):
    return [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])]


def levels(results):
    return [result.level for result in results]


def check(url):
    return [*results_of(Check("run.root", lambda: check_place("run.root", url)))]


def test_all_rights_are_told_with_the_callers_name_and_nothing_stays(own_bucket):
    rights, conditions, clock = check(f"s3://{own_bucket}/a/b/")
    assert levels([rights, conditions, clock]) == ["ok"] * 3
    assert rights.found == f"s3://{own_bucket}/a/b: {ALL_THERE}"
    assert "conditional puts (If-None-Match, If-Match) hold" in conditions.found
    assert keys(own_bucket) == []


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"])
def test_a_machine_tells_its_identity_and_what_it_may_not_do(own_bucket, deny, action):
    url = f"s3://{own_bucket}/a"
    rights = bucket_rights(url)
    assert rights == BucketRights("arn:aws:sts::123456789012:user/moto") and keys(own_bucket) == []
    deny(action)
    assert bucket_rights(url).denied == (action,)
    assert "NoSuchBucket" in bucket_rights("s3://no-such-bucket-of-ours/a").problem


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"])
def test_a_denied_right_is_named(own_bucket, deny, action):
    deny(action)
    first, *_ = check(f"s3://{own_bucket}/a")
    assert first.level == "error"
    assert f"arn:aws:sts::123456789012:user/moto lacks {action}" in first.found
    left = keys(own_bucket)
    assert len(left) == (action == "s3:DeleteObject")
    assert all(key.split("/")[-1] in first.found for key in left), "what stays behind is told"


def test_a_denied_list_is_named(own_bucket, s3_endpoint, monkeypatch):
    with S3Proxy(s3_endpoint) as proxy:
        proxy.faults.set(Fault(kind="error", methods=("GET",), path=f"^/{own_bucket}/?$", status=403))
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        first, *_ = check(f"s3://{own_bucket}/a")
    assert first.level == "error" and "lacks s3:ListBucket;" in first.found


def test_a_storage_that_ignores_conditions_is_a_warning(own_bucket, s3_endpoint, monkeypatch):
    with S3Proxy(s3_endpoint, conditions=False) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        rights, conditions, _ = check(f"s3://{own_bucket}/a")
    assert levels([rights, conditions]) == ["ok", "warning"]
    assert "ignores If-None-Match and If-Match of a put" in conditions.found


class ConditionsProxy(S3Proxy):
    """Answers every conditional request with an error status."""

    def __init__(self, endpoint, status):
        super().__init__(endpoint)
        self._status = status

    async def _refusal(self, request):
        conditional = {"If-None-Match", "If-Match"} & set(request.headers)
        return self_error(self._status) if conditional else None


def test_a_storage_that_knows_no_conditions_is_a_warning(own_bucket, s3_endpoint, monkeypatch):
    with ConditionsProxy(s3_endpoint, 501) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        _, conditions, _ = check(f"s3://{own_bucket}/a")
    assert conditions.level == "warning" and "has no conditional puts" in conditions.found


def test_a_storage_that_refuses_a_condition_that_holds_is_an_error(own_bucket, s3_endpoint, monkeypatch):
    with ConditionsProxy(s3_endpoint, 412) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        _, conditions, _ = check(f"s3://{own_bucket}/a")
    assert conditions.level == "error" and "own ETag answers 412" in conditions.found


def self_error(status):
    from benchmarks.s3_server import _error

    return _error(status, "NotImplemented" if status == 501 else "PreconditionFailed")


def test_without_sts_the_credentials_place_is_told(own_bucket, s3_endpoint, monkeypatch):
    with S3Proxy(s3_endpoint) as proxy:
        proxy.faults.set(Fault(kind="error", methods=("POST",), path="^/$", status=405))
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        rights, *_ = check(f"s3://{own_bucket}/a")
    assert rights.level == "ok" and "the key from env (no STS names its owner: " in rights.found
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in rights.found


def test_a_missing_bucket_no_key_and_no_server_are_a_line_each(s3_endpoint, monkeypatch):
    (missing,) = check("s3://no-such-bucket-here/a")
    assert missing.level == "error" and "NoSuchBucket" in missing.found
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (silent,) = check("s3://no-such-bucket-here/a")
    assert silent.level == "error" and "cannot be reached" in silent.found
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}.items():
        monkeypatch.setenv(name, value)
    (no_key,) = check("s3://no-such-bucket-here/a")
    assert no_key.level == "error" and "no credentials" in no_key.found


def test_a_folder_that_does_not_exist_yet_is_not_made(tmp_path):
    (result,) = check(str(tmp_path / "new" / "runs"))
    assert result.level == "ok" and "GB free, has file locks" in result.found
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    (result,) = check(str(tmp_path / "file" / "runs"))
    assert result.level == "error" and "is a file, not a folder" in result.found
    (result,) = check("/proc/runs")
    assert result.level == "error"


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    def no_locks(*_):
        raise NoLocksError

    monkeypatch.setattr("uniner.storage.file_lock._locked", no_locks)
    (result,) = check(str(tmp_path))
    assert result.level == "warning" and "has no locks" in result.found
    assert [*tmp_path.iterdir()] == []


def test_a_local_folder_on_a_cluster_is_a_warning(tmp_path):
    results = [*check_place("run.root", str(tmp_path), on_cluster=True)]
    assert levels(results) == ["ok", "warning"] and "all machines must see" in results[1].found


def test_another_protocol_is_written_and_read_by_fsspec():
    results = check("memory://preflight/runs")
    assert levels(results) == ["ok", "warning"] and "has no conditional puts" in results[1].found
    import fsspec

    assert fsspec.filesystem("memory").find("/preflight") == []


@pytest.mark.parametrize(
    ("seconds", "level"), [(0.4, "ok"), (-20, "ok"), (90, "warning"), (-90, "warning"), (700, "error")]
)
def test_a_clock_is_judged_by_how_far_it_is_off(seconds, level):
    result = clock_result("clock", seconds)
    assert result.level == level
    if level != "ok":
        assert ("ahead of" if seconds > 0 else "behind") in result.found and "NTP" in result.found


def test_a_clock_is_off_only_by_what_its_reading_cannot_explain():
    assert seconds_off(105, 100, 110) == 0
    assert seconds_off(95, 100, 110) == -5
    assert seconds_off(117, 100, 110) == 7


def test_the_storages_clock_is_its_responses_date():
    response = {"ResponseMetadata": {"HTTPHeaders": {"date": "Thu, 01 Jan 1970 00:20:00 GMT"}}}
    (result,) = check_store_clock(response, 0, 1)
    assert result.level == "error" and "1,198 s ahead of" in result.found
