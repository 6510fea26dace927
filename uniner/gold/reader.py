"""Read a gold data set; its format is recognised from the address and the content.

    *.parquet, or a folder with such files     hugging_face: tokens and ner_tags
    a folder with *.ann                        brat
    *.json, *.jsonl, *.ndjson, other JSON      conversations if a row has them, otherwise jsonl
    a file that begins with ID|t|title         pubtator
    any other file                             conll: CoNLL columns

Files may be compressed (.gz, .zst), except Parquet and brat. A glob names several files of one data set.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import PurePosixPath

import msgspec

from uniner.errors import UserError
from uniner.gold import brat, conll, conversations, hugging_face, jsonl, pubtator
from uniner.gold.records import GoldPassage, GoldRow, is_number, rename_types
from uniner.labels import is_else_type
from uniner.storage.decompression import COMPRESSION, read_blocks
from uniner.storage.filesystem import absolute, expand, explained, files_below, filesystem, open_parquet
from uniner.storage.line_reader import BYTE_ORDER_MARK

_JSON = {".json", ".jsonl", ".ndjson"}
_BLOCK_BYTES = 4 << 20
_READERS = 16


def read_gold(
    address: str,
    else_types: bool = False,
    rename: Callable[[str], str] | None = None,
    tag_column: int | None = None,
) -> Iterator[GoldPassage]:
    """Yield the passages of a gold data set, each with a unique id.

    A passage without an id gets its line or row number, after the file's number if there are several files.
    rename: turns labels into plain words; it does not apply to a file with its own questions. else_types:
    keep types without meaning (labels.ELSE_TYPES); they are left out after renaming by default.
    tag_column: the column of the tags in CoNLL columns, from 1 (`catalogue.tag_column`); by default the last.

    Raises:
        UserError: naming the file and the wrong line, or if there is no passage or no entity, or if most
            words are numbers.
    """
    ids: set[str] = set()
    entities = words = numbers = 0
    sources = _sources(absolute(address))
    for file, source in enumerate(sources):
        prefix = f"{file:03d}-" if len(sources) > 1 else ""
        for row in _read_source(source, tag_column):
            passage = rename_types(row.passage, rename) if rename else row.passage
            passage = replace(passage, id=passage.id or f"{prefix}{row.number:07d}")
            passage = passage if else_types else _without_else_types(passage)
            if passage.id in ids:
                raise UserError(f"{source}, {row.place}: the id {passage.id!r} occurs twice; make ids unique")
            if not passage.text.strip():
                raise UserError(f"{source}, {row.place}: the text is blank; remove the passage")
            ids.add(passage.id)
            entities += len(passage.entities)
            passage_words = passage.text.split()
            words += len(passage_words)
            numbers += sum(map(is_number, passage_words))
            yield passage
    if not ids:
        raise UserError(f"{address}: contains no passages; check that this is the right file")
    if 2 * numbers > words:
        raise UserError(
            f"{address}: {numbers:,} of {words:,} words are numbers; name a file with the words "
            "themselves, not their numbers in a vocabulary or a sentence"
        )
    if not entities:
        raise UserError(
            f"{address}: contains no entities of a type that can be asked for in {len(ids):,} passages; "
            "check that this is the right file"
        )


def verify_gold(address: str, else_types: bool = False, tag_column: int | None = None) -> None:
    """Read a gold data set to its end, so that a wrong line fails now and not after days of training.

    Raises:
        UserError: as `read_gold` does.
    """
    for _ in read_gold(address, else_types=else_types, tag_column=tag_column):
        pass


def count_left_out(passages: Iterable[GoldPassage]) -> dict[str, int]:
    """Count the annotations that became no entity, as `left_out_<reason>`."""
    counts: Counter[str] = Counter()
    for passage in passages:
        counts.update({f"left_out_{reason}": count for reason, count in passage.left_out.items()})
    return dict(counts)


def gold_digest(address: str) -> str:
    """Return the digest of a gold data set's bytes: of its file, or of the names and digests of its files.

    An unchanged file is read only once per process.
    """
    files = [file for source in _sources(absolute(address)) for file in _content_files(source)]
    with ThreadPoolExecutor(_READERS) as pool:
        digests = list(pool.map(_file_digest, files))
    if len(digests) == 1:
        return digests[0]
    listing = "".join(
        f"{PurePosixPath(file).name} {digest}\n" for file, digest in zip(files, digests, strict=True)
    )
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


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


def _content_files(source: str) -> list[str]:
    """Return the files that decide a source's content."""
    system, path = filesystem(source)
    if system.isdir(path):
        return [file for pair in brat.document_files(source) for file in pair]
    if not source.endswith(".parquet"):
        return [source]
    with open_parquet(source) as file:
        description = hugging_face.description_file(source, file.schema_arrow)
    return [source, description] if description else [source]


def _read_source(source: str, tag_column: int | None) -> Iterator[GoldRow]:
    system, path = filesystem(source)
    if system.isdir(path):
        return brat.read(source)
    if source.endswith(".parquet"):
        return hugging_face.read(source)
    start, _ = next(read_blocks(source), (b"", 0))
    first_line = (start or b"").removeprefix(BYTE_ORDER_MARK).lstrip().split(b"\n", 1)[0].strip()
    if _suffix(source) in _JSON or _is_json(first_line):
        return _read_json(source, is_list=first_line.startswith(b"["))
    if pubtator.is_first_line(first_line.decode(errors="replace")):
        return pubtator.read(source)
    return conll.read(source, tag_column)


def _read_json(source: str, is_list: bool) -> Iterator[GoldRow]:
    rows = jsonl.read_rows(source, is_list)
    first = next(rows, None)
    if first:
        read = conversations.read if _has_field(first.data, "conversations") else jsonl.read
        yield from read(source, chain([first], rows))


def _is_json(line: bytes) -> bool:
    """Tell whether a file with this first line is JSON. A CoNLL line may start with `[` or `{` as well."""
    starts_list = line == b"[" or line.startswith(b"[{")
    return starts_list or _has_field(line, "conversations") or _has_field(line, "text")


def _has_field(data: bytes, name: str) -> bool:
    """Tell whether data is a JSON object with this field."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return isinstance(value, dict) and name in value


def _suffix(source: str) -> str:
    path = PurePosixPath(source)
    return (path.with_suffix("") if path.suffix in COMPRESSION else path).suffix


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
