"""Hugging Face data sets saved as Parquet: rows of `tokens` and `ner_tags`, a file or more a split.

Tags are strings, or numbers of a ClassLabel, whose names stand in the Parquet's own metadata, or else in
dataset_info.json, dataset_infos.json or README.md (its YAML) in the file's folder or the two above it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import yaml

from uniner.errors import UserError
from uniner.gold.records import Found
from uniner.gold.token_tags import SCHEMES, is_tag, passage
from uniner.storage.filesystem import filesystem, open_parquet
from uniner.storage.line_reader import read_whole

TOKENS, TAGS = "tokens", "ner_tags"
_ROWS = 1024
_SHARD = re.compile(r"-\d+-of-\d+$")
_NUMBER = re.compile(r"(\d+-of-)?\d+\.parquet$")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "README.md")


def split_files(url: str, files: Sequence[str]) -> list[str]:
    """Return the Parquet files of a folder's only split.

    A split's name is the file's (`test-00000-of-00002.parquet`), or its folder's where the file has but a
    number (`test/0000.parquet`).

    Raises:
        UserError: naming the splits, where the folder has several.
    """
    splits: dict[str, list[str]] = {}
    for file in files:
        stem = file.removesuffix(".parquet")
        split = stem.rsplit("/", 1)[0] if PurePosixPath(stem).name.isdecimal() else _SHARD.sub("", stem)
        splits.setdefault(split, []).append(file)
    if len(splits) > 1:
        names = ", ".join(split.rsplit(url.rstrip("/") + "/", 1)[-1] for split in splits)
        example = _NUMBER.sub("*.parquet", splits[max(splits)][0])
        raise UserError(
            f"{url}: has the splits {names}; name one of them by its files, for instance {example}"
        )
    return list(files)


def read(url: str) -> Iterator[Found]:
    """Yield a passage a row of a Parquet file.

    Raises:
        UserError: where columns or label names are missing, or naming the row that is wrong.
    """
    with open_parquet(url) as file:
        schema = file.schema_arrow
        if not all(name in schema.names and _is_list(schema.field(name).type) for name in (TOKENS, TAGS)):
            raise UserError(
                f"{url}: has the columns {', '.join(schema.names)}; a gold data set has lists in {TOKENS} "
                f"and {TAGS}"
            )
        labels = label_names(url, schema)
        number = 0
        for batch in file.iter_batches(_ROWS, columns=[TOKENS, TAGS], use_threads=False):
            for row in batch.to_pylist():
                number += 1
                where = f"{url}, row {number}"
                tokens, tags = row[TOKENS], _tags(where, row[TAGS], labels)
                if not _are_words(tokens) or len(tokens) != len(tags):
                    raise UserError(
                        f"{where}: {len(tokens or ())} {TOKENS} and {len(tags)} {TAGS} (a null is none); "
                        "leave the row out"
                    )
                yield Found(number, f"row {number}", passage(where, tokens, tags))


def description(url: str, schema: pa.Schema) -> str | None:
    """Return the file that names the labels of a Parquet file, None where it needs none.

    Raises:
        UserError: where it needs one and there is none.
    """
    if not _are_numbers(schema) or _own_names(schema):
        return None
    for folder in _folders_above(url):
        for name in _DESCRIPTIONS:
            file = f"{folder}/{name}"
            system, path = filesystem(file)
            if system.isfile(path) and _described(file):
                return file
    raise UserError(
        f"{url}: {TAGS} are numbers, and their names stand neither in the file's own metadata nor in "
        f"{', '.join(_DESCRIPTIONS)} beside it; add the data set's dataset_info.json"
    )


def label_names(url: str, schema: pa.Schema) -> Sequence[str] | None:
    """Return the names of the numbered tags of a Parquet file, None where tags are strings.

    Raises:
        UserError: where there are none, or several configurations name them differently.
    """
    described = description(url, schema)
    if described is None:
        return _own_names(schema) if _are_numbers(schema) else None
    found = _described(described)
    if len(set(found.values())) > 1:
        found = {name: names for name, names in found.items() if name in PurePosixPath(url).parts}
    if len(set(found.values())) != 1:
        raise UserError(
            f"{described}: has several configurations that name {TAGS} differently; put {url} into a folder "
            "of its configuration's name"
        )
    return next(iter(found.values()))


def _folders_above(url: str) -> Iterator[str]:
    """Yield the folder of a file and the two above it, as far as there are any."""
    for _ in range(3):
        url = url.rsplit("/", 1)[0]
        if not url or url.endswith("/"):
            return
        yield url


def _are_words(tokens: Any) -> bool:
    return bool(tokens) and all(isinstance(token, str) for token in tokens)


def _tags(where: str, tags: Any, labels: Sequence[str] | None) -> list[str]:
    named = []
    for tag in tags or ():
        name = tag
        if labels is not None:
            name = labels[tag] if tag is not None and 0 <= tag < len(labels) else None
        if not isinstance(name, str) or not is_tag(name):
            raise UserError(
                f"{where}: {tag!r} of {TAGS}{'' if name is tag else f', {name!r},'} is no tag; {SCHEMES}"
            )
        named.append(name)
    return named


def _are_numbers(schema: pa.Schema) -> bool:
    return pa.types.is_integer(schema.field(TAGS).type.value_type)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _own_names(schema: pa.Schema) -> tuple[str, ...]:
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return _names(metadata.get("info", {}).get("features", {}).get(TAGS))


def _described(url: str) -> dict[str, tuple[str, ...]]:
    """Return the label names in a description, by configuration ("" where it has but one)."""
    data = read_whole(url).decode(errors="replace").replace("\r\n", "\n")
    try:
        if url.endswith(".json"):
            about = json.loads(data)
            infos = [(about, "")] if "features" in about else [(info, name) for name, info in about.items()]
        else:
            card = yaml.safe_load(data.split("---\n")[1]) if data.startswith("---\n") else None
            info = (card or {}).get("dataset_info", [])
            each = info if isinstance(info, list) else [info]
            infos = [(info, info.get("config_name", "")) for info in each]
        labels = {name: _names(_feature(info.get("features") or {})) for info, name in infos}
    except (ValueError, yaml.YAMLError, AttributeError, IndexError) as error:
        raise UserError(f"{url}: cannot be read for label names ({error}); mend or remove it") from None
    return {name: names for name, names in labels.items() if names}


def _feature(features: Any) -> Any:
    """Return what describes the tags: of a dictionary by name, or of the YAML's list of named features."""
    if isinstance(features, list):
        features = {feature.get("name"): feature for feature in features}
    return features.get(TAGS)


def _names(feature: Any) -> tuple[str, ...]:
    """Find a ClassLabel's names, however deep in sequences: a list, or in YAML a dictionary by number."""
    if isinstance(feature, list):
        return next(filter(None, map(_names, feature)), ())
    if not isinstance(feature, dict):
        return ()
    names = feature.get("names")
    if isinstance(names, dict):
        return tuple(str(names[number]) for number in sorted(names, key=int))
    if isinstance(names, list):
        return tuple(map(str, names))
    return _names(list(feature.values()))
