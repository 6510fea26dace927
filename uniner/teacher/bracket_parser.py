"""Parse the brackets and quoted strings in free text, as language models write them, in linear time.

It reads Python and JSON, and the variants that models write: typographic quotes, full-width punctuation,
unescaped quotes within a string, missing or trailing commas, comments, `...` for "and so on", a missing end.
Nothing is evaluated.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

# Deeper than any list of entities is nested. The limit also keeps the parser linear: an opening bracket that
# leads nowhere costs at most this many brackets.
_MAX_DEPTH = 6
# Each opening bracket, full-width ones too, as a plain one; and what closes it.
_OPENING = {"(": "(", "（": "(", "[": "[", "［": "[", "【": "[", "{": "{", "｛": "{"}
_CLOSING = {"(": ")）", "[": "]］】", "{": "}｝"}
_ANY_OPENING, _ANY_CLOSING = "".join(_OPENING), "".join(_CLOSING.values())
_ANY_BRACKET = re.compile(f"[{re.escape(_ANY_OPENING)}]")
_QUOTES = {
    '"': '"', "'": "'", "`": "`", "“": "”“", "”": "”", "„": "“”", "‘": "’‘'", "’": "’", "«": "»", "»": "«",
    "「": "」", "『": "』", "＂": "＂",
}  # fmt: skip
_SEPARATORS, _COLONS = ",;，、；،؛", ":："
# In a tuple a # may begin a word, such as a hashtag.
_COMMENT, _COMMENT_IN_TUPLE = (
    rf"(?:{hash_sign}|//)[^\n]*|/\*(?:[^*]|\*(?!/))*(?:\*/)?" for hash_sign in ("#", r"\#(?=\s)")
)
# A quote ends its string only before something that may follow a string; else it is an apostrophe or a
# quotation within. After a comma another value must follow, and a bare word only where it ends there.
_AFTER = (
    rf"(?=\s*(?:[{re.escape(_ANY_CLOSING)};；؛{_COLONS}]|\Z|#\s|//|[,，、،]\s*(?:"
    rf"[{''.join(_QUOTES)}{re.escape(_ANY_OPENING)}{re.escape(_ANY_CLOSING)}]|\.\.\.|…|\Z|#|//|/\*"
    rf"|[\w.+-]+\s*[{re.escape(_ANY_CLOSING)},，、،])))"
)
_STRINGS = {
    # Each character can match in one way alone, so a string without an end costs no more than its length.
    # Not possessive (*+): Python before 3.11.5 gets those wrong.
    opening: re.compile(
        rf"([^\\{closing}]*(?:(?:\\.|[{closing}](?!{_AFTER}))[^\\{closing}]*)*)[{closing}]{_AFTER}", re.DOTALL
    )
    for opening, closing in _QUOTES.items()
}
_BLANK = rf"[\s{_SEPARATORS}]"
_SPACE, _SPACE_IN_TUPLE = (
    re.compile(rf"{_BLANK}*(?:(?:\.\.\.|…|{comment}){_BLANK}*)*") for comment in (_COMMENT, _COMMENT_IN_TUPLE)
)
_CONSTANT = re.compile(r"[-+]?\d+(?:[.,]\d+)*%?(?!\w)|(?:None|null|[Tt]rue|[Ff]alse)\b")
_NOT_BARE = re.escape(_ANY_OPENING + _ANY_CLOSING) + _SEPARATORS + _COLONS + '"“”„«»「」『』＂'
_BARE = re.compile(rf"[^\s'`‘’\d{_NOT_BARE}][^\n{_NOT_BARE}]*")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"\n": "", **{letter: letter for letter in "\\'\"/"}}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
# A prefix that ends further from the start of its line is prose, unless it ends in a colon.
_PREFIX = 120
# A bullet is anything but letters. A number may be a letter or a Roman one.
_LINE_START = re.compile(r"[\W_]*(?:(?:\d+|(?:[A-Za-z]|[ivxIVX]+)[.):\]])[\W_]*)?")
_BOX, _BULLET = re.compile(r"\[[ xX✓✔]\]"), re.compile(r"\s*[-*+•]\s+")
_LABEL = re.compile(rf"[{_COLONS}][\s*_`'\"]*\Z")
_BETWEEN_TUPLES = re.compile(r"[\W_]*(?:and[\W_]*)?")
_LINE_END = re.compile(rf"[ \t`*]*[{_SEPARATORS}]?[ \t]*$", re.MULTILINE)


class Scalar(NamedTuple):
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
    """A bracket that is in no other one, and where it is.

    broken: part of it is unreadable. in_code: a letter comes right before it, as in a call. listed: it stands
    where a list's item does: at the start of a line, after a bullet, a number or a label that ends in a
    colon, or after another such bracket. itemised: it comes after a bullet or a number, and ends its line.
    """

    bracket: Bracket
    broken: bool
    in_code: bool
    listed: bool
    itemised: bool


class _UnreadableError(Exception):
    """The text at this position is neither a value nor an end."""


def outer_brackets(text: str, is_known: Callable[[str], bool] = lambda _: False) -> Iterator[OuterBracket]:
    """Yield the outermost brackets of a text, in order, but for the boxes of a check list.

    is_known: tells whether a string with backslashes is meant as it is written. The escapes of any other
    string are undone.
    """
    position = line = 0
    after_listed = False
    while match := _ANY_BRACKET.search(text, position):
        newline = text.rfind("\n", position, match.start()) + 1
        if newline:
            line, after_listed = newline, False
        prefix = text[max(line, match.start() - _PREFIX) : match.start()]
        box = _BOX.match(text, match.start())
        if box and _BULLET.fullmatch(prefix):
            position = box.end()
            continue
        parser, bracket = _Parser(text, match.end(), is_known), Bracket(_OPENING[match[0]])
        try:
            parser.fill(bracket, 1)
            broken = False
        except _UnreadableError:
            broken = True
        starts_line = match.start() - line < _PREFIX and bool(_LINE_START.fullmatch(prefix))
        listed = bool(
            (after_listed and _BETWEEN_TUPLES.fullmatch(prefix))
            or (starts_line and not after_listed)
            or _LABEL.search(prefix)
        )
        itemised = starts_line and not (after_listed or prefix.isspace() or not prefix)
        before = text[max(0, match.start() - 1) : match.start()]
        yield OuterBracket(
            bracket,
            broken,
            in_code=before.isalnum() or before == "_",
            listed=listed,
            itemised=itemised and _LINE_END.match(text, parser.position) is not None,
        )
        position = parser.position
        if listed and bracket.complete:
            line, after_listed = position, True


class _Parser:
    def __init__(self, text: str, position: int, is_known: Callable[[str], bool]):
        self._text, self.position, self._is_known = text, position, is_known

    def fill(self, bracket: Bracket, depth: int) -> None:
        """Read a bracket's entries, up to its end or the text's."""
        if depth > _MAX_DEPTH:
            raise _UnreadableError
        key: str | None = None
        space = _SPACE_IN_TUPLE if bracket.opening == "(" else _SPACE
        while True:
            start = self.position
            self.position = space.match(self._text, start).end()  # type: ignore[union-attr]
            if self.position == len(self._text):
                return
            if self._closes(bracket):
                bracket.complete = True
                return
            if self._text[self.position] in _CLOSING["("] and bracket.opening == "[" and bracket.entries:
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
        if letter in _CLOSING[bracket.opening]:
            self.position += 1
            return True
        return letter in _CLOSING["["] and bracket.opening == "("  # the model left out the tuple's own end

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
        if letter in _OPENING:
            self.position += 1
            inner = Bracket(_OPENING[letter])
            bracket.entries.append((None, inner))  # kept there where the rest is unreadable
            self.fill(inner, depth + 1)
            bracket.entries.pop()
            return inner
        if letter in _STRINGS:
            match = _STRINGS[letter].match(text, self.position + 1)
            self.position = match.end() if match else len(text)
            if match is None and text.rstrip("`. \n").endswith(tuple(_ANY_CLOSING)):
                raise _UnreadableError  # the list is complete, so a quote is wrong and the text is not cut
            return Scalar(_unescaped(match[1], self._is_known), True) if match else None
        patterns = [_CONSTANT] if depth == 1 or bracket.opening != "(" else [_CONSTANT, _BARE]
        for pattern in patterns:
            if match := pattern.match(text, self.position):
                self.position = match.end()
                return Scalar(match[0].rstrip(), False)
        raise _UnreadableError

    def _take_colon(self) -> bool:
        while self.position < len(self._text) and self._text[self.position].isspace():
            self.position += 1
        is_colon = self._text[self.position : self.position + 1] in tuple(_COLONS)
        self.position += is_colon
        return is_colon


def _unescaped(text: str, is_known: Callable[[str], bool]) -> str:
    r"""Undo the escapes of Python and JSON in a string that is not known as it is.

    A command of LaTeX or a path of Windows looks like an escape: \beta, C:\new. So the escapes for control
    characters stay where the string is known with them. A text with half of a surrogate pair stays as it is.
    """
    if "\\" not in text or is_known(text):
        return text
    try:
        with_commands = _paired(_ESCAPE.sub(_character, text))
        if with_commands != text and is_known(with_commands):
            return with_commands
        return _paired(_ESCAPE.sub(lambda match: _CONTROLS.get(match[1]) or _character(match), text))
    except UnicodeDecodeError:
        return text


def _paired(text: str) -> str:
    """Join the halves of surrogate pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


def _character(match: re.Match[str]) -> str:
    """Undo an escape that is not for a control character."""
    code = match[1]
    if len(code) > 1:
        number = int(code[1:], 16)
        return chr(number) if number < 0x110000 else match[0]
    return _ESCAPED.get(code, match[0])
