"""Hugging Face data sets as Parquet: rows of `tokens` and `ner_tags`, one or more files per split.

Tags are strings or numbers of a ClassLabel. The names of numbered tags are in the Parquet file's metadata, or
in a file near it (`label_names`). Other names of the columns: `token_rows`.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from uniner.errors import UserError
from uniner.gold.json_rows import JSON_ERRORS
from uniner.gold.label_names import class_names, find_label_file, label_names
from uniner.gold.records import GoldRow, LeftOut, bad_row
from uniner.gold.tags import are_bare, require_no_other_scheme
from uniner.gold.token_rows import TAGS, TOKENS, TaggedRows, field_names
from uniner.storage.filesystem import open_parquet

_BATCH_ROWS = 1024
_MOST_TOKENS = 100_000
_SHARD = re.compile(r"-\d+-of-\d+$")
_NUMBER = re.compile(r"(\d+-of-)?\d+\.parquet$")


def split_files(url: str, files: Sequence[str]) -> list[str]:
    """Return the Parquet files of a folder's only split.

    The split's name is the file's (`test-00000-of-00002.parquet`), or the folder's if the file name is a
    number (`test/0000.parquet`).

    Raises:
        UserError: naming the splits, if the folder has several.
    """
    splits: dict[str, list[str]] = {}
    for file in files:
        stem = file.removesuffix(".parquet")
        split = stem.rsplit("/", 1)[0] if PurePosixPath(stem).name.isdecimal() else _SHARD.sub("", stem)
        splits.setdefault(split, []).append(file)
    if len(splits) > 1:
        names = ", ".join(split.rsplit(url.rstrip("/") + "/", 1)[-1] for split in splits)
        example = _NUMBER.sub("*.parquet", splits[max(splits)][0])
        raise UserError(f"{url}: has the splits {names}; name the files of one split, for instance {example}")
    return list(files)


def read(url: str, tag_field: str = "") -> Iterator[GoldRow | LeftOut]:
    """Yield a passage per row of a Parquet file. tag_field: by default the first of TAGS that it has.

    Raises:
        UserError: if columns or label names are missing, or the file is broken.
    """
    with open_parquet(url) as file:
        tokens, tags = _columns(url, file.schema_arrow, tag_field)
        names = _label_names(url, file.schema_arrow, tags)
        all_tags = list(names.values()) if names is not None else set(_strings(url, file, tags))
        bare = are_bare(all_tags)
        if bare:
            require_no_other_scheme(url, all_tags)
        tagged = TaggedRows(names or {}, bare, tags)
        number = 0
        for batch in _batches(url, file, [tokens, tags]):
            for row in _rows(url, batch):
                number += 1
                try:
                    passage = tagged.passage(f"{url}, row {number}", row[tokens], row[tags])
                except UserError as error:
                    yield bad_row(error)
                else:
                    yield GoldRow(number, f"row {number}", passage)


def description_files(url: str) -> set[str]:
    """Return the files that name the numbers in a Parquet file's lists, where the file itself does not."""
    with open_parquet(url) as file:
        schema = file.schema_arrow
    lists = [
        name for name in schema.names if _is_list(schema.field(name).type) and _are_numbers(schema, name)
    ]
    files = {find_label_file(url, name) for name in lists if not _metadata_names(schema, name)}
    return {file for file in files if file}


def _columns(url: str, schema: pa.Schema, tag_field: str) -> tuple[str, str]:
    lists = [name for name in schema.names if _is_list(schema.field(name).type)]
    fields = field_names(lists, tag_field)
    if fields is None:
        raise UserError(
            f"{url}: has the columns {', '.join(schema.names)[:300]}; a gold data set has lists in "
            f"{TOKENS[0]} and {tag_field or TAGS[0]}"
        )
    kind = schema.field(fields[0]).type.value_type
    if not pa.types.is_string(kind) and pa.types.is_primitive(kind):
        raise UserError(f'{url}: {fields[0]} are of type {kind}; they must be words, such as ["Ann", "left"]')
    return fields


def _batches(url: str, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield batches of rows.

    Raises:
        UserError: if the file is broken, or a few bytes of it expand to very long rows.
    """
    metadata = file.metadata
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        values = max((group.column(n).num_values for n in range(group.num_columns)), default=0)
        if values > _MOST_TOKENS * max(1, group.num_rows):
            raise UserError(
                f"{url}: {values:,} values in {group.num_rows:,} rows; a row has at most {_MOST_TOKENS:,} "
                "tokens"
            )
    try:
        yield from file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowIndexError) as error:
        raise UserError(f"{url}: cannot be read as Parquet ({error}); write the file again") from None


def _rows(url: str, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{url}: has strings that are not UTF-8 ({error.reason}); write them as UTF-8"
        ) from None


def _strings(url: str, file: pq.ParquetFile, tags: str) -> set[str]:
    """Return the different tags of a column of strings."""
    found: set[str] = set()
    for batch in _batches(url, file, [tags]):
        for row in _rows(url, batch):
            found.update(map(str, row[tags] or ()))
    return found


def _label_names(url: str, schema: pa.Schema, tags: str) -> dict[int, str] | None:
    """Return the names of numbered tags; None if the tags are strings."""
    if not _are_numbers(schema, tags):
        return None
    return _metadata_names(schema, tags) or label_names(url, tags)


def _are_numbers(schema: pa.Schema, tags: str) -> bool:
    return pa.types.is_integer(schema.field(tags).type.value_type)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _metadata_names(schema: pa.Schema, tags: str) -> dict[int, str]:
    try:
        metadata = msgspec.json.decode((schema.metadata or {}).get(b"huggingface", b"{}"))
        return class_names(metadata["info"]["features"][tags])
    except (*JSON_ERRORS, KeyError, TypeError, ValueError):
        return {}
