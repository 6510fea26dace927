"""CoNLL columns: a token per line, first column the token, last column the tag; a blank line ends a sentence.

A tab separates columns, or blanks if a line has no tab. -DOCSTART- lines are skipped (also with a number
before it), and so are comments (`# id ...`) before a sentence's first token. After a first column of running
numbers, the token is in the second column. A file is read twice: for its columns (`conll_columns`),
then for its sentences. `tags` describes the tags.

A line with the tag O but no token is left out and counted as `empty_token`; it ends an entity, as O does.
Any other line without a token and a tag is left out and counted as `bad_line`, up to 1 % of the lines (of ten
or more, one).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from uniner.errors import UserError
from uniner.gold.conll_columns import EMPTY_TOKEN, Columns, Layout, lines
from uniner.gold.records import GoldRow, LeftOut, bad_row
from uniner.gold.tags import first_tag, tagged_passage


def read(url: str, tag_columns: Sequence[int] = ()) -> Iterator[GoldRow | LeftOut]:
    """Yield a passage per sentence: its tokens joined by blanks, its number that of its first line.

    tag_columns: numbers of the tags' columns, from 1; several for layers of nested entities. By default the
    last column, and the file may have no other column of tags that differs.

    Raises:
        UserError: naming a line without a token and a tag; or if the file's columns do not tell which of them
            are the tokens and the tags.
    """
    columns = Columns(url, tuple(tag_columns))
    for line in lines(url):
        columns.add(line)
    columns.check()
    yield from _sentences(url, Layout(columns.token, tuple(tag_columns), columns.bare))


def _sentences(url: str, layout: Layout) -> Iterator[GoldRow | LeftOut]:
    """Yield the sentences; for a sentence without tokens, only the counts of its lines by reason."""
    tokens: list[str] = []
    tags: list[list[str]] = []
    left_out: Counter[str] = Counter()
    first, ended = 0, False
    for line in lines(url):
        if not line.columns:
            yield _sentence(url, first, tokens, tags, left_out)
            tokens, tags, left_out, ended = [], [], Counter(), False
            continue
        line_tags = layout.tags(line.columns)
        if fault := layout.fault(line.columns, line_tags):
            left_out[fault] += 1
            ended = ended or fault == EMPTY_TOKEN
        else:
            first = first if tokens else line.number
            tokens.append(line.columns[layout.token])
            tags.append([first_tag(tag) for tag in line_tags] if ended else line_tags)
            ended = False
    yield _sentence(url, first, tokens, tags, left_out)


def _sentence(
    url: str, first: int, tokens: list[str], tags: list[list[str]], left_out: Mapping[str, int]
) -> GoldRow | LeftOut:
    if not tokens:
        return LeftOut(left_out)
    place = f"line {first}"
    try:
        passage = tagged_passage(f"{url}, {place}", tokens, *zip(*tags, strict=True))
    except UserError as error:
        return bad_row(error)
    return GoldRow(first, place, replace(passage, left_out=dict(left_out)))
