"""Rows of tokens and tags in JSON, as T-NER and the Hugging Face hub have them; for Parquet: `hugging_face`.

    {"tokens": ["Ann", "left"], "tags": [1, 0]}        numbers, which `label_names` finds the names of
    {"tokens": ["Ann", "left"], "ner_tags": ["B-PER", "O"]}

Tags have a scheme's prefix, or are bare types beside O (`tags`). The passage is the tokens joined by blanks.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from uniner.errors import UserError
from uniner.gold.json_rows import JSON_ERRORS, JsonRow, decoded_rows, id_of, json_value
from uniner.gold.label_names import find_label_file, label_names
from uniner.gold.records import GoldPassage, GoldRow, LeftOut
from uniner.gold.tags import SCHEMES, are_bare, is_tag, require_no_other_scheme, tagged_passage, with_prefix

EXAMPLE = '{"tokens": ["Ann", "left"], "tags": ["B-person", "O"]}'
TOKENS, TAGS = ("tokens", "words"), ("ner_tags", "tags", "ner", "labels")
"""Names that the fields may have; the first that there is counts."""
_MOST_TAGS = 10_000


def recognise(row: object) -> bool | None:
    """Tell whether a row has this format; None: it has no token to tell by."""
    if not isinstance(row, dict):
        return False
    tokens = next((row[name] for name in TOKENS if name in row), None)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return False
    return _has_tags(row, tokens) if tokens else None


def _has_tags(row: Mapping[str, Any], tokens: Collection[str]) -> bool:
    lists = [value for name, value in row.items() if name not in TOKENS and isinstance(value, list)]
    return any(len(value) == len(tokens) and isinstance(value[0], str | int) for value in lists)


def field_names(fields: Iterable[str], tag_field: str = "") -> tuple[str, str] | None:
    """Return the fields of tokens and of tags, of those there are; None if one of them is missing."""
    names = set(fields)
    tokens = next((name for name in TOKENS if name in names), None)
    tags = next((name for name in ((tag_field,) if tag_field else TAGS) if name in names), None)
    return (tokens, tags) if tokens and tags else None


def read(url: str, rows: Callable[[], Iterable[JsonRow]], tag_field: str = "") -> Iterator[GoldRow | LeftOut]:
    """Yield a passage per row. rows: reads the file from its start. tag_field: by default the first of TAGS.

    Raises:
        UserError: if tags are numbers without names.
    """
    field, found = _tags_in(rows(), tag_field)
    numbers = any(isinstance(tag, int) for tag in found)
    names = label_names(url, field) if numbers else {}
    all_tags = list(names.values()) if numbers else list(map(str, found))
    bare = are_bare(all_tags)
    if bare:
        require_no_other_scheme(url, all_tags)
    tagged = TaggedRows(names, bare, field or tag_field)

    def read_row(row: JsonRow, where: str, value: dict[str, Any]) -> Iterator[GoldRow]:
        fields = field_names(value, tag_field)
        if fields is None:
            raise UserError(f"{where}: has the fields {', '.join(value)[:200]}; a row is {EXAMPLE}")
        passage = tagged.passage(where, value[fields[0]], value[fields[1]])
        yield GoldRow(row.number, row.place, replace(passage, id=id_of(value.get("id"))))

    yield from decoded_rows(url, rows(), dict[str, Any], EXAMPLE, read_row)


def description_files(url: str, rows: Iterable[JsonRow]) -> set[str]:
    """Return the files that name the numbers in the lists of a file's first row."""
    value = json_value(first.data) if (first := next(iter(rows), None)) else None
    lists = value.items() if isinstance(value, dict) else ()
    numbered = [name for name, tags in lists if isinstance(tags, list) and tags and isinstance(tags[0], int)]
    files = {find_label_file(url, name) for name in numbered}
    return {file for file in files if file}


class TaggedRows:
    """Makes passages of tokens and tags. names: of numbered tags; bare: types without a scheme's prefix."""

    def __init__(self, names: Mapping[int, str], bare: bool, field: str) -> None:
        self._names, self._bare, self._field = names, bare, field

    def passage(self, where: str, tokens: Any, tags: Any) -> GoldPassage:
        """Return a row's passage.

        Raises:
            UserError: if tokens or tags are missing, or a tag is none.
        """
        named = [self._tag(where, tag) for tag in tags] if isinstance(tags, list) else []
        words = isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)
        if not tokens or not words or len(tokens) != len(named):
            count = len(tokens) if isinstance(tokens, list) else 0
            raise UserError(
                f"{where}: {count} tokens and {len(named)} {self._field}; a row needs as many tags as "
                "tokens, at least one, without nulls; remove the row"
            )
        return tagged_passage(where, tokens, named)

    def _tag(self, where: str, tag: Any) -> str:
        is_number = isinstance(tag, int) and not isinstance(tag, bool)
        name = self._names.get(tag) if is_number else tag
        if isinstance(name, str) and self._bare and name:
            name = with_prefix(name)
        if not isinstance(name, str) or not is_tag(name):
            named = f", {name!r}," if is_number else ""
            raise UserError(f"{where}: {repr(tag)[:60]} of {self._field}{named} is not a tag; {SCHEMES}")
        return name


def _tags_in(rows: Iterable[JsonRow], tag_field: str) -> tuple[str, set[str | int]]:
    """Return the name of the field of tags, and all tags in it."""
    field, found = tag_field, set[str | int]()
    decoder = msgspec.json.Decoder(dict[str, Any])
    for row in rows:
        try:
            value = decoder.decode(row.data)
        except JSON_ERRORS:
            continue
        fields = field_names(value, tag_field)
        tags = value[fields[1]] if fields else None
        if fields and isinstance(tags, list) and len(found) < _MOST_TAGS:
            field = fields[1]
            found.update(tag for tag in tags if isinstance(tag, str | int))
    return field, found
