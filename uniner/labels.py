"""Type and label names: normalisation, plain words for labels, types without meaning, the nearest type."""

import difflib
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

ELSE_TYPES = frozenset({"misc", "miscellaneous", "other", "else", "none", "null"})
"""Types without meaning; the published benchmark leaves them out (recipe: ELSE-like labels)."""

_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols without a shape: Hangul's fillers and Braille's blank."""

_UNSEEN = r"[\s\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]+"
_AROUND = re.compile(f"^{_UNSEEN}|{_UNSEEN}$")

LABEL_WORDS = 3
"""Number of the rules below; a new one makes new questions of data sets outside the catalogue."""
COMMON_LABELS: Mapping[str, str] = {
    # CoNLL 2002 and 2003, WikiNER, WikiANN, Broad Twitter Corpus, GermEval
    "PER": "person", "PERS": "person", "I-PER": "person", "PERSON": "person",
    "LOC": "location", "ORG": "organization", "ORGANISATION": "organization",
    # ACE and OntoNotes
    "GPE": "geopolitical entity", "FAC": "facility", "VEH": "vehicle", "WEA": "weapon",
    "NORP": "nationality, religious or political group", "WORK_OF_ART": "work of art",
    "CARDINAL": "cardinal number", "ORDINAL": "ordinal number",
    # WNUT 2016 and 2017, MultiCoNER, TweetNER7
    "GEO-LOC": "location", "GEOLOC": "location", "SPORTSTEAM": "sports team", "TVSHOW": "tv show",
    "MUSICARTIST": "musical artist", "CORP": "corporation", "GRP": "group", "CW": "creative work",
    "CREATIVEWORK": "creative work", "PROD": "product",
    # MultiNERD
    "ANIM": "animal", "CEL": "celestial body", "DIS": "disease", "EVE": "event", "EVT": "event",
    "MYTH": "mythological entity", "VEHI": "vehicle",
    # MIT Movie and Restaurant, CrossNER
    "RATINGS_AVERAGE": "average ratings", "PROGRAMLANG": "programming language",
    "LITERARYGENRE": "literary genre", "MUSICGENRE": "music genre", "MUSICALARTIST": "musical artist",
    "MUSICALINSTRUMENT": "musical instrument", "POLITICALPARTY": "political party",
    "CHEMICALELEMENT": "chemical element", "CHEMICALCOMPOUND": "chemical compound",
    "ASTRONOMICALOBJECT": "astronomical object", "ACADEMICJOURNAL": "academic journal",
    # BioCreative, BioNLP
    "CHEM": "chemical", "GENE_OR_GENE_PRODUCT": "gene or gene product",
    "GENEORGENEPRODUCT": "gene or gene product",
    "GGP": "gene or gene product", "SIMPLE_CHEMICAL": "simple chemical",
}  # fmt: skip
"""Plain words for the labels of much used data sets, by their upper-case form; for a data set of any name."""
_PARTS = {"per": "person", "org": "organization", "loc": "location", "gpe": "geopolitical entity"}
"""Abbreviations that are also parts of longer labels, such as LOC-city."""
_LEAST_LIKENESS = 0.6
_TYPES_SHOWN = 10


def normalize_type(type_name: str) -> str:
    """Lower-case a type, collapse white space, strip punctuation: 'Person ' and 'person' are one type."""
    return " ".join(type_name.lower().split()).strip(" .:;,\"'")


def stripped(name: str) -> str:
    """Return a name without blanks around it, nor characters without width, which a copied name may have."""
    return _AROUND.sub("", name)


def is_visible(name: str) -> bool:
    """Tell whether a name has a character that is seen: not only blanks, controls, marks and fillers."""
    return any(unicodedata.category(sign)[0] not in "ZCM" and sign not in _FILLERS for sign in name)


def has_surrogate(text: str) -> bool:
    """Tell whether a text has half of a surrogate pair, which no file could store."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


@functools.lru_cache(maxsize=1 << 14)
def is_else_type(type_name: str) -> bool:
    """Tell whether a type is one of ELSE_TYPES."""
    return type_name.strip().lower() in ELSE_TYPES


