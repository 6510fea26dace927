"""Filter the teacher's mentions: the paper's filters and finer ones, each with its own count."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from uniner.labels import normalize_type
from uniner.records import Entity
from uniner.templates import Offsets

# The last fitting pair wins, so the longest ending is last: "dishes" is "dish", not "dishe".
_PLURALS = (("s", ""), ("es", ""), ("ies", "y"))


@dataclass(frozen=True)
class MentionFilters:
    """Filters for mentions, in this order; types are renamed first.

    drop_types drops types without meaning, counted as else_type (paper §3.1). in_passage drops mentions that
    do not occur in the passage, as not_in_passage. latin drops mentions of mostly non-Latin letters, as
    not_english (paper §3.1). max_words drops longer mentions, as long_mention. renamed: normalised types to
    the types that they count as.
    """

    drop_types: Collection[str]
    in_passage: bool = True
    latin: bool = True
    max_words: int = 20
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FilteredMentions:
    """A passage's remaining mentions by type, in order of appearance, and each filter's drops.

    spans: the places of the mentions by type, of those that have one.
    """

    mentions: dict[str, tuple[str, ...]]
    dropped: dict[str, int] = field(default_factory=dict)
    spans: dict[str, tuple[Offsets, ...]] = field(default_factory=dict)


def plural_types(types: Collection[str]) -> dict[str, str]:
    """Return the plurals among normalised types, each with its singular.

    A plural ends like one, and its singular is one of the types: 'cities' if 'city' is, but never 'species'.
    """
    known = set(types)
    singulars = {
        name: name.removesuffix(plural) + singular
        for name in known
        for plural, singular in _PLURALS
        if name.endswith(plural) and name.removesuffix(plural) + singular in known
    }
    return {name: singulars.get(singular, singular) for name, singular in singulars.items()}


def filter_mentions(entities: Iterable[Entity], filters: MentionFilters) -> FilteredMentions:
    """Filter one passage's entities.

    Equal (mention, type) pairs are occurrences of one mention: they collapse without being counted.
    """
    mentions: dict[str, dict[str, None]] = {}
    spans: dict[str, dict[Offsets, None]] = {}
    dropped: Counter[str] = Counter()
    for entity in sorted(entities, key=lambda entity: entity.start):
        type_name = normalize_type(entity.type)
        type_name = filters.renamed.get(type_name, type_name)
        reason = _drop_reason(entity, type_name, filters)
        if reason:
            dropped[reason] += 1
        else:
            mentions.setdefault(type_name, {})[entity.text] = None
            if entity.start >= 0:
                spans.setdefault(type_name, {})[entity.start, entity.end] = None
    return FilteredMentions(
        {name: tuple(texts) for name, texts in mentions.items()},
        dict(dropped),
        {name: tuple(places) for name, places in spans.items()},
    )


def _drop_reason(entity: Entity, type_name: str, filters: MentionFilters) -> str | None:
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
