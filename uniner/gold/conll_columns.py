"""Lines of CoNLL columns, and which of a file's columns are its tokens and its tags."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from uniner.errors import UserError
from uniner.gold.lines import gold_text_lines, not_utf8
from uniner.gold.records import BAD_LINE, is_number, most_faults
from uniner.gold.tags import OUTSIDE, SCHEMES, is_tag, require_no_other_scheme, type_of, with_prefix

# No other white space: web corpora have tokens such as a no-break space.
_BLANK = " \t"
_DIGITS = re.compile("[0-9]{1,9}")
_DOCUMENT = re.compile(rf"(?:[0-9]{{1,9}}[{_BLANK}]+)?-DOCSTART-")
EMPTY_TOKEN = "empty_token"
"""The reason to leave out a line without a token."""
# Tags without a prefix are bare types if at least this share of the lines has O, and they are not many.
_BARE_OUTSIDE, _BARE_TYPES = 0.2, 200
_ALL_TAGS = 0.99
# A first column that has the same value in this share of the lines, but for numbers, is an index or a name.
_SAME_SHAPE, _FEW_LINES, _MOST_SHAPES = 0.9, 3, 1000
_NUMBER = re.compile("[0-9]+")
# The chunk column of CoNLL 2000 and 2003 (NC, PC and VC are German and Dutch) has the form of entity tags.
_CHUNKS = {
    "ADJP", "ADVP", "CONJP", "INTJ", "LST", "NP", "PP", "PRT", "SBAR", "UCP", "VP", "NC", "PC", "VC",
}  # fmt: skip


class TokenLine(NamedTuple):
    """A line with its columns; without columns, it ends a sentence. starts: it is a sentence's first."""

    number: int
    text: str
    columns: list[str]
    starts: bool


class Layout(NamedTuple):
    """Where a file has its tokens, from 0, and its tags, from 1; bare: types without a prefix."""

    token: int
    tag_columns: tuple[int, ...]
    bare: bool = False

    def tags(self, columns: Sequence[str]) -> list[str]:
        """Return a line's tags; a missing column is an empty one."""
        numbers = self.tag_columns or (len(columns),)
        tags = [columns[number - 1] if number <= len(columns) else "" for number in numbers]
        return [with_prefix(tag) if tag else "" for tag in tags] if self.bare else tags

    def fault(self, columns: Sequence[str], tags: Sequence[str]) -> str:
        """Return the reason to leave out a line; empty for a sound line. tags: its tags."""
        if len(columns) > self.token + 1 and columns[self.token] and all(map(is_tag, tags)):
            return ""
        if len(columns) == 1 and is_tag(columns[0]) and not type_of(columns[0]):
            return EMPTY_TOKEN
        wrong = len(columns) < self.token + 2 or not all(map(is_tag, tags)) or any(map(type_of, tags))
        return BAD_LINE if wrong else EMPTY_TOKEN


def lines(url: str) -> Iterator[TokenLine]:
    """Yield the lines of a file, comments and document marks left out."""
    starts = True
    for number, line in gold_text_lines(url):
        if line is None:
            yield TokenLine(number, "", ["\ufffd"], starts)
            continue
        if not line.strip(_BLANK) or _DOCUMENT.match(line):
            yield TokenLine(number, line, [], starts=False)
            starts = True
            continue
        columns = _split(line)
        if starts and line.startswith("#") and not is_tag(columns[-1]):
            continue
        yield TokenLine(number, line, columns, starts)
        starts = False


def _split(line: str) -> list[str]:
    if "\t" in line:
        return [column.strip(" ") for column in line.rstrip(_BLANK).split("\t")]
    return re.split(" +", line.strip(" "))


