"""Turn a shard into chunks of passages, from any point on, the same chunks every time."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from uniner.ingest.passages import cut
from uniner.ingest.shards import parse, read_lines
from uniner.records import PASSAGE, Passage, to_table
from uniner.storage import Chunk


@dataclass(frozen=True)
class Position:
    """Where a chunk ends: the next passage to take is number `passage` of line `line`.

    bytes is what was read of the shard; last is 1 where the shard ends here.
    """

    chunk: int = 0
    line: int = 0
    passage: int = 0
    bytes: int = 0
    last: int = 0


@dataclass(frozen=True)
class Recipe:
    """What decides a shard's passages."""

    max_tokens: int
    chunk_passages: int
    sample: float
    seed: int
    text_field: str
    source_field: str


def chunk_key(shard: int, chunk: int) -> str:
    """Return a chunk's key: shard and running number."""
    return f"{shard:05d}-{chunk:05d}"


def chosen(doc_id: str, seed: int, share: float) -> bool:
    """Tell whether a document is in the sample: by its id and the seed alone, on every machine the same."""
    digest = hashlib.blake2b(f"{seed}/{doc_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def read_chunks(url: str, shard: int, start: Position, recipe: Recipe, tokenizer: Any) -> Iterator[Chunk]:
    """Yield the chunks of passages of a shard from `start` on; the last one may be short or even empty.

    Lines before the start are skipped unparsed. figures: lines, documents, chosen documents, rejected lines
    by reason, compressed bytes.

    Raises:
        UserError: where the shard is broken.
    """
    passages: list[Passage] = []
    figures: dict[str, float] = {}
    number, bytes_before, bytes_read = start.chunk, start.bytes, start.bytes

    def chunk(position: Position) -> Chunk:
        found = {**figures, "bytes_in": position.bytes - bytes_before}
        return Chunk(
            chunk_key(shard, number), to_table(passages, PASSAGE), 0.0, found, dict(vars(position).items())
        )

    line_number = start.line
    for line in read_lines(url):
        line_number, bytes_read = line.number + 1, line.bytes_read
        if line.number < start.line:
            continue
        first = start.passage if line.number == start.line else 0
        if not first:
            _count(figures, "lines")
        doc_id = f"{shard:05d}-{line.number:09d}"
        found = parse(line.data, recipe.text_field, recipe.source_field)
        if isinstance(found, str):
            _count(figures, f"rejected_{found}")
            continue
        if not first:
            _count(figures, "documents")
        if not chosen(doc_id, recipe.seed, recipe.sample):
            continue
        if not first:
            _count(figures, "documents_chosen")
        for index, piece in enumerate(cut(found.text, tokenizer, recipe.max_tokens)):
            if index < first:
                continue
            passages.append(
                Passage(
                    f"{doc_id}-{index:05d}",
                    doc_id,
                    index,
                    piece.start,
                    piece.end,
                    found.text[piece.start : piece.end],
                    piece.n_tokens,
                    found.source,
                )
            )
            if len(passages) == recipe.chunk_passages:
                yield chunk(Position(number + 1, line.number, index + 1, bytes_read))
                passages, figures, bytes_before, number = [], {}, bytes_read, number + 1
    yield chunk(Position(number + 1, line_number, 0, bytes_read, last=1))


def _count(figures: dict[str, float], name: str) -> None:
    figures[name] = figures.get(name, 0) + 1
