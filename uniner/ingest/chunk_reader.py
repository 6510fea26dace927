"""Turn a part of a shard into chunks of passages, from any point on, the same chunks every time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from uniner.ingest.dedup_sample import digest
from uniner.ingest.document_reader import Document, Fields, Row, read_rows
from uniner.ingest.passage_filters import Hygiene
from uniner.ingest.sampling import Chosen, Sampling
from uniner.ingest.shards import Part
from uniner.passages import cut
from uniner.records import PASSAGE, Passage, to_table
from uniner.storage.stage_folder import Chunk

DIGEST = pa.field("digest", pa.uint64(), nullable=False)
"""The column that candidates have beside a passage's: the digest that the selection goes by."""
CHUNK_REJECTS = 10_000
"""A chunk ends at so many rejects too: a shard of nothing else would otherwise gather them in memory."""


_EVERYTHING_GOES = Hygiene()


@dataclass(frozen=True)
class Position:
    """Where a chunk ends: the next passage to take is one of row `line` with an index of `passage` or more.

    bytes is what was read of the part; last is 1 where the part ends here.
    """

    chunk: int = 0
    line: int = 0
    passage: int = 0
    bytes: int = 0
    last: int = 0


@dataclass(frozen=True)
class Recipe:
    """What decides a part's passages. With digests they are candidates, of which some will be selected."""

    max_tokens: int
    overlap_tokens: int
    chunk_passages: int
    sampling: Sampling
    fields: Fields
    max_row_bytes: int
    digests: bool = False


def chunk_key(part: int, chunk: int) -> str:
    """Return a chunk's key: the part's number and a running one, in whose order the corpus is."""
    return f"{part:05d}-{chunk:07d}"


def read_chunks(
    part: Part, start: Position, recipe: Recipe, tokenizer: Any, hygiene: Hygiene = _EVERYTHING_GOES
) -> Iterator[Chunk]:
    """Yield the chunks of passages of a part from `start` on; the last one may be short or even empty.

    Rows before the start are skipped unparsed. figures: lines (rows), documents, chosen documents, rejected
    rows by reason, passages in the sample, dropped ones by fault, those that share text with a benchmark by
    its name (one may share with several), compressed bytes. rejects: shard (file name), line (from 1) and
    reason.

    Raises:
        UserError: where the shard is broken.
    """
    chunk = _Building(part, start, recipe)
    row = None
    for row in read_rows(part, recipe.fields, recipe.max_row_bytes, start.line):
        first = start.passage if row.number == start.line else 0
        if not first:
            chunk.count("lines")
        if isinstance(row.found, str):
            chunk.reject(row)
            if len(chunk.rejects) == CHUNK_REJECTS:
                yield chunk.done(row.number + 1, 0, row.bytes_read)
                chunk = chunk.next()
            continue
        if not first:
            chunk.count("documents")
        place = f"{part.number:05d}-{row.number:09d}"
        chosen = recipe.sampling.choose(place, len(row.found.text), row.found.source)
        if not chosen:
            continue
        if not first:
            chunk.count("documents_chosen")
        pieces = _passages(place, row.found, chosen, recipe, tokenizer)
        for passage, fault, shared in _judged(pieces, hygiene):
            if passage.passage_index < first:
                continue
            chunk.count("passages_sampled")
            for benchmark in shared:
                chunk.count(f"shared_with_{benchmark}")
            if fault:
                chunk.count(f"dropped_{fault}")
                continue
            chunk.passages.append(passage)
            if len(chunk.passages) == recipe.chunk_passages:
                yield chunk.done(row.number, passage.passage_index + 1, row.bytes_read)
                chunk = chunk.next()
    line, bytes_read = (row.number + 1, row.bytes_read) if row else (start.line, start.bytes)
    yield chunk.done(line, 0, bytes_read, last=1)


@dataclass
class _Building:
    """A chunk that is being filled, from the position where the one before it ended."""

    part: Part
    start: Position
    recipe: Recipe
    passages: list[Passage] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    end: Position = field(default_factory=Position)

    def count(self, name: str) -> None:
        self.figures[name] = self.figures.get(name, 0) + 1

    def reject(self, row: Row) -> None:
        self.count(f"rejected_{row.found}")
        shard, line = self.part.place(row.number)
        self.rejects.append({"shard": shard, "line": line, "reason": row.found})

    def done(self, line: int, passage: int, bytes_read: int, last: int = 0) -> Chunk:
        self.end = Position(self.start.chunk + 1, line, passage, bytes_read, last)
        table = to_table(self.passages, PASSAGE)
        if self.recipe.digests:
            digests = [digest(passage.text, self.recipe.sampling.seed) for passage in self.passages]
            table = table.append_column(DIGEST, pa.array(digests, DIGEST.type))
        return Chunk(
            chunk_key(self.part.number, self.start.chunk),
            table,
            figures={**self.figures, "bytes_in": bytes_read - self.start.bytes},
            position=dict(vars(self.end)),
            rejects=self.rejects,
        )

    def next(self) -> "_Building":
        return _Building(self.part, self.end, self.recipe)


def _judged(passages: Iterable[Passage], hygiene: Hygiene) -> Iterator[tuple[Passage, str | None, list[str]]]:
    """Yield a document's passages, each with its fault and the benchmarks that it shares text with.

    What one that is dropped had in common with its neighbours is theirs alone: else half of it were no one's.
    """
    before: tuple[Passage, str | None, list[str]] | None = None
    for passage in passages:
        fault, shared = hygiene.fault(passage.text, passage.n_tokens)
        if before and passage.char_start < before[0].char_end and bool(fault) != bool(before[1]):
            before = (replace(before[0], overlap_after=0), *before[1:])
            passage = replace(passage, overlap_before=0)
        if before:
            yield before
        before = passage, fault, shared
    if before:
        yield before


def _passages(
    place: str, document: Document, chosen: Chosen, recipe: Recipe, tokenizer: Any
) -> Iterator[Passage]:
    pieces = cut(document.text, tokenizer, recipe.max_tokens, recipe.overlap_tokens, chosen.any_between)
    for piece in pieces:
        if chosen.has(piece.start):
            yield Passage(
                passage_id=f"{place}-{piece.index:09d}",
                doc_id=document.id or place,
                passage_index=piece.index,
                char_start=piece.start,
                char_end=piece.end,
                text=document.text[piece.start : piece.end],
                n_tokens=piece.n_tokens,
                source=document.source,
                overlap_before=piece.overlap_before,
                overlap_after=piece.overlap_after,
            )
