"""Tokens with BIO, IOB1, BIOES or BILOU tags to a passage with entities.

All four are read by one rule, conlleval's: B, S and U begin an entity; I, E and L go on with the one before
where it has the same type and was not ended (by E, S, L or U), and begin one where it has not. So a sequence
that breaks its scheme is read as the scorer of the field reads it.
"""

import re
from collections.abc import Iterator, Sequence

from uniner.errors import UserError
from uniner.gold.records import GoldPassage, entity

SCHEMES = "a tag is O or B-, I-, E-, S-, L- or U- and the type"
_TAG = re.compile(r"O|[BIESLU]-.+")


def is_tag(tag: str) -> bool:
    """Tell whether a string is a tag of any of the schemes."""
    return _TAG.fullmatch(tag) is not None


def passage(where: str, tokens: Sequence[str], tags: Sequence[str]) -> GoldPassage:
    """Join tokens by a blank, with the entities that their tags (`is_tag`) mark.

    Raises:
        UserError: at `where`, where an entity has no letter.
    """
    text, starts = " ".join(tokens), [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + 1)
    entities = []
    for first, after, type_name in spans(tags):
        start, end = starts[first], starts[after] - 1
        if not text[start:end].strip():
            raise UserError(f"{where}: an entity of type {type_name} is blank; leave it out")
        entities.append(entity(where, text, start, end, text[start:end], type_name))
    return GoldPassage(text, tuple(entities), id="")


def spans(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield each entity's first token, the one after its last, and its type."""
    first, open_type = 0, ""
    for place, tag in enumerate(tags):
        kind, type_name = tag[0], tag[2:]
        goes_on = kind in "IEL" and type_name == open_type
        if open_type and not goes_on:
            yield first, place, open_type
        if not goes_on:
            first, open_type = place, type_name
        if open_type and kind in "ESLU":
            yield first, place + 1, open_type
            open_type = ""
    if open_type:
        yield first, len(tags), open_type
