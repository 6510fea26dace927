"""Token patterns of spaCy's Matcher: check them without spaCy, and find their matches with it.

spaCy is an optional extra. Only its tokenizer and Matcher run, so a pattern can ask for what is in a word
itself; part of speech, lemma and the like would need a trained pipeline.
"""

import difflib
import json
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from uniner.errors import UserError
from uniner.labels import has_surrogate
from uniner.tag.bounded_regex import BoundedRegex, fault_of

INSTALL = "`pip install spacy`"
_EXAMPLE = '[{"LOWER": "san"}, {"LOWER": "francisco"}]'
_TEXTS = {"ORTH", "TEXT", "LOWER", "NORM", "SHAPE"}
_FLAGS = {
    *("IS_ALPHA", "IS_ASCII", "IS_DIGIT", "IS_LOWER", "IS_UPPER", "IS_TITLE", "IS_PUNCT", "IS_SPACE"),
    *("IS_STOP", "IS_BRACKET", "IS_QUOTE", "IS_LEFT_PUNCT", "IS_RIGHT_PUNCT", "IS_CURRENCY"),
    *("LIKE_NUM", "LIKE_URL", "LIKE_EMAIL", "SPACY"),
}  # fmt: skip
_OF_PIPELINE = {
    *("POS", "TAG", "MORPH", "DEP", "LEMMA", "IS_SENT_START", "SENT_START"),
    *("ENT_TYPE", "ENT_IOB", "ENT_ID", "ENT_KB_ID", "_"),
}  # fmt: skip
_SETS = {"IN", "NOT_IN", "IS_SUBSET", "IS_SUPERSET", "INTERSECTS"}
_FUZZY = {"FUZZY", *(f"FUZZY{edits}" for edits in range(1, 10))}
_COMPARISONS = {"==", "!=", ">=", "<=", ">", "<"}
_MOST_TOKENS, _MOST_TIMES = 50, 20
_MOST_OPTIONAL = (10, 6, 2)
"""Tokens that may be left out, beside none, one or two that may repeat without end: spaCy tries every way."""


class TokenMatch(NamedTuple):
    """A match of a pattern: its place among the patterns, and offsets into the text, end exclusive."""

    pattern: int
    start: int
    end: int


class TokenMatcher:
    """Finds the matches of token patterns with spaCy. Not for several threads at once.

    patterns: as JSON. timed_out: the patterns of which an expression reached its time limit on the last text.
    """

    def __init__(self, patterns: Sequence[str], language: str):
        spacy = require_spacy(language)
        from spacy.matcher import Matcher

        self._tokenizer = spacy.blank(language).tokenizer
        self._matcher = Matcher(self._tokenizer.vocab, validate=False)
        for number, pattern in enumerate(patterns):
            self._matcher.add(str(number), [json.loads(pattern)])
        self._expressions = _bound_expressions(self._matcher)
        self._using = {
            expression: [
                number for number, pattern in enumerate(patterns) if expression in set(_regexes(pattern))
            ]
            for expression in {each.expression for each in self._expressions}
        }
        self._strings = self._tokenizer.vocab.strings
        self.timed_out: list[int] = []

    def matches(self, text: str, given_up: Container[int] = ()) -> tuple[list[TokenMatch], list[int]]:
        """Return the matches of all patterns, and the tokens' starts.

        given_up: patterns whose expressions reached the time limit before and are not tried.
        """
        for expression in self._expressions:
            if not any(number in given_up for number in self._using[expression.expression]):
                expression.restart()
        doc = self._tokenizer(text)
        starts = [token.idx for token in doc]
        found = [
            TokenMatch(int(self._strings[key]), starts[first], starts[last - 1] + len(doc[last - 1]))
            for key, first, last in (self._matcher(doc) if len(doc) else ())
            if first < last
        ]
        late = {each.expression for each in self._expressions if each.timed_out}
        self.timed_out = sorted({number for expression in late for number in self._using[expression]})
        return found, starts


