"""Which of the teacher's mentions become answers: the paper's filters and the finer ones, each counted."""

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from uniner.records import Entity

# The longest ending first: a later pair that fits as well wins, and "dishes" is "dish", not "dishe".
_PLURALS = (("s", ""), ("es", ""), ("ies", "y"))


@dataclass(frozen=True)
class Filters:
    """Which mentions are dropped, in this order, and which types are renamed before.

    drop_types: else_type, types that say nothing (paper §3.1). in_passage: not_in_passage, mentions that the
    passage does not hold. latin: not_english, mentions mostly of other than Latin letters (paper §3.1).
    max_words: long_mention. renamed: folded types, each with the type that it counts as.
    """

    drop_types: Collection[str]
    in_passage: bool = True
    latin: bool = True
    max_words: int = 20
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """What a passage's filters left: mentions by type in order of appearance, and how many each dropped."""

    mentions: dict[str, tuple[str, ...]]
    dropped: dict[str, int] = field(default_factory=dict)


def fold_type(type_name: str) -> str:
    """Fold a type's case and white space: 'Person ' and 'person' are one type."""
    return " ".join(type_name.lower().split()).strip(" .:;,\"'")


def singulars(types: Collection[str]) -> dict[str, str]:
    """Return the plurals among folded types, each with its singular.

    A plural is what ends like one and whose singular is among the types as well: 'cities' where there is
    'city', but never 'species'.
    """
    known = set(types)
    found = {
        name: name.removesuffix(plural) + singular
        for name in known
        for plural, singular in _PLURALS
        if name.endswith(plural) and name.removesuffix(plural) + singular in known
    }
    return {name: found.get(singular, singular) for name, singular in found.items()}


def filter_mentions(entities: Iterable[Entity], filters: Filters) -> Kept:
    """Filter one passage's entities.

    Equal (mention, type) pairs collapse without being counted: they are occurrences of one mention.
    """
    mentions: dict[str, dict[str, None]] = {}
    dropped: dict[str, int] = {}
    for entity in sorted(entities, key=lambda entity: entity.start):
        type_name = fold_type(entity.type)
        type_name = filters.renamed.get(type_name, type_name)
        reason = _reason(entity, type_name, filters)
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            mentions.setdefault(type_name, {})[entity.text] = None
    return Kept({name: tuple(found) for name, found in mentions.items()}, dropped)


def _reason(entity: Entity, type_name: str, filters: Filters) -> str | None:
    if not type_name or type_name in filters.drop_types:
        return "else_type"
    if filters.in_passage and entity.start < 0:
        return "not_in_passage"
    if filters.latin and not is_latin(entity.text):
        return "not_english"
    if len(entity.text.split()) > filters.max_words:
        return "long_mention"
    return None


def is_latin(text: str) -> bool:
    """Tell whether at least half of a text's letters are Latin; a text without letters passes."""
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(letter.isascii() or unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    return 2 * latin >= len(letters)
