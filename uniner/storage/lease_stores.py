"""Where a lease is kept when no lock protects it: an S3 object with conditional puts, or a plain file."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from uniner.storage.folder import Folder
from uniner.storage.lease_holder import LeaseHolder

_REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_PASSING = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestTimeTooSkewed")
_MISSING = ("NoSuchKey", "404")
_UNKNOWN_HEADER = ("NotImplemented", "501")


class LeaseState(NamedTuple):
    """A lease as it was read: its holder, and a tag that changes with each write."""

    holder: LeaseHolder
    tag: str


class LeaseStore(Protocol):
    """Where a lease is kept.

    patience_s: seconds for which a failing storage is asked again.
    """

    patience_s: float

    def read(self) -> LeaseState | None:
        """Return the lease; None if there is none."""
        ...

    def put(self, holder: LeaseHolder, tag: str | None) -> str | None:
        """Write the lease if it still has this tag; None: if there is none. Returns its new tag.

        Returns None where another driver was faster.
        """
        ...

    def keeps_conditions(self, holder: LeaseHolder, /) -> bool:
        """Tell whether `put` compares and writes in one step. Called by the holder right after its `put`."""
        ...

    def delete(self) -> None:
        """Delete the lease."""
        ...


class PlainLeaseStore:
    """A lease in a file of a storage that cannot compare and write in one step."""

    patience_s = 0.0

    def __init__(self, folder: Folder, name: str):
        self._folder, self._name = folder, name

    def read(self) -> LeaseState | None:
        """Return the lease; None if there is none, or an empty file."""
        try:
            data = self._folder.read(self._name)
        except FileNotFoundError:
            return None
        return LeaseState(LeaseHolder.parse(data), data.decode(errors="replace")) if data else None

    def put(self, holder: LeaseHolder, tag: str | None) -> str | None:
        """Write the lease if it still has this tag."""
        now = self.read()
        if (now.tag if now else None) != tag:
            return None
        self._folder.write(self._name, holder.content())
        return holder.content().decode()

    def keeps_conditions(self, _holder: LeaseHolder, /) -> bool:
        """Tell that it does not."""
        return False

    def delete(self) -> None:
        """Delete the lease."""
        self._folder.remove([self._name])


class S3LeaseStore:
    """A lease in an S3 object, written by conditional puts where the server honours them.

    A client of its own, as the shared one is busy with large files; it reads the same AWS_* variables. It
    does not retry by itself: a put whose answer was lost would fail when it is sent again.
    """

    def __init__(self, url: str, patience_s: float):
        from botocore.config import Config

        config = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
        self._client: Any = _session().client("s3", config=config)
        bucket, key = url.removeprefix("s3://").split("/", 1)
        self._object = {"Bucket": bucket, "Key": key}
        self._conditional = True
        self.patience_s = patience_s

    def read(self) -> LeaseState | None:
        """Return the lease; None if there is none."""
        from botocore.exceptions import ClientError

        def get() -> LeaseState:
            response = self._client.get_object(**self._object)
            return LeaseState(LeaseHolder.parse(response["Body"].read()), response["ETag"])

        try:
            return _patient(get, self.patience_s)
        except ClientError as error:
            if _code(error) in _MISSING:
                return None
            raise _translated(error) from None

    def put(self, holder: LeaseHolder, tag: str | None) -> str | None:
        """Write the lease if it still has this tag; None: if there is none. Returns its new tag."""
        if self._conditional:
            condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
            if new := self._put(holder, condition):
                return new
        now = self.read()
        if not self._conditional and (now.tag if now else None) == tag:
            return self._put(holder, {})
        if now is None or now.holder.id != holder.id:
            return None
        # Refused because of our own lease, written by an earlier put whose answer was lost.
        return now.tag if now.holder == holder else self.put(holder, now.tag)

    def keeps_conditions(self, holder: LeaseHolder, /) -> bool:
        """Try the two conditions in ways that must be refused, with the holder's own content."""
        if self._conditional:
            wrong = ({"IfNoneMatch": "*"}, {"IfMatch": f'"{"0" * 32}"'})
            self._conditional = all(self._put(holder, each) is None for each in wrong)
        return self._conditional

    def delete(self) -> None:
        """Delete the lease."""
        self._client.delete_object(**self._object)

    def _put(self, holder: LeaseHolder, condition: dict[str, str]) -> str | None:
        """Put the lease. Returns its tag; None if the server refused the condition."""
        from botocore.exceptions import ClientError

        def put() -> str:
            return self._client.put_object(**self._object, Body=holder.content(), **condition)["ETag"]

        try:
            return _patient(put, self.patience_s)
        except ClientError as error:
            if condition and _code(error) in (*_REFUSED, *_MISSING):
                return None
            if condition and _code(error) in _UNKNOWN_HEADER:
                self._conditional = False
                return self._put(holder, {})
            raise _translated(error) from None


@functools.cache
def _session() -> Any:
    import boto3

    return boto3.session.Session()  # the first client takes 0.3 s, the others of a session little


def _patient(call: Callable[[], Any], patience_s: float) -> Any:
    """Call, again and again while the server or the network is in trouble, for at most so many seconds."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, IncompleteReadError

    until, pause = time.monotonic() + patience_s, 0.2
    while True:
        try:
            return call()
        except (ClientError, ConnectionError, HTTPClientError, IncompleteReadError) as error:
            passes = not isinstance(error, ClientError) or _passes(error)
            if not passes or time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause *= 2


def _code(error: Any) -> str:
    return str(error.response["Error"].get("Code", ""))


def _passes(error: Any) -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _code(error) in _PASSING or (status >= 500 and _code(error) not in _UNKNOWN_HEADER)


def _translated(error: Any) -> BaseException:
    """Return the error that s3fs raises for a refusal; a server's error stays as it is."""
    from s3fs.errors import translate_boto_error

    return error if _passes(error) else translate_boto_error(error, set_cause=False)