def require_spacy(language: str) -> Any:
    """Import spaCy and check that it has a language's tokenizer.

    Raises:
        UserError: saying what to install, or that the language is not spaCy's.
    """
    try:
        import spacy
    except ImportError as error:
        raise UserError(
            f"tag.rules has token patterns, which spaCy runs, and it cannot be imported ({error}); run "
            f"{INSTALL} on all machines, or write the patterns as plain text or regex"
        ) from None
    try:
        spacy.blank(language)
    except ImportError as error:  # of the language, or of a package that its tokenizer needs
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"tag.rules_language = {language!r}: spaCy has no tokenizer for it ({reason}); such as "
            'tag.rules_language="en", or "xx" for languages that spaCy does not know'
        ) from None
    return spacy


def token_pattern_fault(pattern: Any) -> str:
    """Return what is wrong with a token pattern, in words; "" where nothing is."""
    if not isinstance(pattern, list) or not pattern or len(pattern) > _MOST_TOKENS:
        return f"is neither a text nor a list of 1 to {_MOST_TOKENS} token patterns such as {_EXAMPLE}"
    for number, token in enumerate(pattern, 1):
        fault = _token_fault(token) if isinstance(token, dict) else "is not a JSON object"
        if fault:
            return f"has as token {number} one that {fault}"
    return _too_many_ways([token.get("OP", "1") for token in map(_upper_keys, pattern)])


def _too_many_ways(operators: Sequence[str]) -> str:
    counts = [_times(operator) for operator in operators]
    endless = sum(high is None for _, high in counts)
    optional = sum(high - low for low, high in counts if high is not None)
    if endless >= len(_MOST_OPTIONAL):
        return f"has {endless} tokens that repeat without end; write at most 2, and others such as {{1,3}}"
    if optional > _MOST_OPTIONAL[endless]:
        return (
            f"has {optional} tokens that may be left out, beside {endless} that repeat without end; spaCy "
            f"tries every way, so write at most {_MOST_OPTIONAL[endless]}"
        )
    if not any(low for low, _ in counts):
        return 'can match no token at all; write one without OP, or with OP "+"'
    return ""


def _token_fault(token: Mapping[str, Any]) -> str:
    keys = [key.upper() for key in token]
    if len(set(keys)) < len(keys):
        return "has a key twice, in capitals and not"
    for key, value in _upper_keys(token).items():
        if key in _OF_PIPELINE:
            return (
                f"has {key}, which needs a trained pipeline of spaCy, and only its tokenizer runs; use one "
                f"of {', '.join(sorted(_TEXTS))}, LENGTH, IS_TITLE and the like"
            )
        check = _KEYS.get(key)
        if check is None:
            return f"has {key!r:.40}, {unknown_key(key, _KEYS)}"
        if fault := check(value):
            return f"has a {key} that {fault}"
    return ""


def unknown_key(key: str, known: Collection[str]) -> str:
    """Return what to say of a key that is not known, after its name."""
    if near := difflib.get_close_matches(key, known, 1):
        return f"an unknown key (did you mean {near[0]}?)"
    return f"which is none of {', '.join(sorted(known))}"


def _string_fault(value: Any) -> str:
    if isinstance(value, str):
        return _surrogate_fault(value)
    if not isinstance(value, dict) or not value:
        return 'is neither a text nor an object such as {"REGEX": "^[A-Z]"} or {"IN": ["a", "b"]}'
    return next((fault for each in _upper_keys(value).items() if (fault := _predicate_fault(*each))), "")


