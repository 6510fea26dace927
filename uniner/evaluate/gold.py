"""Gold data sets: JSON lines of {"text", "entities": [{"start", "end", "text", "type"}]} to questions."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa

from uniner.errors import UserError
from uniner.files import explained, filesystem
from uniner.lines import read_lines
from uniner.records import to_table
from uniner.storage import Chunk

ELSE_TYPES = frozenset({"misc", "miscellaneous", "other", "else", "none"})
"""Types that say nothing; the published benchmark leaves them out (recipe: ELSE-like labels)."""


@dataclass(frozen=True)
class GoldEntity:
    """A gold mention: `passage[start:end] == text`."""

    start: int
    end: int
    text: str
    type: str


@dataclass(frozen=True)
class GoldPassage:
    """A gold passage; unknown fields of a line are ignored."""

    text: str
    entities: tuple[GoldEntity, ...]
    id: str | None = None


@dataclass(frozen=True)
class Question:
    """A passage of a data set and a type, with the gold mentions: the unit that is asked and scored."""

    dataset: str
    passage_id: str
    text: str
    type: str
    gold: tuple[str, ...] = field(default=())


QUESTION = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in {
            "dataset": pa.string(),
            "passage_id": pa.string(),
            "text": pa.string(),
            "type": pa.string(),
            "gold": pa.list_(pa.string()),
        }.items()
    ]
)


def read_gold(url: str) -> Iterator[GoldPassage]:
    """Yield the passages of a gold file (plain, .gz or .zst), ELSE-like types left out, each with an id.

    Raises:
        UserError: naming the file, and the line that is wrong.
    """
    decoder = msgspec.json.Decoder(GoldPassage)
    ids: set[str] = set()
    for line in read_lines(url):
        number = line.number + 1
        if not line.data or line.data.isspace():
            continue
        try:
            passage = decoder.decode(line.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{url}, line {number}: {error}") from None
        for entity in passage.entities:
            if entity.start < 0 or passage.text[entity.start : entity.end] != entity.text:
                raise UserError(
                    f"{url}, line {number}: the text from {entity.start} to {entity.end} is "
                    f"{passage.text[max(0, entity.start) : entity.end]!r}, not {entity.text!r}"
                )
        passage_id = passage.id or f"{number:07d}"
        if passage_id in ids:
            raise UserError(f"{url}, line {number}: the id {passage_id!r} was there before")
        ids.add(passage_id)
        kept = tuple(entity for entity in passage.entities if entity.type.strip().lower() not in ELSE_TYPES)
        yield GoldPassage(passage.text, kept, passage_id)


def questions(dataset: str, passages: Sequence[GoldPassage], types: Sequence[str]) -> list[Question]:
    """Ask every type of each passage; a type's gold mentions in the order of the text, each once."""
    return [
        Question(
            dataset,
            passage.id or "",
            passage.text,
            type_name,
            tuple(dict.fromkeys(entity.text for entity in passage.entities if entity.type == type_name)),
        )
        for passage in passages
        for type_name in types
    ]


def cut(dataset: str, url: str, chunk_passages: int, max_passages: int | None) -> Iterator[Chunk]:
    """Cut a data set into chunks of questions; all types of the whole data set are asked of each passage.

    Raises:
        UserError: where the file is wrong, or has no type to ask for.
    """
    passages = list(read_gold(url))
    types = sorted({entity.type for passage in passages for entity in passage.entities})
    if not types:
        raise UserError(f"{url}: the gold data set {dataset} has no entity of a type that can be asked for")
    passages = passages[:max_passages]
    for number, start in enumerate(range(0, len(passages), chunk_passages)):
        some = passages[start : start + chunk_passages]
        table = to_table(questions(dataset, some, types), QUESTION)
        yield Chunk(f"{dataset}-{number:05d}", table, figures={"passages": len(some)})


def digest(url: str) -> str:
    """Return the digest of a gold file's bytes."""
    system, path = filesystem(url)
    with explained(url):
        return hashlib.sha256(system.cat_file(path)).hexdigest()[:16]
