"""The records that pass from stage to stage, each with its Arrow schema beside it.

A schema is a contract: `to_table` and `from_table` raise on a missing field, a wrong type or a null.
Offsets count characters (Unicode code points), end exclusive.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, get_args

import msgspec
import pyarrow as pa

Record = TypeVar("Record")
BY_RULE, RETYPED = "rule", "retyped"
"""Groundings of entities that a rule of tag.rules found in the text, or whose type one changed."""
FAILED = "failed"
"""The outcome of a row that failed for a reason that may pass: a server's error, a time-out."""


_ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))


def _schema(record: type, **types: pa.DataType) -> pa.Schema:
    """Return the schema of a record's fields, without nulls. types: columns that differ from their field."""
    return pa.schema(
        [
            pa.field(field.name, types.get(field.name) or _arrow_type(field.type), nullable=False)
            for field in fields(record)
        ]
    )


def _arrow_type(annotation: Any) -> pa.DataType:
    if annotation in _ARROW_TYPES:
        return _ARROW_TYPES[annotation]
    if is_dataclass(annotation):
        return pa.struct([(field.name, _arrow_type(field.type)) for field in fields(annotation)])
    item, _ = get_args(annotation)  # tuple[item, ...]
    return pa.list_(_arrow_type(item))


@dataclass(frozen=True, kw_only=True)
class Brief:
    """A request for one generated passage: its target length in words, and the text for the prompt."""

    doc_id: str
    source: str
    words: int
    text: str


BRIEF = _schema(Brief)


@dataclass(frozen=True, kw_only=True)
class GeneratedPassage:
    """The teacher's passage for a brief. ingest reads it if the outcome is ok; otherwise text is empty.

    outcome: ok; too_long (the reply ended at the token limit); empty; refused, filtered, rejected, failed
    and poison as in Annotation. source: see `generated_source`.
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


GENERATED_PASSAGE = _schema(GeneratedPassage)


def generated_source(domain: str) -> str:
    """Return the source name of a domain's generated passages."""
    return f"generated:{domain}"


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A piece of a document: `document[char_start:char_end] == text`.

    passage_index rises through the document, with gaps in a long document. The passage shares
    overlap_before characters with the previous passage and overlap_after with the next one;
    `passages.owns` decides which of the two owns an entity in the overlap.
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


PASSAGE = _schema(Passage)


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A mention in the teacher's reply. start and end are -1 if it does not occur in the passage."""

    text: str
    type: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The teacher's reply about a passage.

    outcome: ok; unparseable (no list in the reply); too_long (the reply ended at the token limit); cut (the
    reply is complete but its list breaks off); refused; filtered (a content filter); rejected (a 4xx about
    this passage, or the prompt exceeds the teacher's context); failed (the server answers other passages but
    not this one); poison (it crashes a served teacher's engine). too_long and cut keep the entities before
    the break; of the other outcomes only ok has entities.
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


ANNOTATION = _schema(Annotation)


@dataclass(frozen=True, kw_only=True)
class FrequentType:
    """A type of the annotations, as `text`, and how many mentions it has."""

    text: str
    mentions: int


FREQUENT_TYPE = _schema(FrequentType)


@dataclass(frozen=True, kw_only=True)
class DescribedType:
    """The teacher's description of a type and its synonyms; both are empty unless the outcome is ok.

    outcome: ok; unparseable (the reply is not the JSON object that was asked for); too_long, refused,
    filtered, rejected, failed and poison as in Annotation.
    """

    type: str
    mentions: int
    description: str
    synonyms: tuple[str, ...]
    outcome: str
    reply: str
    model: str
    tokens_in: int
    tokens_out: int
    cost_usd: float
    attempts: int


DESCRIBED_TYPE = _schema(DescribedType)


# The published layout names the fields of a turn `from` and `value`. `from` is a Python keyword, so turns are
# plain dictionaries.
@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The questions and answers about one passage in the published layout: turns of {"from", "value"}."""

    id: str
    passage_id: str
    conversations: tuple[dict[str, str], ...]
    positive_types: tuple[str, ...]
    negative_types: tuple[str, ...]
    dataset: str
    split: str


CONVERSATION = _schema(Conversation, conversations=_TURNS)


@dataclass(frozen=True, kw_only=True)
class TaggedEntity:
    """A mention in its document.

    grounding: exact, normalized (found when case, white space, the kind of dash and quotation mark and the
    encoding of letters are ignored; `grounding.locate`), or
    ungrounded (not in the text; start and end are -1); rule (found by a rule of tag.rules) or retyped (in the
    text, with a type that a rule gave it). score: the student's probability of this mention, 0 to 1
    (`inference.mention_scores`); 1 for one that a rule found. A student that tags each word says itself where
    a mention is; other mentions are looked for in the passage.
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

    outcome: ok; unparseable (an answer is not of the template's form); too_long (an answer was cut at the
    token limit); overlong (the passage leaves no room for a question); poison (it crashes the engine and was
    set aside); rule_late (a rule's regular expression reached its time limit). failed_types: the types
    without a usable answer, or with such a rule; entities of the other types are kept.
    """

    doc_id: str
    passage_id: str
    char_start: int
    entities: tuple[TaggedEntity, ...]
    outcome: str
    failed_types: tuple[str, ...]


TAGGED_PASSAGE = _schema(TaggedPassage)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of a passage's text."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Question:
    """A gold passage and a type, with the gold mentions: the unit of evaluation.

    gold: each string once. gold_spans: every annotated occurrence; a string that the text lacks has none.
    """

    dataset: str
    passage_id: str
    text: str
    type: str
    gold: tuple[str, ...] = ()
    gold_spans: tuple[Span, ...] = ()


QUESTION = _schema(Question)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A question about a gold passage, and a system's answer. outcome: as in TaggedPassage.

    Questions about one passage are consecutive rows. text: the passage, so that any protocol can be scored
    later. scores: one per predicted mention, if the system gives scores. spans: offsets of the predicted
    mentions, if the system gives offsets; otherwise scoring locates the mentions in the text.
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


PREDICTION = _schema(Prediction)


UNREAD_COLUMNS = frozenset(
    {"brief", "reply", "model", "tokens_in", "tokens_out", "cost_usd", "attempts"}
)  # fmt: skip
"""Columns of GENERATED_PASSAGE, ANNOTATION and PREDICTION that no later stage reads. A stage's digest leaves
them out, so that a chunk that was asked for again at another price is the same input."""


def to_table(records: Iterable[Any], schema: pa.Schema) -> pa.Table:
    """Convert records to an Arrow table with their schema.

    Raises:
        ValueError, pa.ArrowInvalid, pa.ArrowTypeError: if a record breaks the schema.
    """
    rows = [msgspec.to_builtins(record) for record in records]
    table = pa.Table.from_pylist(rows, schema=schema)
    if rows and rows[0].keys() != set(schema.names):
        raise ValueError(f"record fields {sorted(rows[0])} differ from schema fields {sorted(schema.names)}")
    _require_no_nulls(table)
    return table


def from_table(table: pa.Table, record: type[Record]) -> Sequence[Record]:
    """Convert a table to records, checking every field against the record's type.

    Raises:
        msgspec.ValidationError: if a column is missing or has another type.
    """
    _require_no_nulls(table)
    return msgspec.convert(table.to_pylist(), list[record])  # type: ignore[valid-type]


def _require_no_nulls(table: pa.Table) -> None:
    for name in table.schema.names:
        if table.column(name).null_count:
            raise ValueError(f"column {name} contains a null")
