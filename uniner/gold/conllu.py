"""CoNLL-U with the sentence's own text: `# text = ...` before the numbered words, entities as tags.

    # text = Ann Lee's left.
    1	Ann	Ann	PROPN	_	_	0	_	_	NER=B-PER
    2-3	Lee's	_	_	_	_	_	_	_	_
    2	Lee	Lee	PROPN	_	_	1	_	_	NER=I-PER
    3	's	's	PART	_	_	1	_	_	NER=O
    4	left	leave	VERB	_	_	1	_	_	SpaceAfter=No|NER=O

Tags are in a field of MISC (NER, NE, Entity or EntityType, in any case), in the column that
`# global.columns` calls so, or else in the only column of tags after the word (Universal NER). The passage is
the sentence's own text; without one, the words with blanks but where SpaceAfter=No. The words of a range
(2-3) share its place in the text; empty words (4.1) are passed over. A sentence whose words are not its text,
or with a line that is not a word, is left out and counted as `bad_row`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from uniner.errors import UserError
from uniner.gold.lines import gold_text_lines, not_utf8
from uniner.gold.records import GoldRow, LeftOut, MarkedSpan, annotated_row, bad_row
from uniner.gold.tags import SCHEMES, is_tag, located_tokens, token_spans

_TEXT = re.compile(r"#\s*text\s*=\s?(.*)")
_ID = re.compile(r"#\s*sent_id\s*=\s*(.*?)\s*")
_COLUMNS = re.compile(r"#\s*global\.columns\s*=\s*(.*)")
_WORD_NUMBER = re.compile(r"[0-9]{1,6}(?:[-.][0-9]{1,6})?")
_TAG_FIELDS = {"ner", "ne", "entity", "entitytype"}
_WIDTH, _WORD, _MISC = 10, 1, 9
_ALL_TAGS = 0.99


@dataclass
class _UdSentence:
    """A sentence being read: its lines as (number, columns), and its comments."""

    lines: list[tuple[int, list[str]]] = field(default_factory=list)
    text: str | None = None
    id: str = ""
    error: str = ""


def is_start(start: str) -> bool:
    """Tell whether a file begins as CoNLL-U with its texts, named columns, or tags in MISC."""
    comments = False
    for line in start.splitlines():
        if line.startswith("#"):
            comments = comments or bool(_TEXT.match(line) or _COLUMNS.match(line))
        elif line.strip():
            columns = line.split("\t")
            numbered = len(columns) > 2 and _WORD_NUMBER.fullmatch(columns[0]) is not None
            return numbered and (comments or (len(columns) == _WIDTH and _has_tag_field(columns[_MISC])))
    return False


def read(url: str, tag_columns: Sequence[int] = ()) -> Iterator[GoldRow | LeftOut]:
    """Yield the sentences as passages. tag_columns: numbers of the tags' columns, from 1.

    Raises:
        UserError: if no column has tags, or several have.
    """
    columns = [number - 1 for number in tag_columns] or [_tag_column(url)]
    for sentence in _sentences(url):
        try:
            yield _passage(url, sentence, columns)
        except UserError as error:
            yield bad_row(error)


def _sentences(url: str) -> Iterator[_UdSentence]:
    sentence = _UdSentence()
    for number, line in gold_text_lines(url):
        if line is None:
            sentence.error = sentence.error or not_utf8(url, number)
        elif not line.strip():
            if sentence.lines or sentence.error:
                yield sentence
            sentence = _UdSentence()
        elif line.startswith("#") and not sentence.lines:
            if text := _TEXT.fullmatch(line):
                sentence.text = text[1]
            elif name := _ID.fullmatch(line):
                sentence.id = name[1]
        else:
            columns = line.split("\t")
            if len(columns) < 3 or not columns[_WORD] or not _WORD_NUMBER.fullmatch(columns[0]):
                sentence.error = sentence.error or (
                    f"{url}, line {number}: {line[:60]!r} is not a word; a line has its number, the word and "
                    "more columns, separated by tabs"
                )
            sentence.lines.append((number, columns))
    if sentence.lines or sentence.error:
        yield sentence


def _tag_column(url: str) -> int:
    """Return the position of the column of tags; that of MISC if they are a field of it."""
    words, fields = 0, 0
    tagged: Counter[int] = Counter()
    for number, line in gold_text_lines(url):
        if line is None or not line.strip():
            continue
        if line.startswith("#"):
            named = _COLUMNS.fullmatch(line) if number == 1 else None
            names = [name.split(":")[-1].lower() for name in named[1].split()] if named else []
            found = [position for position, name in enumerate(names) if name in _TAG_FIELDS]
            if len(found) == 1:
                return found[0]
            continue
        columns = line.split("\t")
        if columns[0].isdecimal():
            words += 1
            fields += len(columns) == _WIDTH and _has_tag_field(columns[_MISC])
            tagged.update(
                position for position, column in enumerate(columns) if position > 1 and is_tag(column)
            )
    places = [position for position, count in tagged.items() if count >= _ALL_TAGS * words]
    if fields and not places:
        return _MISC
    if len(places) != 1:
        which = (
            f"the columns {', '.join(str(place + 1) for place in places)} have" if places else "no column has"
        )
        raise UserError(
            f"{url}: {which} a tag on every line; keep one column of tags, or name it in the first line, "
            f"such as `# global.columns = ID FORM NER`; {SCHEMES}"
        )
    return places[0]


def _has_tag_field(misc: str) -> bool:
    return _misc_tag(misc) != "O" or any(name.lower() in _TAG_FIELDS for name, _ in _misc_fields(misc))


def _misc_fields(misc: str) -> list[tuple[str, str]]:
    pairs = (part.partition("=") for part in misc.split("|"))
    return [(name, value) for name, equals, value in pairs if equals]


def _misc_tag(misc: str) -> str:
    """Return the tag in a word's MISC; O if it has none."""
    tags = [value for name, value in _misc_fields(misc) if name.lower() in _TAG_FIELDS]
    return tags[0] if tags and is_tag(tags[0]) else "O"


