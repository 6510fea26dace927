"""Checks of the place where a run keeps its data: rights in a bucket, or a folder on a disk."""

import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from uniner.errors import UserError, printable
from uniner.preflight.results import CheckResult, error, ok, short, size, warning
from uniner.storage.file_lock import FileLock, NoLocksError
from uniner.storage.filesystem import absolute, explained, is_remote
from uniner.storage.folder import Folder
from uniner.storage.lease_holder import LeaseHolder

_NAME = "uniner-preflight-"
_NOT_RIGHTS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "RequestTimeTooSkewed",
     "AccountProblem", "NotSignedUp"}
)  # fmt: skip
"""Codes of a 403 that are about the key or the clock: no request will succeed."""
_REFUSED = (409, 412)
_NOT_IMPLEMENTED = 501
_WRONG_TAG = f'"{"0" * 32}"'
_UNSAFE = (
    "two commands of one run that start within a second may not notice each other, so start one at a time"
)
# S3 refuses requests whose clock is off by 15 minutes.
_OFF_S, _FAR_OFF_S = 60.0, 600.0


def check_place(setting: str, url: str, on_cluster: bool = False) -> Iterator[CheckResult]:
    """Check that a folder can be written, read and listed, and that what is in it can be deleted.

    setting: that names the folder, for the messages. on_cluster: whether other machines write there too.

    Raises:
        UserError: nothing there can be reached.
    """
    if url.startswith("s3://"):
        yield from _check_bucket(setting, url)
    elif is_remote(url):
        yield from _check_other(setting, url)
    else:
        yield from _check_disk(setting, Path(absolute(url)), on_cluster)


def _check_bucket(setting: str, url: str) -> Iterator[CheckResult]:
    import boto3

    with explained(url):
        session = boto3.session.Session()
        probe = _BucketProbe(session, url)
        caller = _caller(session)
        yield from probe.rights(setting, caller)


@dataclass(frozen=True)
class BucketRights:
    """What a machine may do in a bucket. caller: who asks there. denied: the actions that it may not do.

    problem: why nothing could be asked; "" where it could.
    """

    caller: str = ""
    denied: tuple[str, ...] = ()
    problem: str = ""


def bucket_rights(url: str) -> BucketRights:
    """Return what this machine may do below a bucket's prefix: put, get, list and delete are tried."""
    import boto3

    try:
        with explained(url):
            session = boto3.session.Session()
            return BucketRights(_caller(session), tuple(_BucketProbe(session, url).denied()))
    except UserError as failure:
        return BucketRights(problem=str(failure))


class _BucketProbe:
    """An object of a name of its own below a bucket's prefix, and what may be done with it."""

    def __init__(self, session: Any, url: str):
        from botocore.config import Config

        config = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 2})
        self._client = session.client("s3", config=config)
        self._url = url.rstrip("/")
        self._bucket, _, prefix = self._url.removeprefix("s3://").partition("/")
        self._key = f"{prefix}/{_NAME}{uuid.uuid4().hex}".lstrip("/")
        self._denied: list[str] = []
        self._object = {"Bucket": self._bucket, "Key": self._key}

    def denied(self) -> list[str]:
        """Put, get, list and delete the object. Returns the actions that are denied."""
        self._list()
        if self._put(self._key.encode()):
            self._get()
            self._delete()
        return self._denied

    def rights(self, setting: str, caller: str) -> Iterator[CheckResult]:
        """Yield the results. The object is deleted in the end, if it may be."""
        started, content = time.time(), self._key.encode()
        self._list()
        put = self._put(content)
        read, conditions = None, None
        if put:
            ended = time.time()
            try:
                read = self._get()
                read = read and read["Body"].read()
                conditions = self._conditions(setting, content)
            finally:
                self._delete()
        if self._denied:
            left = f"; {self._url} keeps {self._key.rsplit('/', 1)[-1]}" if put and self._left else ""
            yield error(
                setting,
                f"{self._url}: {caller} lacks {', '.join(self._denied)}{left}; allow these for the bucket "
                "and the prefix, as the policy in infra/aws/uniner.yaml does",
            )
        elif read != content:
            yield error(setting, f"{self._url}: an object has other bytes than were put; mend the storage")
        else:
            yield ok(setting, f"{self._url}: {caller} may put, get, list and delete")
        if conditions:
            yield conditions
            yield from check_store_clock(put, started, ended)

    @property
    def _left(self) -> bool:
        return "s3:DeleteObject" in self._denied

    def _list(self) -> None:
        self._allowed("s3:ListBucket", "list_objects_v2", Bucket=self._bucket, Prefix=self._key)

    def _put(self, content: bytes) -> Any:
        return self._allowed("s3:PutObject", "put_object", **self._object, Body=content)

    def _get(self) -> Any:
        return self._allowed("s3:GetObject", "get_object", **self._object)

    def _delete(self) -> None:
        self._allowed("s3:DeleteObject", "delete_object", **self._object)

    def _allowed(self, action: str, operation: str, **arguments: Any) -> Any:
        """Do an operation. Returns the response; None where it is denied."""
        from botocore.exceptions import ClientError

        try:
            return getattr(self._client, operation)(**arguments)
        except ClientError as failure:
            status = failure.response["ResponseMetadata"]["HTTPStatusCode"]
            if status != 403 or failure.response["Error"].get("Code") in _NOT_RIGHTS:
                raise
            self._denied.append(action)
            return None

    def _conditions(self, setting: str, content: bytes) -> CheckResult:
        """Put the object under conditions: two that must be refused, and then one that must hold."""
        created, status = self._put_if(content, IfNoneMatch="*")
        replaced, other = self._put_if(content, IfMatch=_WRONG_TAG)
        ignored = [name for name, tag in (("If-None-Match", created), ("If-Match", replaced)) if tag]
        if ignored:
            return warning(
                setting, f"{self._url}: the storage ignores {' and '.join(ignored)} of a put; {_UNSAFE}"
            )
        if _NOT_IMPLEMENTED in (status, other):
            return warning(setting, f"{self._url}: the storage has no conditional puts; {_UNSAFE}")
        tag = self._client.head_object(**self._object)["ETag"]
        renewed, status = self._put_if(content, IfMatch=tag)
        if not renewed:
            return error(
                setting,
                f"{self._url}: a put with If-Match and the object's own ETag answers {status}; no command "
                "could keep its lease; allow conditional puts, or take another storage",
            )
        return ok(setting, f"{self._url}: conditional puts (If-None-Match, If-Match) hold")

    def _put_if(self, content: bytes, **condition: str) -> tuple[str, int]:
        """Put the object under a condition. Returns its tag, "" where it is refused, and the status."""
        from botocore.exceptions import ClientError

        try:
            return self._client.put_object(**self._object, Body=content, **condition)["ETag"], 200
        except ClientError as failure:
            status = failure.response["ResponseMetadata"]["HTTPStatusCode"]
            if status not in (*_REFUSED, 403, 404, _NOT_IMPLEMENTED):
                raise
            return "", status


