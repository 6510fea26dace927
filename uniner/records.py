"""The records that pass from stage to stage, each with its Arrow schema beside it.

A schema is a contract: `to_table` and `from_table` raise on a missing field, a wrong type or a null where
none may be. Offsets count characters (Unicode code points), end exclusive.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import pyarrow as pa

Record = TypeVar("Record")


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


_string, _int = pa.string(), pa.int64()


@dataclass(frozen=True, kw_only=True)
class Brief:
    """What the teacher is asked to write: a passage of about so many words, `text` for the prompt."""

    doc_id: str
    source: str
    words: int
    text: str


BRIEF = _schema(doc_id=_string, source=_string, words=_int, text=_string)


@dataclass(frozen=True, kw_only=True)
class GeneratedPassage:
    """What the teacher wrote by a brief: a document for ingest where it is ok, else its text is empty.

    outcome: ok; too_long (the reply ended at the token limit); empty; refused, filtered, rejected, failed
    and poison as in Annotation. source is `generated:<domain>`.
    """

    doc_id: str
    source: str
    text: str
    outcome: str
    reply: str
    brief: str
    model: str
    tokens_in: int
    tokens_out: int
    cost_usd: float
    attempts: int


GENERATED_PASSAGE = _schema(
    doc_id=_string,
    source=_string,
    text=_string,
    outcome=_string,
    reply=_string,
    brief=_string,
    model=_string,
    tokens_in=_int,
    tokens_out=_int,
    cost_usd=pa.float64(),
    attempts=_int,
)


def generated_source(domain: str) -> str:
    """Return the source of a domain's generated passages."""
    return f"generated:{domain}"


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A piece of a document: `document[char_start:char_end] == text`.

    passage_index rises through the document; a long document's has gaps. The passage shares overlap_before
    characters with the one before it and overlap_after with the next (`ingest.passages.owns` tells whose is
    what stands there).
    """

    passage_id: str
    doc_id: str
    passage_index: int
    char_start: int
    char_end: int
    text: str
    n_tokens: int
    source: str
    overlap_before: int = 0
    overlap_after: int = 0


PASSAGE = _schema(
    passage_id=_string,
    doc_id=_string,
    passage_index=_int,
    char_start=_int,
    char_end=_int,
    text=_string,
    n_tokens=_int,
    source=_string,
    overlap_before=_int,
    overlap_after=_int,
)


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A mention as the teacher gave it. start and end are -1 where it does not occur in the passage."""

    text: str
    type: str
    start: int
    end: int


_ENTITY = pa.struct([("text", _string), ("type", _string), ("start", _int), ("end", _int)])


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What the teacher said of a passage.

    outcome: ok; unparseable (no list in the reply); too_long (the reply ended at the token limit); cut (the
    list breaks off though the reply is complete); refused; filtered (a content filter); rejected (a 4xx about
    this passage, or the prompt is longer than the teacher takes); failed (no answer to this passage from a
    server that answers others); poison (the engine of a served teacher dies of it). With too_long and cut the
    entities before the break stand; else only ok has any.
    """

    passage_id: str
    doc_id: str
    text: str
    outcome: str
    reply: str
    entities: tuple[Entity, ...]
    model: str
    tokens_in: int
    tokens_out: int
    cost_usd: float
    attempts: int


ANNOTATION = _schema(
    passage_id=_string,
    doc_id=_string,
    text=_string,
    outcome=_string,
    reply=_string,
    entities=pa.list_(_ENTITY),
    model=_string,
    tokens_in=_int,
    tokens_out=_int,
    cost_usd=pa.float64(),
    attempts=_int,
)


# The field names `from` and `value` are the published layout's; `from` is a Python keyword, so a
# conversation's turns are plain dictionaries.
@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One passage's questions and answers in the published layout: turns of {"from", "value"}."""

    id: str
    passage_id: str
    conversations: tuple[dict[str, str], ...]
    positive_types: tuple[str, ...]
    negative_types: tuple[str, ...]
    dataset: str
    split: str


CONVERSATION = _schema(
    id=_string,
    passage_id=_string,
    conversations=pa.list_(pa.struct([("from", _string), ("value", _string)])),
    positive_types=pa.list_(_string),
    negative_types=pa.list_(_string),
    dataset=_string,
    split=_string,
)


