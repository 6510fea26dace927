"""Parse a teacher's reply: a list of (mention, type) tuples, in the shapes that models write.

An unparseable reply never looks like an empty list, and nothing is invented: every mention and type occurs in
the reply (escapes such as \\n aside).
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from uniner.grounding import locate
from uniner.teacher.bracket_parser import Bracket, OuterBracket, Scalar, outer_brackets

_THOUGHT = (
    r"(?:[\w.]{1,20}[:_]|ant)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|monologue)"
    r"(?:_content)?"
)
# In the forms of DeepSeek and Qwen, Seed-OSS, Magistral, Kimi, Sky, Command, Gemma and gpt-oss. In quotes
# such a mark is a mention.
_THOUGHTS_START = re.compile(
    rf"^[ \t]*(?:<{_THOUGHT}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>|"
    r"<unused94>thought|<\|channel\|>analysis)",
    re.IGNORECASE | re.MULTILINE,
)
_THOUGHTS_END = re.compile(
    rf"(?:</{_THOUGHT}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<unused95>|"
    r"<\|channel\|>final(?: json)?<\|message\|>)"
    r"(?![\"'”’`])",
    re.IGNORECASE,
)
_FENCE = "```"
_LANGUAGE = re.compile(r"[\w+-]*[ \t]*\n?")
# Models without a refusal field refuse in words; these count only where the reply has no list.
_REFUSAL = re.compile(
    r"\W*(?:(?:I am|I['’]m)\s+(?:\w+\s+)?(?:sorry|unable)|(?:I\s+)?apologi[sz]e|sorry\b|unfortunately\b|"
    r"as an AI\b|I\s+(?:can\s?not|can['’]t|won['’]t|must decline|do not feel))",
    re.IGNORECASE,
)
# More types than a teacher gives one mention.
_MAX_TYPES = 10
_MENTION_KEYS = ("entity", "mention", "text", "span", "name", "entity_text", "entity_name", "word", "value")
_TYPE_KEYS = ("type", "entity_type", "types", "label", "category", "class", "tag", "ner_tag", "definition")
_LIST_KEYS = ("entities", "named_entities", "output", "result", "results", "items", "list", "answer")


class TypedMention(NamedTuple):
    """A mention as the teacher wrote it, and its type."""

    mention: str
    type: str


@dataclass(frozen=True)
class ParsedReply:
    """A reply's mentions in order. `cut`: the list breaks off after them."""

    mentions: tuple[TypedMention, ...]
    cut: bool = False


def parse_reply(reply: str, passage: str = "") -> ParsedReply | None:
    """Parse the typed mentions of a reply; None where it has no list of them.

    Accepted are lists of tuples, of pairs of strings or of objects with named fields ({"entity", "type"}), an
    object of lists by type, an object around a list, several of these, and tuples in lines of their own;
    alone, in a code fence, after a model's thoughts, or within text. A tuple outside a list counts at a
    line's start, or after a bullet, a number or a label that ends in a colon; elsewhere it is prose. Where
    the list breaks off, its complete part counts. One entry that is not a pair makes the whole reply
    unparseable (paper §3.1 drops such replies). The time is linear in the reply's length.

    passage: a mention with a backslash is taken as it is written where the passage has it so; the escapes of
    any other are undone.
    """

    @lru_cache(1 << 10)
    def is_known(mention: str) -> bool:
        return bool(locate(passage, mention).spans)

    text = without_thoughts(reply)
    fenced = "\n".join(_fenced(text))
    for candidate in (fenced, text, _unescaped(text)):
        parsed = _parse(candidate, is_known) if candidate else None
        if parsed is not None and not (candidate is fenced and _spans_fences(parsed, text)):
            return parsed
    return None


def without_thoughts(reply: str) -> str:
    """Remove a reasoning model's thoughts before its reply; all of them where they never end."""
    end = max((match.end() for match in _THOUGHTS_END.finditer(reply)), default=0)
    text = reply[end:]
    unended = _THOUGHTS_START.search(text)
    return text[: unended.start()] if unended else text


def is_refusal(reply: str) -> bool:
    """Tell whether a reply begins like a refusal."""
    return _REFUSAL.match(reply) is not None


def withheld(finish_reason: str | None, refusal: str | None) -> str:
    """Return why a chat completion has no content by what the server says of it; "" where it has."""
    if refusal:
        return "refused"
    return "filtered" if finish_reason == "content_filter" else ""


