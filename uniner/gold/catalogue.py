"""The benchmark's data sets: their facts (catalogue.toml), and their test splits below a data folder.

A test split is a file with the data set's name (`bc5cdr.txt`, `CrossNER_AI.json`, `FindVehicle_test.txt`), or
lies in a folder with its name: a file `test.*`, Parquet files `test*.parquet`, a brat folder `test`, or brat
files directly. Case and punctuation of names are ignored.
"""

import functools
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from uniner.errors import UserError
from uniner.gold.reader import GoldSummary, TagColumn, read_gold
from uniner.labels import is_else_type, plain_label
from uniner.storage.filesystem import absolute, explained, files_below, filesystem

DOMAINS = (
    "general", "biomedical", "clinical", "STEM", "programming", "social media", "law", "finance", "transport",
)  # fmt: skip
_SPLIT = re.compile(r"test(-\d+-of-\d+)?\.parquet")


@dataclass(frozen=True)
class BenchmarkDataset:
    """A data set of the benchmark; catalogue.toml describes the fields."""

    name: str
    title: str
    domain: str
    sizes: tuple[int, int, int]
    types: int
    source: str
    format: Literal["conll", "brat", "pubtator", "hugging_face", "tner", "conversations", "own"]
    licence: str
    groups: tuple[str, ...] = ()
    benchmark: bool = True
    counted_as: str = ""
    aliases: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    tag_column: int | str | tuple[int, ...] | None = None
    copy: tuple[int, int, int] | None = None
    convert: str = ""
    note: str = ""

    @property
    def least_types(self) -> int:
        """Return how many types its test split has at least: those of the public copy, or half the paper's.

        Of copies that nobody counted, some honest ones have a type or two less than the paper says.
        """
        return self.copy[2] if self.copy else -(-self.types // 2)


@dataclass(frozen=True)
class SplitSummary:
    """A test split's address and its size, or the error from reading it."""

    address: str
    passages: int = 0
    entities: int = 0
    types: int = 0
    left_out: str = ""
    error: str = ""

    def warning(self, dataset: BenchmarkDataset) -> str:
        """Return a line on how the split differs from the public copy; empty if it does not."""
        if self.error or not dataset.copy or dataset.copy == (self.passages, self.entities, self.types):
            return ""
        names = ("passages", "entities", "types")
        counts = zip((self.passages, self.entities, self.types), dataset.copy, names, strict=True)
        different = ", ".join(
            f"{here:,} {name}, not {there:,}" for here, there, name in counts if here != there
        )
        return f"{dataset.name}: {different} as its public copy ({dataset.source}) has"


@functools.cache
def catalogue() -> dict[str, BenchmarkDataset]:
    """Return the data sets by name, in the order of domains."""
    text = resources.files("uniner.gold").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {
        name: msgspec.convert({"name": name, **facts}, BenchmarkDataset)
        for name, facts in tomllib.loads(text).items()
    }


def group_members(group: str) -> tuple[BenchmarkDataset, ...]:
    """Return the data sets of a group; `all` is the benchmark's 49 splits."""
    return tuple(
        dataset
        for dataset in catalogue().values()
        if (dataset.benchmark if group == "all" else group in dataset.groups)
    )


def is_listed(dataset: str) -> bool:
    """Tell whether the catalogue has a data set of this name."""
    return dataset in catalogue()


def label_renamer(dataset: str, labels: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that turns a data set's labels into the words used in training and evaluation.

    labels: the user's words (build.labels, evaluate.labels), which come first. Then the catalogue's words, if
    it lists this data set; for any other data set the words of labels that many have (`labels.plain_label`).
    """
    known = catalogue().get(dataset)
    words = functools.partial(plain_label, own=labels, known=known.labels if known else None)
    if known:
        return functools.cache(words)

    def rename(label: str) -> str:
        # Few-NERD's labels, such as location-bodiesofwater, are like no other's.
        fine = "" if label in labels else _few_nerd_labels().get(label, "")
        return fine or words(label)

    return functools.cache(rename)


@functools.cache
def _few_nerd_labels() -> dict[str, str]:
    labels = catalogue()["fewnerd_fine"].labels
    return {label: words for label, words in labels.items() if not is_else_type(words)}


def tag_column(dataset: str) -> TagColumn:
    """Return which tags of a data set's file count, as `read_gold` takes it."""
    known = catalogue().get(dataset)
    return known.tag_column if known else None


def require_types(dataset: str, address: str, types: Collection[str]) -> None:
    """Check that a test split has the types of the catalogue's data set, after renaming.

    Raises:
        UserError: if types are missing, so that its score would mislead.
    """
    known = catalogue().get(dataset)
    if known and len(types) < known.least_types:
        there = f"its public copy has {known.copy[2]}" if known.copy else f"the paper's has {known.types}"
        raise UserError(
            f"{address}: has {len(types)} types ({', '.join(sorted(types)[:8])}), and {there}; get it from "
            f'{known.source}, or set evaluate.trust_gold = ["{dataset}"] to score it as it is'
        )


def find_splits(data: str) -> dict[str, str]:
    """Return the addresses of the test splits below a data folder, by data set name.

    Raises:
        UserError: if the folder does not exist, or two files could be the same data set.
    """
    folder = absolute(data).rstrip("/")
    system, path = filesystem(folder)
    with explained(folder):
        system.info(path)
    entries: dict[str, list[str]] = {}
    for file in files_below(folder):
        relative = file[len(folder) + 1 :]
        entries.setdefault(relative.split("/", 1)[0], []).append(relative)
    splits: dict[str, str] = {}
    for entry, files in sorted(entries.items()):
        name = _names().get(_letters(entry if files != [entry] else entry.split(".", 1)[0]))
        if name is None:
            continue
        for address in _test_splits(entry, files):
            if name in splits:
                raise UserError(f"{splits[name]} and {folder}/{address} are both {name}; remove one of them")
            splits[name] = f"{folder}/{address}"
    return {name: splits[name] for name in catalogue() if name in splits}


def _test_splits(entry: str, files: list[str]) -> list[str]:
    """Return the candidates for a test split in an entry of the data folder; a sound entry has one."""
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


def summarize_split(dataset: str, address: str) -> SplitSummary:
    """Read a whole test split and count its passages, entities and types, or return the error."""
    summary = GoldSummary()
    rename, column = label_renamer(dataset, {}), tag_column(dataset)
    try:
        for _ in read_gold(address, rename=rename, tag_column=column, summary=summary):
            pass
    except UserError as error:
        return SplitSummary(address, error=str(error))
    return SplitSummary(
        address, summary.passages, summary.entities, len(summary.types), summary.warning(address)
    )


@functools.cache
def _names() -> dict[str, str]:
    """Return data set names by all names that a file may have, reduced to letters and digits."""
    return {
        _letters(name) + split: dataset.name
        for dataset in catalogue().values()
        for name in (dataset.name, dataset.title, *dataset.aliases)
        for split in ("", "test")
    }


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def resolve_group(
    group: str | None, data: str | None, gold: Mapping[str, str], say: Callable[[str], None] | None = None
) -> dict[str, str]:
    """Return the gold data sets to score, name to address: `gold`, and the group's splits below `data`.

    An address in `gold` takes precedence. say: receives a line that names the missing members.

    Raises:
        UserError: if there is no data folder, or it has no data set of the group.
    """
    if group is None:
        return dict(gold)
    if not data:
        raise UserError(f"evaluate.group = {group!r} needs evaluate.data, the folder of the data sets")
    splits = find_splits(data)
    members = [dataset.name for dataset in group_members(group)]
    resolved = {name: splits[name] for name in members if name in splits} | dict(gold)
    missing = [name for name in members if name not in resolved]
    if len(missing) == len(members):
        raise UserError(
            f"{data}: has no data set of the group {group} (such as {members[0]}); `uniner evaluate CONFIG "
            "--datasets` lists them and where to get them"
        )
    if missing and say:
        say(
            f"evaluate: found {len(members) - len(missing)} of the {len(members)} data sets of {group}; "
            f"missing: {', '.join(missing)} (`uniner evaluate CONFIG --datasets` says where to get them)"
        )
    return resolved
