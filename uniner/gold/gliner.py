"""GLiNER's training data: {"tokenized_text": ["Ann", "left"], "ner": [[0, 0, "person"]]}.

Spans count tokens and include their last one. The passage is the tokens joined by blanks.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from uniner.errors import UserError
from uniner.gold.json_rows import JsonRow, converted, decoded_rows, id_of
from uniner.gold.records import GoldRow, LeftOut, MarkedSpan, annotated_row

EXAMPLE = '{"tokenized_text": ["Ann", "left"], "ner": [[0, 0, "person"]]}'


class _GlinerRow(msgspec.Struct):
    tokenized_text: list[str]
    ner: list[Any]
    id: Any = None


class _TokenTriple(msgspec.Struct, array_like=True):
    first: int
    last: int
    label: str


def recognise(row: object) -> bool | None:
    """Tell whether a row has this format."""
    return isinstance(row, dict) and "tokenized_text" in row and "ner" in row


def read(url: str, rows: Iterable[JsonRow]) -> Iterator[GoldRow | LeftOut]:
    """Yield a passage per row."""
    return decoded_rows(url, rows, _GlinerRow, EXAMPLE, _read_row)


def _read_row(row: JsonRow, where: str, value: _GlinerRow) -> Iterator[GoldRow]:
    starts = [0]
    for token in value.tokenized_text:
        starts.append(starts[-1] + len(token) + 1)
    tokens = len(value.tokenized_text)

    def mention(item: object) -> MarkedSpan:
        span = msgspec.convert(item, _TokenTriple)
        if not 0 <= span.first <= span.last < tokens:
            raise UserError(
                f"{where}: the tokens {span.first} to {span.last} are not among the {tokens} of the row; "
                "they count from 0, and the last one is part of the entity"
            )
        return MarkedSpan(where, starts[span.first], starts[span.last + 1] - 1, None, span.label)

    mentions, errors = converted(value.ner, mention, where, EXAMPLE)
    text = " ".join(value.tokenized_text)
    yield annotated_row(row.number, row.place, text, mentions, id_of(value.id), errors=errors)
