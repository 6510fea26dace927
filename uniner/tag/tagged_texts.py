"""What the Python door returns: texts with their entities, as records, as a table, and highlighted."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from markupsafe import Markup, escape

from uniner.display import TaggedText, displayed_entities, html_text, type_colours, visible
from uniner.records import TaggedEntity, TaggedPassage
from uniner.tag.interactive import remarks
from uniner.tag.tables import ENTITY_COLUMNS
from uniner.tag.tagger import FAILURES

if TYPE_CHECKING:
    import pandas

_SHOWN_TEXTS, _SHOWN_CHARACTERS = 50, 5_000
_STYLE = Markup(
    "<style>.uniner-texts p{white-space:pre-wrap;margin:.6em 0}"
    ".uniner-texts mark{color:#000;border-radius:3px;padding:0 3px}"
    ".uniner-texts mark small{opacity:.7;margin-left:4px}"
    ".uniner-texts i{opacity:.7}</style>"
)
_OF_ENTITY = ("type", "text", "start", "end", "score", "grounding")
_COLUMNS = pa.schema(
    [("doc_id", pa.int64()), *(column for column in ENTITY_COLUMNS if column.name in _OF_ENTITY)]
)
"""The columns of tag's entity table that a list of texts has. doc_id: the number of the text in the list."""


@dataclass(frozen=True, kw_only=True)
class TaggedDocument:
    """A text and its entities, with offsets into the text: `text[start:end]`.

    outcome: ok, or the worst of its passages (`records.TaggedPassage`). failed_types: types without a usable
    answer in some passage; the other types' entities are kept.
    """

    text: str
    entities: tuple[TaggedEntity, ...]
    outcome: str = "ok"
    failed_types: tuple[str, ...] = ()


class TaggedTexts(Sequence[TaggedDocument]):
    """Tagged texts in the order given: a sequence of records, which a notebook shows highlighted."""

    def __init__(self, texts: Sequence[str], passages: Sequence[TaggedPassage]):
        """passages: of all texts, whose doc_id is the text's number."""
        self._passages: list[list[TaggedPassage]] = [[] for _ in texts]
        for passage in passages:
            self._passages[int(passage.doc_id)].append(passage)
        self._documents = [_document(text, own) for text, own in zip(texts, self._passages, strict=True)]

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, place: Any) -> Any:
        return self._documents[place]

    def __iter__(self) -> Iterator[TaggedDocument]:
        return iter(self._documents)

    def to_arrow(self) -> pa.Table:
        """Return a row per entity, with the columns of tag's entity table; doc_id is the text's number."""
        rows = [
            {"doc_id": number, **{name: getattr(entity, name) for name in _COLUMNS.names[1:]}}
            for number, document in enumerate(self._documents)
            for entity in document.entities
        ]
        return pa.Table.from_pylist(rows, schema=_COLUMNS)

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the table of `to_arrow` as a DataFrame."""
        return self.to_arrow().to_pandas()

    def __repr__(self) -> str:
        counts = Counter(entity.type for document in self._documents for entity in document.entities)
        of_type = ", ".join(f"{visible(name)} {count:,}" for name, count in counts.most_common())
        entities = f"{counts.total():,} {'entity' if counts.total() == 1 else 'entities'}"
        texts = f"{len(self):,} {'text' if len(self) == 1 else 'texts'}"
        return f"TaggedTexts({texts}, {entities}{f': {of_type}' if of_type else ''})"

    def _repr_html_(self) -> str:
        """Return the texts for a notebook: entities in colour, then what failed. Everything is escaped."""
        shown = [_shown(document) for document in self._documents[:_SHOWN_TEXTS]]
        colours = type_colours(shown)
        parts = [_STYLE]
        for number, tagged in enumerate(shown):
            parts.append(_paragraph(tagged, self._documents[number], self._passages[number], colours))
        if left := len(self) - len(shown):
            parts.append(Markup("<p><i>and {:,} more</i></p>").format(left))
        return str(Markup('<div class="uniner-texts">{}</div>').format(Markup("").join(parts)))


def _document(text: str, passages: Sequence[TaggedPassage]) -> TaggedDocument:
    outcomes = {passage.outcome for passage in passages}
    return TaggedDocument(
        text=text,
        entities=tuple(entity for passage in passages for entity in passage.entities),
        outcome=next((failure for failure in FAILURES if failure in outcomes), "ok"),
        failed_types=tuple(dict.fromkeys(name for passage in passages for name in passage.failed_types)),
    )


def _shown(document: TaggedDocument) -> TaggedText:
    """Return the beginning of a text, with marks in place of control characters; the length stays."""
    entities = tuple(
        replace(entity, type=visible(entity.type))
        for entity in displayed_entities(document.entities)
        if entity.end <= _SHOWN_CHARACTERS
    )
    return TaggedText(text=visible(document.text[:_SHOWN_CHARACTERS]), source="", entities=entities)


def _paragraph(
    tagged: TaggedText,
    document: TaggedDocument,
    passages: Sequence[TaggedPassage],
    colours: Mapping[str, str],
) -> Markup:
    parts = [html_text(tagged, dict(colours))]
    if len(document.text) > _SHOWN_CHARACTERS:
        parts.append(Markup(" <i>... {:,} characters</i>").format(len(document.text)))
    parts += [Markup("\n<i>{}</i>").format(escape(visible(line))) for line in remarks(passages)]
    return Markup("<p>{}</p>").format(Markup("").join(parts))
