"""Read a part of a shard into chunks of passages. From any position it yields the same chunks every time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa

from uniner.ingest.document_reader import CorpusDocument, DocumentRow, RowFields, read_rows
from uniner.ingest.passage_filters import FilterResult, PassageFilter
from uniner.ingest.sampling import SampledSlots, Sampling, text_digest
from uniner.ingest.shards import ShardPart
from uniner.passages import cut_passages
from uniner.records import PASSAGE, Passage, to_table
from uniner.storage.stage_folder import Chunk

DIGEST = pa.field("digest", pa.uint64(), nullable=False)
"""An additional column of candidates: the text digests that select passages."""
CHUNK_REJECTS = 10_000
"""A chunk ends at this number of rejects too, so that a shard of only rejects does not fill memory."""
_ACCEPT_ALL = PassageFilter()


@dataclass(frozen=True)
class ShardPosition:
    """The end of a chunk: reading continues at row `line` with passages whose index is at least `passage`.

    chunk: number of the next chunk. bytes: compressed bytes of the part read so far. last: 1 if the part ends
    here, otherwise 0.
    """

    chunk: int = 0
    line: int = 0
    passage: int = 0
    bytes: int = 0
    last: int = 0


@dataclass(frozen=True)
class IngestSettings:
    """The settings that decide a part's passages. digests: add text digests, for a later selection.

    window_mib: as in `decompression.read_blocks`.
    """

    max_tokens: int
    overlap_tokens: int
    chunk_passages: int
    sampling: Sampling
    fields: RowFields
    max_row_bytes: int
    digests: bool = False
    window_mib: int | None = None


class FilteredPassage(NamedTuple):
    """A passage, and the result of its filters."""

    passage: Passage
    result: FilterResult


def chunk_key(part: int, chunk: int) -> str:
    """Return a chunk's key: the numbers of the part and the chunk, so that keys sort in corpus order."""
    return f"{part:05d}-{chunk:07d}"


def split_key(key: str) -> tuple[int, int]:
    """Return the numbers of the part and the chunk of a chunk's key."""
    part, chunk = map(int, key.split("-"))
    return part, chunk


def read_chunks(
    part: ShardPart,
    start: ShardPosition,
    settings: IngestSettings,
    tokenizer: Any,
    passage_filter: PassageFilter = _ACCEPT_ALL,
) -> Iterator[Chunk]:
    """Yield the chunks of passages of a part from `start` on; the last one may be short or empty.

    Rows before the start are skipped without parsing. figures: lines (rows), documents, sampled documents,
    rejected rows by reason, sampled passages, dropped passages by fault, passages that share text with a
    benchmark by its name (a passage may share text with several), compressed bytes. rejects: shard (file
    name), line (from 1) and reason.

    Raises:
        UserError: if the shard is broken.
    """
    chunk = _ChunkBuilder(part, start, settings)
    row = None
    rows = read_rows(part, settings.fields, settings.max_row_bytes, start.line, settings.window_mib)
    for row in rows:
        if isinstance(row.content, str):
            chunk.reject(row)
            if len(chunk.rejects) == CHUNK_REJECTS:
                yield chunk.finish(row.number + 1, 0, row.bytes_read)
                chunk = chunk.next()
            continue
        first = start.passage if row.number == start.line else 0
        place = f"{part.number:05d}-{row.number:09d}"
        slots = settings.sampling.sample(place, len(row.content.text), row.content.source)
        if not first:
            chunk.count_document(sampled=bool(slots))
        passages = _passages(place, row.content, slots, settings, tokenizer)
        for passage, result in _filtered(passages, passage_filter):
            if passage.passage_index < first:
                continue
            chunk.add(passage, result)
            if len(chunk.passages) == settings.chunk_passages:
                yield chunk.finish(row.number, passage.passage_index + 1, row.bytes_read)
                chunk = chunk.next()
    line, bytes_read = (row.number + 1, row.bytes_read) if row else (start.line, start.bytes)
    yield chunk.finish(line, 0, bytes_read, last=1)


@dataclass
class _ChunkBuilder:
    """A chunk in progress, from the end of the previous one."""

    part: ShardPart
    start: ShardPosition
    settings: IngestSettings
    passages: list[Passage] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    end: ShardPosition = field(default_factory=ShardPosition)

    def count(self, name: str) -> None:
        self.figures[name] = self.figures.get(name, 0) + 1

    def count_document(self, sampled: bool) -> None:
        for name in ("lines", "documents", "documents_chosen")[: 2 + sampled]:
            self.count(name)

    def reject(self, row: DocumentRow) -> None:
        self.count("lines")
        self.count(f"rejected_{row.content}")
        shard, line = self.part.place(row.number)
        self.rejects.append({"shard": shard, "line": line, "reason": row.content})

    def add(self, passage: Passage, result: FilterResult) -> None:
        self.count("passages_sampled")
        for benchmark in result.benchmarks:
            self.count(f"shared_with_{benchmark}")
        if result.fault:
            self.count(f"dropped_{result.fault}")
        else:
            self.passages.append(passage)

    def finish(self, line: int, passage: int, bytes_read: int, last: int = 0) -> Chunk:
        self.end = ShardPosition(self.start.chunk + 1, line, passage, bytes_read, last)
        table = to_table(self.passages, PASSAGE)
        if self.settings.digests:
            seed = self.settings.sampling.seed
            digests = [text_digest(passage.text, seed) for passage in self.passages]
            table = table.append_column(DIGEST, pa.array(digests, DIGEST.type))
        return Chunk(
            chunk_key(self.part.number, self.start.chunk),
            table,
            figures={**self.figures, "bytes_in": bytes_read - self.start.bytes},
            position=dict(vars(self.end)),
            rejects=self.rejects,
        )

    def next(self) -> "_ChunkBuilder":
        return _ChunkBuilder(self.part, self.end, self.settings)


def _filtered(passages: Iterable[Passage], passage_filter: PassageFilter) -> Iterator[FilteredPassage]:
    """Yield a document's passages with their filter results.

    The neighbour of a dropped passage owns their whole overlap; otherwise nobody would own half of it.
    """
    previous: FilteredPassage | None = None
    for passage in passages:
        result = passage_filter.check(passage.text, passage.n_tokens)
        overlaps = previous is not None and passage.char_start < previous.passage.char_end
        if previous and overlaps and bool(result.fault) != bool(previous.result.fault):
            previous = previous._replace(passage=replace(previous.passage, overlap_after=0))
            passage = replace(passage, overlap_before=0)
        if previous:
            yield previous
        previous = FilteredPassage(passage, result)
    if previous:
        yield previous


def _passages(
    place: str, document: CorpusDocument, slots: SampledSlots, settings: IngestSettings, tokenizer: Any
) -> Iterator[Passage]:
    if not slots:
        return
    spans = cut_passages(
        document.text, tokenizer, settings.max_tokens, settings.overlap_tokens, slots.any_between
    )
    for span in spans:
        if slots.contains(span.start):
            passage_id = f"{place}-{span.index:09d}"
            yield span.passage(document.text, passage_id, document.id or place, document.source)
