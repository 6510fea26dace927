"""PubTator: `ID|t|title`, `ID|a|abstract`, then a tab-separated line an annotation.

    227508|t|Naloxone reverses the effect of clonidine.
    227508|a|In rats ...
    227508	0	8	Naloxone	Chemical	D009270

A document is one passage: title, a blank, abstract, which is what the offsets count. Lines of relations
(no offsets) are ignored.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from uniner.errors import UserError
from uniner.gold.records import Found, GoldEntity, GoldPassage, entity
from uniner.storage.line_reader import read_text_lines

_TEXT = re.compile(r"([^|\t]+)\|([ta])\|(.*)")
_START, _END, _MENTION, _TYPE = 1, 2, 3, 4


def is_first_line(line: str) -> bool:
    """Tell whether a file that begins with this line is PubTator's."""
    found = _TEXT.fullmatch(line)
    return found is not None and found[2] == "t"


@dataclass
class _Document:
    """A document that is being read; annotations with the number of their line."""

    id: str
    line: int
    title: str
    abstract: str | None = None
    annotations: list[tuple[int, list[str]]] = field(default_factory=list)

    def found(self, url: str) -> Found:
        text = f"{self.title} {self.abstract}" if self.abstract else self.title
        entities = tuple(
            _entity(f"{url}, line {number}", text, columns) for number, columns in self.annotations
        )
        return Found(self.line, f"line {self.line}", GoldPassage(text, entities, self.id))


def read(url: str) -> Iterator[Found]:
    """Yield the documents of a file, each as a passage.

    Raises:
        UserError: naming the line that is out of place, or whose offsets do not fit.
    """
    document: _Document | None = None
    for number, line in read_text_lines(url):
        where = f"{url}, line {number}"
        text = _TEXT.fullmatch(line)
        if text and text[2] == "t":
            if document:
                yield document.found(url)
            document = _Document(text[1], number, text[3])
        elif line.strip():
            name = text[1] if text else line.split("\t", 1)[0]
            if not document or name != document.id:
                title = f"{document.id}|t|..." if document else "a title"
                raise UserError(
                    f"{where}: {line[:60]!r} stands below {title}; begin its document with ID|t|title"
                )
            if not text:
                columns = line.split("\t")
                if _is_annotation(where, columns):
                    document.annotations.append((number, columns))
            elif document.abstract is not None:
                raise UserError(f"{where}: {document.id} has a second abstract; leave one of the two out")
            else:
                document.abstract = text[3]
    if document:
        yield document.found(url)


def _is_annotation(where: str, columns: list[str]) -> bool:
    """Tell an annotation from a relation, which has a name in the place of the first offset."""
    if len(columns) < _TYPE or not columns[_START][:1].isalpha():
        if len(columns) > _TYPE and columns[_START].isdecimal() and columns[_END].isdecimal():
            return True
        raise UserError(
            f"{where}: an annotation is ID, start, end, mention and type with tabs between, a relation ID, "
            "its name and two identifiers"
        )
    return False


def _entity(where: str, text: str, columns: list[str]) -> GoldEntity:
    return entity(
        where, text, int(columns[_START]), int(columns[_END]), columns[_MENTION], columns[_TYPE].strip()
    )
