"""A stage's folder `<root>/<run>/<stage>/`: its identity, its chunks and its manifest.

`identity.json` is written first: what decides the stage's output. Then `chunk-<key>.parquet` files, and
`manifest.json` last: the stage is complete. A chunk's Parquet footer holds its summary, so that rows and
counts are one atomic put, and a resumed run still knows what the whole stage cost.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uniner import __version__
from uniner.errors import UserError
from uniner.storage.filesystem import explained, filesystem
from uniner.storage.folder import Folder
from uniner.storage.manifest import FORMAT, ChunkEntry, Counts, Identity, Manifest, Summary

MANIFEST, IDENTITY = "manifest.json", "identity.json"
_EARLIER_IDENTITY = "plan.json"
_CHUNK = re.compile(r"chunk-(.+)\.parquet")
_SUMMARY = b"uniner.summary"
_READERS = 16


@dataclass(frozen=True)
class Chunk:
    """Rows under a key. The key derives from the input alone.

    seconds: of work. figures: sums for the manifest. position: where in its source the chunk ends, for a
    stage that reads a stream. rejects: input that became no row, or a row set aside, with place and reason.
    """

    key: str
    table: pa.Table
    seconds: float = 0.0
    figures: Counts = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)


class StageFolder(Folder):
    """A stage's folder, or one of the same layout below it."""

    def chunk_keys(self) -> set[str]:
        """Return the keys of the chunks that exist."""
        return {match[1] for match in map(_CHUNK.fullmatch, self.sizes()) if match}

    def chunk_files(self) -> dict[str, int]:
        """Return the addresses of a complete stage's chunks in key order, and their sizes in bytes."""
        return {self.path(_chunk_name(chunk.key)): chunk.bytes for chunk in self.require_manifest().chunks}

    def has_chunk(self, key: str) -> bool:
        """Tell whether a chunk exists."""
        return self.exists(_chunk_name(key))

    def write_chunk(self, chunk: Chunk) -> Summary:
        """Write a chunk with its summary in one atomic put, its rejects in another before it."""
        if chunk.rejects:
            lines = (json.dumps(reject, ensure_ascii=False) + "\n" for reject in chunk.rejects)
            self.write(rejects_name(chunk.key), "".join(lines).encode())
        outcomes: dict[str, int] = {}
        if "outcome" in chunk.table.schema.names:
            counted = chunk.table.column("outcome").value_counts().to_pylist()
            outcomes = {entry["values"]: entry["counts"] for entry in counted}
        summary = Summary(
            chunk.key,
            chunk.table.num_rows,
            0,
            round(chunk.seconds, 3),
            outcomes,
            chunk.figures,
            chunk.position,
        )
        metadata = {_SUMMARY: json.dumps(asdict(summary)).encode()}
        data = parquet(chunk.table.replace_schema_metadata(metadata))
        self.write(_chunk_name(chunk.key), data)
        return replace(summary, bytes=len(data))

    def read_chunk(self, key: str) -> Chunk:
        """Read a chunk's rows."""
        table = pq.read_table(pa.BufferReader(self.read(_chunk_name(key))))
        return Chunk(key, table.replace_schema_metadata(None))

    def read_columns(self, key: str, names: Sequence[str]) -> pa.Table:
        """Read some columns of a chunk without fetching the others."""
        system, path = filesystem(self.path(_chunk_name(key)))
        with system.open(path, "rb", block_size=1 << 16, cache_type="readahead") as file:
            return pq.ParquetFile(file, pre_buffer=False).read(columns=list(names), use_threads=False)

    def read_rejects(self, key: str) -> list[dict[str, Any]]:
        """Read a chunk's rejects; no file is written where nothing was rejected."""
        try:
            return [json.loads(line) for line in self.read(rejects_name(key)).splitlines()]
        except FileNotFoundError:
            return []

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
        """Read all chunks of a complete stage as one table, in key order."""
        keys = [chunk.key for chunk in self.require_manifest().chunks]
        with ThreadPoolExecutor(_READERS) as pool:
            return pa.concat_tables(chunk.table for chunk in pool.map(self.read_chunk, keys))

    def manifest(self) -> Manifest | None:
        """Return the manifest; None if the stage is not complete.

        Raises:
            UserError: where an earlier version of the package wrote it.
        """
        with explained(self.url):
            content = self.read_json(MANIFEST)
        if content is None:
            return None
        self._require_format(content.get("identity"))
        return Manifest(
            **{
                **content,
                "identity": Identity(**content["identity"]),
                "chunks": tuple(ChunkEntry(**chunk) for chunk in content["chunks"]),
            }
        )

    def require_manifest(self) -> Manifest:
        """Return the manifest of a stage that must be complete.

        Raises:
            UserError: where it is not.
        """
        manifest = self.manifest()
        if manifest is None:
            raise UserError(
                f"{self.url}: the stage {self.name} is not complete (no {MANIFEST}); run it first: "
                f"uniner {self.name} CONFIG"
            )
        return manifest

    def write_manifest(self, manifest: Manifest) -> Manifest:
        """Write the manifest, which makes the stage complete. Returns it."""
        self.write_json(MANIFEST, asdict(manifest))
        return manifest

    def digest(self) -> str:
        """Return the digest of a complete stage's manifest, by which later stages know their input."""
        self.require_manifest()
        return hashlib.sha256(self.read(MANIFEST)).hexdigest()[:16]

    def begin(self, identity: Identity) -> Manifest | None:
        """Write the identity, or compare it with the one the stage began with. Returns the manifest, if any.

        Raises:
            UserError: naming the settings that differ.
        """
        with explained(self.url):
            self.remove_leftovers()
        if self._compare(identity):
            return self.manifest()
        with explained(self.url):
            self.write_json(IDENTITY, asdict(identity))
        return None

    def check_identity(self, identity: Identity) -> None:
        """Compare a stage's identity with the one it began with, if it began; parents may not exist yet.

        Raises:
            UserError: naming the settings that differ.
        """
        self._compare(replace(identity, parents={}), with_parents=False)

    def read_identity(self) -> Identity | None:
        """Return the identity the stage began with; None if it has not begun.

        Raises:
            UserError: where an earlier version of the package began it.
        """
        with explained(self.url):
            content = self.read_json(IDENTITY)
            if content is None and self.exists(_EARLIER_IDENTITY):
                self._require_format(None)
        if content is None:
            return None
        self._require_format(content)
        return Identity(**content)

    def _compare(self, identity: Identity, with_parents: bool = True) -> bool:
        """Tell whether the stage began with this identity; raise where it began with another.

        An identity binds only once the stage has made something.
        """
        begun = self.read_identity()
        if begun is None:
            return False
        before, now = (_flat(each, with_parents) for each in (begun, identity))
        differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if not differing:
            return True
        with explained(self.url):
            if self.tree() == [IDENTITY]:
                return False
        listed = ", ".join(
            f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in differing[:3]
        )
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"{self.url} was made with other settings: {listed}{more}; take another run.name, or delete that "
            "folder to do the stage again"
        )

    def _require_format(self, identity: Mapping[str, Any] | None) -> None:
        if identity is None or identity.get("format") != FORMAT:
            raise UserError(
                f"{self.url}: another version of uniner made this folder, in a layout that this version "
                f"({__version__}) does not read; take another run.name, such as run.name=my-run-2"
            )


def run_folder(root: str, name: str) -> StageFolder:
    """Return a run's folder; its stages' folders are below it by their names."""
    return StageFolder(root) / name


def parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def rejects_name(key: str) -> str:
    """Return the name of the JSON lines beside a chunk that list its rejects."""
    return f"rejects-{key}.jsonl"


def _chunk_name(key: str) -> str:
    return f"chunk-{key}.parquet"


def _flat(identity: Identity, with_parents: bool) -> dict[str, Any]:
    """Return an identity's values by names such as ingest.max_tokens."""
    content = json.loads(json.dumps(asdict(identity)))
    flat = {**_leaves(content["settings"]), **_leaves(content["inputs"]), "stage": identity.stage}
    return flat | (_leaves(content["parents"], "the output of ") if with_parents else {})


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree} if prefix else {}
    separator = "." if prefix and not prefix.endswith(" ") else ""
    return {
        name: value
        for key, branch in tree.items()
        for name, value in _leaves(branch, f"{prefix}{separator}{key}").items()
    }
