"""A stage's folder `<root>/<run>/<stage>/`: its identity, its chunks and its manifest.

`identity.json` is written first: what decides the stage's output. Then `chunk-<key>.parquet` files, their
list `chunks.parquet`, and `manifest.json` last: the stage is complete. A chunk's Parquet footer holds its
summary, so that rows and counts are one atomic put, and a resumed run still knows what the whole stage cost;
of many chunks it learns that from the logs in `summaries/` (`summary_log`).
All of them notice damage (`sealed_parquet`, `sealed_json`), and the error says which file to delete.
"""

import contextlib
import hashlib
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniner import __version__
from uniner.errors import UserError
from uniner.records import FAILED, UNREAD_COLUMNS
from uniner.storage.chunk_list import ChunkList
from uniner.storage.filesystem import explained, filesystem
from uniner.storage.folder import Folder
from uniner.storage.manifest import FORMAT, Counts, Identity, Manifest, Summary, differences, few_examples
from uniner.storage.sealed_json import BrokenFileError, open_sealed_json
from uniner.storage.sealed_parquet import (
    Seal,
    open_sealed,
    read_seal,
    read_sealed,
    seal_table,
    sealed_parquet,
)
from uniner.storage.summary_log import ChunkFiles, SummaryLog, footers, logged_summaries

MANIFEST, IDENTITY, CHUNKS = "manifest.json", "identity.json", "chunks.parquet"
_EARLIER_IDENTITY = "plan.json"
_CHUNK = re.compile(r"chunk-(.+)\.parquet")
_OUTPUT = re.compile(r"(.*/)?(chunk-.+\.parquet|manifest\.json|step-[^/]+/state\.json)")
"""Files by which a stage has made something: a chunk, a finished checkpoint, a result below the folder."""
_READERS = 16
_STAGES = ("generate", "ingest", "annotate", "describe", "build", "train", "train-encoder", "evaluate", "tag")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """Rows under a key. The key derives from the input alone.

    seconds: of work. figures: sums for the manifest. position: where in its source the chunk ends, for a
    stage that reads a stream. rejects: input that became no row, or a row set aside, with place and reason.
    examples: texts by name, for the manifest; a few of each are kept.
    """

    key: str
    table: pa.Table
    seconds: float = 0.0
    figures: Counts = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)