@dataclass
class Columns:
    """Find a file's columns of tokens and tags, line by line.

    numbers: lines with a number in the first, and in the second column. running: the first column is a
    running number so far, `before` its last value. bad_lines and bad_bare_lines: by the two readings of tags.
    tags_first: lines of a tag and another column. plain: tags without a prefix, with the number of lines;
    prefixed: lines with another tag. By position of a
    column before the last: tag_lines, lines with a tag in it; types, its types; differs, the first line with
    another type in it than in the last; values, what it has, and bare_differs, the first line with another
    value than in the last. shapes: values of the first column with each number as 0, where two
    more follow; first: one of them.
    """

    url: str
    tag_columns: tuple[int, ...]
    lines: int = 0
    tabs: bool = False
    numbers: list[int] = field(default_factory=lambda: [0, 0])
    running: bool = True
    before: int = -1
    first_bad: TokenLine | None = None
    bad_lines: int = 0
    bad_bare_lines: int = 0
    tags_first: int = 0
    plain: Counter[str] = field(default_factory=Counter)
    prefixed: int = 0
    tag_lines: Counter[int] = field(default_factory=Counter)
    types: dict[int, set[str]] = field(default_factory=dict)
    differs: dict[int, int] = field(default_factory=dict)
    values: dict[int, Counter[str]] = field(default_factory=dict)
    bare_differs: dict[int, int] = field(default_factory=dict)
    shapes: Counter[str] = field(default_factory=Counter)
    first: str = ""

    @property
    def token(self) -> int:
        """Return the position of the tokens."""
        return 1 if self.running and self.lines > 1 else 0

    @property
    def bare(self) -> bool:
        """Tell whether the tags are types without a prefix, beside O."""
        outside = self.plain[OUTSIDE]
        bare = self.plain.total() - outside
        few = bare > 0 and len(self.plain) <= _BARE_TYPES
        return few and 100 * self.prefixed < bare and outside >= _BARE_OUTSIDE * self.lines

    def add(self, line: TokenLine) -> None:
        """Take the next line into account."""
        if not line.columns:
            return
        self.lines += 1
        self.tabs = self.tabs or "\t" in line.text
        self.tags_first += len(line.columns) == 2 and is_tag(line.columns[0])
        self._add_number(line.columns, line.starts)
        layout = Layout(0, self.tag_columns)
        tags = layout.tags(line.columns)
        fault = layout.fault(line.columns, tags)
        if fault == BAD_LINE:
            self.bad_lines += 1
            self.first_bad = self.first_bad or line
            bare = layout._replace(bare=True)
            if bare.fault(line.columns, bare.tags(line.columns)) == BAD_LINE:
                self.bad_bare_lines += 1
                return
        self._add_prefixes(tags)
        if not self.tag_columns and len(line.columns) > 2:
            self._add_values(line)
            if not fault:
                self._add_tags(line)

    def _add_prefixes(self, tags: Sequence[str]) -> None:
        for tag in tags:
            if tag != OUTSIDE and is_tag(tag):
                self.prefixed += 1
            elif tag in self.plain or len(self.plain) <= _BARE_TYPES:
                self.plain[tag] += 1

    def _add_number(self, columns: Sequence[str], starts: bool) -> None:
        for position, column in enumerate(columns[:2]):
            self.numbers[position] += is_number(column)
        # It counts the tokens of a sentence, or of the whole file, from 0 or 1.
        number = int(columns[0]) if _DIGITS.fullmatch(columns[0]) else -1
        follows = number == self.before + 1 or (starts and number in (0, 1))
        if len(columns) > 2 and len(self.shapes) <= _MOST_SHAPES:
            self.shapes[_NUMBER.sub("0", columns[0])] += 1
            self.first = self.first or columns[0]
        self.running = self.running and len(columns) > 2 and number >= 0 and follows
        self.before = number

    def _add_tags(self, line: TokenLine) -> None:
        last_type = type_of(line.columns[-1])
        for position, column in enumerate(line.columns[1:-1], start=1):
            if is_tag(column):
                self.tag_lines[position] += 1
                self.types.setdefault(position, set()).add(type_of(column))
                if type_of(column) != last_type:
                    self.differs.setdefault(position, line.number)

    def _add_values(self, line: TokenLine) -> None:
        for position, value in enumerate(line.columns[1:-1], start=1):
            values = self.values.setdefault(position, Counter())
            if value in values or len(values) <= _BARE_TYPES:
                values[value] += 1
            if value != line.columns[-1]:
                self.bare_differs.setdefault(position, line.number)

    def _other_tags(self, bad_lines: int) -> Iterator[tuple[int, int]]:
        """Yield each column of other tags before the last, and the first line where they differ."""
        for position, line in self.differs.items():
            types = self.types[position] - {""}
            is_tags = self.tag_lines[position] >= _ALL_TAGS * (self.lines - bad_lines)
            if is_tags and types and not types <= _CHUNKS:
                yield position, line
        for position, line in self.bare_differs.items() if self.bare else ():
            values = self.values[position]
            few = 1 < len(values) <= _BARE_TYPES
            chunks = {type_of(value) if is_tag(value) else value for value in values} <= {"", *_CHUNKS}
            if position > self.token and few and not chunks and values[OUTSIDE] >= _BARE_OUTSIDE * self.lines:
                yield position, line

    def check(self) -> None:
        """Raise a UserError if the columns cannot be told, or too many lines are bad."""
        bad_lines = self.bad_bare_lines if self.bare else self.bad_lines
        if self.bare:
            require_no_other_scheme(self.url, self.plain)
        if self.first_bad and bad_lines > most_faults(self.lines):
            raise UserError(self._bad_line(self.first_bad))
        shape, count = max(self.shapes.items(), key=lambda item: item[1], default=("", 0))
        if (
            self.token == 0
            and self.lines >= _FEW_LINES
            and shape != "0"
            and count >= _SAME_SHAPE * self.lines
        ):
            raise UserError(
                f"{self.url}: the first column is the same in {count:,} of {self.lines:,} lines but for its "
                f"numbers ({self.first!r}), so it is not of words; remove the columns before the words, for "
                f"instance with `{self._cut}2-`"
            )
        if 2 * self.numbers[self.token] > self.lines:
            raise UserError(
                f"{self.url}: {self.numbers[0]:,} of {self.lines:,} lines have a number in the first column, "
                "but it does not count the tokens of each sentence before a column of words; remove the "
                f"columns before the words, for instance with `{self._cut}2-`"
            )
        for position, line in self._other_tags(bad_lines):
            raise UserError(
                f"{self.url}, line {line}: column {position + 1} and the last column are both tags, and "
                "differ; keep the token and one column of tags, for instance with "
                f"`{self._cut}{self.token + 1},{position + 1}`"
            )

    def _bad_line(self, bad: TokenLine) -> str:
        if not bad.text:
            return not_utf8(self.url, bad.number)
        place = f"column {', '.join(map(str, self.tag_columns))}" if self.tag_columns else "the last column"
        if self.tags_first >= _ALL_TAGS * self.lines:
            return (
                f"{self.url}, line {bad.number}: {bad.text[:60]!r} has the tag in the first column, and the "
                "token in the second; swap them, for instance with `awk '{print $2, $1}'`"
            )
        return (
            f"{self.url}, line {bad.number}: {bad.text[:60]!r} needs a token in the first, a tag in "
            f"{place}; {SCHEMES}. `uniner settings evaluate` lists the other formats under gold"
        )

    @property
    def _cut(self) -> str:
        return "cut -f " if self.tabs else "cut -d ' ' -f "
