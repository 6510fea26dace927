"""Paid replies, kept on storage for every run: what was answered once is never asked again.

A reply's key is the digest of what was asked: model, messages and sampling parameters. Replies of one kind of
request (`scope`: all of that but the passage) lie together, in Parquet files of a chunk's replies each, named
by the digest of the chunk's keys: `<folder>/<scope>/<aa>/<digest>.parquet`. While a chunk is being worked on
its replies go to parts, `<digest>.<unique>.parquet`, every second, so that a crash loses no more than that;
where there are several, one file takes their place in the end.

So the same passages are found with one listing and one read a chunk, whoever was stopped where. Passages that
are chunked otherwise (a larger sample, say) are found through an index that is read once a run, 12 bytes a
reply in memory; one that comes again in the same run, by what this actor has saved since. Where two actors
meet it at the same time both ask: ingest.dedupe leaves repeated passages out beforehand.
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
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import parquet
from uniner.teacher.completion import Reply

_READERS = 16
_FILE = re.compile(r"(?:^|/)[0-9a-f]{32}(?:\.[0-9a-f]{32})?\.parquet$")
_GROUPS_AT_HAND = 64


@dataclass(frozen=True)
class Kept(Reply):
    """A reply as it is kept; `run` is the id of the run that paid for it."""

    key: str
    run: str

    @classmethod
    def of(cls, key: str, reply: Reply, run: str) -> "Kept":
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


def key_of(request: dict[str, Any]) -> str:
    """Return the key of a request: the same words, model and parameters, the same key."""
    said = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(said.encode(errors="surrogatepass")).hexdigest()[:32]


def digest_of(keys: Iterable[str]) -> str:
    """Return the name of a chunk's replies: it derives from the requests alone."""
    return hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Index:
    """Where the replies of a scope lie: sorted starts of keys (uint64), and for each its group's place."""

    groups: tuple[str, ...]
    starts: np.ndarray
    group_of: np.ndarray
    tokens_paid: tuple[int, int] = (0, 0)

    def groups_of(self, keys: Collection[str]) -> dict[str, list[str]]:
        """Return the groups that may hold keys, each with those keys."""
        found: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            first, last = (np.searchsorted(self.starts, _start(key), side) for side in ("left", "right"))
            for place in range(int(first), int(last)):
                found[self.groups[self.group_of[place]]].append(key)
        return found


class ReplyCache:
    """The replies of one scope. Its calls block on storage: call them from a thread."""

    def __init__(self, folder: Folder, scope: dict[str, Any], index: Index | None = None):
        """`scope` is a request with an empty passage."""
        self._folder = folder / key_of(scope)
        self._index = index
        self._group = functools.lru_cache(_GROUPS_AT_HAND)(self._read_group)
        self._saved: dict[str, str] = {}  # since the index was read: key to its group

    def find(self, digest: str, keys: Collection[str]) -> dict[str, Kept]:
        """Return the kept replies among a chunk's keys; `digest` is the chunk's.

        One from another chunk comes without its run, as if another's: that chunk counts what was paid.
        """
        found = {key: kept for key, kept in self._read_group(digest).items() if key in keys}
        missing = [key for key in keys if key not in found]
        groups = self._index.groups_of(missing) if self._index and missing else {}
        others: dict[str, Kept] = {}
        with ThreadPoolExecutor(_READERS) as pool:
            for (_, some), group in zip(groups.items(), pool.map(self._group, groups), strict=True):
                others |= {key: group[key] for key in some if key in group}
        for group in map(self._read_group, {self._saved[key] for key in missing if key in self._saved}):
            others |= {key: group[key] for key in missing if key in group}
        return found | {key: replace(kept, run="") for key, kept in others.items()}

    def save(self, digest: str, replies: Sequence[Kept]) -> None:
        """Keep some of a chunk's replies."""
        self._write(digest, f"{digest}.{uuid.uuid4().hex}.parquet", replies)
        self._saved |= dict.fromkeys((kept.key for kept in replies), digest)

    def fold(self, digest: str) -> None:
        """Put what was saved of a chunk bit by bit into one file."""
        names = self._names(digest)
        if len(names) > 1:
            self._write(digest, f"{digest}.parquet", list(self._read_group(digest).values()))
            self._place(digest).remove(name for name in names if name != f"{digest}.parquet")

    def read_index(self, run: str) -> Index:
        """Read where all replies of the scope lie, and the tokens (in, out) that a run paid for."""
        names = [name for name in self._folder.tree() if _FILE.search(name)]
        columns = ["key", "tokens_in", "tokens_out", "run"]
        with ThreadPoolExecutor(_READERS) as pool:
            tables = list(pool.map(functools.partial(self._read_file, columns=columns), names))
        groups = tuple(dict.fromkeys(name.rsplit("/", 1)[-1].split(".", 1)[0] for name in names))
        place_of = {group: place for place, group in enumerate(groups)}
        starts, places, paid = [], [], {}
        for name, table in zip(names, tables, strict=True):
            if table is None:
                continue
            place = place_of[name.rsplit("/", 1)[-1].split(".", 1)[0]]
            for key, tokens_in, tokens_out, paid_by in zip(
                *(table.column(column).to_pylist() for column in columns), strict=True
            ):
                starts.append(_start(key))
                places.append(place)
                if paid_by == run:  # a key in two groups was paid for twice
                    paid[place, key] = (tokens_in, tokens_out)
        order = np.argsort(np.array(starts, dtype=np.uint64), kind="stable")
        return Index(
            groups,
            np.array(starts, dtype=np.uint64)[order],
            np.array(places, dtype=np.int32)[order],
            (sum(tokens for tokens, _ in paid.values()), sum(tokens for _, tokens in paid.values())),
        )

    def _place(self, digest: str) -> Folder:
        # Some hundred folders: a listing stays short, and S3 spreads the load over them.
        return self._folder / digest[:2]

    def _names(self, digest: str) -> list[str]:
        with explained(self._folder.url):
            return [name for name in self._place(digest).sizes() if name.split(".", 1)[0] == digest]

    def _write(self, digest: str, name: str, replies: Sequence[Kept]) -> None:
        table = pa.Table.from_pylist([asdict(kept) for kept in replies], schema=_SCHEMA)
        with explained(self._folder.url):
            self._place(digest).write(name, parquet(table))

    def _read_group(self, digest: str) -> dict[str, Kept]:
        while True:
            names = self._names(digest)
            tables = [self._read(f"{digest[:2]}/{name}") for name in names]
            standing = [table for table in tables if table is not None]
            if len(standing) == len(names):
                return {row["key"]: Kept(**row) for table in standing for row in table.to_pylist()}
            # A part went while it was being read: the whole file stands in its place by now.

    def _read_file(self, name: str, columns: list[str]) -> pa.Table | None:
        # A part may go while the index is read: its replies are in the whole file then.
        whole = re.sub(r"\.[0-9a-f]{32}\.parquet$", ".parquet", name)
        table = self._read(name, columns)
        return self._read(whole, columns) if table is None else table

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table | None:
        try:
            data = self._folder.read(name)
        except FileNotFoundError:
            return None
        return pq.read_table(pa.BufferReader(data), columns=columns)


def _start(key: str) -> int:
    return int(key[:16], 16)