@dataclass(frozen=True, kw_only=True)
class TaggedEntity:
    """A mention in its document.

    grounding: exact, folded (found but for case, white space or kind of quotation mark), ungrounded (not in
    the text; start and end are -1). score: the probability that the student gave to this mention, 0 to 1
    (`tag.confidence`).
    """

    text: str
    type: str
    start: int
    end: int
    score: float
    grounding: str


@dataclass(frozen=True, kw_only=True)
class TaggedPassage:
    """A passage's entities, with offsets into the document.

    outcome: ok; unparseable (an answer is no JSON list of strings); too_long (an answer was cut at the token
    limit); overlong (the passage leaves no room for a question); poison (the engine dies of it: it was set
    aside). failed_types names the questions without a usable answer; the entities of the others stand.
    """

    doc_id: str
    passage_id: str
    char_start: int
    entities: tuple[TaggedEntity, ...]
    outcome: str
    failed_types: tuple[str, ...]


_TAGGED_ENTITY = pa.struct([*_ENTITY, ("score", pa.float64()), ("grounding", _string)])
TAGGED_PASSAGE = _schema(
    doc_id=_string,
    passage_id=_string,
    char_start=_int,
    entities=pa.list_(_TAGGED_ENTITY),
    outcome=_string,
    failed_types=pa.list_(_string),
)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of a passage's text."""

    start: int
    end: int


_SPAN = pa.struct([("start", _int), ("end", _int)])


@dataclass(frozen=True, kw_only=True)
class Question:
    """A gold passage of a data set and a type, with the gold mentions: the unit that is asked and scored.

    gold: each string once; gold_spans: everywhere that they are annotated (none of one that the text lacks).
    """

    dataset: str
    passage_id: str
    text: str
    type: str
    gold: tuple[str, ...] = ()
    gold_spans: tuple[Span, ...] = ()


QUESTION = _schema(
    dataset=_string,
    passage_id=_string,
    text=_string,
    type=_string,
    gold=pa.list_(_string),
    gold_spans=pa.list_(_SPAN),
)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A question of a gold passage, and a system's answer to it. outcome as in TaggedPassage.

    A passage's questions stand one after the other. text: the passage, so that any protocol can be scored
    without asking again. scores: of the predicted mentions, one each, from systems that tell them. spans:
    where the predicted mentions stand, from systems that tell; without them they are looked for.
    """

    dataset: str
    passage_id: str
    text: str
    type: str
    reply: str
    predicted: tuple[str, ...]
    gold: tuple[str, ...]
    gold_spans: tuple[Span, ...]
    outcome: str
    scores: tuple[float, ...] = ()
    spans: tuple[Span, ...] = ()


PREDICTION = _schema(
    dataset=_string,
    passage_id=_string,
    text=_string,
    type=_string,
    reply=_string,
    predicted=pa.list_(_string),
    gold=pa.list_(_string),
    gold_spans=pa.list_(_SPAN),
    outcome=_string,
    scores=pa.list_(pa.float64()),
    spans=pa.list_(_SPAN),
)


def to_table(records: Iterable[Any], schema: pa.Schema) -> pa.Table:
    """Lay records out as the Arrow table of their schema.

    Raises:
        ValueError, pa.ArrowInvalid, pa.ArrowTypeError: where a record breaks the schema.
    """
    rows = [msgspec.to_builtins(record) for record in records]
    table = pa.Table.from_pylist(rows, schema=schema)
    if rows and rows[0].keys() != set(schema.names):
        raise ValueError(f"record fields {sorted(rows[0])} are not the schema's {sorted(schema.names)}")
    _require_no_nulls(table)
    return table


def from_table(table: pa.Table, record: type[Record]) -> Sequence[Record]:
    """Read records back from a table; every field is checked against the record's type.

    Raises:
        msgspec.ValidationError: where a column is missing or of another type.
    """
    _require_no_nulls(table)
    return msgspec.convert(table.to_pylist(), list[record])  # type: ignore[valid-type]


def _require_no_nulls(table: pa.Table) -> None:
    for name in table.schema.names:
        if table.column(name).null_count:
            raise ValueError(f"column {name} has a null")
