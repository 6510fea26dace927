"""Read a gold data set; its format is recognised from the address and the content (`formats`).

    *.parquet, or a folder with such files        hugging_face: tokens and ner_tags
    a folder with *.ann                           brat
    *.spacy                                       docbin: spaCy's binary training data
    *.json, *.jsonl, *.ndjson, other JSON         by the fields of the rows: jsonl (our own), conversations,
                                                  doccano, gliner, instructuie, spacy, label_studio,
                                                  tner
    a file that begins with ID|t|title            pubtator
    `# text = ...` before numbered words          conllu
    any other file                                conll: CoNLL columns

Files may be compressed (.gz, .zst), except Parquet and brat. A glob names several files of one data set. A
format before the address says which it is: `doccano:data/train.jsonl`.

A row or annotation that is wrong is left out and counted, up to 1 % of them (of ten or more, one).
"""

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from uniner.errors import UserError
from uniner.gold import brat, conll, conllu, docbin, hugging_face, pubtator, token_rows
from uniner.gold.formats import JSON_FORMATS, format_of, split_address
from uniner.gold.json_rows import read_rows
from uniner.gold.records import (
    GoldPassage,
    GoldRow,
    LeftOut,
    bad_row,
    faults_in,
    hand_on_left_out,
    is_number,
    most_faults,
    rename_types,
)
from uniner.labels import is_else_type
from uniner.storage.filesystem import absolute, expand, explained, files_below, filesystem

TagColumn = int | str | tuple[int, ...] | None
"""Which tags of a file count: a column's number from 1, several for nested entities, or a field's name."""
_BLOCK_BYTES = 4 << 20
_READERS = 16

log = logging.getLogger(__name__)


@dataclass
class GoldSummary:
    """What a gold data set has. types: after renaming. error: the first one of what was left out as wrong."""

    passages: int = 0
    entities: int = 0
    types: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    words: int = 0
    numbers: int = 0
    error: str = ""

    def add(self, passage: GoldPassage, error: str) -> None:
        """Count a passage."""
        self.passages += 1
        self.entities += len(passage.entities)
        self.types.update(entity.type for entity in passage.entities)
        self.types.update(question.type for question in passage.questions or ())
        self.left_out.update(passage.left_out)
        words = passage.text.split()
        self.words += len(words)
        self.numbers += sum(map(is_number, words))
        self.error = self.error or error

    def check(self, address: str, numbers: bool) -> None:
        """Raise a UserError if the data set is not one, or too much of it is wrong."""
        if not self.passages:
            raise UserError(f"{address}: contains no passages; check that this is the right file")
        faults = faults_in(self.left_out)
        total = self.passages + self.entities + faults
        if faults > most_faults(total):
            raise UserError(
                f"{self.error} ({faults:,} of {total:,} rows and annotations are wrong, more than 1 %)"
            )
        if 2 * self.numbers > self.words and not numbers:
            raise UserError(
                f"{address}: {self.numbers:,} of {self.words:,} words are numbers; name a file with the "
                "words themselves, not their numbers in a vocabulary or a sentence"
            )
        if not self.entities:
            raise UserError(
                f"{address}: contains no entities of a type that can be asked for in {self.passages:,} "
                "passages; check that this is the right file"
            )

    def warning(self, address: str) -> str:
        """Return a line that says what was left out as wrong; empty if nothing was."""
        faults = faults_in(self.left_out) + self.left_out["bad_line"]
        reason = f"; the first: {self.error}" if self.error else ""
        return f"{address}: left out {faults:,} rows or annotations that are wrong{reason}" if faults else ""


def read_gold(
    address: str,
    else_types: bool = False,
    rename: Callable[[str], str] | None = None,
    tag_column: TagColumn = None,
    summary: GoldSummary | None = None,
    numbers: bool = False,
) -> Iterator[GoldPassage]:
    """Yield the passages of a gold data set, each with a unique id.

    A passage without an id gets its line or row number, after the file's number if there are several files.
    rename: turns labels into plain words; it does not apply to a file with its own questions. else_types:
    keep types without meaning (labels.ELSE_TYPES); they are left out after renaming by default.
    tag_column: which tags of columns or rows count (`catalogue.tag_column`); by default the last column, or
    the first field of `token_rows.TAGS`. summary: is filled. numbers: most words may be numbers.

    Raises:
        UserError: naming the file and the first wrong line, if more than one and more than 1 % are wrong; or
            if there is no passage or no entity, or if most words are numbers.
    """
    summary = summary if summary is not None else GoldSummary()
    kind, place = split_address(address)
    sources = _sources(absolute(place))
    for row in hand_on_left_out(_usable(_read_all(sources, kind, tag_column))):
        passage = rename_types(row.passage, rename) if rename else row.passage
        passage = passage if else_types else _without_else_types(passage)
        summary.add(passage, row.error)
        yield passage
    summary.check(address, numbers)


def verify_gold(
    address: str,
    else_types: bool = False,
    rename: Callable[[str], str] | None = None,
    tag_column: TagColumn = None,
    numbers: bool = False,
) -> GoldSummary:
    """Read a gold data set to its end, so that a wrong file fails now and not after days of training.

    Logs a line that names the first wrong row or annotation, if some are left out. Returns what there is.

    Raises:
        UserError: as `read_gold` does.
    """
    summary = GoldSummary()
    for _ in read_gold(address, else_types, rename, tag_column, summary, numbers):
        pass
    if line := summary.warning(address):
        log.warning(line)
    return summary


