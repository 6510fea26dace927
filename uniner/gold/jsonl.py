"""Our own format: JSON rows of {"text", "entities": [{"start", "end", "text", "type"}]}, "id" if wanted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from uniner.errors import UserError
from uniner.gold.json_rows import Row
from uniner.gold.records import Found, GoldEntity, GoldPassage, entity


@dataclass(frozen=True)
class _Passage:
    text: str
    entities: tuple[GoldEntity, ...]
    id: str | None = None


def read(url: str, rows: Iterable[Row]) -> Iterator[Found]:
    """Yield a passage a row; a row's other fields are ignored.

    Raises:
        UserError: naming the row that is none, or whose offsets do not fit.
    """
    decoder = msgspec.json.Decoder(_Passage)
    for row in rows:
        where = f"{url}, {row.place}"
        try:
            found = decoder.decode(row.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f'{where}: {error}; a row is {{"text", "entities": [{{"start", "end", "text", "type"}}]}}'
            ) from None
        entities = tuple(
            entity(where, found.text, one.start, one.end, one.text, one.type) for one in found.entities
        )
        yield Found(row.number, row.place, GoldPassage(found.text, entities, found.id or ""))