def _predicate_fault(name: str, value: Any) -> str:
    if name in _SETS:
        return _strings_fault(value)
    nested = isinstance(value, dict)
    if nested and (name == "REGEX" or name in _FUZZY):
        inner = _upper_keys(value)
        if len(inner) != 1 or not inner.keys() <= {"IN", "NOT_IN"}:
            return f'has a {name} that is neither a text nor an object such as {{"IN": ["a", "b"]}}'
        (texts,) = inner.values()
        fault = _strings_fault(texts)
        expressions = texts if name == "REGEX" and not fault else []
        return fault or next((fault for each in expressions if (fault := fault_of(each))), "")
    if name == "REGEX" or name in _FUZZY:
        if not isinstance(value, str) or not value:
            return f"has a {name} that is not a text"
        return _surrogate_fault(value) or (fault_of(value) if name == "REGEX" else "")
    return f"has {name!r:.40}, which is none of REGEX, {', '.join(sorted(_SETS))}, FUZZY"


def _strings_fault(value: Any) -> str:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        return 'is not a list of texts such as ["a", "b"]'
    return next((fault for each in value if (fault := _surrogate_fault(each))), "")


def _surrogate_fault(text: str) -> str:
    return "has half of a surrogate pair" if has_surrogate(text) else ""


def _length_fault(value: Any) -> str:
    advice = 'is neither a whole number from 0 nor an object such as {">=": 3} or {"IN": [2, 3]}'
    if _is_length(value):
        return ""
    if not isinstance(value, dict) or not value:
        return advice
    for name, inner in _upper_keys(value).items():
        if name in ("IN", "NOT_IN"):
            fits = isinstance(inner, list) and inner and all(map(_is_length, inner))
        else:
            fits = name in _COMPARISONS and _is_length(inner)
        if not fits:
            return advice
    return ""


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _flag_fault(value: Any) -> str:
    return "" if isinstance(value, bool) else "is neither true nor false"


def _operator_fault(value: Any) -> str:
    if not isinstance(value, str) or _times(value) is None:
        return f'is none of "!", "?", "+", "*", "{{2}}", "{{2,4}}", "{{2,}}", "{{,4}}", at most {_MOST_TIMES}'
    return ""


def _times(operator: str) -> Any:
    """Return how often an operator's token occurs, least and most (None: no limit); None if it is not one."""
    simple = {"1": (1, 1), "!": (1, 1), "?": (0, 1), "*": (0, None), "+": (1, None)}
    if operator in simple:
        return simple[operator]
    if not (operator.startswith("{") and operator.endswith("}")):
        return None
    low, comma, high = operator[1:-1].partition(",")
    numbers = [part for part in (low, high) if part]
    if not numbers or not all(part.isascii() and part.isdigit() and len(part) < 5 for part in numbers):
        return None
    least = int(low or 0)
    most = (int(high) if high else None) if comma else least
    if least > _MOST_TIMES or (most is not None and not least <= most <= _MOST_TIMES) or most == 0:
        return None
    return least, most


def _upper_keys(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with keys in capitals: spaCy takes both."""
    return {key.upper(): inner for key, inner in value.items()}


_KEYS: Mapping[str, Callable[[Any], str]] = {
    **dict.fromkeys(sorted(_TEXTS), _string_fault),
    **dict.fromkeys(sorted(_FLAGS), _flag_fault),
    "LENGTH": _length_fault,
    "OP": _operator_fault,
}


def _regexes(pattern: str) -> Iterator[str]:
    """Yield the regular expressions of a pattern."""
    for token in json.loads(pattern):
        for value in token.values():
            for name, inner in _upper_keys(value).items() if isinstance(value, dict) else ():
                if name == "REGEX":
                    yield from [inner] if isinstance(inner, str) else next(iter(inner.values()))


def _bound_expressions(matcher: Any) -> list[BoundedRegex]:
    """Give each regular expression of a matcher a time limit; return them.

    The matcher keeps them, compiled with `re`, in its predicates: one, or a set of them.
    """
    bounded = []
    for predicate in matcher._extra_predicates:
        value = predicate.value
        if hasattr(value, "search"):
            predicate.value = BoundedRegex(value.pattern)
            bounded.append(predicate.value)
        elif getattr(predicate, "regex", False):
            predicate.value = {BoundedRegex(each.pattern) for each in value}
            bounded += predicate.value
    return bounded