class StageFolder(Folder):
    """A stage's folder, or one of the same layout below it."""

    def chunk_keys(self) -> set[str]:
        """Return the keys of the chunks that exist."""
        return {match[1] for match in map(_CHUNK.fullmatch, self.listing().names) if match}

    def _existing_chunks(self) -> ChunkFiles:
        listing = self.listing()
        matches = [_CHUNK.fullmatch(name) for name in listing.names]
        places = np.array([place for place, match in enumerate(matches) if match], np.int64)
        return ChunkFiles(
            keys=pa.array([match[1] for match in matches if match], pa.string()),
            bytes=np.array(listing.bytes, np.int64)[places],
            modified=np.array(listing.modified, np.int64)[places],
        )

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
            examples=few_examples([chunk.examples]),
        )
        data, seal = seal_table(chunk.table, asdict(summary))
        self.write(_chunk_name(chunk.key), data)
        return replace(summary, bytes=len(data), digest=_content_digest(seal))

    def read_chunk(self, key: str) -> Chunk:
        """Read a chunk's rows.

        Raises:
            UserError: where the chunk is missing or damaged.
        """
        with self._intact(key):
            table, seal = read_sealed(pa.BufferReader(self.read(_chunk_name(key))))
            _require_key(key, seal)
        return Chunk(key, table)

    def read_columns(self, key: str, names: Sequence[str]) -> pa.Table:
        """Read some columns of a chunk without fetching the others.

        Raises:
            UserError: where the chunk is missing or damaged.
        """
        with self._intact(key), self._open_chunk(key) as file:
            table, seal = read_sealed(file, names)
            _require_key(key, seal)
        return table

    @contextlib.contextmanager
    def _open_chunk(self, key: str) -> Iterator[Any]:
        system, path = filesystem(self.path(_chunk_name(key)))
        with system.open(path, "rb", block_size=1 << 16, cache_type="readahead") as file:
            yield file

    @contextlib.contextmanager
    def _intact(self, key: str) -> Iterator[None]:
        """Name a chunk that is missing or damaged, and what to do."""
        url = self.path(_chunk_name(key))
        try:
            yield
        except FileNotFoundError:
            raise UserError(
                f"{url}: is missing; delete {MANIFEST} beside it, if there is one, and {self._run_again}"
            ) from None
        except BrokenFileError as error:
            raise UserError(
                f"{url}: is damaged: {error}; delete that file, and {MANIFEST} beside it if there is one, "
                f"and {self._run_again}"
            ) from None

    @property
    def _run_again(self) -> str:
        """Return the words for running the folder's stage again."""
        return f"run `uniner {self._stage} CONFIG` again"

    @property
    def _stage(self) -> str:
        """Return the name of the stage that this folder, or one of its folders above, belongs to."""
        parts = reversed(self.url.split("/"))
        return next((part for part in parts if part in _STAGES), self.name)

    def read_rejects(self, key: str) -> list[dict[str, Any]]:
        """Read a chunk's rejects; no file is written where nothing was rejected."""
        data = self.read_if_exists(rejects_name(key)) or b""
        try:
            return [json.loads(line) for line in data.splitlines()]
        except ValueError as error:
            raise UserError(
                f"{self.path(rejects_name(key))}: is damaged: it is not JSON lines ({error}); delete "
                f"{self.path(_chunk_name(key))} and {self._run_again}"
            ) from None

    def read_summary(self, key: str) -> Summary:
        """Read a chunk's summary from its footer alone.

        Raises:
            UserError: where the chunk is missing or the footer is damaged.
        """
        system, path = filesystem(self.path(_chunk_name(key)))
        with self._intact(key), self._open_chunk(key) as file:
            seal = read_seal(file)
            _require_key(key, seal)
        return Summary(**{**seal.note, "bytes": system.size(path), "digest": _content_digest(seal)})

    def read_summaries(self, keys: Iterable[str]) -> list[Summary]:
        """Read the summaries of a few chunks, several at once."""
        return list(footers(self.read_summary, sorted(keys)))

    def summaries(self, among: ChunkList | None = None, relog: SummaryLog | None = None) -> Iterator[Summary]:
        """Yield the summary of each chunk that exists, in any order: from the logs where they have it.

        among: only of these chunks. relog: where to log the summaries that no log had and that are final: all
        but those with failed rows.

        Raises:
            UserError: where a footer is damaged.
        """
        chunks = self._existing_chunks()
        if among is not None:
            chunks = chunks.among(among.keys)
        left = np.ones(len(chunks.keys), bool)
        yield from logged_summaries(self, chunks, left)
        for summary in footers(self.read_summary, chunks.keys.filter(pa.array(left)).to_pylist()):
            if relog and not summary.outcomes.get(FAILED):
                relog.add(summary)
            yield summary

    def read_rows(self) -> pa.Table:
        """Read all chunks of a complete stage as one table, in key order."""
        keys = self.require_manifest().chunks.keys.to_pylist()
        with ThreadPoolExecutor(_READERS) as pool:
            return pa.concat_tables(chunk.table for chunk in pool.map(self.read_chunk, keys))

    def manifest(self) -> Manifest | None:
        """Return the manifest; None if the stage is not complete.

        Raises:
            UserError: where it is damaged, or an earlier version of the package wrote it.
        """
        content = self._read_own(MANIFEST, f"delete that file and {self._run_again}")
        if content is None:
            return None
        return Manifest(
            **{
                **content,
                "identity": Identity(**content["identity"]),
                "chunks": self._read_list(content["chunks"]),
                "grown_from": tuple(content.get("grown_from", ())),
            }
        )

    def _read_list(self, digest: str | None) -> ChunkList:
        """Read the list of chunks, whose file has this digest; without one there are no chunks."""
        if digest is None:
            return ChunkList()
        for name in (CHUNKS, _list_name(digest)):
            data = self.read_if_exists(name) or b""
            if hashlib.sha256(data).hexdigest() == digest:
                return ChunkList(open_sealed(data))
        raise UserError(
            f"{self.path(CHUNKS)}: is damaged or missing; delete {MANIFEST} beside it and {self._run_again}"
        )

    def require_manifest(self) -> Manifest:
        """Return the manifest of a stage that must be complete.

        Raises:
            UserError: where it is not.
        """
        manifest = self.manifest()
        if manifest is None:
            raise UserError(
                f"{self.url}: the stage {self._stage} is not complete (no {MANIFEST}); run it first: "
                f"uniner {self._stage} CONFIG"
            )
        return manifest

    def write_manifest(self, manifest: Manifest) -> Manifest:
        """Write the list of chunks, then the manifest, which makes the stage complete. Returns it.

        A manifest that already says the same stays as it is. Another one is replaced in one put: until then
        its list of chunks stays too.
        """
        before = self.manifest()
        if before and before.says_the_same(manifest):
            return before
        replaced = None
        if before:
            manifest, replaced = manifest.after(before), (self._read_own(MANIFEST, "") or {})["chunks"]
        self.remove_leftovers()  # of workers killed meanwhile
        listed, name = None, CHUNKS
        if manifest.chunks:
            data = sealed_parquet(manifest.chunks.table)
            listed = hashlib.sha256(data).hexdigest()
            name = _list_name(listed) if before else CHUNKS
            self.write(name, data)
        content = {key: value for key, value in vars(manifest).items() if key != "chunks"}
        content |= {"identity": manifest.identity.content(), "chunks": listed}
        self.write_sealed_json(MANIFEST, content)
        if replaced:
            self.remove({CHUNKS, _list_name(replaced)} - {name})
        return manifest

    def digest(self) -> str:
        """Return the digest of a complete stage, by which later stages know their input."""
        return self.require_manifest().digest

    def manifest_before_growth(self, identity: Identity, name: str, parent: "StageFolder") -> Manifest | None:
        """Return the manifest of a stage that was complete before the corpus grew and is not made again.

        parent: the stage of this name among its parents, which has grown.
        """
        manifest = self.manifest()
        earlier = identity.with_earlier_parent(name, parent.require_manifest().grown_from).earlier
        if manifest is None or all(differences(manifest.identity, each) for each in earlier):
            return None
        return manifest

    def begin(self, identity: Identity) -> Manifest | None:
        """Write the identity, or compare it with the one the stage began with. Returns the manifest, if the
        stage is complete.

        A stage whose input has grown (`Identity.earlier`) goes on: its manifest is that of the earlier input
        until the new one is written. Until then other additions may take the place of those it began with.

        Raises:
            UserError: naming the settings that differ.
        """
        with explained(self.url):
            self.remove_leftovers()
        if self._compare(identity):
            manifest = self.manifest()
            return manifest if manifest and not differences(manifest.identity, identity) else None
        self._remove_replaced_additions(identity)
        self.write_sealed_json(IDENTITY, identity.content())
        return None

    def _remove_replaced_additions(self, identity: Identity) -> None:
        """Remove the chunks of additions that the stage began with and this identity does not have."""
        begun = self.read_identity()
        manifest = self.manifest() if begun else None
        if begun is None or manifest is None or _is_among(begun, identity.earlier):
            return
        replaced = self.chunk_keys() - set(manifest.chunks.keys.to_pylist())
        if replaced:
            log.info(
                f"{self.name}: {len(replaced):,} chunks of an addition that did not complete are removed; "
                "what is added now is read from the start"
            )
        with explained(self.url):
            self.remove([rejects_name(key) for key in replaced])
            self.remove([_chunk_name(key) for key in replaced])

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
        if not self.exists(IDENTITY) and self.exists(_EARLIER_IDENTITY):
            raise self._other_version()
        content = self._read_own(
            IDENTITY,
            f"if the settings are still the same, delete that file and {self._run_again}; if not, take "
            "another run.name",
        )
        return Identity(**content) if content else None

    def _compare(self, identity: Identity, with_parents: bool = True) -> bool:
        """Tell whether the stage began with this identity; raise where it began with another.

        False also where it began with an earlier one, under which all that it made is right. An identity
        binds only once the stage has made a chunk, a checkpoint or a result. Of a stage that was complete
        before its input grew, the identity of the manifest counts too: the addition may never complete.
        """
        begun = self.read_identity()
        if begun is None:
            return False
        differing = differences(begun, identity, with_parents)
        if not differing:
            return True
        for earlier in identity.earlier:
            differing = differences(begun, earlier, with_parents)
            if not differing:
                return False
        if not any(map(_OUTPUT.fullmatch, self.tree())):
            return False
        if manifest := self.manifest():
            if _is_among(manifest.identity, (identity,), with_parents):
                return True
            if _is_among(manifest.identity, identity.earlier, with_parents):
                return False
        listed = ", ".join(differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"{self.url} was made with other settings: {listed}{more}; take another run.name, or delete that "
            "folder to do the stage again"
        )

    def _read_own(self, name: str, cure: str) -> dict[str, Any] | None:
        """Read the identity or the manifest; None if it is missing. cure: what to do where it is damaged."""
        data = self.read_if_exists(name)
        if data is None:
            return None
        try:
            content = open_sealed_json(data)
        except BrokenFileError as error:
            if _is_earlier(data):
                raise self._other_version() from None
            raise UserError(f"{self.path(name)}: is damaged: {error}; {cure}") from None
        if content.get("identity", content)["format"] != FORMAT:
            raise self._other_version()
        return content

    def _other_version(self) -> UserError:
        return UserError(
            f"{self.url}: another version of uniner made this folder, in a layout that this version "
            f"({__version__}) does not read; take another run.name, such as run.name=my-run-2"
        )


