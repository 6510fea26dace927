"""Files by address: a local path, s3://, or any other protocol of fsspec."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from uniner.errors import UserError, printable
from uniner.storage.patient_filesystem import PatientFilesystem
from uniner.storage.sealed_json import BrokenFileError
from uniner.storage.sealed_parquet import read_sealed
from uniner.storage.trouble import explained as explained

_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "az", "r2"}
"""Protocols of object stores, whose credentials come from the environment."""


def absolute(url: str) -> str:
    """Make a local path absolute; return any other address as it is.

    Ray's workers run in other folders than the driver, so paths are made absolute before they are sent.
    """
    return url if "://" in url else str(Path(url).expanduser().absolute())


def is_remote(url: str) -> bool:
    """Tell whether an address is not a local path."""
    return "://" in url and not url.startswith("file://")


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path in it. S3 reads the usual AWS_* variables.

    A remote one waits while the storage is in trouble (`PatientFilesystem`).

    Raises:
        UserError: if no installed package supports the protocol.
    """
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    if protocol in _BUCKETS and printable(url) != url:
        raise UserError(
            f"{url}: an address has no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and "
            "name s3://bucket/key"
        )
    try:
        system: Any = fsspec.filesystem("file") if protocol == "file" else PatientFilesystem(protocol)
    except (ImportError, ValueError, TypeError) as error:  # some protocols need a host to begin with
        raise UserError(
            f"{url}: this kind of address is not supported ({_short(error)}); use a path or s3://bucket/key"
        ) from None
    return system, system._strip_protocol(url)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]


def expand(patterns: Sequence[str]) -> list[str]:
    """Return the files that paths and globs name, in the given order; those of a glob are sorted.

    A glob passes over folders, and over names that begin with . or _, such as _SUCCESS, unless the glob has a
    part that begins so.

    Raises:
        UserError: if a file is missing or a glob matches nothing.
    """
    files: list[str] = []
    for pattern in map(absolute, patterns):
        system, path = filesystem(pattern)
        with explained(pattern):
            if any(letter in path for letter in "*?["):
                found = system.glob(path, detail=True)
                paths = sorted(
                    name
                    for name, info in found.items()
                    if not _is_hidden(name, path) and (info["type"] == "file" or not system.isdir(name))
                )
                if found and not paths:
                    raise UserError(
                        f"{pattern}: the glob matches only folders and names that begin with . or _; name "
                        "files, such as *.jsonl.zst"
                    )
                if not paths:
                    if is_remote(pattern):
                        system.ls(path.split("/", 1)[0])  # raises if the bucket is missing
                    raise UserError(
                        f"{pattern}: the glob matches no file; check the folder and the ending, such as "
                        "my-texts/*.txt"
                    )
            elif system.isfile(path):
                paths = [path]
            else:
                # info() raises the reason (no bucket, no access, no file), which exists() hides.
                system.info(path)
                suffixes = sorted({PurePosixPath(name).suffix for name in system.find(path, maxdepth=1)})
                raise UserError(
                    f"{pattern}: is a folder; name its files, such as {pattern}/*{suffixes[-1]}"
                    if suffixes
                    else f"{pattern}: is an empty folder; name files"
                )
        files += _addresses(system, pattern, paths)
    return list(dict.fromkeys(files))


def _is_hidden(path: str, pattern: str) -> bool:
    """Tell whether a glob matched a name, or a folder on the way, that begins with . or _ unasked."""
    asked = pattern.strip("/").split("/")
    fixed = next(number for number, part in enumerate(asked) if any(letter in part for letter in "*?["))
    beginnings = {part[:1] for part in asked[fixed:]}
    parts = path.strip("/").split("/")[fixed:]
    return any(part.startswith((".", "_")) and part[0] not in beginnings for part in parts)


def files_below(url: str) -> list[str]:
    """Return all files below a folder, sorted."""
    system, path = filesystem(url)
    with explained(url):
        return _addresses(system, url, sorted(system.find(path)))


def _addresses(system: Any, url: str, paths: Sequence[str]) -> list[str]:
    """Return the addresses of paths in the file system of `url`."""
    return [system.unstrip_protocol(path) if is_remote(url) else path for path in paths]


def read_part(url: str, start: int, end: int) -> bytes:
    """Read the bytes of a file from start to end (exclusive); both are within the file."""
    system, path = filesystem(url)
    # By name: the order of arguments differs between s3fs and fsspec.
    return system.cat_file(path, start=start, end=end) if end > start else b""


@contextlib.contextmanager
def open_parquet(url: str, sealed: bool = False) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file to read it in small pieces. sealed: it must be as `sealed_parquet` wrote it.

    Raises:
        UserError: if it is broken.
    """
    system, path = filesystem(url)
    with explained(url), system.open(path, "rb") as raw:
        try:
            if sealed:
                read_sealed(raw)
            yield pq.ParquetFile(raw, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
        except BrokenFileError as error:
            raise UserError(
                f"{url}: is damaged ({error}); delete it, and the manifest.json beside it, and run the stage "
                "that wrote it again"
            ) from None
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            # Arrow raises a bare OSError; errors of the storage have a number or a subclass.
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                raise
            raise UserError(
                f"{url}: broken or truncated Parquet ({_short(error)}); download the file again"
            ) from None