def count_left_out(passages: Iterable[GoldPassage]) -> dict[str, int]:
    """Count the annotations that became no entity, as `left_out_<reason>`."""
    counts: Counter[str] = Counter()
    for passage in passages:
        counts.update({f"left_out_{reason}": count for reason, count in passage.left_out.items()})
    return dict(counts)


def absolute_gold(address: str) -> str:
    """Return a gold data set's absolute address, with its format if it begins with one."""
    kind, place = split_address(address)
    return f"{kind}:{absolute(place)}" if kind else absolute(place)


def gold_digest(address: str) -> str:
    """Return the digest of a gold data set's bytes: of its file, or of the names and digests of its files.

    A format in the address counts too. An unchanged file is read only once per process.
    """
    kind, place = split_address(address)
    files = [file for source in _sources(absolute(place)) for file in _content_files(source, kind)]
    with ThreadPoolExecutor(_READERS) as pool:
        digests = list(pool.map(_file_digest, files))
    if len(digests) == 1 and not kind:
        return digests[0]
    listing = "".join(
        f"{PurePosixPath(file).name} {digest}\n" for file, digest in zip(files, digests, strict=True)
    )
    return hashlib.sha256(f"{kind or ''}{listing}".encode()).hexdigest()[:16]


def _usable(rows: Iterable[GoldRow | LeftOut]) -> Iterator[GoldRow | LeftOut]:
    """Yield the rows; a passage that is blank, or has an id for the second time, as left out."""
    ids: set[str] = set()
    for row in rows:
        if isinstance(row, LeftOut):
            yield row
        elif not row.passage.text.strip():
            yield bad_row(f"{row.place}: the text is blank; remove the passage")
        elif row.passage.id in ids:
            yield bad_row(f"{row.place}: the id {row.passage.id[:60]!r} occurs twice; make ids unique")
        else:
            ids.add(row.passage.id)
            yield row


def _without_else_types(passage: GoldPassage) -> GoldPassage:
    kept = tuple(entity for entity in passage.entities if not is_else_type(entity.type))
    questions = passage.questions
    if questions is not None:
        questions = tuple(question for question in questions if not is_else_type(question.type))
    dropped = len(passage.entities) - len(kept)
    left_out = {**passage.left_out, "else_type": dropped} if dropped else passage.left_out
    return replace(passage, entities=kept, questions=questions, left_out=left_out)


def _sources(address: str) -> list[str]:
    """Return the files of an address, or the address itself for a brat folder."""
    system, path = filesystem(address)
    with explained(address):
        if system.isfile(path):
            return [address]
        if not system.isdir(path):
            return expand([address])
    files = files_below(address)
    parquet = [file for file in files if file.endswith(".parquet")]
    if any(file.endswith(".ann") for file in files):
        return [address]
    if parquet:
        return hugging_face.split_files(address, parquet)
    raise UserError(
        f"{address}: this folder has neither .ann (brat) nor .parquet (Hugging Face) files; name a file"
    )


def _content_files(source: str, kind: str | None) -> list[str]:
    """Return the files that decide a source's content."""
    kind = kind or format_of(source)
    if kind == "brat":
        return [file for pair in brat.document_files(source) for file in pair if file]
    if kind == "hugging_face":
        return [source, *sorted(hugging_face.description_files(source))]
    if kind == "tner":
        return [source, *sorted(token_rows.description_files(source, read_rows(source)))]
    return [source]


def _read_all(sources: list[str], kind: str | None, tag_column: TagColumn) -> Iterator[GoldRow | LeftOut]:
    """Yield the rows of all files, with ids and places that name the file."""
    for file, source in enumerate(sources):
        prefix = f"{file:03d}-" if len(sources) > 1 else ""
        for row in _read_source(source, kind or format_of(source), tag_column):
            if isinstance(row, GoldRow):
                name = row.passage.id or f"{prefix}{row.number:07d}"
                row = row._replace(place=f"{source}, {row.place}", passage=replace(row.passage, id=name))
            yield row


def _read_source(source: str, kind: str, tag_column: TagColumn) -> Iterator[GoldRow | LeftOut]:
    field = tag_column if isinstance(tag_column, str) else ""
    columns = (tag_column,) if isinstance(tag_column, int) else tag_column or ()
    columns = () if isinstance(columns, str) else columns
    if kind in _TEXT_READERS:
        return _TEXT_READERS[kind](source)
    if kind in ("conll", "conllu"):
        return (conll if kind == "conll" else conllu).read(source, columns)
    if kind == "hugging_face":
        return hugging_face.read(source, field)
    if kind == "tner":
        return token_rows.read(source, functools.partial(read_rows, source), field)
    return JSON_FORMATS[kind].read(source, read_rows(source))


_TEXT_READERS: dict[str, Callable[[str], Iterator[GoldRow | LeftOut]]] = {
    "brat": brat.read,
    "docbin": docbin.read,
    "pubtator": pubtator.read,
}


def _file_digest(file: str) -> str:
    system, path = filesystem(file)
    with explained(file):
        return _digest_of_version(file, system.ukey(path))


@functools.lru_cache(maxsize=1 << 16)
def _digest_of_version(file: str, _version: str) -> str:
    # The version is part of the cache key: a changed file is read again.
    system, path = filesystem(file)
    digest = hashlib.sha256()
    with system.open(path, "rb", block_size=_BLOCK_BYTES) as data:
        while block := data.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()[:16]