def judge_reply(
    reply: str, finish_reason: str | None, refusal: str | None, passage: str = ""
) -> tuple[str, tuple[TypedMention, ...]]:
    """Return the outcome of a reply (see `records.Annotation`) and its mentions.

    `finish_reason` and `refusal` are the chat completion's, passage as in `parse_reply`. A list that breaks
    off keeps its complete part under an outcome of its own: too_long at the token limit, cut where the server
    calls the reply complete.
    """
    if outcome := withheld(finish_reason, refusal):
        return outcome, ()
    parsed = parse_reply(reply, passage)
    if finish_reason == "length":
        return "too_long", parsed.mentions if parsed else ()
    if parsed is None:
        return "refused" if is_refusal(reply) else "unparseable", ()
    return "cut" if parsed.cut else "ok", parsed.mentions


def _fenced(text: str) -> Iterator[str]:
    """Yield the contents of the code fences that have an end."""
    position = 0
    while (opening := text.find(_FENCE, position)) >= 0:
        start = _LANGUAGE.match(text, opening + len(_FENCE)).end()  # type: ignore[union-attr]
        end = text.find(_FENCE, start)
        if end < 0:
            return
        yield text[start:end]
        position = end + len(_FENCE)


def _spans_fences(parsed: ParsedReply, text: str) -> bool:
    """Tell whether a string may begin in one fence and end in the next: the reply has no such string."""
    if text.count(_FENCE) < 4:  # two for each fence
        return False
    strings = (string for mention in parsed.mentions for string in mention if "\n" in string)
    return any(string not in text or string.isspace() for string in strings)


def _unescaped(text: str) -> str:
    """Undo the escapes of a list that is a JSON string, or half of one; "" for any other text."""
    if '\\"' not in text:
        return ""
    try:
        # Parquet cannot store half of a surrogate pair, which JSON can write.
        return str(json.loads(text)).encode(errors="replace").decode()
    except (ValueError, RecursionError):
        return text.replace('\\"', '"')


def _parse(text: str, is_known: Callable[[str], bool]) -> ParsedReply | None:
    outer = [outer for outer in outer_brackets(text, is_known) if _may_answer(outer)]
    lists = [one for one in outer if not _is_tuple(one)]
    answers = [one for one in outer if one.listed or not _is_tuple(one)]
    for group in (lists, answers):  # tuples outside a list count only where no list has any mentions
        parsed = [(one, _mentions(one.bracket, alone=not _is_tuple(one))) for one in group]
        if any(_is_bad_list(one, mentions) for one, mentions in parsed):
            return None
        cut = any(not one.bracket.complete for one in group if not one.broken)
        if mentions := tuple(mention for _, some in parsed for mention in some or ()):
            return ParsedReply(mentions, cut)
        if group is lists and not cut and any(map(_is_empty_list, parsed)):
            return ParsedReply(())  # what follows it are remarks
    empty = any(one.bracket.complete and some is not None for one, some in parsed if not _is_tuple(one))
    return ParsedReply(()) if empty and not cut else None


def _is_empty_list(parsed: tuple[OuterBracket, list[TypedMention] | None]) -> bool:
    """Tell whether a bracket says that there are no mentions: [], or an object around it. A bulleted [ ] is
    the box of a list of tasks."""
    outer, mentions = parsed
    return outer.bracket.complete and not outer.itemised and mentions == [] and outer.bracket.opening != "("


def _is_tuple(outer: OuterBracket) -> bool:
    """Tell whether a bracket is one tuple. A bulleted ["Ann", "person"] is; a lone ["Ann", "Bob"] is not."""
    bracket = outer.bracket
    if bracket.opening == "[" and outer.itemised:
        return len(bracket.entries) > 1 and all(isinstance(value, Scalar) for value in bracket.values)
    return bracket.opening == "("


def _may_answer(outer: OuterBracket) -> bool:
    """Exclude brackets that are not part of an answer: code's calls and subscripts, empty parentheses."""
    bracket = outer.bracket
    if bracket.entries and bracket.opening != "(":
        return True
    cut = not bracket.complete and not outer.broken
    return not outer.in_code and (bool(bracket.entries) or bracket.opening != "(" or cut)


