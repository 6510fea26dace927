"""The published conversations (UniversalNER's train.json and test.json): questions, answers, no offsets.

    {"id", "conversations": [{"from": "human", "value": "Text: ..."}, {"from": "gpt", "value": "I've read
     this text."}, {"from": "human", "value": "What describes TYPE in the text?"}, {"from": "gpt",
     "value": "[\\"...\\"]"}, ...]}

The released test files ask one question a row: rows that follow each other and have the same passage are one
passage, until a question comes again (a passage that the data set has twice). The line `Dataset: ...` before
the passage is not part of it. What counts in a score is each question's gold strings. For training they are
located: the n-th naming of a mention in an answer is its n-th occurrence in the passage. (On the three
released files of CrossNER 98.8 % of the offsets are the original's; all occurrences instead would be 2.5 %
too many.) A string that has no occurrence left is counted as `ungrounded`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from uniner.errors import UserError
from uniner.gold.json_rows import Row
from uniner.gold.records import Found, GoldEntity, GoldPassage
from uniner.grounding import locate

_PASSAGE = re.compile(r"(?:Dataset:[^\n]*\n\s*)?Text: ?(.*)", re.DOTALL)
_QUESTION = re.compile(r"What describes (.+) in the text\?", re.DOTALL)


class _Turn(msgspec.Struct):
    speaker: str = msgspec.field(name="from")
    value: str


class _Conversation(msgspec.Struct):
    conversations: list[_Turn]
    id: str | int | None = None


@dataclass(frozen=True)
class _Asked:
    """A conversation's passage and questions."""

    number: int
    place: str
    id: str
    text: str
    answers: dict[str, list[str]]


def read(url: str, rows: Iterable[Row]) -> Iterator[Found]:
    """Yield the passages of a file of conversations, each with what is asked of it.

    Raises:
        UserError: naming the row that is no such conversation.
    """
    current: _Asked | None = None
    for row in rows:
        one = _conversation(f"{url}, {row.place}", row)
        if current and current.text == one.text and not current.answers.keys() & one.answers.keys():
            current.answers.update(one.answers)
        else:
            if current:
                yield _found(current)
            current = one
    if current:
        yield _found(current)


def _conversation(where: str, row: Row) -> _Asked:
    try:
        found = msgspec.json.decode(row.data, type=_Conversation)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f'{where}: {error}; a row is {{"id", "conversations": [{{"from", "value"}}, ...]}}'
        ) from None
    turns = found.conversations
    speakers = [turn.speaker for turn in turns]
    if len(turns) < 4 or len(turns) % 2 or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise UserError(
            f"{where}: the turns are {', '.join(speakers)}; they must be human and gpt by turns: a passage, "
            "its acknowledgement, then questions and answers"
        )
    passage = _PASSAGE.fullmatch(turns[0].value)
    if not passage:
        raise UserError(f"{where}: the first turn must be 'Text: ' and the passage, not {_begun(turns[0])}")
    answers: dict[str, list[str]] = {}
    for question, answer in zip(turns[2::2], turns[3::2], strict=True):
        asked = _QUESTION.fullmatch(question.value.strip())
        if not asked:
            raise UserError(
                f"{where}: a question is 'What describes TYPE in the text?', not {_begun(question)}"
            )
        if asked[1] in answers:
            raise UserError(f"{where}: asks for {asked[1]!r} twice; leave one of the two questions out")
        try:
            answers[asked[1]] = msgspec.json.decode(answer.value, type=list[str])
        except msgspec.DecodeError:
            raise UserError(
                f"{where}: the answer to {asked[1]!r} must be a JSON list of strings, not {_begun(answer)}"
            ) from None
    name = "" if found.id is None else str(found.id)
    return _Asked(row.number, row.place, name, passage[1], answers)


def _begun(turn: _Turn) -> str:
    return repr(turn.value[:60])


def _found(one: _Asked) -> Found:
    entities: list[GoldEntity] = []
    ungrounded = 0
    for type_name, mentions in one.answers.items():
        spans = {mention: iter(locate(one.text, mention)[0]) for mention in mentions}
        for mention in mentions:
            start, end = next(spans[mention], (-1, -1))
            if start < 0:
                ungrounded += 1
            else:
                entities.append(GoldEntity(start, end, one.text[start:end], type_name))
    asked = tuple((name, tuple(dict.fromkeys(mentions))) for name, mentions in one.answers.items())
    left_out = {"ungrounded": ungrounded} if ungrounded else {}
    passage = GoldPassage(one.text, tuple(entities), one.id, asked, left_out)
    return Found(one.number, one.place, passage)
