"""The cache of paid replies, shared by all runs: no request is paid for twice.

A reply's key is the digest of its request: model, messages and sampling parameters. Replies to requests of
the same scope (the request without the passage) lie together, in one Parquet file per chunk, named by the
digest of the chunk's keys: `<folder>/<scope>/<aa>/<digest>.parquet`. While a chunk is in work its replies go
to part files, `<digest>.<unique>.parquet`, every second, so that a crash loses no more than that. At the end
one file replaces the parts.

So a run with the same chunks finds its replies with one listing and one read per chunk. A run with other
chunks (a larger sample, say) finds them through an index, which is read once a run and takes 12 bytes of
memory per reply. A passage that repeats within a run is found among this actor's own saved replies. Two
actors that meet it at the same time both pay for it: ingest.dedupe removes repeated passages beforehand.
"""

import functools
import hashlib
import json
import re
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import parquet
from uniner.teacher.completion import ChatRequest, Teacher, TeacherReply

_READERS = 16
_FILE = re.compile(r"(?:^|/)[0-9a-f]{32}(?:\.[0-9a-f]{32})?\.parquet$")
_GROUPS_IN_MEMORY = 64
_RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class CachedReply(TeacherReply):
    """A reply in the cache. `run` is the id of the run that paid for it, "" for another chunk's or run's."""

    key: str
    run: str

    @classmethod
    def of(cls, key: str, reply: TeacherReply, run: str) -> "CachedReply":
        """Put a reply under its key."""
        return cls(**asdict(reply), key=key, run=run)


_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in [
            *((name, pa.string()) for name in ("key", "text", "finish_reason", "refusal")),
            *((name, pa.int64()) for name in ("tokens_in", "tokens_out", "attempts")),
            ("run", pa.string()),
        ]
    ]
)


def request_key(request: ChatRequest) -> str:
    """Return the key of a request: a digest of its model, messages and sampling parameters."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def requests_digest(keys: Iterable[str]) -> str:
    """Return the digest of a chunk's keys, in any order: the name of its replies' file."""
    return hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()[:32]


def run_id(stage: Folder) -> str:
    """Return the id under which a run pays, from the stage's folder; write it there at the first call."""
    record = stage.read_sealed_json(
        _RUN, "delete that file and run the same command again; kept replies then count as another run's"
    )
    if record is None:
        record = {"id": uuid.uuid4().hex}
        stage.write_sealed_json(_RUN, record)
    return str(record["id"])


def unpaid_texts(cache: Folder | None, teacher: Teacher, texts: Sequence[str]) -> list[str]:
    """Return the texts that have no reply in a cache; all where there is no cache."""
    if cache is None:
        return list(texts)
    index = ReplyCache(cache, teacher.request("")).read_index()
    return [text for text in texts if not index.groups_of([request_key(teacher.request(text))])]


class TokenCounts(NamedTuple):
    """Tokens of prompts and of replies."""

    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, kw_only=True)
class ReplyIndex:
    """Which files hold a scope's replies.

    groups: the digests that name the files. prefixes: the first 8 bytes of each reply's key, sorted (uint64).
    group_of: for each prefix, its file's place in `groups`. paid: the tokens that the reading run paid for.
    """

    groups: tuple[str, ...]
    prefixes: np.ndarray
    group_of: np.ndarray
    paid: TokenCounts

    def groups_of(self, keys: Collection[str]) -> dict[str, list[str]]:
        """Return the groups that may hold keys, each with those keys."""
        groups: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            first, last = (
                np.searchsorted(self.prefixes, _key_prefix(key), side) for side in ("left", "right")
            )
            for place in range(int(first), int(last)):
                groups[self.groups[self.group_of[place]]].append(key)
        return groups


