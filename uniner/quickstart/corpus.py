"""Write documents with exact mentions from the domains' frames and made-up names.

The same arguments give the same documents on every machine. Each document has its own random generator,
seeded by its number: the first 100 of 1,000 documents equal the 100 of 100.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from uniner.quickstart.domains import Domain
from uniner.quickstart.names import name

Naming = Callable[[str, Random, str], str]
"""Makes a name: (type, random, split) -> name."""

SLOT = re.compile(r"\{([^{}]+)\}")

# Long documents give the cutting into passages something to cut.
LONG_SHARE = 0.04
LONG_SENTENCES = (12, 25)

FILLER_SHARE = 0.15
REPEAT_SHARE = 0.15

SEPARATORS = (" ", "\n", "\n\n")
SEPARATOR_WEIGHTS = (0.9, 0.06, 0.04)


@dataclass(frozen=True)
class Mention:
    """An entity in a document: text[start:end], in characters."""

    start: int
    end: int
    text: str
    type: str


@dataclass(frozen=True)
class MadeUpDocument:
    """A text of one domain (`source`) with its mentions in order of appearance."""

    doc_id: str
    text: str
    source: str
    mentions: tuple[Mention, ...]


def slots_of(frame: str) -> tuple[str, ...]:
    """Return the entity types of a frame's slots, in order."""
    return tuple(SLOT.findall(frame))


def types_of(domains: Sequence[Domain]) -> tuple[str, ...]:
    """Return all entity types in the frames, sorted."""
    return tuple(sorted({type for domain in domains for frame in domain.frames for type in slots_of(frame)}))


def documents(
    domains: Sequence[Domain],
    count: int,
    seed: int,
    split: str,
    sentences: tuple[int, int] = (2, 5),
    naming: Naming = name,
) -> Iterator[MadeUpDocument]:
    """Yield `count` documents with names of one split, from each domain in turn.

    sentences: fewest and most sentences a document, both included.
    """
    for number in range(count):
        domain = domains[number % len(domains)]
        random = Random(f"{seed}/{split}/{domain.name}/{number}")
        low, high = LONG_SENTENCES if random.random() < LONG_SHARE else sentences
        text, mentions = _write(domain, random.randint(low, high), random, split, naming)
        doc_id = f"{domain.name.replace(' ', '-')}-{split}-{number:05d}"
        yield MadeUpDocument(doc_id, text, domain.name, mentions)


def _write(
    domain: Domain, sentences: int, random: Random, split: str, naming: Naming
) -> tuple[str, tuple[Mention, ...]]:
    templates = _templates(domain, sentences, random)
    text = ""
    mentions: list[Mention] = []
    type_by_name: dict[str, str] = {}
    for template in templates:
        if text:
            text += random.choices(SEPARATORS, SEPARATOR_WEIGHTS)[0]
        in_sentence: set[str] = set()
        sentence_start, position = len(text), 0
        for slot in SLOT.finditer(template):
            text += template[position : slot.start()]
            position, start, type = slot.end(), len(text), slot.group(1)
            surface = _surface(
                type, text, type_by_name, in_sentence, random, partial(naming, type, random, split)
            )
            type_by_name[surface] = type
            in_sentence.add(surface)
            if start == sentence_start:
                surface = surface[0].upper() + surface[1:]
            text += surface
            mentions.append(Mention(start, len(text), surface, type))
        text += template[position:]
    return text, tuple(mentions)


def _templates(domain: Domain, sentences: int, random: Random) -> list[str]:
    """Draw frames (at least one) and a few fillers; a sentence repeats only after all others were used."""
    templates: list[str] = []
    unused: dict[tuple[str, ...], list[str]] = {}
    for _ in range(sentences):
        pool = domain.fillers if random.random() < FILLER_SHARE else domain.frames
        if not unused.get(pool):
            unused[pool] = random.sample(pool, len(pool))
        templates.append(unused[pool].pop())
    if all(template in domain.fillers for template in templates):
        templates[-1] = random.choice(domain.frames)
    return templates


def _surface(
    type: str,
    before: str,
    type_by_name: dict[str, str],
    in_sentence: set[str],
    random: Random,
    new: Callable[[], str],
) -> str:
    """Name a slot: sometimes an earlier name of the document, never a name twice in a sentence."""
    of_type = [known for known, known_type in type_by_name.items() if known_type == type]
    earlier = [known for known in of_type if known not in in_sentence]
    repeat = bool(earlier) and random.random() < REPEAT_SHARE
    follows_article = before.lower().endswith("the ")
    while True:
        surface = random.choice(earlier) if repeat else new()
        repeat = False
        if surface in in_sentence or type_by_name.get(surface, type) != type:
            continue
        # Avoid "the The Hollow Door".
        if follows_article and surface.startswith("The "):
            continue
        return surface
