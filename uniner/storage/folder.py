"""A folder on disk or in a bucket: whole files, written atomically."""

import array
import contextlib
import functools
import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from uniner.errors import UserError, printable
from uniner.storage.filesystem import absolute, filesystem, is_remote
from uniner.storage.sealed_json import BrokenFileError, open_sealed_json, sealed_json
from uniner.storage.trouble import names_bucket, patiently

_COPIES = 8
"""Files of a folder that are copied at once."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A folder's files as columns: a million take 90 MB, where fsspec takes over a gigabyte.

    bytes: sizes. modified: nanoseconds by the storage's clock; 0 where it does not say.
    """

    names: list[str] = field(default_factory=list)
    bytes: "array.array[int]" = field(default_factory=lambda: array.array("q"))
    modified: "array.array[int]" = field(default_factory=lambda: array.array("q"))

    def add(self, name: str, size: int, modified: int) -> None:
        """Add a file."""
        self.names.append(name)
        self.bytes.append(size)
        self.modified.append(modified)


class Folder:
    """A folder's address, with its file operations. Cheap to copy between processes.

    An operation waits while the storage is in trouble, and raises a UserError where that does not end or the
    user must mend it (`trouble`). A missing file is a FileNotFoundError.
    """

    def __init__(self, url: str):
        self.url = absolute(url).rstrip("/")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({printable(self.url)!r})"

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """Return the last part of the address."""
        return self.url.rsplit("/", 1)[-1]

    def path(self, name: str) -> str:
        """Return the address of a file in the folder."""
        return f"{self.url}/{name}" if name else self.url

    def _do(self, operation: str, name: str = "", **options: Any) -> Any:
        """Do an operation of the file system on a file, or on the folder."""
        system, path = filesystem(self.path(name))
        return patiently(self.path(name), None, getattr(system, operation), path, **options)

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all: one S3 put, or a temporary file and a rename on disk."""
        system, path = filesystem(self.path(name))
        if is_remote(self.url):
            system.pipe_file(path, data)
        else:
            patiently(self.path(name), None, _write_on_disk, Path(path), data)

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        return self._do("cat_file", name)

    def exists(self, name: str) -> bool:
        """Tell whether a file exists."""
        system, path = filesystem(self.path(name))
        try:
            if is_remote(self.url):
                return system.exists(path)
            # fsspec takes any trouble on a disk for a missing file.
            return patiently(self.path(name), None, Path(path).exists)
        except FileNotFoundError as error:
            _require_bucket(self.url, error)
            return False

    def sizes(self) -> dict[str, int]:
        """Return the names of the folder's files and their sizes in bytes; empty if the folder is missing."""
        listing = self.listing()
        return dict(zip(listing.names, listing.bytes, strict=True))

    def listing(self) -> Listing:
        """Return the folder's files; none if the folder is missing."""
        system, path = filesystem(self.url)
        if not is_remote(self.url):
            return patiently(self.url, None, _list_on_disk, path)
        listing = Listing()
        try:
            for page in system.pages(path):
                for entry in page:
                    listing.add(*entry)
        except FileNotFoundError as error:
            _require_bucket(self.url, error)
        return listing

    def tree(self) -> list[str]:
        """Return the names of all files in the folder and below it; empty if the folder is missing."""
        _, path = filesystem(self.url)
        return sorted(name[len(path) + 1 :] for name in self._do("find"))

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; a missing file is no error."""
        for name in names:
            try:
                self._do("rm_file", name)
            except FileNotFoundError as error:
                _require_bucket(self.url, error)

    def remove_all(self) -> None:
        """Delete the folder and everything below it; a missing folder is no error."""
        try:
            self._do("rm", recursive=True)
        except FileNotFoundError as error:
            _require_bucket(self.url, error)

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as indented JSON, whole or not at all."""
        self.write(name, json.dumps(value, indent=1, ensure_ascii=False).encode())

    def read_json(self, name: str, cure: str = "copy it again") -> Any:
        """Read a JSON file; None if it is missing.

        cure: what to do where the file is damaged, for the message.

        Raises:
            UserError: where the file is not JSON.
        """
        data = self.read_if_exists(name)
        try:
            return None if data is None else json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path(name)}: is damaged: it is not JSON ({error}); {cure}") from None

    def write_sealed_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write an object as JSON with a digest of its values, whole or not at all."""
        self.write(name, sealed_json(value))

    def read_sealed_json(self, name: str, cure: str) -> dict[str, Any] | None:
        """Read an object that `write_sealed_json` wrote; None if it is missing.

        cure: what to do where the file is damaged, for the message.

        Raises:
            UserError: where it has other values than were written.
        """
        data = self.read_if_exists(name)
        try:
            return None if data is None else open_sealed_json(data)
        except BrokenFileError as error:
            raise UserError(f"{self.path(name)}: is damaged: {error}; {cure}") from None

    def read_if_exists(self, name: str) -> bytes | None:
        """Read a whole file; None if it is missing.

        Raises:
            UserError: where the bucket is missing.
        """
        try:
            return self.read(name)
        except FileNotFoundError as error:
            _require_bucket(self.url, error)
            return None

    def download(self, target: Path) -> None:
        """Copy the folder's files into a local folder, several at once."""
        system, path = filesystem(self.url)
        target.mkdir(parents=True, exist_ok=True)

        def copy(name: str) -> None:
            local = str(target / name)
            patiently(local, None, system.get_file, f"{path}/{name}", local)

        with ThreadPoolExecutor(_COPIES) as pool:
            for _ in pool.map(copy, self.sizes()):
                pass  # raises the first error

    def upload(self, source: Path, last: str = "") -> None:
        """Copy a local folder's files here, several at once.

        last: the name of the file that is copied when all others are there, so that it marks a whole folder.
        """
        system, path = filesystem(self.url)
        self._do("makedirs", exist_ok=True)

        def copy(file: Path) -> None:
            put: Callable[[], object] = functools.partial(system.put_file, str(file), f"{path}/{file.name}")
            patiently(self.path(file.name), None, put)

        files = sorted(source.iterdir())
        with ThreadPoolExecutor(_COPIES) as pool:
            for _ in pool.map(copy, (file for file in files if file.name != last)):
                pass
        for file in files:
            if file.name == last:
                copy(file)

    def remove_leftovers(self) -> None:
        """Delete the temporary files of killed writers. Nobody else may be writing here."""
        if not is_remote(self.url) and Path(self.url).is_dir():
            for leftover in Path(self.url).glob(".*.tmp"):
                patiently(str(leftover), None, leftover.unlink, missing_ok=True)


def _write_on_disk(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink()
        raise


def _list_on_disk(path: str) -> Listing:
    listing = Listing()
    try:
        entries = os.scandir(path)
    except FileNotFoundError:
        return listing
    with entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # renamed or deleted meanwhile
                if entry.is_file():
                    status = entry.stat()
                    listing.add(entry.name, status.st_size, status.st_mtime_ns)
    return listing


def _require_bucket(url: str, error: FileNotFoundError) -> None:
    """Raise where it is not a file that is missing but its bucket."""
    if names_bucket(error):
        raise UserError(f"{url}: no such bucket; make it, or name another, such as s3://my-bucket/runs")
