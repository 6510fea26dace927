"""doccano's JSONL exports of sequence labelling. Offsets count characters, the end is exclusive.

    {"id": 1, "text": "Ann left", "label": [[0, 3, "person"]]}      also "labels"; older: "data" for "text"
    {"id": 1, "text": "Ann left", "entities": [{"label": "person", "start_offset": 0, "end_offset": 3}]}

Other fields (relations, Comments, cats) are ignored.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from uniner.errors import UserError
from uniner.gold.json_rows import JsonRow, converted, decoded_rows, id_of
from uniner.gold.records import GoldRow, LeftOut, MarkedSpan, annotated_row

EXAMPLE = (
    '{"text", "label": [[0, 3, "person"]]} or {"text", "entities": [{"start_offset", "end_offset", "label"}]}'
)
_LISTS = ("label", "labels", "entities", "annotations")
_OBJECT = {"start_offset", "end_offset", "label"}


class _Triple(msgspec.Struct, array_like=True):
    start: int
    end: int
    label: str


class _Offsets(msgspec.Struct):
    start_offset: int
    end_offset: int
    label: str


def recognise(row: object) -> bool | None:
    """Tell whether a row has this format; None: it may, but has no annotation to tell by."""
    if not isinstance(row, dict) or not isinstance(row.get("text", row.get("data")), str):
        return False
    lists = [(name, row[name]) for name in _LISTS if isinstance(row.get(name), list)]
    filled = [(name, items) for name, items in lists if items]
    return any(_is_annotation(name, items[0]) for name, items in filled) if filled else bool(lists) and None


def read(url: str, rows: Iterable[JsonRow]) -> Iterator[GoldRow | LeftOut]:
    """Yield a passage per row."""
    return decoded_rows(url, rows, dict[str, Any], EXAMPLE, _read_row)


def _is_annotation(name: str, item: object) -> bool:
    if isinstance(item, dict):
        return item.keys() >= _OBJECT
    # `entities` with triples are spaCy's.
    return name != "entities" and isinstance(item, list) and len(item) == 3


def _read_row(row: JsonRow, where: str, value: dict[str, Any]) -> Iterator[GoldRow]:
    text = value.get("text", value.get("data"))
    if not isinstance(text, str):
        raise UserError(f"{where}: has no text; a row is {EXAMPLE}")
    items = (item for name in _LISTS if isinstance(value.get(name), list) for item in value[name])
    mentions, errors = converted(items, partial(_mention, where), where, EXAMPLE)
    yield annotated_row(row.number, row.place, text, mentions, id_of(value.get("id")), errors=errors)


def _mention(where: str, item: object) -> MarkedSpan:
    if isinstance(item, dict):
        offsets = msgspec.convert(item, _Offsets)
        return MarkedSpan(where, offsets.start_offset, offsets.end_offset, None, offsets.label)
    triple = msgspec.convert(item, _Triple)
    return MarkedSpan(where, triple.start, triple.end, None, triple.label)
