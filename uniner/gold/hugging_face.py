"""Hugging Face data sets as Parquet: rows of `tokens` and `ner_tags`, one or more files per split.

Tags are strings or numbers of a ClassLabel. The names of numbered tags are in the Parquet file's metadata, or
in dataset_info.json, dataset_infos.json or README.md (YAML) in the file's folder or one of the two above it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import yaml

from uniner.errors import UserError
from uniner.gold.conll import SCHEMES, is_tag, tagged_passage
from uniner.gold.records import GoldRow
from uniner.storage.filesystem import filesystem, open_parquet
from uniner.storage.line_reader import read_whole

TOKENS, TAGS = "tokens", "ner_tags"
_BATCH_ROWS = 1024
_SHARD = re.compile(r"-\d+-of-\d+$")
_NUMBER = re.compile(r"(\d+-of-)?\d+\.parquet$")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "README.md")


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


def read(url: str) -> Iterator[GoldRow]:
    """Yield a passage per row of a Parquet file.

    Raises:
        UserError: if columns or label names are missing, or naming the row that is wrong.
    """
    with open_parquet(url) as file:
        schema = file.schema_arrow
        if not all(name in schema.names and _is_list(schema.field(name).type) for name in (TOKENS, TAGS)):
            raise UserError(
                f"{url}: has the columns {', '.join(schema.names)}; a gold data set has lists in {TOKENS} "
                f"and {TAGS}"
            )
        if not pa.types.is_string(kind := schema.field(TOKENS).type.value_type) and pa.types.is_primitive(
            kind
        ):
            raise UserError(
                f'{url}: {TOKENS} are of type {kind}; they must be words, such as ["Ann", "left"]'
            )
        labels = label_names(url, schema)
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=[TOKENS, TAGS], use_threads=False):
            for row in batch.to_pylist():
                number += 1
                where = f"{url}, row {number}"
                tokens, tags = row[TOKENS], _tag_names(where, row[TAGS], labels)
                if not _are_words(tokens) or len(tokens) != len(tags):
                    raise UserError(
                        f"{where}: {len(tokens or ())} {TOKENS} and {len(tags)} {TAGS}; a row needs as "
                        "many tags as tokens, at least one, without nulls; remove the row"
                    )
                yield GoldRow(number, f"row {number}", tagged_passage(where, tokens, tags))


def description_file(url: str, schema: pa.Schema) -> str | None:
    """Return the file that names a Parquet file's labels; None if the Parquet file itself does.

    Raises:
        UserError: if the labels have no names.
    """
    if not _are_numbers(schema) or _metadata_names(schema):
        return None
    for folder in _folders_above(url):
        for name in _DESCRIPTIONS:
            file = f"{folder}/{name}"
            system, path = filesystem(file)
            if system.isfile(path) and _described_names(file):
                return file
    raise UserError(
        f"{url}: {TAGS} are numbers without names in the file's own metadata or in "
        f"{', '.join(_DESCRIPTIONS)} beside it; add the data set's dataset_info.json"
    )


def label_names(url: str, schema: pa.Schema) -> Sequence[str] | None:
    """Return the names of a Parquet file's numbered tags; None if its tags are strings.

    Raises:
        UserError: if the tags have no names, or several configurations name them differently.
    """
    description = description_file(url, schema)
    if description is None:
        return _metadata_names(schema) if _are_numbers(schema) else None
    names = _described_names(description)
    if len(set(names.values())) > 1:
        names = {name: labels for name, labels in names.items() if name in PurePosixPath(url).parts}
    if len(set(names.values())) != 1:
        raise UserError(
            f"{description}: has several configurations that name {TAGS} differently; move {url} to a folder "
            "with the name of its configuration"
        )
    return next(iter(names.values()))


def _folders_above(url: str) -> Iterator[str]:
    """Yield a file's folder and up to two folders above it."""
    for _ in range(3):
        url = url.rsplit("/", 1)[0]
        if not url or url.endswith("/"):
            return
        yield url


def _are_words(tokens: Any) -> bool:
    return bool(tokens) and all(isinstance(token, str) for token in tokens)


def _tag_names(where: str, tags: Any, labels: Sequence[str] | None) -> list[str]:
    names = []
    for tag in tags or ():
        name = tag
        if labels is not None:
            name = labels[tag] if tag is not None and 0 <= tag < len(labels) else None
        if not isinstance(name, str) or not is_tag(name):
            raise UserError(
                f"{where}: {tag!r} of {TAGS}{'' if name is tag else f', {name!r},'} is not a tag; {SCHEMES}"
            )
        names.append(name)
    return names


def _are_numbers(schema: pa.Schema) -> bool:
    return pa.types.is_integer(schema.field(TAGS).type.value_type)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _metadata_names(schema: pa.Schema) -> tuple[str, ...]:
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return _class_names(metadata.get("info", {}).get("features", {}).get(TAGS))


def _described_names(url: str) -> dict[str, tuple[str, ...]]:
    """Return a description's label names by configuration ("" for the only one)."""
    data = read_whole(url).decode(errors="replace").replace("\r\n", "\n")
    try:
        if url.endswith(".json"):
            about = json.loads(data)
            infos = [(about, "")] if "features" in about else [(info, name) for name, info in about.items()]
        else:
            card = yaml.safe_load(data.split("---\n")[1]) if data.startswith("---\n") else None
            info = (card or {}).get("dataset_info", [])
            configurations = info if isinstance(info, list) else [info]
            infos = [(info, info.get("config_name", "")) for info in configurations]
        labels = {name: _class_names(_tag_feature(info.get("features") or {})) for info, name in infos}
    except (ValueError, yaml.YAMLError, AttributeError, IndexError) as error:
        raise UserError(f"{url}: reading label names failed ({error}); correct or remove the file") from None
    return {name: names for name, names in labels.items() if names}


def _tag_feature(features: Any) -> Any:
    """Return the description of the tags: features are a dictionary by name, or in YAML a list."""
    if isinstance(features, list):
        features = {feature.get("name"): feature for feature in features}
    return features.get(TAGS)


def _class_names(feature: Any) -> tuple[str, ...]:
    """Find a ClassLabel's names at any depth of sequences: a list, or in YAML a dictionary by number."""
    if isinstance(feature, list):
        return next(filter(None, map(_class_names, feature)), ())
    if not isinstance(feature, dict):
        return ()
    names = feature.get("names")
    if isinstance(names, dict):
        return tuple(str(names[number]) for number in sorted(names, key=int))
    if isinstance(names, list):
        return tuple(map(str, names))
    return _class_names(list(feature.values()))
