"""CoNLL columns: a token per line, first column the token, last column the tag; a blank line ends a sentence.

A tab separates columns, or blanks if a line has no tab. -DOCSTART- lines are skipped, and so are comments
(`# id ...`) before a sentence's first token.

Tags are BIO, IOB1, BIOES or BILOU. conlleval's rule reads all four: B, S and U start an entity; I, E and L
continue the previous entity if it has the same type and was not ended by E, S, L or U, and start a new one
otherwise. A sequence that breaks its scheme is thus read as the field's scorer reads it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from uniner.errors import UserError
from uniner.gold.records import GoldPassage, GoldRow, checked_entity
from uniner.storage.line_reader import read_text_lines

SCHEMES = "a tag is O, or B-, I-, E-, S-, L- or U- and a type, such as B-PER"
_TAG = re.compile(r"O|[BIESLU]-.+")
# No other white space: web corpora have tokens such as a no-break space.
_BLANK = " \t"
_DOCUMENT = "-DOCSTART-"


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
        prefix, type_name = tag[0], tag[2:]
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


def read(url: str) -> Iterator[GoldRow]:
    """Yield a passage per sentence: its tokens joined by blanks, its number that of its first line.

    Raises:
        UserError: naming the line without a token and a tag.
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
                f"{url}, line {number}: {line[:60]!r} needs a token in the first, a tag in the last column; "
                f"{SCHEMES}. `uniner settings evaluate` lists the other formats under gold"
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


def _sentence(url: str, first: int, tokens: list[str], tags: list[str]) -> GoldRow:
    place = f"line {first}"
    return GoldRow(first, place, tagged_passage(f"{url}, {place}", tokens, tags))
