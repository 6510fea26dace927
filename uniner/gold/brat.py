"""A brat folder: pairs of .txt and .ann files. Only text-bound annotations (T lines) are read.

    T1	Gene 0 5	p53 a
    T2	Gene 8 12;16 20	left ... side

A document is one passage. brat splits an annotation at a line end into fragments, so fragments with only
white space between them are one span. Other discontinuous annotations are left out and counted as
`discontinuous`: no string of the passage is their mention, and one span over all fragments would include
other words. Relations, events, attributes, normalisations and notes are ignored.

A mention with line ends may go over several lines of the .ann file. Where its lines are not the text between
its offsets, it is left out and counted as `broken_over_lines`. A mention of only white space counts as
`blank_mention`, a document without text as `empty_document`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from uniner.errors import UserError
from uniner.gold.records import GoldEntity, GoldPassage, GoldRow, checked_entity, hand_on_left_out, same_words
from uniner.storage.filesystem import files_below, filesystem
from uniner.storage.line_reader import read_text_lines, read_whole

_TEXT_BOUND = re.compile(r"T\S*\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)")
_IGNORED = tuple("REAMN#*")
_STARTS = re.compile(r"[TREAMN#*]\S*\t")


def document_files(url: str) -> list[tuple[str, str]]:
    """Return the (text, annotations) addresses of the documents in a folder and its subfolders.

    Raises:
        UserError: naming an annotation file without a text file.
    """
    files = files_below(url)
    known = set(files)
    annotations = [file for file in files if file.endswith(".ann")]
    for file in annotations:
        if file.removesuffix(".ann") + ".txt" not in known:
            raise UserError(f"{file}: the .txt file of this name is missing; add it or remove this file")
    return [(file.removesuffix(".ann") + ".txt", file) for file in annotations]


def read(url: str) -> Iterator[GoldRow]:
    """Yield the documents of a folder as passages; the path below the folder is the id.

    Raises:
        UserError: naming the line that is not an annotation, or whose offsets do not match the text.
    """
    return hand_on_left_out(_documents(url))


def _documents(url: str) -> Iterator[GoldRow | Mapping[str, int]]:
    folder = filesystem(url)[1].rstrip("/")
    for number, (text_file, annotations) in enumerate(document_files(url), start=1):
        try:
            text = read_whole(text_file).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{text_file}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
        if not text.strip():
            yield {"empty_document": 1}
            continue
        name = filesystem(text_file)[1].removesuffix(".txt").removeprefix(f"{folder}/")
        yield GoldRow(number, name, _passage(annotations, text, name))


def _passage(annotations: str, text: str, name: str) -> GoldPassage:
    """Return a document's passage. Offsets may count a Windows line end as two characters or as one."""
    lines = list(read_text_lines(annotations))
    windows = "\r\n" in text
    passages, errors = [], []
    for reading in [text, text.replace("\r\n", "\n")] if windows else [text]:
        try:
            passages.append(_annotated(annotations, lines, reading, name))
        except UserError as error:
            errors.append(str(error))
    if passages:
        return min(passages, key=lambda passage: passage.left_out.get("broken_over_lines", 0))
    cause = ". Windows line ends were tried as one character too; write the text with plain line ends"
    raise UserError(errors[0] + cause * windows)


def _annotated(url: str, lines: Sequence[tuple[int, str]], text: str, name: str) -> GoldPassage:
    entities, left_out = [], Counter[str]()
    for found in _annotations(url, lines, text):
        if isinstance(found, GoldEntity):
            entities.append(found)
        else:
            left_out[found] += 1
    return GoldPassage(text, tuple(entities), name, left_out=dict(left_out))


def _annotations(url: str, lines: Sequence[tuple[int, str]], text: str) -> Iterator[GoldEntity | str]:
    """Yield the entity of each text-bound annotation, or the reason to leave it out."""
    position = 0
    while position < len(lines):
        number, line = lines[position]
        position += 1
        where = f"{url}, line {number}"
        match = _TEXT_BOUND.fullmatch(line)
        if not match:
            if not line.strip() or line.startswith(_IGNORED):
                continue
            raise UserError(
                f"{where}: {line[:60]!r} is not a brat annotation; a text-bound annotation is ID, TYPE START "
                "END and the text, separated by tabs"
            )
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
            yield "broken_over_lines"
        elif apart:
            yield "discontinuous"
        elif 0 <= start < end <= len(text) and not inside.strip() and not mention.strip():
            yield "blank_mention"
        else:
            yield checked_entity(where, text, start, end, mention, type_name)


def _continuation(lines: Sequence[tuple[int, str]], position: int, inside: str, mention: str) -> list[str]:
    """Return the lines from `position` on that continue a mention whose text has line ends."""
    more: list[str] = []
    if not re.search(r"[\r\n]", inside):
        return more
    while not same_words(inside, mention) and position < len(lines):
        line = lines[position][1]
        if _STARTS.match(line):
            break
        more.append(line)
        mention = f"{mention}\n{line}"
        position += 1
    return more if any(map(str.strip, more)) else []
