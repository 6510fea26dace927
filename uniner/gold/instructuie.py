"""InstructUIE's data sets: {"sentence", "entities": [{"name", "type", "pos": [0, 3]}]}.

Many public copies of the benchmark have this layout. `pos` counts characters, the end is exclusive.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from uniner.gold.json_rows import JsonRow, converted, decoded_rows, id_of
from uniner.gold.records import GoldRow, LeftOut, MarkedSpan, annotated_row

EXAMPLE = '{"sentence": "Ann left", "entities": [{"name": "Ann", "type": "person", "pos": [0, 3]}]}'


class _InstructRow(msgspec.Struct):
    sentence: str
    entities: list[Any]
    id: Any = None


class _NamedPlace(msgspec.Struct):
    name: str
    type: str
    pos: tuple[int, int]


def recognise(row: object) -> bool | None:
    """Tell whether a row has this format."""
    return isinstance(row, dict) and "sentence" in row and isinstance(row.get("entities"), list)


def read(url: str, rows: Iterable[JsonRow]) -> Iterator[GoldRow | LeftOut]:
    """Yield a passage per row."""
    return decoded_rows(url, rows, _InstructRow, EXAMPLE, _read_row)


def _read_row(row: JsonRow, where: str, value: _InstructRow) -> Iterator[GoldRow]:
    def mention(item: object) -> MarkedSpan:
        entity = msgspec.convert(item, _NamedPlace)
        return MarkedSpan(where, *entity.pos, entity.name, entity.type)

    mentions, errors = converted(value.entities, mention, where, EXAMPLE)
    yield annotated_row(row.number, row.place, value.sentence, mentions, id_of(value.id), errors=errors)
