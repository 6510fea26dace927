"""Read the brackets and quoted strings of free text, as language models write them, in linear time.

Python and JSON are both understood, and what models make of them: typographic quotes, unescaped quotes
within a string, missing or trailing commas, `...` for "and so on", an end that never comes. Nothing is
evaluated.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# Deeper nesting than any list of entities has. It also keeps the whole reading linear: a start that leads
# nowhere costs at most so many brackets.
_DEEPEST = 6
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_QUOTES = {
    '"': '"', "'": "'", "`": "`", "“": "”“", "”": "”", "„": "“”", "‘": "’‘'", "’": "’", "«": "»", "»": "«"
}  # fmt: skip
# A quote ends its string only where something that may come after a string does: else it is an apostrophe or
# a quotation within. After a comma that is another value; a bare word only where it ends there.
_AFTER = rf"(?=\s*(?:[)\]}}:;]|\Z|,\s*(?:[{''.join(_QUOTES)}(\[{{)\]}}]|\.\.\.|…|\Z|[\w.+-]+\s*[)\]}},])))"
_STRINGS = {
    # Not possessive (*+), though it never needs to go back: Python before 3.11.5 is wrong about those.
    opening: re.compile(rf"((?:[^\\{closing}]|\\.|[{closing}](?!{_AFTER}))*)[{closing}]{_AFTER}", re.DOTALL)
    for opening, closing in _QUOTES.items()
}
_SPACE = re.compile(r"[\s,;]*(?:(?:\.\.\.|…)[\s,;]*)*")
_CONSTANT = re.compile(r"[-+]?\d+(?:[.,]\d+)*%?(?!\w)|(?:None|null|[Tt]rue|[Ff]alse)\b")
_BARE = re.compile(r"[^\s\"'`“”„‘’«»\[\](){},;:\d][^\"“”„«»\[\](){},;:\n]*")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", **{c: c for c in "\\'\"/"}}


@dataclass(frozen=True)
class Word:
    """A string, a number or a bare word; `quoted` tells a string from the two others."""

    text: str
    quoted: bool

    @property
    def number(self) -> bool:
        """Tell whether it is a number or a constant that stands without quotes."""
        return not self.quoted and bool(_CONSTANT.fullmatch(self.text))


@dataclass
class Group:
    """A bracket and what is in it: (key, value), the key None where there is none.

    whole: its closing bracket was there. A group that is not whole ended with the text.
    """

    opening: str
    entries: list[tuple[str | None, "Word | Group"]] = field(default_factory=list)
    whole: bool = False

    @property
    def values(self) -> list["Word | Group"]:
        """The values without their keys."""
        return [value for _, value in self.entries]


@dataclass(frozen=True)
class Found:
    """A bracket that opens at no other's inside. broken: something in it could not be read."""

    group: Group
    before: str
    broken: bool


class _BrokenError(Exception):
    """What stands here is neither a value nor an end."""


def groups(text: str) -> Iterator[Found]:
    """Yield the outermost brackets of a text in order, with the character before each."""
    position = 0
    while match := re.compile(r"[(\[{]").search(text, position):
        reader, group = _Reader(text, match.start() + 1), Group(match[0])
        try:
            reader.fill(group, 1)
            broken = False
        except _BrokenError:
            broken = True
        yield Found(group, text[max(0, match.start() - 1) : match.start()], broken)
        position = reader.position


class _Reader:
    def __init__(self, text: str, position: int):
        self._text, self.position = text, position

    def fill(self, group: Group, depth: int) -> None:
        """Read what is in a bracket, up to its end or the text's."""
        if depth > _DEEPEST:
            raise _BrokenError
        key: str | None = None
        while True:
            start = self.position
            self.position = _SPACE.match(self._text, start).end()  # type: ignore[union-attr]
            if self.position == len(self._text):
                return
            letter = self._text[self.position]
            if letter == _CLOSING[group.opening]:
                self.position += 1
                group.whole = True
                return
            if letter == "]" and group.opening == "(":  # the model forgot the tuple's own end
                group.whole = True
                return
            if letter == ")" and group.opening == "[" and group.entries:  # ... or closed it twice
                self.position += 1
                continue
            if depth == 1 and self._prose_after_list(group, start):
                return
            value = self._value(group, depth)
            if value is None:
                return
            if key is None and isinstance(value, Word) and self._take(":"):
                key = value.text
                continue
            group.entries.append((key, value))
            key = None
            if isinstance(value, Group) and not value.whole:
                return

    def _prose_after_list(self, group: Group, start: int) -> bool:
        """Tell whether the list just stopped, with no bracket, and prose goes on in a line of its own."""
        return bool(
            group.opening == "["
            and group.entries
            and isinstance(group.entries[-1][1], Group)
            and "\n" in self._text[start : self.position]
            and _BARE.match(self._text, self.position)
        )

    def _value(self, group: Group, depth: int) -> Word | Group | None:
        """Read a value; None where the text ends in the middle of a string."""
        text, letter = self._text, self._text[self.position]
        if letter in _CLOSING:
            self.position += 1
            inner = Group(letter)
            group.entries.append((None, inner))  # so that what was read is known where something breaks
            self.fill(inner, depth + 1)
            group.entries.pop()
            return inner
        if letter in _STRINGS:
            match = _STRINGS[letter].match(text, self.position + 1)
            self.position = match.end() if match else len(text)
            if match is None and text.rstrip("`. \n").endswith((")", "]", "}")):
                raise _BrokenError  # the list has an end: it is a quote that is amiss, no cut
            return Word(_unescaped(match[1]), True) if match else None
        pattern = [_CONSTANT] if depth == 1 or group.opening != "(" else [_CONSTANT, _BARE]
        for kind in pattern:
            if match := kind.match(text, self.position):
                self.position = match.end()
                return Word(match[0].rstrip(), False)
        raise _BrokenError

    def _take(self, letter: str) -> bool:
        while self.position < len(self._text) and self._text[self.position].isspace():
            self.position += 1
        found = self._text.startswith(letter, self.position)
        self.position += found
        return found


def _unescaped(text: str) -> str:
    """Undo the escapes of Python and JSON; half of a surrogate pair leaves the text as it stands."""
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_letter, text)
    try:
        return plain.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return text


def _letter(match: re.Match[str]) -> str:
    what = match[1]
    if len(what) > 1:
        number = int(what[1:], 16)
        return chr(number) if number < 0x110000 else match[0]
    return _ESCAPED.get(what, match[0])
