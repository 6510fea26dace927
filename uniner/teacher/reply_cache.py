"""The cache of paid replies, shared by all runs: no request is paid for twice.

A reply's key is the digest of its request: model, messages and sampling parameters. Replies to requests of
the same scope (the request without the passage, and the server's address) lie together, in one Parquet file
per chunk, named by the digest of the chunk's keys: `<folder>/<scope>/<aa>/<digest>.<unique>.sealed.parquet`.
While a chunk is in work its replies go to such a file every second, so that a crash loses no more than that.
At the end one more file replaces these parts. No file is overwritten, as another run may be at work on the
same chunk.

So a run with the same chunks finds its replies with one listing and one read per chunk. A run with other
chunks (a larger sample, say) finds them through an index, which is read once a run and takes 12 bytes of
memory per reply. A passage that repeats within a run is found among this actor's own saved replies. Two
actors that meet it at the same time both pay for it: ingest.dedupe removes repeated passages beforehand.

Files are sealed (`sealed_parquet`). A broken one is set aside as `<name>.broken`, and its requests are asked
again. Earlier versions had no seals, no addresses in their scopes, and kept failed tries: their replies are
found, the failed tries are not.
"""

import functools
import hashlib
import json
import logging
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniner.errors import UserError, printable
from uniner.storage.filesystem import explained, filesystem
from uniner.storage.folder import Folder
from uniner.storage.sealed_json import BrokenFileError
from uniner.storage.sealed_parquet import read_sealed, sealed_parquet
from uniner.storage.trouble import patiently
from uniner.teacher.completion import ChatRequest, Teacher, TeacherReply, TokenCounts
from uniner.teacher.completion_reader import failure_of

log = logging.getLogger(__name__)

_READERS = 16
_FILE = re.compile(r"(?:^|/)[0-9a-f]{32}(?:\.[0-9a-f]{32})?(?:\.sealed)?\.parquet$")
_SEALED = ".sealed.parquet"
_PORTS = {"http": 80, "https": 443}
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
        _RUN,
        "delete that file and run the same command again; replies in the cache then count as another run's",
    )
    if record is None:
        record = {"id": uuid.uuid4().hex}
        stage.write_sealed_json(_RUN, record)
    return str(record["id"])


