"""Read a gold data set, whatever its format: what an address names is recognised by what it is.

    *.parquet, or a folder with such files     hugging_face: tokens and ner_tags
    a folder with *.ann                        brat
    *.json, *.jsonl, *.ndjson, other JSON      conversations where a row has them, else uniform
    a file that begins with ID|t|title         pubtator
    any other file                             columns: CoNLL

Files may be compressed (.gz, .zst) but for Parquet's and brat's; a glob names several that are one data set.
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
from uniner.gold.json_rows import BYTE_ORDER_MARK, read_rows
from uniner.gold.records import Found, GoldPassage, renamed
from uniner.storage.filesystem import absolute, expand, explained, files_below, filesystem, open_parquet
from uniner.storage.line_reader import COMPRESSION, read_blocks

ELSE_TYPES = frozenset({"misc", "miscellaneous", "other", "else", "none"})
"""Types that say nothing; the published benchmark leaves them out (recipe: ELSE-like labels)."""
_JSON = {".json", ".jsonl", ".ndjson"}
_BLOCK_BYTES = 4 << 20
_READERS = 16


def read_gold(
    address: str, else_types: bool = False, rename: Callable[[str], str] | None = None
) -> Iterator[GoldPassage]:
    """Yield the passages of a gold data set, each with an id of its own.

    ELSE-like types are left out unless `else_types` says to keep them. A passage whose format gives it no id
    has the number of its line or row, after the file's where there are several. rename: what turns labels
    into plain words, before any is left out; a file that asks questions itself keeps its own words.

    Raises:
        UserError: naming the file, and the line that is wrong; and where there is no passage, or no entity.
    """
    ids: set[str] = set()
    entities = 0
    sources = _sources(absolute(address))
    for file, source in enumerate(sources):
        prefix = f"{file:03d}-" if len(sources) > 1 else ""
        for number, place, found in _read(source):
            found = renamed(found, rename) if rename else found
            passage = replace(found, id=found.id or f"{prefix}{number:07d}")
            passage = passage if else_types else _without_else(passage)
            if passage.id in ids:
                raise UserError(
                    f"{source}, {place}: the id {passage.id!r} was there before; give each passage its own"
                )
            if not passage.text.strip():
                raise UserError(f"{source}, {place}: the text is blank; leave it out")
            ids.add(passage.id)
            entities += len(passage.entities)
            yield passage
    if not ids:
        raise UserError(f"{address}: has no passage; is it the right file?")
    if not entities:
        raise UserError(
            f"{address}: has no entity of a type that can be asked for in {len(ids):,} passages; is it the "
            "right file?"
        )


def verify(address: str, else_types: bool = False) -> None:
    """Read a gold data set to its end: a wrong line is found now, not after days of training.

    Raises:
        UserError: as `read_gold` does.
    """
    for _ in read_gold(address, else_types=else_types):
        pass


def left_out(passages: Iterable[GoldPassage]) -> dict[str, int]:
    """Count the annotations that became no entity, `left_out_<reason>`."""
    counts: Counter[str] = Counter()
    for passage in passages:
        counts.update({f"left_out_{reason}": count for reason, count in passage.left_out.items()})
    return dict(counts)


def digest(address: str) -> str:
    """Return the digest of a gold data set's bytes: of one file its own, of several all names and digests.

    A file that has not changed is read only once in a process.
    """
    files = [file for source in _sources(absolute(address)) for file in _files(source)]
    with ThreadPoolExecutor(_READERS) as pool:
        digests = list(pool.map(_digest, files))
    if len(digests) == 1:
        return digests[0]
    named = "".join(f"{PurePosixPath(file).name} {one}\n" for file, one in zip(files, digests, strict=True))
    return hashlib.sha256(named.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=1 << 14)
def is_else(type_name: str) -> bool:
    """Tell whether a type says nothing (ELSE_TYPES)."""
    return type_name.strip().lower() in ELSE_TYPES


def _without_else(found: GoldPassage) -> GoldPassage:
    kept = tuple(entity for entity in found.entities if not is_else(entity.type))
    asked = found.asked
    if asked is not None:
        asked = tuple((type_name, mentions) for type_name, mentions in asked if not is_else(type_name))
    else_type = len(found.entities) - len(kept)
    counted = {**found.left_out, "else_type": else_type} if else_type else found.left_out
    return replace(found, entities=kept, asked=asked, left_out=counted)


def _sources(address: str) -> list[str]:
    """Return what an address names: files, or folders of brat's."""
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
        f"{address}: is a folder with neither .ann (brat) nor .parquet (Hugging Face) files; name a file"
    )


def _files(source: str) -> list[str]:
    """Return the files that decide what is read of a source."""
    system, path = filesystem(source)
    if system.isdir(path):
        return [file for pair in brat.pairs(source) for file in pair]
    if not source.endswith(".parquet"):
        return [source]
    with open_parquet(source) as file:
        described = hugging_face.description(source, file.schema_arrow)
    return [source, described] if described else [source]


def _read(source: str) -> Iterator[Found]:
    system, path = filesystem(source)
    if system.isdir(path):
        return brat.read(source)
    if source.endswith(".parquet"):
        return hugging_face.read(source)
    start, _ = next(read_blocks(source), (b"", 0))
    first = (start or b"").removeprefix(BYTE_ORDER_MARK).lstrip().split(b"\n", 1)[0].strip()
    if _suffix(source) in _JSON or _is_json(first):
        return _read_json(source, is_list=first.startswith(b"["))
    if pubtator.is_first_line(first.decode(errors="replace")):
        return pubtator.read(source)
    return conll.read(source)


def _read_json(source: str, is_list: bool) -> Iterator[Found]:
    rows = read_rows(source, is_list)
    first = next(rows, None)
    if first:
        read = conversations.read if _holds(first.data, "conversations") else jsonl.read
        yield from read(source, chain([first], rows))


def _is_json(line: bytes) -> bool:
    """Tell whether a file that begins with this line is JSON; a token and its tag are none."""
    return line == b"[" or line.startswith(b"[{") or _holds(line, "conversations") or _holds(line, "text")


def _holds(data: bytes, name: str) -> bool:
    """Tell whether data are a JSON object with a field of this name."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return isinstance(found, dict) and name in found


def _suffix(source: str) -> str:
    path = PurePosixPath(source)
    return (path.with_suffix("") if path.suffix in COMPRESSION else path).suffix


def _digest(file: str) -> str:
    system, path = filesystem(file)
    with explained(file):
        return _digest_of(file, system.ukey(path))


@functools.lru_cache(maxsize=1 << 16)
def _digest_of(file: str, _version: str) -> str:
    # The version changes with the file, so that a changed file is not taken for the one that was read.
    system, path = filesystem(file)
    found = hashlib.sha256()
    with system.open(path, "rb", block_size=_BLOCK_BYTES) as data:
        while block := data.read(_BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()[:16]
