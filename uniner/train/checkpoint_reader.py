"""Read a checkpoint's shards once, and without running code that somebody may have put into them.

torch's distributed checkpoint keeps its table of contents, `.metadata`, and small values as pickles, which
can run any function. Here the table must have the digest in `state.json`, and unpickling takes only the
classes that a checkpoint has.
"""

import hashlib
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from uniner.errors import UserError
from uniner.storage.filesystem import explained, filesystem
from uniner.storage.folder import Folder
from uniner.train.collective import run_on_all

CONTENTS = ".metadata"
_SHARD = re.compile(r"__(\d+)_\d+\.distcp")
_BLOCK = 8 << 20
_CLASSES = frozenset(
    {
        *(
            ("torch.distributed.checkpoint.metadata", name)
            for name in (
                "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
                "TensorProperties", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
            )
        ),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),
    }
)  # fmt: skip


class ShardSeal(NamedTuple):
    """The size and SHA-256 of a shard's file."""

    size: int
    sha256: str


class FetchedShards:
    """A checkpoint's files on this machine's disk. Each is fetched at most once, and checked as it arrives.

    A worker first fetches the shards that a worker of its rank wrote: with as many workers as then, it needs
    no others.
    """

    def __init__(self, folder: Folder, seals: Mapping[str, ShardSeal], local: Path):
        self._folder, self._seals, self.local = folder, seals, local

    @property
    def url(self) -> str:
        """The checkpoint's address."""
        return self._folder.url

    def find_damage(self) -> str:
        """Fetch this worker's share and describe the first damage, "" if there is none."""
        sizes = self._folder.sizes()
        for name, seal in {CONTENTS: ShardSeal(-1, ""), **self._seals}.items():
            if sizes.get(name) != seal.size:
                return f"{name} is missing or cut short"
        share = [
            name for name in sorted(self._seals) if _writer(name) % dist.get_world_size() == dist.get_rank()
        ]
        return next(filter(None, map(self.fetch, {CONTENTS: None, **dict.fromkeys(share)})), "")

    def fetch(self, name: str) -> str:
        """Have a file on the disk. Describes its damage, "" if there is none."""
        target = self.local / name
        if target.exists():
            return ""
        digest, url = hashlib.sha256(), self._folder.path(name)
        system, path = filesystem(url)
        partial = target.with_name(f"{name}.part")
        with explained(url), system.open(path, "rb") as stream, partial.open("wb") as file:
            while block := stream.read(_BLOCK):
                digest.update(block)
                file.write(block)
        if name not in self._seals or digest.hexdigest() != self._seals[name].sha256:
            return f"{name} has other bytes than were written"
        partial.rename(target)
        return ""


def _writer(name: str) -> int:
    """Return the rank of the worker that wrote a shard; worker 0 also wrote the table of contents."""
    numbered = _SHARD.fullmatch(name)
    return int(numbered[1]) if numbered else 0


def load_shards(state: dict[str, Any], shards: FetchedShards) -> None:
    """Load a checkpoint's values into the tensors of `state`; every worker must call this.

    Raises:
        UserError: a file holds something else than a checkpoint, or cannot be read.
    """
    reader = _Reader(shards, run_on_all(lambda: _read_contents(shards)))
    try:
        dcp.load(state, storage_reader=reader, planner=_Planner())
    except CheckpointException as error:  # of any worker, raised on all
        for failure, _ in error.failures.values():
            if isinstance(failure, UserError):
                raise UserError(str(failure)) from None
            if isinstance(failure, pickle.UnpicklingError):
                raise UserError(_foreign(shards, failure)) from None
        raise


def _read_contents(shards: FetchedShards) -> Metadata:
    if damage := shards.fetch(CONTENTS):
        raise UserError(_foreign(shards, damage))
    try:
        return _Unpickler(io.BytesIO((shards.local / CONTENTS).read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise UserError(_foreign(shards, error)) from None


def _foreign(shards: FetchedShards, reason: object) -> str:
    return (
        f"{shards.url}: holds something else than a checkpoint ({' '.join(str(reason).split())[:120]}); find "
        "out who wrote it, then delete that folder and run the same command again"
    )


class _Reader(FileSystemReader):  # type: ignore[misc]  # torch is not followed
    def __init__(self, shards: FetchedShards, contents: Metadata):
        super().__init__(shards.local)
        self._shards, self._contents = shards, contents

    def read_metadata(self, *_arguments: Any, **_options: Any) -> Metadata:
        contents = self._contents
        contents.storage_meta = contents.storage_meta or StorageMeta()
        contents.storage_meta.load_id = self.load_id
        return contents

    def read_data(self, plan: Any, planner: Any) -> Any:
        for name in sorted({self.storage_data[item.storage_index].relative_path for item in plan.items}):
            if damage := self._shards.fetch(name):
                raise UserError(_foreign(self._shards, damage))
        return super().read_data(plan, planner)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _CLASSES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _Planner(DefaultLoadPlanner):  # type: ignore[misc]  # torch is not followed
    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)  # raises for what is more than numbers; torch's own allows all
        value.seek(0)
        super().load_bytes(read_item, value)
