"""The names of numbered tags, from a file near the data: T-NER's label.json, or Hugging Face's descriptions.

    label.json             {"O": 0, "B-PER": 1}
    dataset_info.json      the features of one configuration; dataset_infos.json: of each by its name
    README.md              the data card's YAML between two lines of ---

The file is in the data's folder or one of the two above it.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import msgspec
import yaml

from uniner.errors import UserError
from uniner.gold.json_rows import JSON_ERRORS
from uniner.gold.lines import gold_bytes
from uniner.storage.filesystem import filesystem

_T_NER = "label.json"
_FILES = (_T_NER, "dataset_info.json", "dataset_infos.json", "README.md")
_MOST_CARD_BYTES, _MOST_LABELS, _MOST_DEPTH = 1 << 20, 100_000, 50


class _CardLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Loads YAML without merge keys, deep lists and aliases within aliases, which can take for ever."""

    def __init__(self, stream: Any):
        super().__init__(stream)
        self._open: list[bool] = []  # of the nodes being composed: whether they hold an alias
        self._with_alias: set[int] = set()

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, unless it is the alias of one that holds aliases: these grow without bounds."""
        if self.check_event(yaml.AliasEvent):
            self._open = [True] * len(self._open)
            node = super().compose_node(parent, index)
            if id(node) in self._with_alias:
                raise yaml.YAMLError("aliases within aliases")
            return node
        self._open.append(False)
        node = super().compose_node(parent, index)
        if self._open.pop():
            self._with_alias.add(id(node))
        return node

    def fetch_flow_collection_start(self, token: type) -> None:
        """Begin a list or object in brackets, if it is not too deep."""
        if self.flow_level >= _MOST_DEPTH:
            raise yaml.YAMLError(f"more than {_MOST_DEPTH} brackets within each other")
        super().fetch_flow_collection_start(token)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave merge keys as they are."""


def find_label_file(url: str, field: str) -> str | None:
    """Return the file that names the numbers in a field of tags; None if there is none."""
    for folder in _folders_above(url):
        for name in _FILES:
            file = f"{folder}/{name}"
            system, path = filesystem(file)
            if system.isfile(path) and _names_by_configuration(file, field):
                return file
    return None


def label_names(url: str, field: str) -> dict[int, str]:
    """Return the names of the numbers in a field of tags.

    Raises:
        UserError: if they have no names, or several configurations name them differently.
    """
    file = find_label_file(url, field)
    if not file:
        raise UserError(
            f"{url}: {field} are numbers without names in the file's own metadata or in {', '.join(_FILES)} "
            'beside it; add label.json, such as {"O": 0, "B-person": 1, "I-person": 2}'
        )
    names = _names_by_configuration(file, field)
    if any(labels != next(iter(names.values())) for labels in names.values()):
        names = {name: labels for name, labels in names.items() if name in PurePosixPath(url).parts}
        if len(names) != 1:
            raise UserError(
                f"{file}: has several configurations that name {field} differently; move {url} to a folder "
                "with the name of its configuration"
            )
    return next(iter(names.values()))


def class_names(feature: Any) -> dict[int, str]:
    """Find a ClassLabel's names at any depth of sequences: a list, or in YAML a dictionary by number."""
    seen: set[int] = set()
    waiting = [feature]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, list | dict) or id(part) in seen:
            continue
        seen.add(id(part))  # a card's aliases can name one part very often
        names = part.get("names") if isinstance(part, dict) else None
        if isinstance(names, list | dict) and names:
            items = names.items() if isinstance(names, dict) else enumerate(names)
            return {int(number): str(name) for number, name in list(items)[:_MOST_LABELS]}
        waiting.extend(reversed(list(part.values()) if isinstance(part, dict) else part))
    return {}


def _folders_above(url: str) -> Iterator[str]:
    """Yield a file's folder and up to two folders above it."""
    for _ in range(3):
        url = url.rsplit("/", 1)[0]
        if not url or url.endswith("/"):
            return
        yield url


def _names_by_configuration(url: str, field: str) -> dict[str, dict[int, str]]:
    """Return a description's label names by configuration ("" for the only one)."""
    try:
        labels = dict(_described(url, field))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{url}: reading label names failed ({reason}); correct or remove the file") from None
    return {name: names for name, names in labels.items() if names}


def _described(url: str, field: str) -> Iterator[tuple[str, dict[int, str]]]:
    data = gold_bytes(url)
    if url.endswith("README.md"):
        for info in _card_configurations(data):
            yield str(info.get("config_name", "")), class_names(_feature(info.get("features") or {}, field))
        return
    try:
        about = msgspec.json.decode(data)
    except JSON_ERRORS as error:
        raise ValueError(str(error)) from None
    if not isinstance(about, dict):
        raise ValueError("it is not an object")
    if url.endswith(_T_NER):
        yield "", {number: name for name, number in about.items() if isinstance(number, int)}
    else:
        for name, info in [("", about)] if "features" in about else about.items():
            yield name, class_names(_feature(info.get("features") or {}, field))


def _card_configurations(data: bytes) -> list[dict[str, Any]]:
    text = data.decode(errors="replace").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return []
    header = text.split("---\n")[1]
    if len(header) > _MOST_CARD_BYTES:
        raise ValueError(f"its YAML has more than {_MOST_CARD_BYTES >> 20} MB")
    card = yaml.load(header, _CardLoader)  # a safe loader
    info = card.get("dataset_info", []) if isinstance(card, dict) else []
    configurations = info if isinstance(info, list) else [info]
    if not all(isinstance(each, dict) for each in configurations):
        raise ValueError("its dataset_info is not an object with features")
    return configurations


def _feature(features: Any, field: str) -> Any:
    """Return the description of a field: features are a dictionary by name, or in YAML a list."""
    if isinstance(features, list):
        features = {feature.get("name"): feature for feature in features}
    return features.get(field)
