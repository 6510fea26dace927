"""Read a checkpoint's shards without running code that somebody may have put into them.

torch's distributed checkpoint keeps its table of contents, `.metadata`, and small values as pickles, which
can run any function. Here the table must have the digest in `state.json`, and unpickling takes only the
classes that a checkpoint has.
"""

import hashlib
import io
import pickle
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from uniner.errors import UserError
from uniner.storage.filesystem import filesystem
from uniner.storage.folder import Folder
from uniner.train.collective import run_on_all

CONTENTS = ".metadata"
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


def load_shards(state: dict[str, Any], folder: Folder, contents_sha256: str) -> None:
    """Load a checkpoint's values into the tensors of `state`; every worker must call this.

    contents_sha256: of `.metadata`.

    Raises:
        UserError: a file holds something else than a checkpoint, or cannot be read.
    """
    reader = _Reader(folder, run_on_all(lambda: _read_contents(folder, contents_sha256)))
    try:
        dcp.load(state, storage_reader=reader, planner=_Planner())
    except CheckpointException as error:  # of any worker, raised on all
        for failure, _ in error.failures.values():
            if isinstance(failure, UserError):
                raise UserError(str(failure)) from None
            if isinstance(failure, pickle.UnpicklingError):
                raise UserError(_foreign(folder, failure)) from None
        raise


def _read_contents(folder: Folder, sha256: str) -> Metadata:
    data = folder.read(CONTENTS)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(_foreign(folder, f"{CONTENTS} has other bytes than were written"))
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise UserError(_foreign(folder, error)) from None


def _foreign(folder: Folder, reason: object) -> str:
    return (
        f"{folder.url}: holds something else than a checkpoint ({' '.join(str(reason).split())[:120]}); find "
        "out who wrote it, then delete that folder and run `uniner train CONFIG` again"
    )


class _Reader(FsspecReader):  # type: ignore[misc]  # torch is not followed
    def __init__(self, folder: Folder, contents: Metadata):
        super().__init__(folder.url)
        self.fs.fs, _ = filesystem(folder.url)  # one that waits while the storage is in trouble
        self._contents = contents

    def read_metadata(self, *_arguments: Any, **_options: Any) -> Metadata:
        contents = self._contents
        contents.storage_meta = contents.storage_meta or StorageMeta()
        contents.storage_meta.load_id = self.load_id
        return contents


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
