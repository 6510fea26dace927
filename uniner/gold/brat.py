"""A brat folder: pairs of .txt and .ann files. Only text-bound annotations (T lines) are read.

    T1	Gene 0 5	p53 a
    T2	Gene 8 12;16 20	left ... side

A document is one passage. brat splits an annotation at a line end into fragments, so fragments with only
white space between them are one span. Other discontinuous annotations are left out and counted as
`discontinuous`: no string of the passage is their mention, and one span over all fragments would include
other words. Relations, events, attributes, normalisations and notes are ignored.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from uniner.errors import UserError
from uniner.gold.records import GoldEntity, GoldPassage, GoldRow, checked_entity
from uniner.storage.filesystem import files_below, filesystem
from uniner.storage.line_reader import read_text_lines, read_whole

_TEXT_BOUND = re.compile(r"T\S*\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)")
_IGNORED = tuple("REAMN#*")


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
    folder = filesystem(url)[1].rstrip("/")
    for number, (text_file, annotations) in enumerate(document_files(url), start=1):
        try:
            text = read_whole(text_file).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{text_file}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
        annotated = list(_annotations(annotations, text))
        entities = tuple(entity for entity in annotated if entity)
        discontinuous = len(annotated) - len(entities)
        left_out = {"discontinuous": discontinuous} if discontinuous else {}
        name = filesystem(text_file)[1].removesuffix(".txt").removeprefix(f"{folder}/")
        yield GoldRow(number, name, GoldPassage(text, entities, name, left_out=left_out))


def _annotations(url: str, text: str) -> Iterator[GoldEntity | None]:
    """Yield the entity of each text-bound annotation; None for a discontinuous one."""
    for number, line in read_text_lines(url):
        where = f"{url}, line {number}"
        if not line.strip() or line.startswith(_IGNORED):
            continue
        match = _TEXT_BOUND.fullmatch(line)
        if not match:
            raise UserError(
                f"{where}: {line[:60]!r} is not a brat annotation; a text-bound annotation is ID, TYPE START "
                "END and the text, separated by tabs"
            )
        type_name, fragments, mention = match.groups()
        spans = [tuple(map(int, fragment.split())) for fragment in fragments.split(";")]
        if any(start < end or text[end:start].strip() for (_, end), (start, _) in pairwise(spans)):
            yield None
        else:
            yield checked_entity(where, text, spans[0][0], spans[-1][1], mention, type_name)
