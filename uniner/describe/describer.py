"""The describe stage's worker: has the teacher describe a chunk of types."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from uniner.labels import normalize_type
from uniner.records import (
    DESCRIBED_TYPE,
    FREQUENT_TYPE,
    Annotation,
    DescribedType,
    FrequentType,
    from_table,
    to_table,
)
from uniner.storage.stage_folder import Chunk
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Rejection
from uniner.teacher.prompts import Prompt, load_prompt
from uniner.teacher.reply_cache import CachedReply
from uniner.teacher.reply_parser import is_refusal, withheld, without_thoughts
from uniner.type_descriptions import TypeDescription, make_description

TYPE_MARK = "{type}"
"""The place of the type in a prompt file."""
PROMPT = Prompt(
    "You define the types of a named-entity recognition system.",
    "A type of entities is named below. Describe it by one short phrase that says which mentions in a text "
    "belong to it, and give up to four other names that people use for the same type. Leave out names that "
    "mean more or less than the type. Reply with JSON alone, in this form: "
    '{"description": "one phrase", "synonyms": ["other name", "other name"]}\n\nType: ' + TYPE_MARK,
    TYPE_MARK,
)
_FIELDS = {"description", "synonyms"}


def description_prompt(url: str | None) -> Prompt:
    """Return the prompt of a file, or our own where no file is named."""
    return load_prompt(url, TYPE_MARK) if url else PROMPT


def count_mentions(annotations: Iterable[Annotation], dropped: Collection[str]) -> Counter[str]:
    """Count the mentions of each type that occur in their passage. dropped: types without meaning."""
    counts = Counter(
        normalize_type(entity.type)
        for annotation in annotations
        if annotation.outcome == "ok"
        for entity in annotation.entities
        if entity.start >= 0
    )
    return Counter({name: count for name, count in counts.items() if name and name not in dropped})


@dataclass(frozen=True, kw_only=True)
class TypesToDescribe:
    """The types to ask about, most frequent first, in chunks."""

    types: tuple[FrequentType, ...]
    chunk_types: int

    @classmethod
    def of(cls, counts: Counter[str], most: int, chunk_types: int) -> "TypesToDescribe":
        """Choose the `most` most frequent types; of equally frequent ones the first by name."""
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
        types = tuple(FrequentType(text=name, mentions=count) for name, count in ordered)
        return cls(types=types, chunk_types=chunk_types)

    def chunks(self) -> dict[str, int]:
        """Return the keys of all chunks and their rows."""
        return {
            f"{first:06d}": min(self.chunk_types, len(self.types) - first)
            for first in range(0, len(self.types), self.chunk_types)
        }

    def read_columns(self, key: str, names: Sequence[str]) -> pa.Table:
        """Return some columns of a key's chunk."""
        return self.read_chunk(key).table.select(list(names))

    def read_chunk(self, key: str) -> Chunk:
        """Return a key's chunk, as if it were read from a parent stage."""
        first = int(key)
        return Chunk(key, to_table(self.types[first : first + self.chunk_types], FREQUENT_TYPE))


class Describer:
    """Turns a chunk of types into the same types, in order, with the teacher's descriptions."""

    def __init__(self, teacher: CachedTeacher):
        self._teacher = teacher

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Have a chunk's types described."""
        types = from_table(chunk.table, FrequentType)
        described, figures = await self._teacher.ask_about(types, self._described)
        figures["synonyms"] = sum(len(each.synonyms) for each in described)
        return Chunk(chunk.key, to_table(described, DESCRIBED_TYPE), figures=figures)

    def set_aside(self, chunk: Chunk, reason: str) -> Chunk:
        """Return the records, without descriptions, of types that crash the teacher's engine."""
        poison = Rejection(outcome="poison", reason=reason, attempts=0)
        described = [self._described(each, poison) for each in from_table(chunk.table, FrequentType)]
        return Chunk(chunk.key, to_table(described, DESCRIBED_TYPE))

    def _described(self, asked: FrequentType, answer: CachedReply | Rejection) -> DescribedType:
        found = None
        if isinstance(answer, Rejection):
            outcome = answer.outcome
        else:
            outcome, found = judge_description(asked.text, answer.text, answer.finish_reason, answer.refusal)
        return DescribedType(
            type=asked.text,
            mentions=asked.mentions,
            description=found.description if found else "",
            synonyms=found.synonyms if found else (),
            outcome=outcome,
            **self._teacher.fields_of(answer),
        )


def judge_description(
    type_name: str, reply: str, finish_reason: str | None, refusal: str | None
) -> tuple[str, TypeDescription | None]:
    """Return the outcome of a reply (see `records.DescribedType`) and its description where it is ok."""
    text = without_thoughts(reply).strip()
    if is_refusal(text):
        return "refused", None
    if outcome := withheld(finish_reason, refusal):
        return outcome, None
    if finish_reason == "length":
        return "too_long", None
    found = parse_description(type_name, text)
    return ("unparseable", None) if found is None else ("ok", found)


def parse_description(type_name: str, text: str) -> TypeDescription | None:
    """Parse a reply: the JSON object that was asked for, alone or fenced; None if it is anything else.

    A reply without a description is none: there would be nothing to ask with.
    """
    fenced = text.split("```")
    if len(fenced) == 3 and not fenced[0].strip() and not fenced[2].strip():
        text = re.sub("^json", "", fenced[1], flags=re.IGNORECASE)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        return None
    found = make_description(type_name, value["description"], value["synonyms"])
    return found if found and found.description else None
