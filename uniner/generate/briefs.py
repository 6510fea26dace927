"""The briefs that the teacher writes passages by, each with randomly drawn aspects.

A prompt that is always the same gets much the same text, whatever the temperature. Varying aspects (kind of
text, place, length, ...) give more varied and less biased texts (Yu et al. 2023, "Large Language Model as
Attributed Training Data Generator"). The words and the aspects here are our own.

A brief derives from the seed, the domain and its number alone. More passages of a domain, or more domains,
leave the existing briefs unchanged, so that their replies are found in the cache.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from uniner.records import BRIEF, Brief, generated_source, to_table
from uniner.storage.stage_folder import Chunk
from uniner.teacher.prompts import Prompt, load_prompt

BRIEF_MARK = "{brief}"
"""The place of the brief in a prompt file."""
PROMPT = Prompt(
    "You write passages of text that read as if they were taken from real sources.",
    "Write one passage by the following brief. Name people, organizations, places, products, works and other "
    "things of the domain by names of their own, as real texts do, and give exact dates, amounts and terms. "
    "Where two points of the brief cannot go together, the domain comes first. Reply with the passage alone: "
    "no title, no comment, no markup.\n\n" + BRIEF_MARK,
    BRIEF_MARK,
)
ASPECTS: Mapping[str, Sequence[str]] = {
    "Kind of text": (
        "news report", "encyclopedia article", "textbook", "scholarly article",
        "report of a case or incident",
        "letter or e-mail", "minutes of a meeting", "conversation, word for word", "post in a forum",
        "instructions", "official notice", "record or form that is filled in", "review", "interview",
        "biography", "diary or field notes", "advertisement", "short story",
    ),
    "Register": (
        "technical, for experts", "formal", "plain, for everybody", "colloquial", "terse, as in notes",
    ),
    "Rich in": (
        "people", "organizations", "places", "products and works", "technical terms", "events and dates",
        "amounts and measures",
    ),
    "Time": ("this year", "a few years ago", "around 2010", "the 1990s", "the 1970s", "before 1950"),
    "Place": (
        "North America", "Central America and the Caribbean", "South America", "Western Europe",
        "Eastern Europe", "the Middle East", "North Africa", "West Africa", "East or Southern Africa",
        "Central Asia", "South Asia", "East Asia", "Southeast Asia", "Australia and Oceania",
        "several countries", "none in particular",
    ),
}  # fmt: skip
"""The aspects that vary from brief to brief, with values of equal probability."""


def generation_prompt(url: str | None) -> Prompt:
    """Return the prompt of a file, or our own where no file is named."""
    return load_prompt(url, BRIEF_MARK) if url else PROMPT


@dataclass(frozen=True, kw_only=True)
class Briefs:
    """All briefs of a run.

    domains: each with its number of passages. words: the mean length of a passage.
    """

    domains: Mapping[str, int]
    seed: int
    words: int
    aspects: Mapping[str, Sequence[str]]
    chunk_passages: int

    def chunks(self) -> dict[str, int]:
        """Return the keys of all chunks and their rows. A chunk's passages are all of one domain."""
        return {
            f"{place:03d}-{number:05d}": min(self.chunk_passages, self.domains[domain] - first)
            for place, domain in enumerate(sorted(self.domains))
            for number, first in enumerate(range(0, self.domains[domain], self.chunk_passages))
        }

    def domain(self, key: str) -> str:
        """Return a chunk's domain."""
        return sorted(self.domains)[int(key.split("-")[0])]

    def of(self, key: str) -> list[Brief]:
        """Return a chunk's briefs."""
        domain, first = self.domain(key), int(key.split("-")[1]) * self.chunk_passages
        last = min(first + self.chunk_passages, self.domains[domain])
        return [self._brief(domain, number + 1) for number in range(first, last)]

    def read_chunk(self, key: str) -> Chunk:
        """Return a key's chunk, as if it were read from a parent stage."""
        return Chunk(key, to_table(self.of(key), BRIEF))

    def _brief(self, domain: str, number: int) -> Brief:
        draw = f"{self.seed}/{domain}/{number}"
        words = max(1, self.words * (50 + _draw(f"{draw}/length", 101)) // 100)
        aspects = {
            name: values[_draw(f"{draw}/{name}", len(values))] for name, values in self.aspects.items()
        }
        # The number makes each prompt unique, so the cache never returns another brief's reply.
        points = {"Domain": domain, **aspects, "Length": f"about {words} words", "Brief number": str(number)}
        source = generated_source(domain)
        return Brief(
            doc_id=f"{source}-{number:07d}",
            source=source,
            words=words,
            text="\n".join(f"{name}: {value}" for name, value in points.items()),
        )


def _draw(key: str, count: int) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) % count
