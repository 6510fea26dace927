"""Storage errors: which may pass, so that the operation is tried again, and one clear line for the others."""

import contextlib
import errno
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from uniner.errors import UserError, printable

PATIENCE = "UNINER_STORAGE_PATIENCE_S"
"""Environment variable with run.storage_patience_s, which the driver's and Ray's processes all read."""
DEFAULT_PATIENCE_S = 300.0
_LONGEST_PAUSE_S = 15.0
_SILENT_S = 10.0
"""Seconds of trouble until the log says so."""
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_PASSING_CODES = frozenset(
    {
        "InternalError", "ServiceUnavailable", "SlowDown", "SlowDownRead", "SlowDownWrite", "RequestTimeout",
        "RequestTimeoutException", "Throttling", "ThrottlingException", "RequestLimitExceeded",
        "TooManyRequests", "TooManyRequestsException", "OperationAborted", "IncompleteBody", "BadDigest",
        "XAmzContentSHA256Mismatch", "PriorRequestNotComplete",
    }
)  # fmt: skip
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524, 529})
_EXPIRED_CODES = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
)
_DENIED_CODES = frozenset(
    {"AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken",
     "AccountProblem", "NotSignedUp", "InvalidSecurity", "RequestTimeTooSkewed"}
)  # fmt: skip
_FULL_CODES = frozenset({"QuotaExceeded", "InsufficientCapacity", "InsufficientStorage", "XMinioStorageFull"})
_PASSING_NUMBERS = frozenset(
    {
        errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED,
        errno.EPIPE, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET,
        errno.ESTALE, errno.EREMOTEIO,
    }
)  # fmt: skip
# s3fs gives these numbers to answers such as 502 and 503; on a disk they do not pass.
_PASSING_REMOTE_NUMBERS = frozenset({errno.EBUSY, errno.EIO})

log = logging.getLogger(__name__)


def set_patience(seconds: float) -> None:
    """Have this process, and those that it starts, try operations again for so many seconds."""
    os.environ[PATIENCE] = str(seconds)


def patience_s() -> float:
    """Return for how many seconds an operation is tried again."""
    return float(os.environ.get(PATIENCE, DEFAULT_PATIENCE_S))


