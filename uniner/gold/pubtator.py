"""PubTator: `ID|t|title`, `ID|a|abstract`, then a tab-separated line per annotation.

    227508|t|Naloxone reverses the effect of clonidine.
    227508|a|In rats ...
    227508	0	8	Naloxone	Chemical	D009270

A document is one passage: title, blank, abstract. Offsets count in this text. Relation lines (without
offsets) are ignored. A line that is neither, or whose offsets do not match the text, is left out and counted
as `bad_annotation`; the lines of a document without a title as one `bad_row`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from uniner.gold.lines import gold_text_lines, not_utf8
from uniner.gold.records import GoldRow, LeftOut, MarkedSpan, annotated_row, bad_row

_TEXT = re.compile(r"([^|\t]+)\|([ta])\|(.*)")
_OFFSET = re.compile("[0-9]{1,12}")
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
    errors: list[str] = field(default_factory=list)

    def add(self, url: str, number: int, line: str) -> None:
        """Take a line after the title into account."""
        where, text = f"{url}, line {number}", _TEXT.fullmatch(line)
        if text and self.abstract is not None:
            self.errors.append(f"{where}: {self.id} has a second abstract; remove one of the two")
        elif text:
            self.abstract = text[3]
        elif _is_entity(columns := line.split("\t")):
            self.annotations.append((number, columns))
        elif len(columns) < _TYPE or not columns[_START][:1].isalpha():
            self.errors.append(
                f"{where}: an annotation is ID, start, end, mention and type, a relation is ID, name and two "
                "identifiers; separate the columns by tabs"
            )

    def row(self, url: str) -> GoldRow:
        text = f"{self.title} {self.abstract}" if self.abstract else self.title
        mentions = [
            MarkedSpan(
                f"{url}, line {number}",
                int(columns[_START]),
                int(columns[_END]),
                columns[_MENTION],
                columns[_TYPE].strip(),
            )
            for number, columns in self.annotations
        ]
        return annotated_row(self.line, f"line {self.line}", text, mentions, self.id, errors=self.errors)


def read(url: str) -> Iterator[GoldRow | LeftOut]:
    """Yield the documents of a file as passages."""
    document: _PubtatorDocument | None = None
    orphan = ""
    for number, line in gold_text_lines(url):
        if line is None:
            if document:
                document.errors.append(not_utf8(url, number))
            continue
        text = _TEXT.fullmatch(line)
        name = text[1] if text else line.split("\t", 1)[0]
        if text and text[2] == "t":
            if document:
                yield document.row(url)
            document, orphan = _PubtatorDocument(name, number, text[3]), ""
        elif not line.strip() or (orphan and name == orphan):
            continue
        elif document and name == document.id:
            document.add(url, number, line)
        else:
            orphan = name
            title = f"below {document.id}|t|..." if document else "before the first title"
            yield bad_row(
                f"{url}, line {number}: {line[:60]!r} is {title}; start its document with ID|t|title"
            )
    if document:
        yield document.row(url)


def _is_entity(columns: list[str]) -> bool:
    """Distinguish an annotation from a relation, which has a name in place of the first offset."""
    return len(columns) > _TYPE and all(map(_OFFSET.fullmatch, columns[_START : _END + 1]))
