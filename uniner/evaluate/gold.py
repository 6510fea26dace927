"""Gold passages to questions: the unit that is asked and scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from uniner.gold.reader import left_out, read_gold
from uniner.gold.records import GoldPassage
from uniner.records import to_table
from uniner.storage import Chunk


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


def questions(dataset: str, passages: Sequence[GoldPassage], types: Sequence[str]) -> list[Question]:
    """Ask every type of each passage; a type's gold mentions in the order of the text, each once.

    A passage of a file that asks questions itself is asked these, with the answers that the file has.
    """
    return [
        Question(dataset, passage.id, passage.text, type_name, gold)
        for passage in passages
        for type_name, gold in (_every(passage, types) if passage.asked is None else passage.asked)
    ]


def _every(passage: GoldPassage, types: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (name, tuple(dict.fromkeys(entity.text for entity in passage.entities if entity.type == name)))
        for name in types
    ]


def cut(dataset: str, url: str, chunk_passages: int, max_passages: int | None) -> Iterator[Chunk]:
    """Cut a data set into chunks of questions; all types of the whole data set are asked of each passage.

    figures: passages, and left_out_<reason> (annotations that are no entity that can be asked for).

    Raises:
        UserError: where the data set is wrong, or has no type to ask for.
    """
    passages = list(read_gold(url))
    types = sorted({entity.type for passage in passages for entity in passage.entities})
    passages = passages[:max_passages]
    for number, start in enumerate(range(0, len(passages), chunk_passages)):
        some = passages[start : start + chunk_passages]
        table = to_table(questions(dataset, some, types), QUESTION)
        yield Chunk(f"{dataset}-{number:05d}", table, figures={"passages": len(some), **left_out(some)})
