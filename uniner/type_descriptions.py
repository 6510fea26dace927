"""What types mean: a description and synonyms for each, as people and stages write and read them."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from uniner.errors import UserError
from uniner.labels import has_surrogate, is_visible, normalize_type

EXAMPLE = '{"person": {"description": "a human being, called by a name", "synonyms": ["individual"]}}'
_MOST_CHARACTERS = 300
_MOST_SYNONYM_WORDS = 6
_NAMED = re.compile(r"([^:]+): +(\S.*)")


@dataclass(frozen=True, kw_only=True)
class TypeDescription:
    """A type's description, a phrase without a full stop, and other names for it."""

    description: str = ""
    synonyms: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as the file has it."""
        return {"description": self.description, "synonyms": list(self.synonyms)}


Descriptions = Mapping[str, TypeDescription]
"""Descriptions by the type's name, as `labels.normalize_type` writes it."""


def with_description(name: str, description: str) -> str:
    """Return how a student is asked for a type with its description: person (a human being)."""
    return f"{name} ({description})"


def split_description(text: str) -> tuple[str, str]:
    """Split `person: a human being` into name and description; without one, the description is empty."""
    found = _NAMED.fullmatch(text)
    return (found[1].strip(), plain_description(found[2])) if found else (text, "")


def plain_description(text: str) -> str:
    """Return a description on one line, without the full stop at its end."""
    return " ".join(text.split()).rstrip(".").rstrip()


def make_description(name: str, description: Any, synonyms: Any) -> TypeDescription | None:
    """Return a type's description; None where either part has the wrong form or half a surrogate pair.

    Synonyms that repeat the type or one another, or have more than six words, are left out.
    """
    if not isinstance(description, str) or not isinstance(synonyms, list):
        return None
    if not all(isinstance(synonym, str) for synonym in synonyms):
        return None
    if has_surrogate(description) or any(map(has_surrogate, synonyms)):
        return None  # no file could store it
    plain = plain_description(description)
    if len(plain) > _MOST_CHARACTERS or (plain and not is_visible(plain)):
        return None
    others = dict.fromkeys(normalize_type(synonym) for synonym in synonyms)
    return TypeDescription(
        description=plain,
        synonyms=tuple(
            other
            for other in others
            if is_visible(other)
            and other != normalize_type(name)
            and len(other.split()) <= _MOST_SYNONYM_WORDS
        ),
    )


def read_descriptions(data: bytes, url: str) -> dict[str, TypeDescription]:
    """Read a file of descriptions: a JSON object of types, each with description, synonyms or both.

    Raises:
        UserError: naming the type whose entry is wrong.
    """
    try:
        content = json.loads(data, object_pairs_hook=_unique(url))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{url}: is not JSON ({error}); write an object of types, such as {EXAMPLE}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{url}: is not an object of types; write, for example, {EXAMPLE}")
    written: dict[str, str] = {}
    descriptions = {}
    for name, value in content.items():
        folded, entry = _entry(name, value, url)
        if folded in written:
            raise UserError(
                f"{url}: {written[folded]!r} and {name!r} are one type ({folded}); remove one of the two"
            )
        written[folded], descriptions[folded] = name, entry
    return descriptions


def _entry(name: str, value: Any, url: str) -> tuple[str, TypeDescription]:
    known = isinstance(value, dict) and value.keys() <= {"description", "synonyms"}
    entry = make_description(name, value.get("description", ""), value.get("synonyms", [])) if known else None
    if entry is None or not normalize_type(name):
        raise UserError(
            f"{url}: the entry of {name!r} is wrong; give it a description (text of at most "
            f"{_MOST_CHARACTERS} characters), synonyms (a list of names) or both, such as {EXAMPLE}"
        )
    return normalize_type(name), entry


def _unique(url: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(name for name, _ in items)
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise UserError(f"{url}: {repeated[0]!r} occurs twice; remove one of the two")
        return dict(items)

    return pairs


def descriptions_json(descriptions: Descriptions) -> bytes:
    """Return the file of descriptions, a line for each type, for people to read and edit."""
    lines = (
        f" {json.dumps(name, ensure_ascii=False)}: {json.dumps(entry.to_json(), ensure_ascii=False)}"
        for name, entry in descriptions.items()
    )
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def synonyms_among(names: Iterable[str], descriptions: Descriptions) -> dict[str, frozenset[str]]:
    """Return for each of these types the others of them that its or their synonyms name."""
    known = set(names)
    found: dict[str, set[str]] = {}
    for name in known & descriptions.keys():
        for other in known.intersection(descriptions[name].synonyms) - {name}:
            found.setdefault(name, set()).add(other)
            found.setdefault(other, set()).add(name)
    return {name: frozenset(others) for name, others in found.items()}
