"""CoNLL columns: a token per line, first column the token, last column the tag; a blank line ends a sentence.

A tab separates columns, or blanks if a line has no tab. -DOCSTART- lines are skipped, and so are comments
(`# id ...`) before a sentence's first token. After a first column of running numbers, the token is in the
second column. A file is read twice: for its columns, then for its sentences.

Tags are BIO, IOB1, BIOES or BILOU; I-O and B-O mean O. conlleval's rule reads all four: B, S and U start an
entity; I, E and L continue the previous entity if it has the same type and was not ended by E, S, L or U, and
start a new one otherwise. A sequence that breaks its scheme is thus read as the field's scorer reads it.

A line with the tag O but no token is left out and counted as `empty_token`. Any other line without a token
and a tag is left out and counted as `bad_line`, up to 1 % of the lines.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from uniner.errors import UserError
from uniner.gold.records import GoldPassage, GoldRow, checked_entity, hand_on_left_out, is_number
from uniner.storage.line_reader import read_text_lines

SCHEMES = "a tag is O, or B-, I-, E-, S-, L- or U- and a type, such as B-PER"
_TAG = re.compile(r"O|[BIESLU]-.+")
# No other white space: web corpora have tokens such as a no-break space.
_BLANK = " \t"
_DIGITS = re.compile("[0-9]{1,9}")
_DOCUMENT = "-DOCSTART-"
_BAD_LINES = 0.01
# The chunk column of CoNLL 2000 and 2003 (NC, PC and VC are German and Dutch) has the form of entity tags.
_CHUNKS = {
    "ADJP", "ADVP", "CONJP", "INTJ", "LST", "NP", "PP", "PRT", "SBAR", "UCP", "VP", "NC", "PC", "VC",
}  # fmt: skip


class TokenSpan(NamedTuple):
    """An entity in a sequence of tokens: its first token, the token after its last, and its type."""

    first: int
    after: int
    type: str


def is_tag(tag: str) -> bool:
    """Tell whether a string is a tag of any of the schemes."""
    return _TAG.fullmatch(tag) is not None


def tagged_passage(where: str, tokens: Sequence[str], tags: Sequence[str]) -> GoldPassage:
    """Join tokens with blanks into a passage; valid tags (`is_tag`) become its entities.

    Raises:
        UserError: at `where`, if an entity is blank.
    """
    text, starts = " ".join(tokens), [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + 1)
    entities = []
    for span in token_spans(tags):
        start, end = starts[span.first], starts[span.after] - 1
        if not text[start:end].strip():
            raise UserError(f"{where}: an entity of type {span.type} is blank; remove it")
        entities.append(checked_entity(where, text, start, end, text[start:end], span.type))
    return GoldPassage(text, tuple(entities), id="")


def token_spans(tags: Sequence[str]) -> Iterator[TokenSpan]:
    """Yield the entities that a sequence of tags marks."""
    first, open_type = 0, ""
    for position, tag in enumerate(tags):
        prefix, type_name = tag[0], _type_of(tag)
        continues = prefix in "IEL" and type_name == open_type
        if open_type and not continues:
            yield TokenSpan(first, position, open_type)
        if not continues:
            first, open_type = position, type_name
        if open_type and prefix in "ESLU":
            yield TokenSpan(first, position + 1, open_type)
            open_type = ""
    if open_type:
        yield TokenSpan(first, len(tags), open_type)


def read(url: str, tag_column: int | None = None) -> Iterator[GoldRow]:
    """Yield a passage per sentence: its tokens joined by blanks, its number that of its first line.

    tag_column: number of the tags' column, from 1; by default the last, and the file may have no other column
    of tags that differs.

    Raises:
        UserError: naming a line without a token and a tag; or if the file's columns do not tell which of them
            are the tokens and the tags.
    """
    columns = _Columns(url, tag_column)
    for line in _lines(url):
        columns.add(line)
    columns.check()
    yield from hand_on_left_out(_sentences(url, columns.token, tag_column))


class _Line(NamedTuple):
    """A line with its columns; without columns, it ends a sentence. starts: it is a sentence's first."""

    number: int
    text: str
    columns: list[str]
    starts: bool


def _lines(url: str) -> Iterator[_Line]:
    starts = True
    for number, line in read_text_lines(url):
        if not line.strip(_BLANK) or line.startswith(_DOCUMENT):
            yield _Line(number, line, [], starts=False)
            starts = True
            continue
        columns = _split(line)
        if starts and line.startswith("#") and not is_tag(columns[-1]):
            continue
        yield _Line(number, line, columns, starts)
        starts = False


def _split(line: str) -> list[str]:
    if "\t" in line:
        return [column.strip(" ") for column in line.rstrip(_BLANK).split("\t")]
    return re.split(" +", line.strip(" "))


def _fault(columns: Sequence[str], token: int, tag_column: int | None) -> str:
    """Return the reason to leave out a line; empty for a sound line."""
    if len(columns) == 1 and is_tag(columns[0]) and not _type_of(columns[0]):
        return "empty_token"
    tag = _tag(columns, tag_column)
    if len(columns) < token + 2 or not is_tag(tag):
        return "bad_line"
    if not columns[token]:
        return "bad_line" if _type_of(tag) else "empty_token"
    return ""


