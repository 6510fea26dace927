"""A brat folder: pairs of .txt and .ann, of which the text-bound annotations (T lines) are read.

    T1	Gene 0 5	p53 a
    T2	Gene 8 12;16 20	left ... side

A document is one passage. Fragments with nothing but white space between them are one span: so brat writes
an annotation that goes over a line end. Any other discontinuous annotation is left out and counted as
`discontinuous`: no string of the passage is its mention, and a span over all of it would hold other words.
Relations, events, attributes, normalisations and notes are ignored.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from uniner.errors import UserError
from uniner.gold.records import Found, GoldEntity, GoldPassage, entity
from uniner.storage.filesystem import files_below, filesystem
from uniner.storage.line_reader import read_text_lines, read_whole

_TEXT_BOUND = re.compile(r"T\S*\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)")
_IGNORED = tuple("REAMN#*")


def pairs(url: str) -> list[tuple[str, str]]:
    """Return the addresses of a folder's documents, text and annotations, also of the folders in it.

    Raises:
        UserError: naming a file of annotations that has no text.
    """
    files = files_below(url)
    known = set(files)
    annotations = [file for file in files if file.endswith(".ann")]
    for file in annotations:
        if file.removesuffix(".ann") + ".txt" not in known:
            raise UserError(f"{file}: has no .txt of its name beside it; add the text, or remove the file")
    return [(file.removesuffix(".ann") + ".txt", file) for file in annotations]


def read(url: str) -> Iterator[Found]:
    """Yield the documents of a folder, each as a passage with its path below the folder as id.

    Raises:
        UserError: naming the line that is no annotation, or whose offsets do not fit.
    """
    folder = filesystem(url)[1].rstrip("/")
    for document, (text_file, annotations) in enumerate(pairs(url), start=1):
        try:
            text = read_whole(text_file).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{text_file}: is no UTF-8 ({error.reason}); save the file as UTF-8") from None
        entities, discontinuous = [], 0
        for number, line in read_text_lines(annotations):
            where = f"{annotations}, line {number}"
            if not line.strip() or line.startswith(_IGNORED):
                continue
            found = _TEXT_BOUND.fullmatch(line)
            if not found:
                raise UserError(
                    f"{where}: {line[:60]!r} is no annotation of brat's; a text-bound one is ID, TYPE START "
                    "END and the text, with tabs between"
                )
            one = _entity(where, text, *found.groups())
            if one:
                entities.append(one)
            else:
                discontinuous += 1
        name = filesystem(text_file)[1].removesuffix(".txt").removeprefix(f"{folder}/")
        left_out = {"discontinuous": discontinuous} if discontinuous else {}
        yield Found(document, name, GoldPassage(text, tuple(entities), name, left_out=left_out))


def _entity(where: str, text: str, type_name: str, fragments: str, said: str) -> GoldEntity | None:
    """Return the entity of an annotation; None where it is discontinuous."""
    spans = [tuple(map(int, fragment.split())) for fragment in fragments.split(";")]
    for (_, end), (start, _) in pairwise(spans):
        if start < end or text[end:start].strip():
            return None
    return entity(where, text, spans[0][0], spans[-1][1], said, type_name)
