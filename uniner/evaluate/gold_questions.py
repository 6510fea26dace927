"""Gold passages to questions: the unit that is asked and scored."""

import random
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from uniner.gold.catalogue import label_renamer
from uniner.gold.reader import count_left_out, read_gold
from uniner.gold.records import GoldPassage
from uniner.records import QUESTION, Question, Span, to_table
from uniner.storage.stage_folder import Chunk


def questions(dataset: str, passages: Sequence[GoldPassage], types: Sequence[str]) -> list[Question]:
    """Ask every type of each passage; a type's gold mentions in the order of the text, each once.

    A passage of a file that asks questions itself is asked these, with the answers that the file has.
    """
    return [
        Question(
            dataset=dataset,
            passage_id=passage.id,
            text=passage.text,
            type=type_name,
            gold=gold,
            gold_spans=_spans(passage, type_name),
        )
        for passage in passages
        for type_name, gold in (_every(passage, types) if passage.questions is None else passage.questions)
    ]


def _every(passage: GoldPassage, types: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (name, tuple(dict.fromkeys(entity.text for entity in passage.entities if entity.type == name)))
        for name in types
    ]


def _spans(passage: GoldPassage, type_name: str) -> tuple[Span, ...]:
    spans = {(entity.start, entity.end) for entity in passage.entities if entity.type == type_name}
    return tuple(Span(start=start, end=end) for start, end in sorted(spans))


def cut(
    dataset: str,
    url: str,
    chunk_passages: int,
    max_passages: int | None,
    max_questions: int | None = None,
    else_types: bool = False,
    labels: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Chunk]:
    """Cut a data set into chunks of questions; all types of the whole data set are asked of each passage.

    It is asked for plain words in place of its labels (`catalogue.label_renamer`).
    Of more than `max_questions` so many are drawn, each with the same chance, in their order. The draw hangs
    on the data set's name alone: all systems, in all runs, answer the same questions.

    figures: passages (all that were cut, of which a draw may ask nothing), not_drawn (questions), and
    left_out_<reason> (annotations that are no entity that can be asked for).

    Raises:
        UserError: where the data set is wrong, or has no type to ask for.
    """
    passages = list(read_gold(url, else_types, label_renamer(dataset, labels)))
    types = sorted({entity.type for passage in passages for entity in passage.entities})
    passages = passages[:max_passages]
    many = sum(len(types) if passage.questions is None else len(passage.questions) for passage in passages)
    drawn: set[int] | None = None
    if max_questions and many > max_questions:
        drawn = set(random.Random(f"{dataset} questions").sample(range(many), max_questions))
    before = 0
    for number, start in enumerate(range(0, len(passages), chunk_passages)):
        some = passages[start : start + chunk_passages]
        every = questions(dataset, some, types)
        kept = [one for place, one in enumerate(every, start=before) if drawn is None or place in drawn]
        before += len(every)
        figures: dict[str, float] = {"passages": len(some), **count_left_out(some)}
        if len(kept) < len(every):
            figures["not_drawn"] = len(every) - len(kept)
        yield Chunk(f"{dataset}-{number:05d}", to_table(kept, QUESTION), figures=figures)
