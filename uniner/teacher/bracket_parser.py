"""Parse the brackets and quoted strings in free text, as language models write them, in linear time.

It reads Python and JSON, and the variants that models write: typographic quotes, unescaped quotes within a
string, missing or trailing commas, `...` for "and so on", a missing end. Nothing is evaluated.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# Deeper than any list of entities is nested. The limit also keeps the parser linear: an opening bracket that
# leads nowhere costs at most this many brackets.
_MAX_DEPTH = 6
_OPENING = re.compile(r"[(\[{]")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_QUOTES = {
    '"': '"', "'": "'", "`": "`", "“": "”“", "”": "”", "„": "“”", "‘": "’‘'", "’": "’", "«": "»", "»": "«"
}  # fmt: skip
# A quote ends its string only before something that may follow a string; else it is an apostrophe or a
# quotation within. After a comma another value must follow, and a bare word only where it ends there.
_AFTER = rf"(?=\s*(?:[)\]}}:;]|\Z|,\s*(?:[{''.join(_QUOTES)}(\[{{)\]}}]|\.\.\.|…|\Z|[\w.+-]+\s*[)\]}},])))"
_STRINGS = {
    # Not possessive (*+), though it never backtracks: Python before 3.11.5 gets those wrong.
    opening: re.compile(rf"((?:[^\\{closing}]|\\.|[{closing}](?!{_AFTER}))*)[{closing}]{_AFTER}", re.DOTALL)
    for opening, closing in _QUOTES.items()
}
_SPACE = re.compile(r"[\s,;]*(?:(?:\.\.\.|…)[\s,;]*)*")
_CONSTANT = re.compile(r"[-+]?\d+(?:[.,]\d+)*%?(?!\w)|(?:None|null|[Tt]rue|[Ff]alse)\b")
_BARE = re.compile(r"[^\s\"'`“”„‘’«»\[\](){},;:\d][^\"“”„«»\[\](){},;:\n]*")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", **{c: c for c in "\\'\"/"}}


@dataclass(frozen=True)
class Scalar:
    """A quoted string, or a number, constant or word without quotes."""

    text: str
    quoted: bool

    @property
    def is_constant(self) -> bool:
        """Tell whether it is a number or a constant without quotes."""
        return not self.quoted and bool(_CONSTANT.fullmatch(self.text))


@dataclass
class Bracket:
    """A bracket and its entries: (key, value), where the key is None without a colon.

    complete: its closing bracket exists; else the text ended within it.
    """

    opening: str
    entries: list[tuple[str | None, "Scalar | Bracket"]] = field(default_factory=list)
    complete: bool = False

    @property
    def values(self) -> list["Scalar | Bracket"]:
        """The values without their keys."""
        return [value for _, value in self.entries]


@dataclass(frozen=True)
class OuterBracket:
    """A bracket that is in no other one, and the character before it. broken: part of it is unreadable."""

    bracket: Bracket
    before: str
    broken: bool


class _UnreadableError(Exception):
    """The text at this position is neither a value nor an end."""


def outer_brackets(text: str) -> Iterator[OuterBracket]:
    """Yield the outermost brackets of a text, in order."""
    position = 0
    while match := _OPENING.search(text, position):
        parser, bracket = _Parser(text, match.end()), Bracket(match[0])
        try:
            parser.fill(bracket, 1)
            broken = False
        except _UnreadableError:
            broken = True
        yield OuterBracket(bracket, text[max(0, match.start() - 1) : match.start()], broken)
        position = parser.position


class _Parser:
    def __init__(self, text: str, position: int):
        self._text, self.position = text, position

    def fill(self, bracket: Bracket, depth: int) -> None:
        """Read a bracket's entries, up to its end or the text's."""
        if depth > _MAX_DEPTH:
            raise _UnreadableError
        key: str | None = None
        while True:
            start = self.position
            self.position = _SPACE.match(self._text, start).end()  # type: ignore[union-attr]
            if self.position == len(self._text):
                return
            if self._closes(bracket):
                bracket.complete = True
                return
            if self._text[self.position] == ")" and bracket.opening == "[" and bracket.entries:
                self.position += 1  # the model closed a tuple twice
                continue
            if depth == 1 and self._prose_after_list(bracket, start):
                return
            value = self._value(bracket, depth)
            if value is None:
                return
            if key is None and isinstance(value, Scalar) and self._take_colon():
                key = value.text
                continue
            bracket.entries.append((key, value))
            key = None
            if isinstance(value, Bracket) and not value.complete:
                return

    def _closes(self, bracket: Bracket) -> bool:
        letter = self._text[self.position]
        if letter == _CLOSING[bracket.opening]:
            self.position += 1
            return True
        return letter == "]" and bracket.opening == "("  # the model left out the tuple's own end

    def _prose_after_list(self, bracket: Bracket, start: int) -> bool:
        """Tell whether the list stops without a closing bracket and prose goes on in a new line."""
        return bool(
            bracket.opening == "["
            and bracket.entries
            and isinstance(bracket.entries[-1][1], Bracket)
            and "\n" in self._text[start : self.position]
            and _BARE.match(self._text, self.position)
        )

    def _value(self, bracket: Bracket, depth: int) -> Scalar | Bracket | None:
        """Read a value; None where the text ends within a string."""
        text, letter = self._text, self._text[self.position]
        if letter in _CLOSING:
            self.position += 1
            inner = Bracket(letter)
            bracket.entries.append((None, inner))  # kept there where the rest is unreadable
            self.fill(inner, depth + 1)
            bracket.entries.pop()
            return inner
        if letter in _STRINGS:
            match = _STRINGS[letter].match(text, self.position + 1)
            self.position = match.end() if match else len(text)
            if match is None and text.rstrip("`. \n").endswith((")", "]", "}")):
                raise _UnreadableError  # the list is complete, so a quote is wrong and the text is not cut
            return Scalar(_unescaped(match[1]), True) if match else None
        patterns = [_CONSTANT] if depth == 1 or bracket.opening != "(" else [_CONSTANT, _BARE]
        for pattern in patterns:
            if match := pattern.match(text, self.position):
                self.position = match.end()
                return Scalar(match[0].rstrip(), False)
        raise _UnreadableError

    def _take_colon(self) -> bool:
        while self.position < len(self._text) and self._text[self.position].isspace():
            self.position += 1
        is_colon = self._text.startswith(":", self.position)
        self.position += is_colon
        return is_colon


def _unescaped(text: str) -> str:
    """Undo the escapes of Python and JSON. A text with half of a surrogate pair stays as it is."""
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_character, text)
    try:
        return plain.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return text


def _character(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        number = int(code[1:], 16)
        return chr(number) if number < 0x110000 else match[0]
    return _ESCAPED.get(code, match[0])
