"""Type and label names: normalisation, plain words for labels, and types without meaning."""

import functools
import re
from collections.abc import Mapping

ELSE_TYPES = frozenset({"misc", "miscellaneous", "other", "else", "none"})
"""Types without meaning; the published benchmark leaves them out (recipe: ELSE-like labels)."""


def normalize_type(type_name: str) -> str:
    """Lower-case a type, collapse white space, strip punctuation: 'Person ' and 'person' are one type."""
    return " ".join(type_name.lower().split()).strip(" .:;,\"'")


@functools.lru_cache(maxsize=1 << 14)
def is_else_type(type_name: str) -> bool:
    """Tell whether a type is one of ELSE_TYPES."""
    return type_name.strip().lower() in ELSE_TYPES


def plain_label(label: str, own: Mapping[str, str], known: Mapping[str, str] | None) -> str:
    """Return the words that a student is trained on and asked for, for a data set's label.

    own: the user's words (build.labels), which come first. known: the catalogue's words for this data set;
    None if the catalogue does not list it, so that the label's own form is kept.
    """
    if label in own:
        return normalize_type(own[label])
    if known is None:
        return normalize_type(label) or label
    if label in known:
        return known[label]
    # A capital inside a word starts the next word (CellLine), but pH and DNA are single words.
    spaced = re.sub(r"(?<=[a-z][a-z])(?=[A-Z])", " ", label)
    return normalize_type(re.sub(r"[_-]+", " ", spaced)) or label
