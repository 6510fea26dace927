"""How a passage's types are asked for in training: by name, by a synonym, or by name with description.

A student that has learnt "movie" by its name alone does not find a "film". What is drawn derives from the
seed, the passage and the type alone, so that a resumed build, on any number of workers, makes the same
conversations. Answers stay as they are.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from uniner.records import Conversation
from uniner.templates import Template
from uniner.type_descriptions import Descriptions, synonyms_among, with_description


@dataclass(frozen=True, kw_only=True)
class TypeForms:
    """What types are asked by, and the shares of questions that ask by a synonym and with the description.

    near: each type's near-synonyms (`near_synonyms.neighbours`): a synonym that names one of them, or is
    another name of a type that the passage has, would be a question with another answer.
    """

    descriptions: Descriptions = field(default_factory=dict)
    synonym_share: float = 0.0
    description_share: float = 0.0
    near: Mapping[str, Collection[str]] = field(default_factory=dict)
    seed: int = 0

    def asked(self, passage_id: str, present: Collection[str], absent: Collection[str]) -> dict[str, str]:
        """Return how each type of a passage is asked for; no two in the same words.

        present: the types that the passage has. absent: those asked for as negatives.
        """
        types = {*present, *absent}
        taken = set(types)
        forms: dict[str, str] = {}
        for name in sorted(types):
            forms[name] = self._drawn(passage_id, name, taken | self._other_names(present, name))
            taken.add(forms[name])
        return forms

    def _other_names(self, present: Collection[str], name: str) -> set[str]:
        """Return other names of the passage's types but this one, and the types that are close to them."""
        found: set[str] = set()
        for other in present:
            if other != name:
                found.update(self.near.get(other, ()))
                found.update(self.descriptions[other].synonyms if other in self.descriptions else ())
        return found

    def _drawn(self, passage_id: str, name: str, forbidden: Collection[str]) -> str:
        entry = self.descriptions.get(name)
        if entry is None:
            return name
        share, choice = _draws(f"{self.seed}/{passage_id}/{name}")
        if share < self.synonym_share:
            fitting = [synonym for synonym in entry.synonyms if synonym not in forbidden]
            return fitting[choice % len(fitting)] if fitting else name
        described = with_description(name, entry.description)
        by_description = entry.description and share < self.synonym_share + self.description_share
        return described if by_description and described not in forbidden else name

    def count(self, conversations: Iterable[Conversation], template: Template) -> dict[str, int]:
        """Count the questions that ask by name, by synonym and with the description; 0 of all without any."""
        counts: Counter[str] = Counter()
        for conversation in conversations if self.descriptions else ():
            names = {*conversation.positive_types, *conversation.negative_types}
            described = {
                with_description(name, self.descriptions[name].description)
                for name in names & self.descriptions.keys()
            }
            for turn in conversation.conversations[2::2]:
                for asked in template.types_of(turn["value"]) or ():
                    form = "name" if asked in names else "description" if asked in described else "synonym"
                    counts[f"asked_by_{form}"] += 1
        return dict(counts)


def with_synonyms(
    near: Mapping[str, Collection[str]], types: Iterable[str], descriptions: Descriptions
) -> dict[str, frozenset[str]]:
    """Return each type's near-synonyms with the types that descriptions name as its synonyms."""
    named = synonyms_among(types, descriptions)
    return {name: frozenset({*near.get(name, ()), *named.get(name, ())}) for name in {**near, **named}}


def _draws(key: str) -> tuple[float, int]:
    """Return a number from 0 to 1 and a large whole one, which derive from a key."""
    digest = hashlib.blake2b(f"type form/{key}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8]) / 2**64, int.from_bytes(digest[8:])
