"""Which of the teacher's mentions become answers: the paper's filters and the finer ones, each counted."""

import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from uniner.records import Entity


@dataclass(frozen=True)
class Kept:
    """What a passage's filters left: mentions by type in order of appearance, and how many each dropped."""

    mentions: dict[str, tuple[str, ...]]
    dropped: dict[str, int] = field(default_factory=dict)


def fold_type(type_name: str) -> str:
    """Fold a type's case and white space: 'Person ' and 'person' are one type."""
    return " ".join(type_name.lower().split()).strip(" .:;,\"'")


def filter_mentions(entities: Iterable[Entity], drop_types: Collection[str], max_words: int) -> Kept:
    """Filter one passage's entities.

    Dropped are, in this order: else_type (types that say nothing, paper §3.1), not_in_passage,
    not_english (mostly other than Latin letters, paper §3.1), long_mention. Equal (mention, type) pairs
    collapse without being counted: they are occurrences of one mention.
    """
    mentions: dict[str, dict[str, None]] = {}
    dropped: dict[str, int] = {}
    for entity in sorted(entities, key=lambda entity: entity.start):
        type_name = fold_type(entity.type)
        reason = _reason(entity, type_name, drop_types, max_words)
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            mentions.setdefault(type_name, {})[entity.text] = None
    return Kept({name: tuple(found) for name, found in mentions.items()}, dropped)


def _reason(entity: Entity, type_name: str, drop_types: Collection[str], max_words: int) -> str | None:
    if not type_name or type_name in drop_types:
        return "else_type"
    if entity.start < 0:
        return "not_in_passage"
    if not is_latin(entity.text):
        return "not_english"
    if len(entity.text.split()) > max_words:
        return "long_mention"
    return None


def is_latin(text: str) -> bool:
    """Tell whether at least half of a text's letters are Latin; a text without letters passes."""
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(letter.isascii() or unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    return 2 * latin >= len(letters)
