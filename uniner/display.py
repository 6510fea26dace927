"""Entities in colour: in a terminal, on an HTML page; and any text as text in a terminal or in Markdown."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape
from rich.text import Text

from uniner.overlaps import settle
from uniner.records import BY_RULE, TaggedEntity

COLOURS = (
    "#ffd6a5", "#caffbf", "#9bf6ff", "#bdb2ff", "#ffc6ff", "#fdffb6",
    "#a0c4ff", "#ffadad", "#d0f4de", "#e4c1f9", "#f1c0a8", "#b8e0d2",
)  # fmt: skip

# Controls could move the cursor or rename the window, and marks of direction could reorder what is shown.
_HIDDEN = dict.fromkeys(
    [
        *(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"),
        *(0x061C, 0x200E, 0x200F),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ],
    "\N{REPLACEMENT CHARACTER}",
)

_LINE_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
# An underscore within a word is not a mark of emphasis.
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")


@dataclass(frozen=True, kw_only=True)
class TaggedText:
    """A text and its entities in order, with offsets into the text and without overlap."""

    text: str
    source: str
    entities: tuple[TaggedEntity, ...]

    @property
    def pieces(self) -> list[tuple[str, TaggedEntity | None]]:
        """The text cut into entities and the stretches between them; joined they are the text."""
        pieces: list[tuple[str, TaggedEntity | None]] = []
        position = 0
        for entity in self.entities:
            pieces += [
                (self.text[position : entity.start], None),
                (self.text[entity.start : entity.end], entity),
            ]
            position = entity.end
        pieces.append((self.text[position:], None))
        return [(text, entity) for text, entity in pieces if text]


def displayed_entities(entities: Iterable[TaggedEntity], offset: int = 0) -> tuple[TaggedEntity, ...]:
    """Return the grounded entities in order; of two that overlap the surer, then the longer.

    offset: where the text starts in the document; the entities' offsets become relative to it.
    """
    grounded = sorted(
        (entity for entity in entities if entity.start >= 0),
        key=lambda entity: (entity.start - entity.end, entity.start),
    )
    chosen = settle(grounded, "flat", certain=lambda entity: entity.grounding == BY_RULE)
    return tuple(
        replace(entity, start=entity.start - offset, end=entity.end - offset)
        for entity in sorted(chosen, key=lambda entity: entity.start)
    )


def type_colours(texts: Sequence[TaggedText]) -> dict[str, str]:
    """Return a colour for each type of the texts, in order of appearance."""
    types = dict.fromkeys(entity.type for text in texts for entity in text.entities)
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(types)}


def visible(text: str) -> str:
    """Return a text for a terminal: a visible mark in place of each control character and mark of direction.

    Line breaks and tabs stay. The length stays too.
    """
    return text.translate(_HIDDEN)


def markdown_text(text: str) -> str:
    """Return a text, such as a type, to stand in one line or table cell of Markdown and show as it is."""
    line = visible(_LINE_BREAKS.sub(" ", text))
    return _MARKDOWN.sub(r"\\\g<0>", str(escape(line)).replace("&#34;", '"').replace("&#39;", "'"))


def markdown_code(text: str) -> str:
    """Return a text as code within a line of Markdown, whatever backquotes it has."""
    line = visible(_LINE_BREAKS.sub(" ", text))
    fence = code_fence(line, shortest=1)
    pad = " " if line[:1] in ("`", "") or line[-1:] == "`" else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def code_fence(text: str, shortest: int = 3) -> str:
    """Return the backquotes to put around a text: more than the text has in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(shortest, longest + 1)


def terminal_text(tagged: TaggedText, colours: dict[str, str]) -> Text:
    """Return a text for rich, its entities in colour, after its source if it has one."""
    line = Text(f"{visible(tagged.source)}: " if tagged.source else "", style="dim")
    for text, entity in tagged.pieces:
        if entity is None:
            line.append(visible(text), style="not dim")
        else:
            line.append(visible(f"{text} [{entity.type}]"), style=f"not dim black on {colours[entity.type]}")
    return line


def html_text(tagged: TaggedText, colours: dict[str, str]) -> Markup:
    """Return a text as HTML, escaped, its entities in colour."""
    mark = Markup('<mark style="background:{}">{}<small>{}</small></mark>')
    return Markup("").join(
        escape(text) if entity is None else mark.format(colours[entity.type], text, entity.type)
        for text, entity in tagged.pieces
    )