def plain_label(label: str, own: Mapping[str, str], known: Mapping[str, str] | None) -> str:
    """Return the words that a student is trained on and asked for, for a data set's label.

    own: the user's words, which come first. known: the catalogue's words for this data set; None if the
    catalogue does not list it, so that the labels of much used data sets are taken (COMMON_LABELS).
    """
    if label in own:
        return normalize_type(own[label])
    words = (known or {}).get(label) or COMMON_LABELS.get(label.strip().upper())
    if words:
        return words
    if known is not None:
        return normalize_type(_split(label)) or label
    if " " in label.strip():
        return normalize_type(label) or label  # it is in words already
    words = normalize_type(_split(re.sub(r"(?<=\w)/(?=\w)", " or ", label)))
    if " " in words:
        words = " ".join(_PARTS.get(word, word) for word in words.split())
    return words or label


def _split(label: str) -> str:
    """Split a label into words: at _ - and ., and where a capital inside a word starts the next (CellLine).

    pH, DNA and U.S. are single words, HTMLTag is two, and DateOfBirth is three.
    """
    spaced = re.sub(
        r"(?<=[a-z][a-z])(?=[A-Z])|(?<=[A-Z][A-Z])(?=[A-Z][a-z]{2})|(?<=[a-z][A-Z][a-z])(?=[A-Z][A-Za-z])",
        " ",
        label,
    )
    return re.sub(r"[_-]+|(?<=\w\w)[.:](?=\w\w)", " ", spaced)


def nearest_type(type_name: str, known: Iterable[str]) -> str | None:
    """Return the known type that is most like a type, in its words or its letters; None: none is like it."""
    plain = COMMON_LABELS.get(type_name.upper(), type_name)
    words, letters = set(plain.split()), Counter(plain)
    best, most = None, 0.0
    for other in known:
        others = set(other.split())
        shared = len(words & others) / max(1, len(words | others))
        likeness = shared + (other.startswith(plain) or plain.startswith(other)) / 2
        # Comparing letter by letter is slow. Its result is at most the share of letters that both have.
        if likeness + _share(letters, other) >= max(most, _LEAST_LIKENESS):
            likeness += difflib.SequenceMatcher(None, plain, other).ratio()
            if likeness > most:
                best, most = other, likeness
    return best if most >= _LEAST_LIKENESS else None


def _share(letters: Counter[str], other: str) -> float:
    """Return twice the letters that two names share, over all of both."""
    total = letters.total() + len(other)
    return 2 * (letters & Counter(other)).total() / total if total else 1.0


def unknown_types(
    asked: Iterable[str], known: Collection[str], relatives: Mapping[str, Sequence[str]] | None = None
) -> dict[str, str | None]:
    """Return the types that are asked for but not known, each with the nearest that is.

    relatives: by type other types that mean the same or nearly so, the nearest first. They go before types
    that only look alike.
    """
    return {name: _nearest(name, known, relatives or {}) for name in _unknown(asked, known)}


def unknown_types_line(
    asked: Collection[str], known: Collection[str], relatives: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Return a line on the types that are asked for but not known; empty if there are none."""
    unknown = _unknown(asked, known)
    if not unknown or not known:
        return ""
    near = {name: _nearest(name, known, relatives or {}) for name in unknown[:_TYPES_SHOWN]}
    shown = [f"{name!r}" + (f" (nearest: {nearest!r})" if nearest else "") for name, nearest in near.items()]
    more = f" and {len(unknown) - _TYPES_SHOWN} more" if len(unknown) > _TYPES_SHOWN else ""
    return (
        f"{len(unknown)} of {len(asked)} types are not among the {len(known):,} most frequent ones that the "
        f"student was trained on: {', '.join(shown)}{more}"
    )


def _unknown(asked: Iterable[str], known: Iterable[str]) -> list[str]:
    spellings = {spelling_key(name) for name in known}
    return sorted({name for name in asked if spelling_key(name) not in spellings and not is_else_type(name)})


def _nearest(name: str, known: Collection[str], relatives: Mapping[str, Sequence[str]]) -> str | None:
    related = (other for other in relatives.get(normalize_type(name), ()) if other in known)
    return next(related, None) or nearest_type(name, known)


def known_spellings(asked: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Return for asked types the known one that is the same type in another spelling.

    A student that learnt "person" finds nothing for "PERSON".
    """
    exact, spellings = set(known), dict[str, str]()
    for name in known:
        spellings.setdefault(spelling_key(name), name)
    others = (name for name in asked if name not in exact)
    return {name: spellings[key] for name in others if (key := spelling_key(name)) in spellings}


def spelling_key(type_name: str) -> str:
    """Return what types have in common that differ in case, blanks, hyphens or the form of accents alone."""
    composed = unicodedata.normalize("NFC", " ".join(type_name.lower().split()))
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", composed)
