"""JSON rows, and our own format: {"text", "entities": [{"start", "end", "text", "type"}]}, "id" optional."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from uniner.errors import UserError
from uniner.gold.records import GoldEntity, GoldPassage, GoldRow, checked_entity
from uniner.storage.line_reader import BYTE_ORDER_MARK, read_lines, read_whole


class JsonRow(NamedTuple):
    """A row's JSON, its number (from 1), and its place for an error message."""

    number: int
    place: str
    data: bytes


@dataclass(frozen=True)
class _AnnotatedText:
    text: str
    entities: tuple[GoldEntity, ...]
    id: str | int | None = None


def read_rows(url: str, is_list: bool) -> Iterator[JsonRow]:
    """Yield the rows of a JSON file: streamed lines with an object each, or one list, which is read whole.

    Raises:
        UserError: if is_list and the file is not a JSON list.
    """
    if is_list:
        data = read_whole(url).removeprefix(BYTE_ORDER_MARK)
        try:
            entries = msgspec.json.decode(data, type=list[msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{url}: not a JSON list ({error}); fetch or write the file again") from None
        for number, raw in enumerate(entries, start=1):
            yield JsonRow(number, f"entry {number}", bytes(raw))
        return
    for line in read_lines(url):
        data = (line.data or b"").removeprefix(BYTE_ORDER_MARK if not line.number else b"")
        if data and not data.isspace():
            yield JsonRow(line.number + 1, f"line {line.number + 1}", data)


def read(url: str, rows: Iterable[JsonRow]) -> Iterator[GoldRow]:
    """Yield a passage per row; other fields of a row are ignored.

    Raises:
        UserError: naming the row whose fields are wrong or whose offsets do not match the text.
    """
    decoder = msgspec.json.Decoder(_AnnotatedText)
    for row in rows:
        where = f"{url}, {row.place}"
        try:
            annotated = decoder.decode(row.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f'{where}: {error}; a row is {{"text", "entities": [{{"start", "end", "text", "type"}}]}}'
            ) from None
        entities = tuple(
            checked_entity(where, annotated.text, entity.start, entity.end, entity.text, entity.type)
            for entity in annotated.entities
        )
        name = "" if annotated.id is None else str(annotated.id)
        yield GoldRow(row.number, row.place, GoldPassage(annotated.text, entities, name))
