"""Passages as columns of JSON in a page, and any value as JSON that ends no script element. Pure."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from uniner.records import TaggedEntity
from uniner.report.sample import PassageSample

# `<` would end the element or open a comment; lone surrogates have no UTF-8; the rest ends lines in scripts.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
NO_VALUE = -1


def script_json(value: Any) -> Markup:
    """Return a value as JSON for the content of a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(_UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


class _Numbering:
    """Gives each different text a number, in order of appearance after those that come first."""

    def __init__(self, first: Iterable[str] = ()) -> None:
        self._numbers = {text: number for number, text in enumerate(first)}

    def of(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def texts(self) -> list[str]:
        return list(self._numbers)


class _EntityColumns:
    """Entities as columns: a count a passage, then a value an entity.

    start and length count UTF-16 code units, as JavaScript does; start is -1 where the mention is not in the
    text, and its own text then is in `loose`, by the number of the entity. score: in thousandths.
    """

    def __init__(self, types: _Numbering) -> None:
        self._types = types
        self.columns: dict[str, Any] = {name: [] for name in ("count", "type", "start", "length", "score")}
        self.columns["loose"] = {}

    def add(self, text: str, entities: Iterable[TaggedEntity]) -> None:
        """Add the entities of the next passage."""
        columns, before = self.columns, len(self.columns["type"])
        wide = not text.isascii() and max(text) > "\uffff"
        for entity in sorted(entities, key=lambda each: (each.start < 0, each.start, -each.end)):
            start, end = entity.start, entity.end
            if start < 0:
                columns["loose"][str(len(columns["type"]))] = entity.text
                start = end = NO_VALUE
            elif wide:
                start, end = (_utf16_length(text[:place]) for place in (start, end))
            columns["type"].append(self._types.of(entity.type))
            columns["start"].append(start)
            columns["length"].append(end - start)
            columns["score"].append(NO_VALUE if entity.score < 0 else round(1000 * entity.score))
        columns["count"].append(len(columns["type"]) - before)


def page_data(sample: PassageSample, name: str) -> dict[str, Any]:
    """Return what the page's script reads: texts, and types, sources and outcomes by number."""
    # The page colours types by their numbers: the most frequent ones get colours far apart.
    frequent = Counter(entity.type for passage in sample.passages for entity in passage.entities)
    types = _Numbering(name for name, _ in frequent.most_common())
    sources, outcomes = _Numbering(), _Numbering()
    entities, other = _EntityColumns(types), _EntityColumns(types)
    for passage in sample.passages:
        entities.add(passage.text, passage.entities)
        other.add(passage.text, passage.other or ())
    return {
        "name": name,
        "other": sample.other,
        "stage": sample.stage,
        "id": [passage.passage_id for passage in sample.passages],
        "text": [passage.text for passage in sample.passages],
        "source": [sources.of(passage.source) for passage in sample.passages],
        "outcome": [outcomes.of(passage.outcome) for passage in sample.passages],
        "entities": entities.columns,
        "others": other.columns if sample.other else None,
        "lacking": [row for row, each in enumerate(sample.passages) if sample.other and each.other is None],
        "types": types.texts(),
        "sources": sources.texts(),
        "outcomes": outcomes.texts(),
    }


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
