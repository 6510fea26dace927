"""Consecutive chunks of a stage joined into larger ones, for a later stage whose work on a row is short.

The key of a joined chunk names its members: `00012-0000032x16` joins sixteen chunks from `00012-0000032` on.
Only chunks of the same part are joined, in the order of the corpus, so that a corpus which grows by parts
leaves the joined chunks as they are.
"""

import re
from collections.abc import Sequence

import pyarrow as pa

from uniner.storage.chunk_list import ChunkEntry, ChunkList, ChunkListBuilder
from uniner.storage.stage_folder import Chunk, StageFolder

_KEY = re.compile(r"(.*-)(\d+)")
_JOINED = re.compile(r"(.*-)(\d+)x(\d+)")


def join_chunks(chunks: ChunkList, rows: int) -> ChunkList:
    """Join consecutive chunks of a part until they have so many rows. chunks: in key order.

    With 1 row each chunk stays by itself.
    """
    if rows <= 1:
        return chunks
    builder, members, joined_rows = ChunkListBuilder(), list[ChunkEntry](), 0
    for chunk in chunks:
        if members and (joined_rows >= rows or _next_key(members[-1].key) != chunk.key):
            _add(builder, members)
            members, joined_rows = [], 0
        members.append(chunk)
        joined_rows += chunk.rows
    if members:
        _add(builder, members)
    return ChunkList(builder.table())


def member_keys(key: str) -> list[str]:
    """Return the keys of the chunks that a joined chunk has; of another chunk, its own."""
    match = _JOINED.fullmatch(key)
    if match is None:
        return [key]
    part, first, count = match.groups()
    return [f"{part}{number:0{len(first)}d}" for number in range(int(first), int(first) + int(count))]


def read_joined(folder: StageFolder, key: str) -> Chunk:
    """Read the rows of a joined chunk from its members."""
    return Chunk(key, pa.concat_tables(folder.read_chunk(member).table for member in member_keys(key)))


def read_joined_columns(folder: StageFolder, key: str, names: Sequence[str]) -> pa.Table:
    """Read some columns of a joined chunk from its members."""
    return pa.concat_tables(folder.read_columns(member, names) for member in member_keys(key))


def _next_key(key: str) -> str | None:
    match = _KEY.fullmatch(key)
    return match and f"{match[1]}{int(match[2]) + 1:0{len(match[2])}d}"


def _add(builder: ChunkListBuilder, members: Sequence[ChunkEntry]) -> None:
    first, count = members[0].key, len(members)
    builder.add(
        first if count == 1 else f"{first}x{count}",
        sum(member.rows for member in members),
        sum(member.bytes for member in members),
        "",
    )
