"""Reasons to look at a passage, from columns of tagged chunks: unsure, in disagreement, or against a rule.

Each function returns a table (row, type, priority): for which of its types a row of the chunk is worth a
look, and how much. Arrow and numpy, so that a driver reads a million entities in seconds.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniner.errors import UserError
from uniner.records import BY_RULE, RETYPED

_SIGNAL = pa.schema([("row", pa.int64()), ("type", pa.string()), ("priority", pa.float64())])


class _Mention(NamedTuple):
    row: int
    start: int
    end: int
    type: str


def unsure(tagged: pa.Table) -> pa.Table:
    """Return how unsure the student is: the sum of its entities' binary entropies, in bits.

    An entity with a score of 0.5 adds one bit, one of 0.99 a twelfth of that. tagged: with `entities`.
    """
    rows, entities = _grounded(tagged)
    scores = np.clip(pc.struct_field(entities, "score").to_numpy(zero_copy_only=False), 1e-9, 1 - 1e-9)
    bits = -(scores * np.log2(scores) + (1 - scores) * np.log2(1 - scores))
    return _summed(rows, pc.struct_field(entities, "type"), bits)


def disagree(tagged: pa.Table, other: pa.Table) -> pa.Table:
    """Return how far two runs differ: the sum of the scores of the entities that only one of them has."""
    first, second = _scores(tagged), _scores(other)
    only = first.keys() ^ second.keys()
    return _table((mention, first.get(mention, second.get(mention, 0.0))) for mention in sorted(only))


def rule_conflicts(tagged: pa.Table) -> pa.Table:
    """Return the number of a row's entities on which a rule and the model differ.

    These are the entities whose type a rule changed, and those by a rule that a different one of the model
    overlaps.
    """
    rows, entities = _grounded(tagged)
    groundings = pc.struct_field(entities, "grounding")
    if not pc.any(pc.is_in(groundings, pa.array([BY_RULE, RETYPED]))).as_py():
        return _SIGNAL.empty_table()
    mentions = defaultdict[tuple[int, str], list[_Mention]](list)
    for row, entity in zip(rows.tolist(), entities.to_pylist(), strict=True):
        mention = _Mention(row, entity["start"], entity["end"], entity["type"])
        origin = entity["grounding"] if entity["grounding"] in (BY_RULE, RETYPED) else ""
        mentions[row, origin].append(mention)
    return _table(
        (mention, 1.0)
        for (row, origin), found in list(mentions.items())
        for mention in found
        if origin == RETYPED
        or (origin == BY_RULE and any(_conflict(mention, other) for other in mentions[row, ""]))
    )


def aligned(tables: Iterable[pa.Table], sizes: Iterable[int]) -> Iterator[pa.Table]:
    """Cut a stream of tables into tables of the given numbers of rows: two runs may have other chunks.

    Raises:
        UserError: where there are fewer rows.
    """
    source, held = iter(tables), list[pa.Table]()
    for size in sizes:
        while not held or sum(table.num_rows for table in held) < size:
            table = next(source, None)
            if table is None:
                raise UserError(
                    "the other run has fewer passages; review.against must have the same passages"
                )
            held.append(table)
        joined = pa.concat_tables(held)
        yield joined.slice(0, size)
        held = [joined.slice(size)]


def _conflict(first: _Mention, second: _Mention) -> bool:
    return first != second and first.start < second.end and second.start < first.end


def _grounded(tagged: pa.Table) -> tuple[np.ndarray, pa.StructArray]:
    """Return the grounded entities, and the row of each."""
    entities = tagged["entities"].combine_chunks()
    rows, flat = pc.list_parent_indices(entities), pc.list_flatten(entities)
    grounded = pc.greater_equal(pc.struct_field(flat, "start"), 0)
    return rows.filter(grounded).to_numpy(), flat.filter(grounded)


def _scores(tagged: pa.Table) -> dict[_Mention, float]:
    rows, entities = _grounded(tagged)
    columns = [pc.struct_field(entities, name).to_pylist() for name in ("start", "end", "type", "score")]
    return {
        _Mention(row, start, end, name): score
        for row, start, end, name, score in zip(rows.tolist(), *columns, strict=True)
    }


def _table(priorities: Iterable[tuple[_Mention, float]]) -> pa.Table:
    found = list(priorities)
    return _summed(
        [mention.row for mention, _ in found],
        [mention.type for mention, _ in found],
        [priority for _, priority in found],
    )


def _summed(rows: object, types: object, priorities: object) -> pa.Table:
    columns = zip(_SIGNAL, (rows, types, priorities), strict=True)
    table = pa.table([pa.array(values, field.type) for field, values in columns], schema=_SIGNAL)
    summed = table.group_by(["row", "type"], use_threads=False).aggregate([("priority", "sum")])
    return summed.rename_columns({"priority_sum": "priority"}).select(_SIGNAL.names)