class ReplyCache:
    """The replies of one scope. Its methods block on storage: call them from a thread."""

    def __init__(self, folder: Folder, scope: ChatRequest, index: ReplyIndex | None = None):
        """`scope` is a request with an empty passage."""
        self._folder = folder / request_key(scope)
        self._index = index
        self._group = functools.lru_cache(_GROUPS_IN_MEMORY)(self._read_group)
        self._saved: dict[str, str] = {}  # since the index was read: key to its group

    def find(self, digest: str, keys: Collection[str]) -> dict[str, CachedReply]:
        """Return the cached replies among the keys of a chunk with a digest.

        A reply from another chunk has no run, as if another run had paid: that chunk counts its cost.
        """
        own = {key: reply for key, reply in self._read_group(digest).items() if key in keys}
        missing = [key for key in keys if key not in own]
        groups = self._index.groups_of(missing) if self._index and missing else {}
        others: dict[str, CachedReply] = {}
        with ThreadPoolExecutor(_READERS) as pool:
            for group_keys, group in zip(groups.values(), pool.map(self._group, groups), strict=True):
                others |= {key: group[key] for key in group_keys if key in group}
        for group in map(self._read_group, {self._saved[key] for key in missing if key in self._saved}):
            others |= {key: group[key] for key in missing if key in group}
        return own | {key: replace(reply, run="") for key, reply in others.items()}

    def save(self, digest: str, replies: Sequence[CachedReply]) -> None:
        """Save some of a chunk's replies as a part file."""
        self._write(digest, f"{digest}.{uuid.uuid4().hex}.parquet", replies)
        self._saved |= dict.fromkeys((reply.key for reply in replies), digest)

    def merge_parts(self, digest: str) -> None:
        """Merge a chunk's part files into one file."""
        names = self._names(digest)
        if len(names) > 1:
            self._write(digest, f"{digest}.parquet", list(self._read_group(digest).values()))
            self._subfolder(digest).remove(name for name in names if name != f"{digest}.parquet")

    def read_index(self, run: str = "") -> ReplyIndex:
        """Read the index of the scope, and count the tokens that a run paid for."""
        columns = ["key", "tokens_in", "tokens_out", "run"]
        with explained(self._folder.url), ThreadPoolExecutor(_READERS) as pool:
            names = [name for name in self._folder.tree() if _FILE.search(name)]
            tables = list(pool.map(functools.partial(self._read_file, columns=columns), names))
        digests = [name.rsplit("/", 1)[-1].split(".", 1)[0] for name in names]
        groups = tuple(dict.fromkeys(digests))
        place_of = {group: place for place, group in enumerate(groups)}
        prefixes: list[int] = []
        places: list[int] = []
        paid: dict[tuple[str, str], TokenCounts] = {}
        for digest, table in zip(digests, tables, strict=True):
            if table is None:
                continue
            for key, tokens_in, tokens_out, payer in zip(
                *(table.column(column).to_pylist() for column in columns), strict=True
            ):
                prefixes.append(_key_prefix(key))
                places.append(place_of[digest])
                if payer == run:  # a key in two groups was paid for twice
                    paid[digest, key] = TokenCounts(tokens_in, tokens_out)
        order = np.argsort(np.array(prefixes, dtype=np.uint64), kind="stable")
        return ReplyIndex(
            groups=groups,
            prefixes=np.array(prefixes, dtype=np.uint64)[order],
            group_of=np.array(places, dtype=np.int32)[order],
            paid=TokenCounts(
                sum(count.tokens_in for count in paid.values()),
                sum(count.tokens_out for count in paid.values()),
            ),
        )

    def _subfolder(self, digest: str) -> Folder:
        # At most 256 folders: a listing stays short, and S3 spreads the load over them.
        return self._folder / digest[:2]

    def _names(self, digest: str) -> list[str]:
        with explained(self._folder.url):
            return [name for name in self._subfolder(digest).sizes() if name.split(".", 1)[0] == digest]

    def _write(self, digest: str, name: str, replies: Sequence[CachedReply]) -> None:
        table = pa.Table.from_pylist([asdict(reply) for reply in replies], schema=_SCHEMA)
        with explained(self._folder.url):
            self._subfolder(digest).write(name, parquet(table))

    def _read_group(self, digest: str) -> dict[str, CachedReply]:
        while True:
            names = self._names(digest)
            read = [self._read(f"{digest[:2]}/{name}") for name in names]
            tables = [table for table in read if table is not None]
            if len(tables) == len(names):
                return {row["key"]: CachedReply(**row) for table in tables for row in table.to_pylist()}
            # A part was removed after the listing: by now the whole file has its replies.

    def _read_file(self, name: str, columns: list[str]) -> pa.Table | None:
        # A part may be removed while the index is read: its replies are in the whole file then.
        whole = re.sub(r"\.[0-9a-f]{32}\.parquet$", ".parquet", name)
        table = self._read(name, columns)
        return self._read(whole, columns) if table is None else table

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table | None:
        try:
            data = self._folder.read(name)
        except FileNotFoundError:
            return None
        return pq.read_table(pa.BufferReader(data), columns=columns)


def _key_prefix(key: str) -> int:
    return int(key[:16], 16)