def _is_among(identity: Identity, others: Iterable[Identity], with_parents: bool = True) -> bool:
    return any(not differences(identity, other, with_parents) for other in others)


def run_folder(root: str, name: str) -> StageFolder:
    """Return a run's folder; its stages' folders are below it by their names."""
    return StageFolder(root) / name


def parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file, for other programs to read."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _list_name(digest: str) -> str:
    """Return the name of the list of a manifest that replaces another."""
    return f"chunks-{digest[:16]}.parquet"


def rejects_name(key: str) -> str:
    """Return the name of the JSON lines beside a chunk that list its rejects."""
    return f"rejects-{key}.jsonl"


def _chunk_name(key: str) -> str:
    return f"chunk-{key}.parquet"


def _require_key(key: str, seal: Seal) -> None:
    if seal.note.get("key") != key:
        raise BrokenFileError(f"it is the chunk {seal.note.get('key')}")


def _content_digest(seal: Seal) -> str:
    """Return the digest of what later stages read of a chunk."""
    read = [(name, digest) for name, digest in seal.columns.items() if name not in UNREAD_COLUMNS]
    return hashlib.sha256(json.dumps([seal.rows, read]).encode()).hexdigest()[:32]


def _is_earlier(data: bytes) -> bool:
    """Tell whether an earlier version of the package wrote an identity or manifest: without a digest."""
    try:
        content = json.loads(data)
    except ValueError:
        return False
    if not isinstance(content, dict) or "sha256" in content:
        return False
    identity = content.get("identity", content)
    return not isinstance(identity, dict) or identity.get("format") != FORMAT
