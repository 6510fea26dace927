"""Regular expressions that cannot hang a worker: checked when they are read, and limited in time at work.

Python's `re` cannot be interrupted, and an expression such as (a|aa)+$ needs ages for a few dozen letters.
The package `regex` takes a time limit. The syntax is that of `re`: an expression must be valid in both.
"""

import functools
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

import regex

LIMIT_S = 1.0
"""Seconds of processor time for one expression on one text; a usual one needs some microseconds."""
_PROBE_LIMIT_S, _PROBES_LIMIT_S = 0.2, 0.5
"""Processor time on one hard text, and on all of them together."""
FILE_LIMIT_S = 5.0
"""The same of all expressions of a file, beyond what a usual one needs."""
_USUAL_S = 0.002
_LONGEST = 2_000
_MOST_REPEATS = 1_000
"""Of the smallest part, those of the repeats around it multiplied; `regex` writes out each of them."""
_REPEAT = re.compile(r"\{(?:[0-9]+(?:,[0-9]*)?|,[0-9]*)\}")
# The parts of an expression that matter for finding its braces, as `re` divides it.
_PARTS = re.compile(
    r"""
    \\N\{[^}]*\}|\\.                                  # a named character, an escaped one
    |\[\^?\]?(?:\\.|[^\]\\])*\]                        # a class: braces in it are characters
    |\(\?\#[^)]*\)                                     # a comment
    |\(\?(?P<on>[aiLmsux]*)(?:-(?P<off>[imsx]+))?:    # a group with flags
    |\(|\)|\#|\{
    """,
    re.VERBOSE | re.DOTALL,
)
_NEXT_WORD = re.compile(r"(?<!\w)\w")
_WORDS, _DIGIT, _LOOKS_AHEAD = re.compile(r"\w+"), re.compile(r"\d"), re.compile(r"\(\?[=!]|\$|\\Z")
_LONGEST_NUMBER = 64
"""Characters of a number with a checksum, its name and the blanks in it."""
_IN_BRACES = re.compile(r"\{[0-9A-Za-z<=+,\s]*")
_PROBES = tuple(
    text * (300 // len(text)) + end
    for text in ("a", "0", "A", " ", "aA1", "a ", "1,", "Aa ", "-a.", "\n")
    for end in ("", "!", "\0")
)
_REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT, getattr(_constants, "POSSESSIVE_REPEAT", None)}


class BoundedRegex:
    """A regular expression with a time limit. timed_out: whether it was reached since `restart`; until the
    next one nothing is searched."""

    def __init__(self, expression: str):
        self.expression = expression
        self.timed_out = False
        self._compiled = regex.compile(expression)
        self._looks_ahead = _LOOKS_AHEAD.search(expression) is not None

    def restart(self) -> None:
        """Forget that the limit was reached, before another text."""
        self.timed_out = False

    def spans(
        self, text: str, check: Callable[[str], bool] | None = None, *, sure: bool = False
    ) -> list[tuple[int, int]]:
        """Return the matches that are not empty, without blanks around them; none where it is too slow.

        check: what a match must be besides. Of one that is not, such as a number with the currency behind it,
        the longest beginning counts that ends before a word without digits, matches and is. sure: chance
        hardly passes the check, so a beginning may end with any word, and where none is right, the search
        goes on with the match's second word.
        """
        started = time.thread_time()
        try:
            if check:
                found = self._checked(text, check, sure, started)
            else:
                matches = (match.span() for match in self._compiled.finditer(text, timeout=LIMIT_S))
                found = [_without_blanks(text, start, end) for start, end in matches]
        except TimeoutError:
            found = []
            self.timed_out = True
        # Some repeats are not interrupted.
        self.timed_out = self.timed_out or time.thread_time() - started > LIMIT_S
        return [] if self.timed_out else [(start, end) for start, end in found if start < end]

    def _checked(
        self, text: str, check: Callable[[str], bool], sure: bool, started: float
    ) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        place = 0
        while place <= len(text) and (match := self._compiled.search(text, place, timeout=LIMIT_S)):
            start, end = _without_blanks(text, *match.span())
            place = max(match.end(), match.start() + 1)
            if right := self._longest_right(text, start, end, check, sure):
                found.append((start, right))
                place = right  # what a longer match had swallowed may have another
            elif sure and (word := _NEXT_WORD.search(text, start + 1, end)):
                place = word.start()
            if time.thread_time() - started > LIMIT_S:
                raise TimeoutError
        return found

    def _longest_right(
        self, text: str, start: int, end: int, check: Callable[[str], bool], sure: bool
    ) -> int | None:
        """Return where the longest right match from `start` on ends; None: no beginning is right."""
        if check(text[start:end]):
            return end
        if self._looks_ahead:  # what a beginning would hide from it
            return None
        longest = min(end, start + _LONGEST_NUMBER)
        for word in reversed(list(_WORDS.finditer(text, start, longest))):
            place = word.end()
            after = _WORDS.search(text, place, end)
            # Of ten beginnings of a row of numbers one has the checksum of a card by chance.
            divides = place < end and (sure or not after or not _DIGIT.search(after[0]))
            if (
                divides
                and self._compiled.fullmatch(text, start, place, timeout=LIMIT_S)
                and check(text[start:place])
            ):
                return place
        return None

    def search(self, text: str) -> Any:
        """Return the first match; None without one, or where the limit is reached."""
        return self._limited(self._compiled.search, text)

    def fullmatch(self, text: str) -> Any:
        """Return the match of the whole text; None without one, or where the limit is reached."""
        return self._limited(self._compiled.fullmatch, text)

    def _limited(self, match: Any, text: str) -> Any:
        if self.timed_out:
            return None
        try:
            return match(text, timeout=LIMIT_S)
        except TimeoutError:
            self.timed_out = True
            return None


