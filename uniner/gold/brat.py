"""A brat folder: pairs of .txt and .ann files. Only text-bound annotations (T lines) are read.

    T1	Gene 0 5	p53 a
    T2	Gene 8 12;16 20	left ... side

A document is one passage. brat splits an annotation at a line end into fragments, so fragments with only
white space between them are one span. Other discontinuous annotations are left out and counted as
`discontinuous`: no string of the passage is their mention, and one span over all fragments would include
other words. Relations, events, attributes, normalisations and notes are ignored.

A mention with line ends may go over several lines of the .ann file. Where its lines are not the text between
its offsets, it is left out and counted as `broken_over_lines`. A mention of only white space counts as
`blank_mention`, a document without text as `empty_document`. A line that is not an annotation, or whose
offsets do not match the text, counts as `bad_annotation`; a document that cannot be read as `bad_row`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from uniner.errors import UserError
from uniner.gold.lines import EXPANSION, gold_text_lines, not_utf8
from uniner.gold.records import GoldRow, LeftOut, MarkedSpan, annotated_row, bad_row, faults_in, same_words
from uniner.storage.filesystem import files_below, filesystem
from uniner.storage.line_reader import BYTE_ORDER_MARK, read_whole

_OFFSET = r"\d{1,12}"
_TEXT_BOUND = re.compile(rf"T\S*\t(\S+) ({_OFFSET} {_OFFSET}(?:;{_OFFSET} {_OFFSET})*)\t(.*)")
_IGNORED = tuple("REAMN#*")
_STARTS = re.compile(r"[TREAMN#*]\S*\t")
_BROKEN = "broken_over_lines"


def document_files(url: str) -> list[tuple[str | None, str]]:
    """Return the (text, annotations) addresses of a folder's documents; None for a text that is missing."""
    files = files_below(url)
    known = set(files)
    # macOS writes a file "._NAME" beside each on foreign disks.
    annotations = [
        file for file in files if file.endswith(".ann") and not file.rpartition("/")[2].startswith(".")
    ]
    texts = [file.removesuffix(".ann") + ".txt" for file in annotations]
    return [(text if text in known else None, file) for text, file in zip(texts, annotations, strict=True)]


def read(url: str) -> Iterator[GoldRow | LeftOut]:
    """Yield the documents of a folder as passages; the path below the folder is the id."""
    folder = filesystem(url)[1].rstrip("/")
    for number, (text, annotations) in enumerate(document_files(url), start=1):
        name = filesystem(annotations)[1].removesuffix(".ann").removeprefix(f"{folder}/")
        try:
            yield _document(number, annotations, text, name)
        except UserError as error:
            yield bad_row(error)


def _document(number: int, annotations: str, text_url: str | None, name: str) -> GoldRow | LeftOut:
    if text_url is None:
        raise UserError(f"{annotations}: the .txt file of this name is missing; add it or remove this file")
    try:
        data = read_whole(text_url, EXPANSION)
        text = data.removeprefix(BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{text_url}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    if not text.strip():
        return LeftOut({"empty_document": 1})
    return _best_reading(number, annotations, text, name, marked=data.startswith(BYTE_ORDER_MARK))


def _best_reading(number: int, annotations: str, text: str, name: str, *, marked: bool) -> GoldRow:
    """Return a document's passage. Offsets may count a Windows line end as two characters or as one.

    marked: the file begins with a byte-order mark, which brat counts as a character.
    """
    lines = list(gold_text_lines(annotations))
    windows = "\r\n" in text
    readings = [text, text.replace("\r\n", "\n")] if windows else [text]
    readings += [f"\ufeff{reading}" for reading in readings] if marked else []
    rows = [_annotated(number, annotations, lines, reading, name) for reading in readings]
    best = min(rows, key=lambda row: (faults_in(row.passage.left_out), row.passage.left_out.get(_BROKEN, 0)))
    if windows and best.error:
        cause = ". Windows line ends were tried as one character too; write the text with plain line ends"
        return best._replace(error=rows[0].error + cause)
    return best


def _annotated(
    number: int, url: str, lines: Sequence[tuple[int, str | None]], text: str, name: str
) -> GoldRow:
    mentions, left_out, errors = [], Counter[str](), []
    for found in _annotations(url, lines, text):
        if isinstance(found, MarkedSpan):
            mentions.append(found)
        elif isinstance(found, UserError):
            errors.append(str(found))
        else:
            left_out[found] += 1
    return annotated_row(number, name, text, mentions, name, left_out, errors)


def _annotations(
    url: str, lines: Sequence[tuple[int, str | None]], text: str
) -> Iterator[MarkedSpan | UserError | str]:
    """Yield each text-bound annotation, an error, or the reason to leave it out."""
    position = 0
    while position < len(lines):
        number, line = lines[position]
        position += 1
        where = f"{url}, line {number}"
        if line is None:
            yield UserError(not_utf8(url, number))
            continue
        match = _TEXT_BOUND.fullmatch(line)
        if not match:
            if line.strip() and not line.startswith(_IGNORED):
                yield UserError(
                    f"{where}: {line[:60]!r} is not a brat annotation; a text-bound annotation is ID, TYPE "
                    "START END and the text, separated by tabs"
                )
            continue
        type_name, fragments, mention = match.groups()
        spans = [tuple(map(int, fragment.split())) for fragment in fragments.split(";")]
        start, end = spans[0][0], spans[-1][1]
        apart = any(
            after < before or text[before:after].strip() for (_, before), (after, _) in pairwise(spans)
        )
        inside = " ".join(text[first:last] for first, last in spans) if apart else text[start:end]
        more = _continuation(lines, position, inside, mention)
        position += len(more)
        mention = "\n".join([mention, *more])
        if more and not same_words(inside, mention):
            yield _BROKEN
        elif apart:
            yield "discontinuous"
        elif 0 <= start < end <= len(text) and not inside.strip() and not mention.strip():
            yield "blank_mention"
        else:
            yield MarkedSpan(where, start, end, mention, type_name)


def _continuation(
    lines: Sequence[tuple[int, str | None]], position: int, inside: str, mention: str
) -> list[str]:
    """Return the lines from `position` on that continue a mention.

    Its text has line ends, or an editor broke the line of the .ann file: the line is the mention's beginning.
    """
    more: list[str] = []
    begun, words = mention.split(), inside.split()
    if not re.search(r"[\r\n]", inside) and begun != words[: len(begun)]:
        return more
    while not same_words(inside, mention) and position < len(lines):
        line = lines[position][1]
        if line is None or _STARTS.match(line):
            break
        more.append(line)
        mention = f"{mention}\n{line}"
        position += 1
    return more if any(map(str.strip, more)) else []