def _is_bad_list(outer: OuterBracket, mentions: list[TypedMention] | None) -> bool:
    """Tell whether a bracket is meant as mentions but is not readable as such. A bracket in prose is not."""
    bracket = outer.bracket
    inner = [value for value in bracket.values if isinstance(value, Bracket)]
    if outer.broken:
        return bool(mentions) or any(_tuple_mentions(value) is not None for value in inner)
    if mentions is not None or not bracket.complete:
        return False
    strings = len(bracket.entries) > 2 and all(isinstance(v, Scalar) and v.quoted for v in bracket.values)
    return bool(inner) or (bracket.opening == "(" and strings)


def _mentions(bracket: Bracket, alone: bool = False) -> list[TypedMention] | None:
    """Return a bracket's mentions (of the complete part where it is cut); None where it has none."""
    if not (alone and bracket.opening == "["):
        mentions = _tuple_mentions(bracket)
        if mentions is not None:
            return mentions
    if any(key is not None for key, _ in bracket.entries):
        return _object_mentions(bracket)
    mentions = []
    for value in bracket.values:
        inner = _mentions(value) if isinstance(value, Bracket) else None
        if inner is None and isinstance(value, Bracket) and not value.complete:
            continue  # the last one, where the text ends
        if inner is None:
            return None
        mentions += inner
    return mentions


def _object_mentions(bracket: Bracket) -> list[TypedMention] | None:
    """Read {"entities": [...]} with any other fields, or {"person": ["Ann", ...], ...}."""
    fields = [(key or "", value) for key, value in bracket.entries]
    lists = [value for key, value in fields if key.lower() in _LIST_KEYS and isinstance(value, Bracket)]
    mentions: list[TypedMention] = []
    for entries in lists:
        inner = _mentions(entries, alone=True)
        if inner is None:
            return None
        mentions += inner
    if lists:
        return mentions
    for key, value in fields:
        is_field = key.lower() in (*_MENTION_KEYS, *_TYPE_KEYS, "")
        names = None if is_field or isinstance(value, Scalar) else _strings(value)
        if names is None:
            return None
        mentions += [TypedMention(name, key) for name in names]
    return mentions


def _tuple_mentions(bracket: Bracket) -> list[TypedMention] | None:
    """Read one tuple or object; several mentions where it gives one several types, or the reverse."""
    if not bracket.complete or not bracket.entries:
        return None
    keys = [key for key, _ in bracket.entries if key is not None]
    if not keys:
        return _value_mentions(bracket.values)
    if len(keys) < len(bracket.entries):
        return None
    if bracket.opening == "(":
        return _value_mentions([Scalar(keys[0], True), *bracket.values]) if len(keys) == 1 else None
    fields = {key.lower(): value for key, value in bracket.entries if key is not None}
    mention_key = next((name for name in _MENTION_KEYS if name in fields), None)
    type_key = next((name for name in _TYPE_KEYS if name in fields), None)
    if type_key is None and mention_key == "entity":  # {"word": "Ann", "entity": "PER"}
        type_key = mention_key
        mention_key = next((name for name in _MENTION_KEYS[1:] if name in fields), None)
    if mention_key is None or type_key is None:
        return None
    return _combinations(_strings(fields[mention_key]), _strings(fields[type_key]))


def _value_mentions(values: list[Scalar | Bracket]) -> list[TypedMention] | None:
    # Numbers beside two strings are offsets, scores or running numbers; a year may be a mention.
    strings = [value for value in values if not (isinstance(value, Scalar) and _is_number(value))]
    if len(strings) == 1 and len(values) == 2 and values[0] is not strings[0]:
        strings = values
    if len(strings) != 2 or not isinstance(strings[0], Scalar):
        return None
    if not isinstance(strings[1], Scalar) and strings[1].opening == "{":
        return None
    return _combinations([strings[0].text], _strings(strings[1]))


def _is_number(scalar: Scalar) -> bool:
    return scalar.is_constant and any(letter.isdigit() for letter in scalar.text)


def _strings(value: Scalar | Bracket) -> list[str] | None:
    if isinstance(value, Scalar):
        return [value.text]
    if not all(key is None and isinstance(inner, Scalar) for key, inner in value.entries):
        return None
    return [inner.text for inner in value.values if isinstance(inner, Scalar)]


def _combinations(mentions: list[str] | None, types: list[str] | None) -> list[TypedMention] | None:
    """Give each mention each type; None where one is missing, or where both are long lists.

    Thousands of mentions with thousands of types would be millions of pairs from one reply.
    """
    if not mentions or not types or min(len(mentions), len(types)) > _MAX_TYPES:
        return None
    return [TypedMention(*pair) for pair in product(mentions, types)]