def _caller(session: Any) -> str:
    """Return who asks, by STS; where no STS answers, where the credentials come from."""
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    from botocore.parsers import ResponseParserError

    config = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
    region = session.region_name or "us-east-1"
    try:
        return session.client("sts", config=config, region_name=region).get_caller_identity()["Arn"]
    except NoCredentialsError:
        raise
    except (ClientError, BotoCoreError, ResponseParserError) as failure:
        return f"the key from {session.get_credentials().method} (no STS names its owner: {short(failure)})"


def check_store_clock(response: Any, before: float, after: float) -> Iterator[CheckResult]:
    """Compare the storage's clock, by the Date of a response, with this machine's around the request."""
    date = response["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date:
        moment = parsedate_to_datetime(date).timestamp()
        yield clock_result("the storage's clock", seconds_off(moment, before, after + 1))


def seconds_off(moment: float, before: float, after: float) -> float:
    """Return by how much a clock is off at least (positive: ahead), if it was read between two moments."""
    return max(0.0, moment - after) - max(0.0, before - moment)


def clock_result(subject: str, seconds: float) -> CheckResult:
    """Return the result for a clock that is off by so many seconds."""
    direction = "ahead of" if seconds > 0 else "behind"
    found = (
        f"{abs(seconds):,.0f} s {direction} this machine's" if abs(seconds) >= 1 else "agrees with this one's"
    )
    if abs(seconds) < _OFF_S:
        return ok(subject, found)
    level = error if abs(seconds) >= _FAR_OFF_S else warning
    return level(subject, f"{found}; set both by NTP: S3 refuses requests that are 15 minutes off")


def _check_other(setting: str, url: str) -> Iterator[CheckResult]:
    """Write, read, list and delete through fsspec, as the stages do."""
    folder, name, content = Folder(url), f"{_NAME}{uuid.uuid4().hex}", b"uniner"
    with explained(url):
        folder.write(name, content)
        try:
            good = folder.read(name) == content and name in folder.sizes()
        finally:
            folder.remove([name])
    if not good:
        yield error(setting, f"{url}: a file that was written is not read or listed; mend the storage")
        return
    yield ok(setting, f"{printable(url)}: can be written, read, listed and deleted")
    yield warning(setting, f"{printable(url)}: has no conditional puts; {_UNSAFE}")


def _check_disk(setting: str, folder: Path, on_cluster: bool) -> Iterator[CheckResult]:
    place = next(each for each in (folder, *folder.parents) if each.exists())
    if not place.is_dir():
        raise UserError(f"{setting} = {folder}: {place} is a file, not a folder; take another, such as runs")
    probe = place / f"{_NAME}{uuid.uuid4().hex}"
    lock, has_locks = FileLock(str(probe)), True
    with explained(str(folder)):
        try:
            lock.acquire(LeaseHolder.this_process(), 0)
            lock.release()  # deletes it
        except NoLocksError:
            has_locks = False
            probe.unlink()
    found = f"{folder}: can be written, {size(shutil.disk_usage(place).free)} free"
    if has_locks:
        yield ok(setting, f"{found}, has file locks")
    else:
        yield warning(setting, f"{found}; its file system has no locks: {_UNSAFE}")
    if on_cluster:
        yield warning(
            setting,
            f"{folder} is a path of this machine; all machines must see the same folder there; "
            "else take a bucket, such as run.root=s3://my-bucket/uniner",
        )