def _passage(url: str, sentence: _UdSentence, tag_columns: Sequence[int]) -> GoldRow:
    if sentence.error:
        raise UserError(sentence.error)
    first = sentence.lines[0][0]
    where = f"{url}, line {first}"
    surfaces, owners, tags, spaces = _words(url, sentence, tag_columns)
    text = sentence.text
    if text is None:
        parts = zip(surfaces, spaces, strict=True)
        text = "".join(surface + " " * space for surface, space in parts).rstrip(" ")
    places = located_tokens(text, surfaces)
    if places is None:
        raise UserError(f"{where}: the words are not those of `# text = {text[:40]}`; correct one of them")
    mentions: dict[tuple[int, int, str], None] = {}
    for layer in tags:
        for span in token_spans(layer):
            start, end = places[owners[span.first]][0], places[owners[span.after - 1]][1]
            mentions[start, end, span.type] = None
    found = [MarkedSpan(where, start, end, None, name) for start, end, name in mentions]
    return annotated_row(first, f"line {first}", text, found, sentence.id)


def _words(
    url: str, sentence: _UdSentence, tag_columns: Sequence[int]
) -> tuple[list[str], list[int], list[list[str]], list[bool]]:
    """Return the surfaces, the surface of each word, the words' tags, and the blanks after surfaces."""
    surfaces: list[str] = []
    owners: list[int] = []
    tags: list[list[str]] = [[] for _ in tag_columns]
    spaces: list[bool] = []
    range_end = 0
    for number, columns in sentence.lines:
        name = columns[0]
        if "." in name:
            continue
        if "-" in name:
            range_end = int(name.split("-")[1])
        elif len(surfaces) and int(name) <= range_end:
            owners.append(len(surfaces) - 1)
        else:
            owners.append(len(surfaces))
        if "-" in name or owners[-1] == len(surfaces):
            surfaces.append(columns[_WORD])
            spaces.append("SpaceAfter=No" not in columns[-1].split("|"))
        if "-" not in name:
            for layer, position in zip(tags, tag_columns, strict=True):
                layer.append(_tag(f"{url}, line {number}", columns, position))
    return surfaces, owners, tags, spaces


def _tag(where: str, columns: Sequence[str], position: int) -> str:
    value = columns[position] if position < len(columns) else ""
    if position == _MISC and len(columns) == _WIDTH and not is_tag(value):
        return _misc_tag(value)
    if value == "_":
        return "O"
    if not is_tag(value):
        raise UserError(f"{where}: {value[:60]!r} in column {position + 1} is not a tag; {SCHEMES}")
    return value
