"""The published conversations (UniversalNER's train.json and test.json): questions and answers, no offsets.

    {"id", "conversations": [{"from": "human", "value": "Text: ..."}, {"from": "gpt", "value": "I've read
     this text."}, {"from": "human", "value": "What describes TYPE in the text?"}, {"from": "gpt",
     "value": "[\\"...\\"]"}, ...]}

The released test files ask one question per row. Consecutive rows with the same passage become one passage,
until a question repeats (the data set has that passage twice). A line `Dataset: ...` before the passage is
not part of it. Scores compare each question's gold strings. For training the strings are located: the n-th
naming of a mention in an answer is its n-th occurrence in the passage. (On the three released CrossNER files
98.8 % of these offsets are the original ones; taking all occurrences would give 2.5 % too many.) A string
without a remaining occurrence is counted as `ungrounded`. A row that is not such a conversation is left out
and counted as `bad_row`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from uniner.errors import UserError
from uniner.gold.json_rows import JSON_ERRORS, JsonRow, decode, id_of
from uniner.gold.records import GoldEntity, GoldPassage, GoldQuestion, GoldRow, LeftOut, bad_row
from uniner.grounding import locate

EXAMPLE = '{"id", "conversations": [{"from", "value"}, ...]}'
_PASSAGE = re.compile(r"(?:Dataset:[^\n]*\n\s*)?Text: ?(.*)", re.DOTALL)
_QUESTION = re.compile(r"What describes (.+) in the text\?", re.DOTALL)


class _PublishedTurn(msgspec.Struct):
    speaker: str = msgspec.field(name="from")
    value: str

    def start(self) -> str:
        return repr(self.value[:60])


class _PublishedConversation(msgspec.Struct):
    conversations: list[_PublishedTurn]
    id: Any = None


_CONVERSATION = msgspec.json.Decoder(_PublishedConversation)


@dataclass(frozen=True)
class _AnsweredPassage:
    """A passage with its questions and answers: type to mentions."""

    number: int
    place: str
    id: str
    text: str
    answers: dict[str, list[str]]


def recognise(row: object) -> bool | None:
    """Tell whether a row has this format."""
    return isinstance(row, dict) and "conversations" in row


def read(url: str, rows: Iterable[JsonRow]) -> Iterator[GoldRow | LeftOut]:
    """Yield the passages of a file of conversations, each with its questions."""
    current: _AnsweredPassage | None = None
    for row in rows:
        try:
            passage = _answered_passage(f"{url}, {row.place}", row)
        except UserError as error:
            yield bad_row(error)
            continue
        same_text = current is not None and current.text == passage.text
        if current and same_text and not current.answers.keys() & passage.answers.keys():
            current.answers.update(passage.answers)
        else:
            if current:
                yield _gold_row(current)
            current = passage
    if current:
        yield _gold_row(current)


def _answered_passage(where: str, row: JsonRow) -> _AnsweredPassage:
    try:
        conversation = decode(_CONVERSATION, row.data)
    except JSON_ERRORS as error:
        raise UserError(f"{where}: {error}; a row is {EXAMPLE}") from None
    turns = conversation.conversations
    speakers = [turn.speaker for turn in turns]
    if len(turns) < 4 or len(turns) % 2 or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise UserError(
            f"{where}: the turns are {', '.join(speakers)}; they must alternate human, gpt: a passage and "
            "its acknowledgement, then questions and answers"
        )
    passage = _PASSAGE.fullmatch(turns[0].value)
    if not passage:
        raise UserError(f"{where}: the first turn must be 'Text: ' and the passage, not {turns[0].start()}")
    answers: dict[str, list[str]] = {}
    for question, answer in zip(turns[2::2], turns[3::2], strict=True):
        _read_answer(where, question, answer, answers)
    return _AnsweredPassage(row.number, row.place, id_of(conversation.id), passage[1], answers)


def _read_answer(
    where: str, question: _PublishedTurn, answer: _PublishedTurn, answers: dict[str, list[str]]
) -> None:
    match = _QUESTION.fullmatch(question.value.strip())
    if not match:
        raise UserError(f"{where}: a question is 'What describes TYPE in the text?', not {question.start()}")
    if match[1] in answers:
        raise UserError(f"{where}: asks for {match[1][:60]!r} twice; remove one of the two questions")
    try:
        answers[match[1]] = msgspec.json.decode(answer.value, type=list[str])
    except JSON_ERRORS:
        raise UserError(
            f"{where}: the answer to {match[1][:60]!r} must be a JSON list of strings, not {answer.start()}"
        ) from None


def _gold_row(passage: _AnsweredPassage) -> GoldRow:
    entities: list[GoldEntity] = []
    ungrounded = 0
    for type_name, mentions in passage.answers.items():
        spans = {mention: iter(locate(passage.text, mention).spans) for mention in mentions}
        for mention in mentions:
            start, end = next(spans[mention], (-1, -1))
            if start < 0:
                ungrounded += 1
            else:
                entities.append(GoldEntity(start, end, passage.text[start:end], type_name))
    questions = tuple(
        GoldQuestion(type_name, tuple(dict.fromkeys(mentions)))
        for type_name, mentions in passage.answers.items()
    )
    left_out = {"ungrounded": ungrounded} if ungrounded else {}
    gold = GoldPassage(passage.text, tuple(entities), passage.id, questions, left_out)
    return GoldRow(passage.number, passage.place, gold)