@dataclass
class ProbeTime:
    """Processor time that the expressions of a file have taken on hard texts, beyond what usual ones need."""

    spent_s: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether they took more than they may."""
        return self.spent_s > FILE_LIMIT_S


_OF_FILE: ContextVar[ProbeTime | None] = ContextVar("the probe time of the file that is read", default=None)


@contextmanager
def probe_time_of_file() -> Iterator[ProbeTime]:
    """Add up the time of all expressions that `fault_of` judges inside: too much of it is a fault too."""
    token = _OF_FILE.set(time_of_file := ProbeTime())
    try:
        yield time_of_file
    finally:
        _OF_FILE.reset(token)


def fault_of(expression: str) -> str:
    """Return what is wrong with an expression, in words; "" where nothing is."""
    of_file = _OF_FILE.get()
    if of_file and of_file.is_over:
        return _syntax_fault(expression)  # the file is refused without more probes
    fault, seconds = _tried(expression)
    if of_file:
        # What an earlier call measured counts again, so that a file is refused whenever it is read.
        of_file.spent_s += max(0.0, seconds - _USUAL_S)
        if of_file.is_over and not fault:
            return (
                f"makes the expressions up to here need more than {FILE_LIMIT_S:g} s on hard texts; write "
                "the repeats of the slow ones so that only one way fits, such as a+ in place of (a|aa)+"
            )
    return fault


@functools.lru_cache(maxsize=10_000)
def _tried(expression: str) -> tuple[str, float]:
    """Return what is wrong with an expression, and the seconds that it took on hard texts."""
    if fault := _syntax_fault(expression):
        return fault, 0.0
    started = time.thread_time()
    fault = _slowness(regex.compile(expression))
    return fault, time.thread_time() - started


def _syntax_fault(expression: str) -> str:
    if len(expression) > _LONGEST:
        return f"has {len(expression):,} characters; write at most {_LONGEST:,}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # what `re` and `regex` will read differently
            re.compile(expression)
        if brace := _fuzzy_brace(expression):
            return (
                f"has the brace {brace:.40}, which is text for re and repeats or errors for the package "
                rf"regex; write \{{ for the character, such as \{brace:.40}"
            )
        if _repeats(_parser.parse(expression)) > _MOST_REPEATS:
            return f"repeats a part more than {_MOST_REPEATS:,} times; write + or less, such as {{2,9}}"
        regex.compile(expression)
    except (re.error, regex.error, OverflowError, RecursionError, ValueError, FutureWarning) as error:
        return rf"is not a regular expression of Python ({' '.join(str(error).split())})"
    return ""


def _fuzzy_brace(expression: str) -> str:
    """Return the first brace that is a character for `re` and something else for `regex`; "" without one.

    `regex` reads (?:foo){e<=2} and (?:foo){1<=e<=3} as a number of errors that a match may have.
    """
    verbose = bool(re.compile(expression).flags & re.VERBOSE)
    groups, place = list[bool](), 0
    while part := _PARTS.search(expression, place):
        place, text = part.end(), part[0]
        if text == "#" and verbose:
            place = expression.find("\n", place) + 1 or len(expression)
        elif text == "(" or part["on"] is not None:
            groups.append(verbose)
            verbose = (verbose or "x" in (part["on"] or "")) and "x" not in (part["off"] or "")
        elif text == ")" and groups:
            verbose = groups.pop()
        elif text == "{" and not _REPEAT.match(expression, part.start()):
            rest = expression[part.start() :]
            rest = re.sub(r"#[^\n]*", "", rest) if verbose else rest
            inside = _IN_BRACES.match(rest)
            brace = f"{inside[0] if inside else text}}}"
            if not _is_text(brace, verbose):
                return brace
    return ""


def _is_text(brace: str, verbose: bool) -> bool:
    """Tell whether `regex` takes a brace behind a letter for the characters that it has."""
    try:
        compiled = regex.compile(f"x{brace}", regex.VERBOSE if verbose else 0)
    except regex.error:
        return False
    match = compiled.fullmatch("x" + ("".join(brace.split()) if verbose else brace))
    return bool(match) and not any(match.fuzzy_counts)


def _slowness(compiled: Any) -> str:
    """Try an expression on texts that are hard for bad ones."""
    left = _PROBES_LIMIT_S
    for text in _PROBES:
        limit, started = min(_PROBE_LIMIT_S, left), time.thread_time()
        try:
            for _ in compiled.finditer(text, timeout=limit):
                pass
            slow = time.thread_time() - started > limit  # some repeats are not interrupted
        except TimeoutError:
            slow = True
        left -= time.thread_time() - started
        if slow or left <= 0:
            return (
                f"needs more than {_PROBE_LIMIT_S} s on {len(text)} characters such as {text[:12]!r}..., or "
                f"more than {_PROBES_LIMIT_S} s on several such texts: its repeats can divide a text in too "
                "many ways; write each so that only one way fits, such as a+ in place of (a|aa)+"
            )
    return ""


def _repeats(tree: Any) -> int:
    """Return how often the smallest part of an expression is written out at most."""
    most = 1
    for kind, value in tree:
        if kind in _REPEATS:
            low, high, inner = value
            times = low if high == _constants.MAXREPEAT else high
            most = max(most, max(1, times) * _repeats(inner))
            continue
        # Groups, branches and lookarounds hold expressions at some place of their values.
        for part in _inner_parts(value):
            most = max(most, _repeats(part))
    return most


def _inner_parts(value: Any) -> list[Any]:
    if isinstance(value, _parser.SubPattern):
        return [value]
    if isinstance(value, (list, tuple)):
        return [part for each in value for part in _inner_parts(each)]
    return []


def _without_blanks(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - (len(part) - len(part.rstrip()))
