"""A folder on disk or in a bucket: whole files, written atomically."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from uniner.errors import printable
from uniner.storage.filesystem import absolute, filesystem, is_remote, names_bucket


class Folder:
    """A folder's address, with its file operations. Cheap to copy between processes."""

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
        return f"{self.url}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all: one S3 put, or a temporary file and a rename on disk."""
        system, path = filesystem(self.path(name))
        if is_remote(self.url):
            system.pipe_file(path, data)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        system, path = filesystem(self.path(name))
        return system.cat_file(path)

    def exists(self, name: str) -> bool:
        """Tell whether a file exists."""
        system, path = filesystem(self.path(name))
        return system.exists(path)

    def sizes(self) -> dict[str, int]:
        """Return the names of the folder's files and their sizes in bytes; empty if the folder is missing."""
        system, path = filesystem(self.url)
        try:
            entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        return {
            entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in entries if entry["type"] == "file"
        }

    def tree(self) -> list[str]:
        """Return the names of all files in the folder and below it; empty if the folder is missing."""
        system, path = filesystem(self.url)
        return sorted(name[len(path) + 1 :] for name in system.find(path))

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; a missing file is no error."""
        system, path = filesystem(self.url)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(f"{path}/{name}")

    def remove_all(self) -> None:
        """Delete the folder and everything below it."""
        system, path = filesystem(self.url)
        system.rm(path, recursive=True)

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as indented JSON, whole or not at all."""
        self.write(name, json.dumps(value, indent=1, ensure_ascii=False).encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file; None if it is missing."""
        try:
            return json.loads(self.read(name))
        except FileNotFoundError as error:
            if names_bucket(error):
                raise
            return None

    def download(self, target: Path) -> None:
        """Copy the folder's files into a local folder."""
        system, path = filesystem(self.url)
        target.mkdir(parents=True, exist_ok=True)
        for name in self.sizes():
            system.get_file(f"{path}/{name}", str(target / name))

    def upload(self, source: Path) -> None:
        """Copy a local folder's files here in order of their names, so that a marker file can come last."""
        system, path = filesystem(self.url)
        system.makedirs(path, exist_ok=True)
        for file in sorted(source.iterdir()):
            system.put_file(str(file), f"{path}/{file.name}")

    def remove_leftovers(self) -> None:
        """Delete the temporary files of killed writers. Nobody else may be writing here."""
        if not is_remote(self.url) and Path(self.url).is_dir():
            for leftover in Path(self.url).glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
