"""PubTator: `ID|t|title`, `ID|a|abstract`, then a tab-separated line per annotation.

    227508|t|Naloxone reverses the effect of clonidine.
    227508|a|In rats ...
    227508	0	8	Naloxone	Chemical	D009270

A document is one passage: title, blank, abstract. Offsets count in this text. Relation lines (without
offsets) are ignored.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from uniner.errors import UserError
from uniner.gold.records import GoldPassage, GoldRow, checked_entity
from uniner.storage.line_reader import read_text_lines

_TEXT = re.compile(r"([^|\t]+)\|([ta])\|(.*)")
_START, _END, _MENTION, _TYPE = 1, 2, 3, 4


def is_first_line(line: str) -> bool:
    """Tell whether a line is the first line of a PubTator file."""
    match = _TEXT.fullmatch(line)
    return match is not None and match[2] == "t"


@dataclass
class _PubtatorDocument:
    """The document being read; annotations are (line number, columns)."""

    id: str
    line: int
    title: str
    abstract: str | None = None
    annotations: list[tuple[int, list[str]]] = field(default_factory=list)

    def row(self, url: str) -> GoldRow:
        text = f"{self.title} {self.abstract}" if self.abstract else self.title
        entities = tuple(
            checked_entity(
                f"{url}, line {number}",
                text,
                int(columns[_START]),
                int(columns[_END]),
                columns[_MENTION],
                columns[_TYPE].strip(),
            )
            for number, columns in self.annotations
        )
        return GoldRow(self.line, f"line {self.line}", GoldPassage(text, entities, self.id))


def read(url: str) -> Iterator[GoldRow]:
    """Yield the documents of a file as passages.

    Raises:
        UserError: naming the misplaced line, or the line whose offsets do not match the text.
    """
    document: _PubtatorDocument | None = None
    for number, line in read_text_lines(url):
        where = f"{url}, line {number}"
        text = _TEXT.fullmatch(line)
        if text and text[2] == "t":
            if document:
                yield document.row(url)
            document = _PubtatorDocument(text[1], number, text[3])
        elif line.strip():
            name = text[1] if text else line.split("\t", 1)[0]
            if not document or name != document.id:
                title = f"below {document.id}|t|..." if document else "before the first title"
                raise UserError(f"{where}: {line[:60]!r} is {title}; start its document with ID|t|title")
            if not text:
                columns = line.split("\t")
                if _is_annotation(where, columns):
                    document.annotations.append((number, columns))
            elif document.abstract is not None:
                raise UserError(f"{where}: {document.id} has a second abstract; remove one of the two")
            else:
                document.abstract = text[3]
    if document:
        yield document.row(url)


def _is_annotation(where: str, columns: list[str]) -> bool:
    """Distinguish an annotation from a relation, which has a name in place of the first offset."""
    if len(columns) < _TYPE or not columns[_START][:1].isalpha():
        if len(columns) > _TYPE and columns[_START].isdecimal() and columns[_END].isdecimal():
            return True
        raise UserError(
            f"{where}: an annotation is ID, start, end, mention and type, a relation is ID, name and two "
            "identifiers; separate the columns by tabs"
        )
    return False
