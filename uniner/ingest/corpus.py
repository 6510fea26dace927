"""The corpus: its shards in the order of their numbers, which a run records, and the shards added later.

Passages are named by the number of their shard's part, so a shard keeps its number for ever: files that are
added get the next numbers, wherever a glob sorts them.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from uniner.errors import UserError
from uniner.ingest.shards import ShardDigest, ShardPart
from uniner.storage.manifest import Identity

SHARDS, APPENDED = "ingest.shards", "ingest.appended"
"""Inputs of an identity: the shards' digests by number and name, and the numbers with which each addition
begins; the latter only where there is one."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Shards by number, with their digests. appended: the numbers with which each addition begins.

    new: how many of the last shards the run did not have before.
    """

    files: Sequence[str]
    digests: Sequence[ShardDigest]
    appended: tuple[int, ...] = ()
    new: int = 0

    def inputs(self) -> dict[str, Any]:
        """Return what an identity says of the shards."""
        names = (f"{number:05d} {_name(file)}" for number, file in enumerate(self.files))
        shards = {name: asdict(digest) for name, digest in zip(names, self.digests, strict=True)}
        return {SHARDS: shards} | ({APPENDED: list(self.appended)} if self.appended else {})

    def before(self) -> "Corpus":
        """Return the corpus without its new shards."""
        kept = len(self.files) - self.new
        return replace(
            self,
            files=self.files[:kept],
            digests=self.digests[:kept],
            appended=tuple(start for start in self.appended if start < kept),
            new=0,
        )

    def split(
        self,
        split: Callable[[Sequence[str], Sequence[int], int, str | None], list[ShardPart]],
        generated: Callable[[int], list[ShardPart]],
    ) -> list[ShardPart]:
        """Divide the corpus into parts: the shards at the beginning, generated passages, then each addition.

        split: divides files of these sizes into parts numbered from a first number on; the folder of all text
        files may be given. generated: the parts of generated passages, numbered from a first number on.
        """
        parts: list[ShardPart] = []
        root = None
        for start, end in itertools.pairwise([0, *self.appended, len(self.files)]):
            sizes = [digest.bytes for digest in self.digests[start:end]]
            parts += split(self.files[start:end], sizes, len(parts), root)
            # The ids of text files are their paths below it.
            root = root or next((part.root for part in parts if part.kind == "text"), None)
            if start == 0:
                parts += generated(len(parts))
        return parts


def arrange(
    files: Sequence[str],
    digests: Sequence[ShardDigest],
    begun: Identity | None,
    url: str,
    append: bool = False,
) -> Corpus:
    """Return the corpus of these files, in the order in which the run began with them.

    url: the stage's folder, for messages. append: files may be new; they come last.

    Raises:
        UserError: naming a file that is gone, has changed or is new.
    """
    if begun is None:
        return Corpus(files=files, digests=digests)
    recorded = sorted(begun.inputs[SHARDS].items(), key=lambda shard: int(shard[0].split(" ", 1)[0]))
    places = _places(recorded, files, digests, url)
    new = [place for place in range(len(files)) if place not in set(places)]
    if new and not append:
        raise UserError(
            f"ingest: the shards are others than those {url} was begun with ({_name(files[new[0]])} is new); "
            "to add what is new to that run: uniner ingest CONFIG --append; otherwise take another run.name"
        )
    appended = tuple(begun.inputs.get(APPENDED, ()))
    order = [*places, *new]
    return Corpus(
        files=[files[place] for place in order],
        digests=[digests[place] for place in order],
        appended=(*appended, len(places)) if new else appended,
        new=len(new),
    )


def _places(
    recorded: Sequence[tuple[str, Mapping[str, Any]]],
    files: Sequence[str],
    digests: Sequence[ShardDigest],
    url: str,
) -> list[int]:
    """Return the place among the files of each recorded shard. Files of two folders may share a name."""
    free: dict[str, list[int]] = {}
    for place, file in enumerate(files):
        free.setdefault(_name(file), []).append(place)
    found: dict[str, int] = {}
    for numbered, digest in recorded:
        candidates = free.get(numbered.split(" ", 1)[1], [])
        same = next((place for place in candidates if asdict(digests[place]) == digest), None)
        if same is not None:
            candidates.remove(same)
            found[numbered] = same
    for numbered, digest in recorded:
        if numbered in found:
            continue
        name = numbered.split(" ", 1)[1]
        if other := free.get(name):
            raise UserError(
                f"ingest: the shard {name} has changed since {url} was begun ({digest['bytes']:,} bytes "
                f"then, {digests[other[0]].bytes:,} now); put the old file back, or take another run.name"
            )
        raise UserError(
            f"ingest: the shards are others than those {url} was begun with ({name} is gone); put the file "
            "back, or take another run.name"
        )
    return [found[numbered] for numbered, _ in recorded]


def _name(file: str) -> str:
    return PurePosixPath(file).name
