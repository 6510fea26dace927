"""CoNLL columns: a token a line, first column the token, last column the tag; a blank line ends a sentence.

Columns stand apart by a tab, or by blanks where a line has no tab. Lines of -DOCSTART- and, before a
sentence's first token, comments (`# id ...`) are no tokens.
"""

import re
from collections.abc import Iterator

from uniner.errors import UserError
from uniner.gold.records import Found
from uniner.gold.token_tags import SCHEMES, is_tag, passage
from uniner.storage.line_reader import read_text_lines

# No other white space: corpora of the web have tokens that are, say, a no-break space.
_BLANK = " \t"
_DOCUMENT = "-DOCSTART-"


def read(url: str) -> Iterator[Found]:
    """Yield a passage a sentence: its tokens joined by a blank, its number that of its first line.

    Raises:
        UserError: naming the line that is no token with a tag.
    """
    tokens: list[str] = []
    tags: list[str] = []
    first = 0
    for number, line in read_text_lines(url):
        if not line.strip(_BLANK) or line.startswith(_DOCUMENT):
            if tokens:
                yield _sentence(url, first, tokens, tags)
            tokens, tags = [], []
            continue
        columns = _columns(line)
        if not tokens and line.startswith("#") and not is_tag(columns[-1]):
            continue
        if len(columns) < 2 or not columns[0] or not is_tag(columns[-1]):
            raise UserError(
                f"{url}, line {number}: {line[:60]!r} is no token in the first and tag in the last column; "
                f"{SCHEMES}. For other formats see evaluate.gold in --help"
            )
        if not tokens:
            first = number
        tokens.append(columns[0])
        tags.append(columns[-1])
    if tokens:
        yield _sentence(url, first, tokens, tags)


def _columns(line: str) -> list[str]:
    if "\t" in line:
        return [column.strip(" ") for column in line.rstrip(_BLANK).split("\t")]
    return re.split(" +", line.strip(" "))


def _sentence(url: str, first: int, tokens: list[str], tags: list[str]) -> Found:
    place = f"line {first}"
    return Found(first, place, passage(f"{url}, {place}", tokens, tags))
