"""Write documents with exact mentions from the frames of the domains and the made-up names.

The same arguments give the same documents on every machine: each document has a random generator
of its own, seeded by its place, so the first hundred of a thousand are the hundred of a hundred.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from uniner.quickstart.domains import Domain
from uniner.quickstart.names import name

Naming = Callable[[str, Random, str], str]
"""Makes a name of a type, for a split."""

SLOT = re.compile(r"\{([^{}]+)\}")

# Long documents are there so that cutting into passages has something to cut.
LONG_SHARE = 0.04
LONG_SENTENCES = (12, 25)

FILLER_SHARE = 0.15
REPEAT_SHARE = 0.15

SEPARATORS = (" ", "\n", "\n\n")
SEPARATOR_WEIGHTS = (0.9, 0.06, 0.04)


@dataclass(frozen=True)
class Mention:
    """One entity in a text: text[start:end] of its document, in characters."""

    start: int
    end: int
    text: str
    type: str


@dataclass(frozen=True)
class Document:
    """One text of one domain (`source`), its mentions in order of appearance."""

    doc_id: str
    text: str
    source: str
    mentions: tuple[Mention, ...]


def slots_of(frame: str) -> tuple[str, ...]:
    """The entity types of a frame's slots, in order."""
    return tuple(SLOT.findall(frame))


def types_of(domains: Sequence[Domain]) -> tuple[str, ...]:
    """All entity types that occur in the frames, sorted."""
    return tuple(sorted({type for domain in domains for frame in domain.frames for type in slots_of(frame)}))


def documents(
    domains: Sequence[Domain],
    count: int,
    seed: int,
    split: str,
    sentences: tuple[int, int] = (2, 5),
    naming: Naming = name,
) -> Iterator[Document]:
    """`count` documents whose names are all of one split, the domains in turn; `sentences` is inclusive."""
    for number in range(count):
        domain = domains[number % len(domains)]
        random = Random(f"{seed}/{split}/{domain.name}/{number}")
        low, high = LONG_SENTENCES if random.random() < LONG_SHARE else sentences
        text, mentions = _write(domain, random.randint(low, high), random, split, naming)
        doc_id = f"{domain.name.replace(' ', '-')}-{split}-{number:05d}"
        yield Document(doc_id, text, domain.name, mentions)


def _write(
    domain: Domain, sentences: int, random: Random, split: str, naming: Naming
) -> tuple[str, tuple[Mention, ...]]:
    """The text and mentions of one document."""
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
    """Frames, one at least, and a few fillers; no sentence twice before all have been used."""
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
    """A name for one slot: sometimes one that the document has had, never the same twice in a sentence."""
    of_type = [known for known, its_type in type_by_name.items() if its_type == type]
    earlier = [known for known in of_type if known not in in_sentence]
    repeat = bool(earlier) and random.random() < REPEAT_SHARE
    follows_article = before.lower().endswith("the ")
    while True:
        surface = random.choice(earlier) if repeat else new()
        repeat = False
        if surface in in_sentence or type_by_name.get(surface, type) != type:
            continue
        # "the The Hollow Door" is no English.
        if follows_article and surface.startswith("The "):
            continue
        return surface
