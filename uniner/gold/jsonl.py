"""Our own format: {"text", "entities": [{"start", "end", "text", "type"}]}, "id" optional.

The files that `review import` writes name the `reviewers` of each passage.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from uniner.gold.json_rows import JsonRow, decoded_rows, id_of
from uniner.gold.records import GoldEntity, GoldRow, LeftOut, MarkedSpan, annotated_row

EXAMPLE = '{"text", "entities": [{"start", "end", "text", "type"}]}'


@dataclass(frozen=True)
class _AnnotatedText:
    text: str
    entities: tuple[GoldEntity, ...]
    id: Any = None
    reviewers: Any = None


def recognise(row: object) -> bool | None:
    """Tell whether a row has this format; None: it may, but has no annotation to tell by."""
    if not isinstance(row, dict) or "text" not in row or not isinstance(row.get("entities"), list):
        return False
    entities = row["entities"]
    fields = {"start", "end", "type"}
    return all(isinstance(e, dict) and fields <= e.keys() for e in entities) if entities else None


def read(url: str, rows: Iterable[JsonRow]) -> Iterator[GoldRow | LeftOut]:
    """Yield a passage per row; other fields of a row are ignored."""
    return decoded_rows(url, rows, _AnnotatedText, EXAMPLE, _read_row)


def _read_row(row: JsonRow, where: str, annotated: _AnnotatedText) -> Iterator[GoldRow]:
    mentions = [MarkedSpan(where, e.start, e.end, e.text, e.type) for e in annotated.entities]
    made = annotated_row(row.number, row.place, annotated.text, mentions, id_of(annotated.id))
    reviewed = isinstance(annotated.reviewers, list) and bool(annotated.reviewers)
    yield made._replace(passage=replace(made.passage, reviewed=reviewed))
