"""spaCy's JSON, and what tools around it export. Offsets count characters, the end is exclusive.

    ["Ann left", {"entities": [[0, 3, "PERSON"]]}]          training data of version 2, per line or entry
    {"annotations": [["Ann left", {"entities": ...}], ...], "classes": ...}       from annotation tools
    {"text": "Ann left", "entities": [[0, 3, "PERSON"]]}
    {"text": "Ann left", "ents": [{"start": 0, "end": 3, "label": "PERSON"}]}     Doc.to_json() of version 3
    {"text": "Ann left", "spans": [{"start": 0, "end": 3, "label": "PERSON"}]}    Prodigy
    {"paragraphs": [{"raw": "Ann left", "sentences": [{"tokens": [{"orth": "Ann", "ner": "U-PERSON"}]}]}]}

The last is what version 2 trained on. A paragraph is a passage of its raw text if that has the tokens in
order, otherwise of the tokens joined by blanks; a token's tag `-` (unknown) counts as O.
Prodigy's examples with an answer other than accept are left out and counted as `not_accepted`.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from uniner.errors import UserError
from uniner.gold.json_rows import JsonRow, converted, decoded_rows, id_of
from uniner.gold.records import GoldRow, LeftOut, MarkedSpan, annotated_row
from uniner.gold.tags import SCHEMES, is_tag, located_tokens, token_spans

EXAMPLE = '["Ann left", {"entities": [[0, 3, "PERSON"]]}] or {"text", "ents": [{"start", "end", "label"}]}'
_OBJECT_LISTS = ("ents", "spans")


class _SpacyTriple(msgspec.Struct, array_like=True):
    start: int
    end: int
    label: str


class _SpacySpan(msgspec.Struct):
    start: int
    end: int
    label: str


class _SpacyToken(msgspec.Struct):
    orth: str
    ner: str = "-"


class _SpacySentence(msgspec.Struct):
    tokens: list[_SpacyToken]


class _SpacyParagraph(msgspec.Struct):
    sentences: list[_SpacySentence]
    raw: str | None = None


def recognise(row: object) -> bool | None:
    """Tell whether a row has this format; None: it may, but has no annotation to tell by."""
    if isinstance(row, list):
        return len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], dict) and "entities" in row[1]
    if not isinstance(row, dict):
        return False
    if isinstance(row.get("paragraphs"), list):
        return True
    if "text" not in row:
        return isinstance(row.get("annotations"), list) and any(map(recognise, row["annotations"]))
    lists = [row[name] for name in ("entities", *_OBJECT_LISTS) if isinstance(row.get(name), list)]
    filled = [items[0] for items in lists if items]
    return any(_is_annotation(row, item) for item in filled) if filled else bool(lists) and None


def read(url: str, rows: Iterable[JsonRow]) -> Iterator[GoldRow | LeftOut]:
    """Yield a passage per row or, where a row has several texts, per text."""
    return decoded_rows(url, rows, Any, EXAMPLE, _read_value)  # type: ignore[arg-type]


def _is_annotation(row: dict[str, Any], item: object) -> bool:
    if isinstance(item, dict):
        return {"start", "end", "label"} <= item.keys() and any(item in row.get(n, ()) for n in _OBJECT_LISTS)
    return isinstance(item, list) and len(item) == 3


def _read_value(row: JsonRow, where: str, value: Any) -> Iterator[GoldRow | LeftOut]:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):
        text, value = value[0], value[1]
        yield _text_row(row, where, text, value)
    elif isinstance(value, dict) and isinstance(value.get("paragraphs"), list):
        paragraphs = msgspec.convert(value["paragraphs"], list[_SpacyParagraph])
        for number, paragraph in enumerate(paragraphs, start=1):
            yield _paragraph_row(row, number, where, paragraph)
    elif isinstance(value, dict) and "text" in value:
        if value.get("answer", "accept") != "accept":
            yield LeftOut({"not_accepted": 1})
        else:
            yield _text_row(row, where, value["text"], value, id_of(value.get("id")))
    elif isinstance(value, dict) and isinstance(value.get("annotations"), list):
        for number, annotation in enumerate(filter(None, value["annotations"]), start=1):
            place = f"{where}, annotation {number}"
            if not recognise(annotation):
                raise UserError(f"{place}: must be {EXAMPLE}")
            yield _text_row(row, place, annotation[0], annotation[1], f"{row.number:07d}-{number:05d}")
    else:
        raise UserError(f"{where}: a row is {EXAMPLE}")


def _text_row(row: JsonRow, where: str, text: Any, value: dict[str, Any], name: str = "") -> GoldRow:
    if not isinstance(text, str):
        raise UserError(f"{where}: the text must be a string, not {str(text)[:60]!r}; a row is {EXAMPLE}")
    fields = ("entities", *_OBJECT_LISTS)
    items = (item for field in fields if isinstance(value.get(field), list) for item in value[field])
    mentions, errors = converted(items, partial(_mention, where), where, EXAMPLE)
    return annotated_row(row.number, row.place, text, mentions, name, errors=errors)


def _mention(where: str, item: Any) -> MarkedSpan:
    span: _SpacySpan | _SpacyTriple
    if isinstance(item, dict):
        span = msgspec.convert(item, _SpacySpan)
    else:
        span = msgspec.convert(item, _SpacyTriple)
    return MarkedSpan(where, span.start, span.end, None, span.label)


def _paragraph_row(row: JsonRow, number: int, where: str, paragraph: _SpacyParagraph) -> GoldRow:
    tokens = [token for sentence in paragraph.sentences for token in sentence.tokens]
    words = [token.orth for token in tokens]
    tags = ["O" if token.ner == "-" else token.ner for token in tokens]
    for tag in tags:
        if not is_tag(tag):
            raise UserError(f"{where}: {tag!r} is not a tag; {SCHEMES}")
    text = paragraph.raw or ""
    spans = located_tokens(text, words)
    if spans is None:
        text = " ".join(words)
        spans = located_tokens(text, words) or []
    mentions = [
        MarkedSpan(where, spans[span.first][0], spans[span.after - 1][1], None, span.type)
        for span in token_spans(tags)
    ]
    place = f"{row.place}, paragraph {number}"
    return annotated_row(row.number, place, text, mentions, f"{row.number:07d}-{number:05d}")
