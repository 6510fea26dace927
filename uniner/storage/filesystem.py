"""Files by their address: a local path, s3://, or any other protocol that fsspec knows."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from uniner.errors import UserError


def absolute(url: str) -> str:
    """Return a local path as an absolute one; leave s3:// and other addresses as they are.

    Ray's workers run in other folders than the driver, so paths are made absolute before they travel.
    """
    return url if "://" in url else str(Path(url).expanduser().absolute())


def is_remote(url: str) -> bool:
    """Tell whether an address is other than a local path."""
    return "://" in url and not url.startswith("file://")


@functools.cache
def _filesystem(protocol: str) -> Any:
    # One client a process. Listings are never cached: other processes write to the same folders.
    options = {} if protocol == "file" else {"use_listings_cache": False}
    return fsspec.filesystem(protocol, **options)


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address and the path in it. S3 reads plain AWS_* variables.

    Raises:
        UserError: where no installed package knows the protocol.
    """
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    try:
        system = _filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: addresses of this kind cannot be read ({_short(error)})") from None
    return system, system._strip_protocol(url)


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn the storage errors that a user can put right into one clear line about `url`."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except PermissionError as error:
        cure = "the AWS_* credentials or role" if is_remote(url) else "who may read and write there"
        raise UserError(f"{url}: access refused ({_short(error)}); check {cure}") from None
    except IsADirectoryError as error:
        raise UserError(f"{url}: {error.filename or 'it'} is a folder; name a file") from None
    except FileNotFoundError as error:
        what = "no such bucket" if names_bucket(error) else "no such file or folder"
        raise UserError(f"{url}: {what}") from None
    except NotADirectoryError as error:
        raise UserError(f"{url}: {error.filename or 'part of it'} is a file, no folder") from None
    except (BotoCoreError, ClientError, ConnectionError) as error:
        raise UserError(
            f"{url}: cannot be reached ({_short(error)}); check AWS_* and AWS_ENDPOINT_URL"
        ) from None


def names_bucket(error: FileNotFoundError) -> bool:
    """Tell whether the bucket is missing: s3fs raises the same as for a missing key, in other words."""
    return "specified bucket" in str(error)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]


def expand(patterns: Sequence[str]) -> list[str]:
    """Return the files that paths and globs name, in the order given, each glob's sorted.

    Raises:
        UserError: where a file is missing or a glob matches nothing.
    """
    files: list[str] = []
    for pattern in map(absolute, patterns):
        system, path = filesystem(pattern)
        with explained(pattern):
            if any(letter in path for letter in "*?["):
                found = sorted(system.glob(path))
                if not found:
                    if is_remote(pattern):
                        system.ls(path.split("/", 1)[0])  # a missing bucket is said as such
                    raise UserError(f"{pattern}: the glob matches no file")
            elif system.isfile(path):
                found = [path]
            else:
                # exists() hides why; info() raises it (no bucket, no access, no file).
                system.info(path)
                raise UserError(f"{pattern}: is a folder; name its files, for instance {pattern}/*.jsonl.zst")
        files += _addresses(system, pattern, found)
    return list(dict.fromkeys(files))


def files_below(url: str) -> list[str]:
    """Return the files of a folder and of those in it, sorted."""
    system, path = filesystem(url)
    with explained(url):
        return _addresses(system, url, sorted(system.find(path)))


def _addresses(system: Any, url: str, paths: Sequence[str]) -> list[str]:
    """Return the addresses of paths in the file system that `url` lies in."""
    return [system.unstrip_protocol(path) if is_remote(url) else path for path in paths]


def read_part(url: str, start: int, end: int) -> bytes:
    """Read the bytes of a file from start to end, exclusive; both lie in the file."""
    system, path = filesystem(url)
    # By name: s3fs has another order of arguments than fsspec.
    return system.cat_file(path, start=start, end=end) if end > start else b""


@contextlib.contextmanager
def open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what is read of it comes in small pieces.

    Raises:
        UserError: where it is broken.
    """
    system, path = filesystem(url)
    with explained(url), system.open(path, "rb") as raw:
        try:
            yield pq.ParquetFile(raw, pre_buffer=False, buffer_size=1 << 20)
        except (pa.ArrowInvalid, OSError) as error:
            # Arrow's own errors are bare; the storage's have a number or a class of their own.
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                raise
            said = " ".join(str(error).split())[:160]
            raise UserError(f"{url}: broken or truncated Parquet ({said}); fetch the file again") from None
