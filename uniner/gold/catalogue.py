"""The benchmark's data sets: what they are (catalogue.toml), and which of them lie under a data folder.

A data set is found there as a file of its name (`bc5cdr.txt`, `CrossNER_AI.json`, `FindVehicle_test.txt`) or
in a folder of its name: a file `test.*`, Parquet files `test*.parquet`, a folder `test` of brat's files, or
such files without one. Case and punctuation of names do not count.
"""

import functools
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from uniner.build.filters import fold_type
from uniner.config.schema import Config, Group
from uniner.errors import UserError
from uniner.gold.reader import read_gold
from uniner.storage.filesystem import absolute, explained, files_below, filesystem

DOMAINS = (
    "general", "biomedical", "clinical", "STEM", "programming", "social media", "law", "finance", "transport",
)  # fmt: skip
_SPLIT = re.compile(r"test(-\d+-of-\d+)?\.parquet")


@dataclass(frozen=True)
class DataSet:
    """A data set of the benchmark; what the fields hold stands in catalogue.toml."""

    name: str
    title: str
    domain: str
    sizes: tuple[int, int, int]
    types: int
    source: str
    format: Literal["columns", "brat", "pubtator", "hugging_face", "conversations", "own"]
    licence: str
    groups: tuple[Group, ...] = ()
    benchmark: bool = True
    counted_as: str = ""
    also: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Found:
    """A test split's address, and what was read there, or why it cannot be."""

    address: str
    passages: int = 0
    types: int = 0
    problem: str = ""


@functools.cache
def catalogue() -> dict[str, DataSet]:
    """Return the data sets by name, in the order of domains."""
    text = resources.files("uniner.gold").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {
        name: msgspec.convert({"name": name, **facts}, DataSet) for name, facts in tomllib.loads(text).items()
    }


def members(group: Group) -> tuple[DataSet, ...]:
    """Return the data sets of a group; `all` are the benchmark's 49 splits."""
    return tuple(
        one for one in catalogue().values() if (one.benchmark if group == "all" else group in one.groups)
    )


def words_of(dataset: str, labels: Mapping[str, str]) -> Callable[[str], str]:
    """Return what turns a data set's labels into the words that a student is trained on and asked for.

    labels: of these (build.labels) first. Else it is a label's words in the catalogue, where that has a data
    set of this name; of any other the label, folded as the teacher's types are.
    """
    known = catalogue().get(dataset)
    return functools.cache(functools.partial(_words, labels, known.labels if known else None))


def _words(labels: Mapping[str, str], known: Mapping[str, str] | None, label: str) -> str:
    if label in labels:
        return fold_type(labels[label])
    if known is None:
        return fold_type(label) or label
    if label in known:
        return known[label]
    # A capital within a word begins the next one (CellLine); pH and DNA are one.
    spaced = re.sub(r"(?<=[a-z][a-z])(?=[A-Z])", " ", label)
    return fold_type(re.sub(r"[_-]+", " ", spaced)) or label


def look(data: str) -> dict[str, str]:
    """Return the addresses of the test splits of the data sets that lie under a data folder, by name.

    Raises:
        UserError: where there is no such folder, or a data set could be two things there.
    """
    folder = absolute(data).rstrip("/")
    system, path = filesystem(folder)
    with explained(folder):
        system.info(path)
    below: dict[str, list[str]] = {}
    for file in files_below(folder):
        inside = file[len(folder) + 1 :]
        below.setdefault(inside.split("/", 1)[0], []).append(inside)
    found: dict[str, str] = {}
    for entry, files in sorted(below.items()):
        name = _names().get(_folded(entry if files != [entry] else entry.split(".", 1)[0]))
        if name is None:
            continue
        for address in _splits(entry, files):
            if name in found:
                raise UserError(f"{found[name]} and {folder}/{address} are both {name}; leave one of them")
            found[name] = f"{folder}/{address}"
    return {name: found[name] for name in catalogue() if name in found}


def _splits(entry: str, files: list[str]) -> list[str]:
    """Return what, under an entry of the data folder, are test splits: one, if all is well."""
    if files == [entry]:
        return [entry]
    names = [file.removeprefix(f"{entry}/") for file in files]
    parquet = [PurePosixPath(name) for name in names if _SPLIT.fullmatch(PurePosixPath(name).name)]
    if any(name.endswith(".ann") and name.startswith("test/") for name in names):
        return [f"{entry}/test"]
    if parquet:
        return sorted({f"{entry}/{file.parent.joinpath('test*.parquet')}" for file in parquet})
    tests = [name for name in names if name.split(".", 1)[0] == "test"]
    return [f"{entry}/{name}" for name in tests] or [entry] * any(name.endswith(".ann") for name in names)


def read(dataset: str, address: str) -> Found:
    """Read a data set whole: how many passages and types it has, or what is wrong with it."""
    types: set[str] = set()
    passages = 0
    try:
        for passage in read_gold(address, rename=words_of(dataset, {})):
            passages += 1
            types.update(entity.type for entity in passage.entities)
            types.update(name for name, _ in passage.asked or ())
    except UserError as error:
        return Found(address, problem=str(error))
    return Found(address, passages, len(types))


@functools.cache
def _names() -> dict[str, str]:
    """Return data sets by every name, folded, that their file may have."""
    return {
        _folded(name) + split: one.name
        for one in catalogue().values()
        for name in (one.name, one.title, *one.also)
        for split in ("", "test")
    }


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def with_group(config: Config, say: Callable[[str], None] | None = None) -> Config:
    """Return the config with the group's data sets in evaluate.gold, as far as they lie under evaluate.data.

    A data set that evaluate.gold names itself stands as it is. say: is told which members are missing.

    Raises:
        UserError: where there is no data folder, or nothing of the group in it.
    """
    group, data, gold = config.evaluate.group, config.evaluate.data, config.evaluate.gold
    if group is None:
        return config
    if not data:
        raise UserError(f"evaluate.group = {group!r} needs evaluate.data, the folder of the data sets")
    lying = look(data)
    wanted = [one.name for one in members(group)]
    found = {name: lying[name] for name in wanted if name in lying} | gold
    missing = [name for name in wanted if name not in found]
    if len(missing) == len(wanted):
        raise UserError(
            f"{data}: has no data set of the group {group} (such as {wanted[0]}); evaluate.catalogue=true "
            "lists them, and where to get them"
        )
    if missing and say:
        say(
            f"evaluate: {len(wanted) - len(missing)} of the {len(wanted)} data sets of {group} are there; "
            f"missing: {', '.join(missing)} (evaluate.catalogue=true says where to get them)"
        )
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"gold": found})})