def server_address(url: str) -> str:
    """Return the address by which a scope knows a server: without credentials, query and default port."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    port = "" if parts.port in (None, _PORTS.get(scheme)) else f":{parts.port}"
    return f"{scheme}://{host}{port}{parts.path.rstrip('/')}"


def unpaid_texts(cache: Folder | None, teacher: Teacher, texts: Sequence[str]) -> list[str]:
    """Return the texts that have no reply in a cache; all where there is no cache."""
    if cache is None:
        return list(texts)
    index = ReplyCache.of(cache, teacher).read_index()
    return [text for text in texts if not index.groups_of([request_key(teacher.request(text))])]


@dataclass(frozen=True, kw_only=True)
class ReplyIndex:
    """Which files hold a scope's replies.

    groups: the digests that name the files. prefixes: the first 8 bytes of each reply's key, sorted (uint64).
    group_of: for each prefix, its file's place in `groups`. paid: the tokens that the reading run paid for.
    scopes: the scopes that have files, of this version and of earlier ones.
    """

    groups: tuple[str, ...]
    prefixes: np.ndarray
    group_of: np.ndarray
    paid: TokenCounts
    scopes: tuple[str, ...]

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

    def __init__(
        self, folder: Folder, request: ChatRequest, index: ReplyIndex | None = None, server: str = ""
    ):
        """request: the scope's, with an empty passage. server: its address, "" for a model without one.

        `warn` is called with a line about a broken file.
        """
        earlier = request_key(request)
        self._scope = _scope_key(request, server) if server else earlier
        scopes = dict.fromkeys((self._scope, earlier))
        self._scopes = [scope for scope in scopes if index is None or scope in (self._scope, *index.scopes)]
        self._folder, self._index = folder, index
        self._group = functools.lru_cache(_GROUPS_IN_MEMORY)(self._read_group)
        self._saved: dict[str, str] = {}  # since the index was read: key to its group
        self._ignored: set[str] = set()
        self.warn: Callable[[str], None] = log.warning

    @classmethod
    def of(cls, folder: Folder, teacher: Teacher, index: ReplyIndex | None = None) -> "ReplyCache":
        """Return the cache of a teacher's replies."""
        return cls(folder, teacher.request(""), index, teacher.server)

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
        self._write(_new_name(digest), replies)
        self._saved |= dict.fromkeys((reply.key for reply in replies), digest)

    def merge_parts(self, digest: str) -> None:
        """Merge a chunk's part files into one file."""
        own = [name for name in self._names(digest) if name.startswith(self._scope)]
        if len(own) > 1:
            files = self._read_files(own)
            if files is None:  # another run merges them
                return
            replies = _replies(table for _, table in files)
            self._write(_new_name(digest), list(replies.values()))
            self._folder.remove(own)

    def read_index(self, run: str = "") -> ReplyIndex:
        """Read the index of the scope, and count the tokens that a run paid for."""
        columns = ["key", "tokens_in", "tokens_out", "run"]
        with explained(self._folder.url), ThreadPoolExecutor(_READERS) as pool:
            names = [
                f"{scope}/{name}"
                for scope in self._scopes
                for name in (self._folder / scope).tree()
                if _FILE.search(name)
            ]
            tables = list(pool.map(functools.partial(self._read, columns=columns), names))
            # A part may have been replaced while the index was read: its group is read again.
            replaced = {
                _digest_in(name)
                for name, table in zip(names, tables, strict=True)
                if table is None and name not in self._ignored
            }
            kept = [
                (name, table)
                for name, table in zip(names, tables, strict=True)
                if table is not None and _digest_in(name) not in replaced
            ]
            for digest in replaced:
                kept += self._read_whole(digest, columns)
        digests = [_digest_in(name) for name, _ in kept]
        groups = tuple(dict.fromkeys(digests))
        place_of = {group: place for place, group in enumerate(groups)}
        prefixes: list[int] = []
        places: list[int] = []
        paid: dict[tuple[str, str], TokenCounts] = {}
        for digest, (_, table) in zip(digests, kept, strict=True):
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
            scopes=tuple({name.split("/", 1)[0] for name in names}),
        )

    def _names(self, digest: str) -> list[str]:
        """Return the files of a group, in all scopes; those of earlier versions first."""
        names = []
        with explained(self._folder.url):
            for scope in reversed(self._scopes):
                # At most 256 folders: a listing stays short, and S3 spreads the load over them.
                subfolder = f"{scope}/{digest[:2]}"
                listed = (name for name in (self._folder / subfolder).sizes() if _FILE.search(name))
                names += [f"{subfolder}/{name}" for name in listed if _digest_in(name) == digest]
        return [name for name in names if name not in self._ignored]

    def _write(self, name: str, replies: Sequence[CachedReply]) -> None:
        table = pa.Table.from_pylist([asdict(reply) for reply in replies], schema=_SCHEMA)
        with explained(self._folder.url):
            self._folder.write(f"{self._scope}/{name[:2]}/{name}", sealed_parquet(table))

    def _read_group(self, digest: str) -> dict[str, CachedReply]:
        return _replies(table for _, table in self._read_whole(digest))

    def _read_whole(self, digest: str, columns: list[str] | None = None) -> list[tuple[str, pa.Table]]:
        """Return the names and rows of all files of a group."""
        while True:
            files = self._read_files(self._names(digest), columns)
            if files is not None:
                return files
            # A part was removed after the listing: by now another file has its replies.

    def _read_files(
        self, names: Sequence[str], columns: list[str] | None = None
    ) -> list[tuple[str, pa.Table]] | None:
        """Return the names and rows of files; None where one is missing."""
        files = [(name, self._read(name, columns)) for name in names]
        return None if any(table is None for _, table in files) else files

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table | None:
        """Return a file's rows; None where it is missing, also because it is broken and was set aside."""
        try:
            data = self._folder.read(name)
        except FileNotFoundError:
            return None
        try:
            if name.endswith(_SEALED):
                return read_sealed(pa.BufferReader(data), columns)[0]
            return _unsealed(data, columns or _SCHEMA.names)
        except (BrokenFileError, pa.ArrowException, OSError) as error:
            self._set_aside(name, " ".join(str(error).split())[:160])
            return None

    def _set_aside(self, name: str, reason: str) -> None:
        """Rename a broken file, so that no run reads it again."""
        address = self._folder.path(name)
        system, path = filesystem(address)
        self._ignored.add(name)  # also where it cannot be renamed
        try:
            patiently(address, None, system.mv, path, f"{path}.broken")
            done = f"it is set aside as {name.rsplit('/', 1)[-1]}.broken"
        except FileNotFoundError:
            return  # another process was faster
        except (OSError, UserError) as error:
            done = f"it cannot be renamed ({error}) and is passed over"
        self.warn(
            f"{printable(address)}: a file of the reply cache is broken ({reason}); {done}, and its requests "
            "are asked again"
        )


def _unsealed(data: bytes, columns: list[str]) -> pa.Table:
    """Return the rows of a file of an earlier version, which has no seal."""
    table = pq.read_table(pa.BufferReader(data), columns=columns)
    table.validate(full=True)
    if [(field.name, field.type) for field in table.schema] != [
        (name, _SCHEMA.field(name).type) for name in columns
    ]:
        raise BrokenFileError("it has other columns")
    return table


def _replies(tables: Iterable[pa.Table]) -> dict[str, CachedReply]:
    """Return the replies in files, without failed tries."""
    return {
        row["key"]: CachedReply(**row)
        for table in tables
        for row in table.to_pylist()
        if not failure_of(row["text"], row["finish_reason"], row["refusal"])
    }


def _new_name(digest: str) -> str:
    return f"{digest}.{uuid.uuid4().hex}{_SEALED}"


def _scope_key(request: ChatRequest, server: str) -> str:
    return request_key({**request, "server": server})  # type: ignore[typeddict-unknown-key]


def _digest_in(name: str) -> str:
    return name.rsplit("/", 1)[-1].split(".", 1)[0]


def _key_prefix(key: str) -> int:
    return int(key[:16], 16)
