"""Turn gold passages into questions, the unit that is asked and scored."""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from uniner.gold.catalogue import label_renamer, tag_column
from uniner.gold.reader import count_left_out, read_gold
from uniner.gold.records import GoldPassage
from uniner.inference.questions import TypeAnswer
from uniner.records import QUESTION, Prediction, Question, Span, to_table
from uniner.storage.stage_folder import Chunk, StageFolder


def questions_of(dataset: str, passages: Sequence[GoldPassage], types: Sequence[str]) -> list[Question]:
    """Ask for every type in each passage. A type's gold mentions are in text order, without duplicates.

    Where the file itself asks questions of a passage, those are asked, with the file's answers.
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
        for type_name, gold in (
            _all_types(passage, types) if passage.questions is None else passage.questions
        )
    ]


def _all_types(passage: GoldPassage, types: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (name, tuple(dict.fromkeys(entity.text for entity in passage.entities if entity.type == name)))
        for name in types
    ]


def _spans(passage: GoldPassage, type_name: str) -> tuple[Span, ...]:
    spans = {(entity.start, entity.end) for entity in passage.entities if entity.type == type_name}
    return tuple(Span(start=start, end=end) for start, end in sorted(spans))


def cut_questions(
    dataset: str,
    url: str,
    chunk_passages: int,
    max_passages: int | None,
    max_questions: int | None = None,
    else_types: bool = False,
    labels: Mapping[str, str] = MappingProxyType({}),
    numbers: bool = False,
) -> Iterator[Chunk]:
    """Cut a data set into chunks of questions; every type of the data set is asked of each passage.

    Types are asked for in plain words instead of the data set's labels (`catalogue.label_renamer`). Above
    `max_questions`, a uniform sample of that size is asked, in order. The sample depends on the data set's
    name alone, so that all systems answer the same questions in all runs.

    Figures of a chunk: passages (all, also those whose questions were not sampled), not_drawn (questions),
    and left_out_<reason> (annotations that cannot be asked for).

    Raises:
        UserError: where the data set is malformed, or has no type to ask for.
    """
    rename, column = label_renamer(dataset, labels), tag_column(dataset)
    passages = list(read_gold(url, else_types, rename, column, numbers=numbers))
    types = sorted({entity.type for passage in passages for entity in passage.entities})
    passages = passages[:max_passages]
    total = sum(len(types) if passage.questions is None else len(passage.questions) for passage in passages)
    drawn = _draw(dataset, total, max_questions)
    position = 0
    for number, start in enumerate(range(0, len(passages), chunk_passages)):
        batch = passages[start : start + chunk_passages]
        questions = questions_of(dataset, batch, types)
        kept = [question for place, question in enumerate(questions, position) if place in drawn]
        position += len(questions)
        figures: dict[str, float] = {"passages": len(batch), **count_left_out(batch)}
        if len(kept) < len(questions):
            figures["not_drawn"] = len(questions) - len(kept)
        yield Chunk(f"{dataset}-{number:05d}", to_table(kept, QUESTION), figures=figures)


def prediction(question: Question, answer: TypeAnswer) -> Prediction:
    """Return a question with a system's answer to it."""
    return Prediction(
        **vars(question),
        reply=answer.text,
        predicted=answer.mentions,
        outcome=answer.outcome,
        scores=tuple(answer.scores.values()),
        spans=tuple(Span(start=start, end=end) for start, end in answer.spans),
    )


def asked_types(gold: StageFolder) -> set[str]:
    """Return the types that a data set's questions ask for. gold: the folder of its questions."""
    keys = gold.require_manifest().rows_of_chunk
    return {name for key in keys for name in gold.read_columns(key, ["type"])["type"].unique().to_pylist()}


def _draw(dataset: str, total: int, most: int | None) -> Collection[int]:
    """Return the numbers of the questions to ask, of all questions of a data set."""
    if not most or total <= most:
        return range(total)
    return set(random.Random(f"{dataset} questions").sample(range(total), most))
