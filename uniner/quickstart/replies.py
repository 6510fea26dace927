"""The recorded teacher's replies, with the flaws of a real large model.

The flaws exercise the quickstart's parsing and filters: unparseable replies, useless types, mentions that are
not in the passage, odd capitals.
"""

import json
from collections.abc import Iterable, Sequence
from random import Random

from uniner.quickstart.corpus import Mention
from uniner.quickstart.names import name

# Shares of replies, except MISSED_MENTION_SHARE, a share of mentions.
UNPARSEABLE_SHARE = 0.03
USELESS_TYPE_SHARE = 0.08
ABSENT_MENTION_SHARE = 0.05
ODD_TYPE_CAPITALS_SHARE = 0.05
ODD_MENTION_CAPITALS_SHARE = 0.05
MISSED_MENTION_SHARE = 0.03

USELESS_TYPE = "misc"
ABSENT_TYPES = ("person", "city", "company")

Pair = tuple[str, str]


def reply(text: str, mentions: Iterable[Mention], random: Random) -> str:
    """Return the teacher's reply: `[("entity 1", "type of entity 1"), ...]`, each pair once, in text order.

    mentions: those inside the passage `text`. Their offsets give the order alone, so they may count from the
    start of the document.
    """
    in_order = sorted(mentions, key=lambda mention: mention.start)
    every_pair = list(dict.fromkeys((mention.text, mention.type) for mention in in_order))
    pairs = [pair for pair in every_pair if random.random() >= MISSED_MENTION_SHARE]
    if random.random() < USELESS_TYPE_SHARE:
        pairs = _with_useless_type(text, every_pair, pairs, random)
    if random.random() < ABSENT_MENTION_SHARE:
        pairs.append(_absent_pair(text, random))
    if random.random() < ODD_TYPE_CAPITALS_SHARE:
        change = random.choice((str.capitalize, str.upper))
        pairs = [(mention, change(type)) for mention, type in pairs]
    if pairs and random.random() < ODD_MENTION_CAPITALS_SHARE:
        place = random.randrange(len(pairs))
        pairs[place] = (pairs[place][0].upper(), pairs[place][1])
    if random.random() < UNPARSEABLE_SHARE:
        return _unparseable(pairs, random)
    return _listed(pairs)


def _listed(pairs: Sequence[Pair]) -> str:
    # A JSON string with ensure_ascii=False is also a Python string literal.
    quoted = (tuple(json.dumps(part, ensure_ascii=False) for part in pair) for pair in pairs)
    return "[" + ", ".join(f"({mention}, {type})" for mention, type in quoted) + "]"


def _with_useless_type(
    text: str, every_pair: Sequence[Pair], pairs: list[Pair], random: Random
) -> list[Pair]:
    """Add a word of the passage that is not in a mention, with a useless type, at a random place."""
    named = {word for mention, _ in every_pair for word in mention.split()}
    stripped = (part.strip('.,;:!?"()') for part in text.split())
    words = [word for word in stripped if word and word not in named]
    if not words:
        return pairs
    place = random.randint(0, len(pairs))
    return [*pairs[:place], (random.choice(words), USELESS_TYPE), *pairs[place:]]


def _absent_pair(text: str, random: Random) -> Pair:
    while True:
        type = random.choice(ABSENT_TYPES)
        mention = name(type, random, "train")
        if mention not in text:
            return mention, type


def _unparseable(pairs: Sequence[Pair], random: Random) -> str:
    """Return a reply that is cut off in the middle, or written in prose."""
    listed = _listed(pairs)
    if random.random() < 0.5:
        return listed[: random.randint(1, len(listed) - 1)]
    if not pairs:
        return "I found no entities in the passage."
    prose = "; ".join(f"{mention} is a {type}" for mention, type in pairs)
    return f"I found the following entities: {prose}."
