"""A remote file system that waits while its storage is in trouble, and never calls a file missing for it."""

import datetime
import functools
import os
import re
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.compression import compr
from fsspec.utils import glob_translate, infer_compression

from uniner.storage.trouble import names_bucket, patiently


class PatientFilesystem:
    """An fsspec file system whose operations are tried again in trouble that may pass (`trouble`).

    It has the operations that are used here, and lists folders itself: fsspec leaves out what it could not
    list, and takes a file that it could not ask for as missing. Other attributes are the file system's own.
    """

    def __init__(self, protocol: str):
        self._protocol, self._client = protocol, _client(protocol)

    def __reduce__(self) -> Any:
        return type(self), (self._protocol,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def _patiently(self, name: str, path: str, *arguments: Any, **options: Any) -> Any:
        return self._at(path, getattr(self._client, name), path, *arguments, **options)

    def _at(self, path: str, operation: Any, *arguments: Any, **options: Any) -> Any:
        address = path if "://" in path else f"{self._protocol}://{path}"
        return patiently(address, self._renew, operation, *arguments, **options)

    def _renew(self) -> None:
        """Read the credentials again: a login or a mounted file may have newer ones."""
        if hasattr(self._client, "connect"):
            self._client.connect(refresh=True)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Return a file's or folder's name, size and type."""
        return self._patiently("info", path, **options)

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder exists.

        Raises:
            FileNotFoundError: where the bucket is missing.
        """
        try:
            self.info(path)
        except FileNotFoundError as error:
            if names_bucket(error):
                raise
            return False
        return True

    def isfile(self, path: str) -> bool:
        """Tell whether a path is a file."""
        return self.exists(path) and self.info(path)["type"] == "file"

    def isdir(self, path: str) -> bool:
        """Tell whether a path is a folder."""
        return self.exists(path) and self.info(path)["type"] == "directory"

    def size(self, path: str) -> int:
        """Return a file's size in bytes."""
        return self.info(path)["size"]

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """List a folder."""
        return self._patiently("ls", path, detail=detail, **options)

    def pages(self, path: str) -> Iterator[list[tuple[str, int, int]]]:
        """List a folder's files page by page: name, size, and when modified in nanoseconds, 0 if unknown.

        Each page is patient by itself, so that trouble in a long listing does not begin it anew.
        """
        if not self._is_s3:
            yield [_file_entry(info) for info in self.ls(path) if info["type"] == "file"]
            return
        bucket, _, key = path.partition("/")
        options = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else "", "Delimiter": "/"}
        while True:
            page = self._at(path, self._client.call_s3, "list_objects_v2", **options)
            files = page.get("Contents", [])
            yield [
                (file["Key"].rsplit("/", 1)[-1], file["Size"], _nanoseconds(file["LastModified"]))
                for file in files
                if not file["Key"].endswith("/")
            ]
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False
    ) -> Any:
        """List all files below a folder, with the folders on request; none if it is missing."""
        if self._is_s3 and maxdepth is None:  # one flat listing
            return self._patiently("find", path, withdirs=withdirs, detail=detail)
        below = self._below(path, maxdepth)
        found = {name: info for name, info in below if withdirs or info["type"] == "file"}
        return found if detail else sorted(found)

    def glob(self, path: str, detail: bool = False) -> Any:
        """List the files and folders that a glob matches."""
        root = re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0]
        depth = None if "**" in path else path.count("/") - root.count("/")
        pattern = re.compile(glob_translate(path))
        found = {name: info for name, info in sorted(self._below(root, depth)) if pattern.match(name)}
        return found if detail else list(found)

    def _below(self, path: str, depth: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            entries = self.ls(path)
        except FileNotFoundError as error:
            if names_bucket(error):
                raise
            return
        for info in entries:
            name = info["name"].rstrip("/")
            yield name, info
            if info["type"] == "directory" and name != path and depth != 1:
                yield from self._below(name, depth and depth - 1)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a file, or a part of it."""
        return self._patiently("cat_file", path, start=start, end=end)

    def pipe_file(self, path: str, data: bytes, **options: Any) -> None:
        """Write a file whole."""
        self._patiently("pipe_file", path, data, **options)

    def get_file(self, path: str, local: str) -> None:
        """Copy a file to the local disk."""
        address = f"{self._protocol}://{path}, copied to {local}"
        patiently(address, self._renew, self._client.get_file, path, local)

    def put_file(self, local: str, path: str) -> None:
        """Copy a file from the local disk."""
        self._at(path, self._client.put_file, local, path)

    def rm_file(self, path: str) -> None:
        """Delete a file."""
        self._patiently("rm_file", path)

    def rm(self, path: str, recursive: bool = False) -> None:
        """Delete a file or folder."""
        self._patiently("rm", path, recursive=recursive)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder."""
        self._patiently("makedirs", path, exist_ok=exist_ok)

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """Open a file; what is read from it is fetched patiently."""
        inferred = infer_compression(path) if options.pop("compression", None) == "infer" else None
        file = self._patiently("open", path, mode, **options)
        cache = getattr(file, "cache", None)
        if cache is not None and "r" in mode:
            cache.fetcher = functools.partial(self._at, path, cache.fetcher)
        return compr[inferred](file, mode="rb") if inferred else file

    @property
    def _is_s3(self) -> bool:
        return self._protocol in ("s3", "s3a")


def _file_entry(info: dict[str, Any]) -> tuple[str, int, int]:
    moments = (info.get(name) for name in ("LastModified", "last_modified", "mtime"))
    modified = next((moment for moment in moments if isinstance(moment, datetime.datetime)), None)
    return info["name"].rsplit("/", 1)[-1], info["size"], _nanoseconds(modified) if modified else 0


def _nanoseconds(moment: datetime.datetime) -> int:
    return int(moment.timestamp() * 1000) * 1_000_000


@functools.cache
def _client(protocol: str) -> Any:
    """Return the process's client. Listings are not cached, as other processes write to the same folders."""
    if protocol not in ("s3", "s3a"):
        return fsspec.filesystem(protocol, use_listings_cache=False)
    options = {}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        # The parts of a large file get a few quick tries of their own; beyond that `patiently` tries again.
        options["config_kwargs"] = {"retries": {"total_max_attempts": 3, "mode": "standard"}}
    client = fsspec.filesystem(protocol, use_listings_cache=False, **options)
    client.retries = 1
    return client