def _tag(columns: Sequence[str], tag_column: int | None) -> str:
    if tag_column is None:
        return columns[-1]
    return columns[tag_column - 1] if tag_column <= len(columns) else ""


def _sentences(url: str, token: int, tag_column: int | None) -> Iterator[GoldRow | Mapping[str, int]]:
    """Yield the sentences; for a sentence without tokens, only the counts of its lines by reason."""
    tokens: list[str] = []
    tags: list[str] = []
    left_out: Counter[str] = Counter()
    first = 0
    for line in _lines(url):
        if not line.columns:
            yield _sentence(url, first, tokens, tags, left_out)
            tokens, tags, left_out = [], [], Counter()
        elif fault := _fault(line.columns, token, tag_column):
            left_out[fault] += 1
        else:
            first = first if tokens else line.number
            tokens.append(line.columns[token])
            tags.append(_tag(line.columns, tag_column))
    yield _sentence(url, first, tokens, tags, left_out)


def _sentence(
    url: str, first: int, tokens: list[str], tags: list[str], left_out: Mapping[str, int]
) -> GoldRow | Mapping[str, int]:
    if not tokens:
        return left_out
    place = f"line {first}"
    passage = tagged_passage(f"{url}, {place}", tokens, tags)
    return GoldRow(first, place, replace(passage, left_out=dict(left_out)))


@dataclass
class _Columns:
    """Find a file's columns of tokens and tags, line by line.

    numbers: lines with a number in the first, and in the second column. running: the first column is a
    running number so far, `before` its last value. By position of a column before the last: tag_lines, lines
    with a tag in it; types, its types; differs, the first line with another type in it than in the last.
    """

    url: str
    tag_column: int | None
    lines: int = 0
    tabs: bool = False
    numbers: list[int] = field(default_factory=lambda: [0, 0])
    running: bool = True
    before: int = -1
    first_bad: _Line | None = None
    bad_lines: int = 0
    tag_lines: Counter[int] = field(default_factory=Counter)
    types: dict[int, set[str]] = field(default_factory=dict)
    differs: dict[int, int] = field(default_factory=dict)

    @property
    def token(self) -> int:
        """Return the position of the tokens."""
        return 1 if self.running and self.lines > 1 else 0

    def add(self, line: _Line) -> None:
        """Take the next line into account."""
        if not line.columns:
            return
        self.lines += 1
        self.tabs = self.tabs or "\t" in line.text
        self._add_number(line.columns, line.starts)
        fault = _fault(line.columns, 0, self.tag_column)
        if fault == "bad_line":
            self.bad_lines += 1
            self.first_bad = self.first_bad or line
        elif not fault and self.tag_column is None:
            self._add_tags(line)

    def _add_number(self, columns: Sequence[str], starts: bool) -> None:
        for position, column in enumerate(columns[:2]):
            self.numbers[position] += is_number(column)
        # It counts the tokens of a sentence, or of the whole file, from 0 or 1.
        number = int(columns[0]) if _DIGITS.fullmatch(columns[0]) else -1
        follows = number == self.before + 1 or (starts and number in (0, 1))
        self.running = self.running and len(columns) > 2 and number >= 0 and follows
        self.before = number

    def _add_tags(self, line: _Line) -> None:
        last_type = _type_of(line.columns[-1])
        for position, column in enumerate(line.columns[1:-1], start=1):
            if is_tag(column):
                self.tag_lines[position] += 1
                self.types.setdefault(position, set()).add(_type_of(column))
                if _type_of(column) != last_type:
                    self.differs.setdefault(position, line.number)

    def check(self) -> None:
        """Raise a UserError if the columns cannot be told, or too many lines are bad."""
        if self.first_bad and self.bad_lines > _BAD_LINES * self.lines:
            bad = self.first_bad
            place = f"column {self.tag_column}" if self.tag_column else "the last column"
            raise UserError(
                f"{self.url}, line {bad.number}: {bad.text[:60]!r} needs a token in the first, a tag in "
                f"{place}; {SCHEMES}. `uniner settings evaluate` lists the other formats under gold"
            )
        if 2 * self.numbers[self.token] > self.lines:
            raise UserError(
                f"{self.url}: {self.numbers[0]:,} of {self.lines:,} lines have a number in the first column, "
                "but it does not count the tokens of each sentence before a column of words; remove the "
                f"columns before the words, for instance with `{self._cut}2-`"
            )
        for position, line in self.differs.items():
            types = self.types[position] - {""}
            is_tags = self.tag_lines[position] >= (1 - _BAD_LINES) * (self.lines - self.bad_lines)
            if is_tags and types and not types <= _CHUNKS:
                raise UserError(
                    f"{self.url}, line {line}: column {position + 1} and the last column are both tags, and "
                    "differ; keep the token and one column of tags, for instance with "
                    f"`{self._cut}{self.token + 1},{position + 1}`"
                )

    @property
    def _cut(self) -> str:
        return "cut -f " if self.tabs else "cut -d ' ' -f "


def _type_of(tag: str) -> str:
    """Return a tag's type; empty for O, and for I-O and B-O, which mean the same."""
    return "" if tag[2:] == "O" else tag[2:]
