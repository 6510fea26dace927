"""Tags of tokens: the schemes, the entities that a sequence of tags marks, and passages of tagged tokens.

Tags are BIO, IOB1, BIOES or BILOU; I-O and B-O mean O, and so does O with a type (FabNER has O-MATE).
conlleval's rule reads all four: B, S and U start an entity; I, E and L continue the previous entity if it has
the same type and was not ended by E, S, L or U, and start a new one otherwise. A sequence that breaks its
scheme is thus read as the field's scorer reads it.

Some data sets (Few-NERD, Stanford NER's) have bare types beside O: neighbours of one type are one entity.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from uniner.errors import UserError
from uniner.gold.records import GoldEntity, GoldPassage, checked_entity

SCHEMES = "a tag is O, or B-, I-, E-, S-, L- or U- and a type, such as B-PER"
OUTSIDE = "O"
_OTHER_FORMS = (
    re.compile(r"(?P<prefix>[BIESLU])[_:/](?P<type>.+)", re.DOTALL),
    re.compile(r"(?P<type>.+)[-_:/](?P<prefix>[BIESLU])", re.DOTALL),
)
_TAG = re.compile(r"O|[OBIESLU]-.+", re.DOTALL)


class TokenSpan(NamedTuple):
    """An entity in a sequence of tokens: its first token, the token after its last, and its type."""

    first: int
    after: int
    type: str


def is_tag(tag: str) -> bool:
    """Tell whether a string is a tag of any of the schemes."""
    return _TAG.fullmatch(tag) is not None


def are_bare(tags: Iterable[str]) -> bool:
    """Tell whether tags are types without a scheme's prefix, beside O."""
    names = set(tags)
    return OUTSIDE in names and len(names) > 1 and not any(is_tag(tag) for tag in names - {OUTSIDE})


def require_no_other_scheme(where: str, tags: Iterable[str]) -> None:
    """Refuse bare types that are tags of a scheme in another form, such as B_PER, B:PER or PER-B.

    Raises:
        UserError: at `where`, with a tag and what it should be.
    """
    names = [tag for tag in set(tags) if tag != OUTSIDE]
    for form in _OTHER_FORMS:
        matches = [form.fullmatch(name) for name in names]
        if len(names) > 1 and all(matches) and any(match and match["prefix"] in "BSU" for match in matches):
            seen = min(name for name in names)
            match = form.fullmatch(seen)
            assert match
            raise UserError(
                f"{where}: tags such as {seen!r} are of another form; write it as "
                f"{match['prefix']}-{match['type']}; {SCHEMES}"
            )


def with_prefix(tag: str) -> str:
    """Return the tag of a scheme for a bare type."""
    return tag if tag == OUTSIDE else f"I-{tag}"


def first_tag(tag: str) -> str:
    """Return the tag of an entity's first token in place of one that continues an entity."""
    return f"{'B' if tag[0] == 'I' else 'S'}{tag[1:]}" if tag[0] in "IEL" else tag


def type_of(tag: str) -> str:
    """Return a tag's type; empty for O, and for I-O, B-O and O-PER, which mean the same."""
    return "" if tag[2:].upper() == OUTSIDE or tag.startswith(OUTSIDE) else tag[2:]


def token_spans(tags: Sequence[str]) -> Iterator[TokenSpan]:
    """Yield the entities that a sequence of tags marks."""
    first, open_type = 0, ""
    for position, tag in enumerate(tags):
        prefix, type_name = tag[0], type_of(tag)
        continues = prefix in "IEL" and type_name == open_type
        if open_type and not continues:
            yield TokenSpan(first, position, open_type)
        if not continues:
            first, open_type = position, type_name
        if open_type and prefix in "ESLU":
            yield TokenSpan(first, position + 1, open_type)
            open_type = ""
    if open_type:
        yield TokenSpan(first, len(tags), open_type)


def located_tokens(text: str, tokens: Iterable[str]) -> list[tuple[int, int]] | None:
    """Return where each token is in a text that has them in order, with only white space between them.

    None: the text does not have the tokens so. White space inside a token may differ.
    """
    spans: list[tuple[int, int]] = []
    position = 0
    for token in tokens:
        words = token.split()
        start = end = position
        for number, word in enumerate(words):
            while end < len(text) and text[end].isspace():
                end += 1
            start = start if number else end
            if not text.startswith(word, end):
                return None
            end += len(word)
        spans.append((start, end))
        position = end
    return None if text[position:].strip() else spans


def tagged_passage(where: str, tokens: Sequence[str], *columns: Sequence[str]) -> GoldPassage:
    """Join tokens with blanks into a passage; valid tags (`is_tag`) become its entities.

    columns: the tags, or several layers of them (nested entities).

    Raises:
        UserError: at `where`, if an entity is blank.
    """
    text, starts = " ".join(tokens), [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + 1)
    entities: list[GoldEntity] = []
    for span in (span for tags in columns for span in token_spans(tags)):
        start, end = starts[span.first], starts[span.after] - 1
        if not text[start:end].strip():
            raise UserError(f"{where}: an entity of type {span.type} is blank; remove it")
        entities.append(checked_entity(where, text, start, end, None, span.type))
    if len(columns) > 1:
        entities = list(dict.fromkeys(entities))
    return GoldPassage(text, tuple(entities), id="")
