"""Find out which format a gold file has, by its name and its content.

Where the content does not tell, the address can: `doccano:data/train.jsonl`.
"""

from collections.abc import Iterable
from itertools import islice
from types import MappingProxyType, ModuleType

from uniner.errors import UserError
from uniner.gold import (
    conllu,
    conversations,
    docbin,
    doccano,
    gliner,
    instructuie,
    jsonl,
    label_studio,
    pubtator,
    spacy_json,
    token_rows,
)
from uniner.gold.json_rows import JsonRow, is_json, json_value, read_rows
from uniner.gold.lines import gold_start
from uniner.storage.decompression import suffix_of
from uniner.storage.filesystem import filesystem

JSON_FORMATS: MappingProxyType[str, ModuleType] = MappingProxyType(
    {
        "jsonl": jsonl,
        "conversations": conversations,
        "doccano": doccano,
        "gliner": gliner,
        "instructuie": instructuie,
        "spacy": spacy_json,
        "label_studio": label_studio,
        "tner": token_rows,
    }
)
"""Formats of JSON rows: `recognise` tells whether a row has the format, `read` reads the rows."""
FORMATS = (*JSON_FORMATS, "docbin", "conll", "conllu", "pubtator", "brat", "hugging_face")
_JSON = {".json", ".jsonl", ".ndjson"}
_TOLD_BY_ROWS = 1000


def split_address(address: str) -> tuple[str | None, str]:
    """Return the format that an address begins with, if any, and the address itself."""
    name, colon, rest = address.partition(":")
    is_format = colon and name in FORMATS and not rest.startswith("//")
    return (name, rest) if is_format else (None, address)


def format_of(source: str) -> str:
    """Return the format of a file, or of a brat folder.

    Raises:
        UserError: if a JSON file has none of the formats, or may have several.
    """
    system, path = filesystem(source)
    if system.isdir(path):
        return "brat"
    if source.endswith(".parquet"):
        return "hugging_face"
    start = gold_start(source)
    if docbin.is_docbin(source, start):
        return "docbin"
    if suffix_of(source) in _JSON or is_json(source):
        return _json_format(source, read_rows(source))
    text = start.decode(errors="replace")
    if pubtator.is_first_line(text.split("\n", 1)[0].strip()):
        return "pubtator"
    return "conllu" if conllu.is_start(text) else "conll"


def _json_format(source: str, rows: Iterable[JsonRow]) -> str:
    """Return the format of the first row with an annotation to tell by, of the first rows."""
    possible: str | None = None
    first: JsonRow | None = None
    for row in islice(rows, _TOLD_BY_ROWS):
        first = first or row
        value = json_value(row.data)
        verdicts = {name: module.recognise(value) for name, module in JSON_FORMATS.items()}
        sure = [name for name, verdict in verdicts.items() if verdict]
        if len(sure) > 1:
            raise UserError(
                f"{source}, {row.place}: may be {' or '.join(sure)}; say which before the address, such as "
                f"{sure[0]}:{source}"
            )
        if sure:
            return sure[0]
        possible = possible or next((name for name, verdict in verdicts.items() if verdict is None), None)
    if possible or first is None:
        return possible or "jsonl"
    examples = "; ".join(module.EXAMPLE for module in JSON_FORMATS.values())
    value = json_value(first.data)
    fields = f"has the fields {', '.join(value)[:200]}" if isinstance(value, dict) else "is not an object"
    raise UserError(
        f"{source}, {first.place}: {fields}, which is none of the formats {', '.join(JSON_FORMATS)}. Rows "
        f"are {examples}"
    )