def patiently(
    url: str,
    renew: Callable[[], object] | None,
    operation: Callable[Arguments, Result],
    *arguments: Arguments.args,
    **options: Arguments.kwargs,
) -> Result:
    """Do a storage operation, and again with longer and longer pauses while it meets trouble that may pass.

    url: the address in messages. renew: reads the credentials again, once, where they have expired. The
    operation is done whole each time, so it must not matter how often.

    Raises:
        UserError: the trouble did not pass in `patience_s`, or the user must mend it.
        FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError: as they are.
    """
    began, pause, said = None, 0.2, False
    while True:
        try:
            return operation(*arguments, **options)
        except (UserError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
            raise
        except Exception as error:
            if renew is not None and _code(error) in _EXPIRED_CODES:
                renew()
                renew = None
                continue
            if not may_pass(error, url):
                line = mendable(error, url)
                if line is None:
                    raise
                raise UserError(line) from error
            now = time.monotonic()
            began = now if began is None else began
            left = began + patience_s() - now
            if left <= 0:
                raise UserError(
                    f"{url}: {_symptom(error)}, for {_duration(now - began)}; run the same command again "
                    "when the storage is well, or have it wait longer with run.storage_patience_s"
                ) from error
            if not said and now - began >= _SILENT_S:
                said = True
                log.warning(
                    f"{printable(url)}: {_symptom(error)}; trying again for up to {_duration(patience_s())}"
                )
            time.sleep(min(left, pause * random.uniform(0.5, 1)))
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def may_pass(error: BaseException, url: str) -> bool:
    """Tell whether a storage error may pass by itself."""
    import aiohttp
    from botocore import exceptions as botocore
    from botocore.parsers import ResponseParserError

    code, status = _code(error), _status(error)
    if code or status:
        return code in _PASSING_CODES or status in _PASSING_STATUSES
    if isinstance(error, botocore.ProxyConnectionError | botocore.SSLError):
        return False
    passing_kinds = (
        TimeoutError,
        ConnectionError,
        aiohttp.ClientError,
        botocore.HTTPClientError,
        botocore.ConnectionError,
        botocore.IncompleteReadError,
        botocore.MetadataRetrievalError,
        botocore.ChecksumError,
        botocore.FlexibleChecksumError,
        ResponseParserError,  # overloaded servers and proxies answer with what is not XML
    )
    if isinstance(error, passing_kinds):
        return True
    numbers = _PASSING_NUMBERS | (_PASSING_REMOTE_NUMBERS if "://" in url else frozenset())
    return isinstance(error, OSError) and error.errno in numbers


def mendable(error: BaseException, url: str) -> str | None:
    """Return one line about a storage error that the user must mend: what, where and the cure; else None.

    A missing or unexpected file or folder is not among them (`explained`).
    """
    from botocore import exceptions as botocore

    code, status = _code(error), _status(error)
    number = error.errno if isinstance(error, OSError) else None
    remote = "://" in url and not url.startswith("file://")
    short = _short(error)
    if code in _EXPIRED_CODES:
        return (
            f"{url}: the credentials have expired ({code}); renew the AWS_* credentials or the login, and "
            "run the same command again"
        )
    if isinstance(error, PermissionError) or code in _DENIED_CODES or status in (401, 403):
        hint = "the AWS_* credentials or role" if remote else "the permissions of the file or folder"
        return f"{url}: access denied ({short}); check {hint}"
    if isinstance(error, botocore.NoCredentialsError | botocore.PartialCredentialsError):
        return (
            f"{url}: no credentials ({short}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the "
            "machine a role"
        )
    if number == errno.ENOSPC or code in _FULL_CODES or status == 507:
        return f"{url}: no space is left ({short}); free some, and run the same command again"
    if number in (errno.EDQUOT, errno.EFBIG):
        return (
            f"{url}: a quota or limit of size is reached ({short}); raise it, and run the same command again"
        )
    if number == errno.EROFS:
        return (
            f"{url}: is on a read-only file system; name a folder that can be written, such as run.root=runs"
        )
    if number == errno.EIO and not remote:
        return f"{url}: the disk fails ({short}); see the machine's log, and take another disk"
    if code or status or isinstance(error, botocore.BotoCoreError):
        return (
            f"{url}: the storage refuses the request ({code or status or type(error).__name__}: {short}); "
            "check the address, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION"
        )
    return None


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn storage errors that a user can correct into one clear line about `url`."""
    try:
        yield
    except UserError:
        raise
    except IsADirectoryError as error:
        raise UserError(f"{url}: {error.filename or 'it'} is a folder; name a file in it") from None
    except FileNotFoundError as error:
        missing = "bucket" if names_bucket(error) else "file or folder"
        raise UserError(f"{url}: no such {missing}") from None
    except NotADirectoryError as error:
        raise UserError(f"{url}: {error.filename or 'part of the path'} is a file, not a folder") from None
    except Exception as error:
        if may_pass(error, url):
            line = (
                f"{url}: {_symptom(error)}; check AWS_* and AWS_ENDPOINT_URL, and run the same command again"
            )
        elif (mending := mendable(error, url)) is not None:
            line = mending
        else:
            raise
        raise UserError(line) from None


def names_bucket(error: FileNotFoundError) -> bool:
    """Tell whether the bucket is missing: for a missing key, s3fs raises the same with another text."""
    return "specified bucket" in str(error)


def _symptom(error: BaseException) -> str:
    code, status = _code(error), _status(error)
    if status:
        named = f" {code}" if code and code != str(status) else ""
        return f"answers {status}{named} ({_short(error)})"
    what = "sends damaged data" if "Checksum" in type(error).__name__ else "cannot be reached"
    return f"{what} ({_short(error)})"


def _response(error: BaseException) -> dict[str, Any]:
    """Return S3's response to the request; s3fs keeps botocore's error as the cause of its own."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return response
        seen = seen.__cause__
    return {}


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _status(error: BaseException) -> int:
    response = _response(error)
    code = _code(error)
    candidates = (
        response.get("ResponseMetadata", {}).get("HTTPStatusCode"),
        int(code) if code.isdigit() else None,
        getattr(error, "status", None),  # of other protocols
    )
    return next((status for status in candidates if isinstance(status, int)), 0)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.0f} s"
