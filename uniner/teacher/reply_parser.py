"""Read a teacher's reply: a list of (mention, type) tuples, in the shapes that models give it.

An unparseable reply and an empty list never look alike, and nothing is invented: every mention and type
stands in the reply (escapes such as \\n aside).
"""

import json
import re
from dataclasses import dataclass
from itertools import product

from uniner.teacher.bracket_parser import Found, Group, Word, groups

_THOUGHT = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL)
_FENCED = re.compile(r"```[\w+-]*[ \t]*\n?(.*?)```", re.DOTALL)
_CHECKBOX = re.compile(r"^[ \t]*[-*+][ \t]+\[ \]", re.MULTILINE)
_BULLET = re.compile(r"^([ \t]*(?:\d+[.):]|[-*+•])[ \t]+)\[(.+)\](?=[ \t]*,?[ \t]*$)", re.MULTILINE)
# Models without a refusal field refuse in words; counted only where there is no list.
_REFUSAL = re.compile(
    r"\W*(?:(?:I am|I['’]m)\s+(?:\w+\s+)?(?:sorry|unable)|(?:I\s+)?apologi[sz]e|sorry\b|unfortunately\b|"
    r"as an AI\b|I\s+(?:can\s?not|can['’]t|won['’]t|must decline|do not feel))",
    re.IGNORECASE,
)
_MENTIONS = ("entity", "mention", "text", "span", "name", "entity_text", "entity_name", "word", "value")
_TYPES = ("type", "entity_type", "types", "label", "category", "class", "tag", "ner_tag", "definition")
_WRAPPERS = ("entities", "named_entities", "output", "result", "results", "items", "list", "answer")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Parsed:
    """A reply's (mention, type) pairs in order; `cut` where its list breaks off and these stand before."""

    pairs: tuple[Pair, ...]
    cut: bool = False


def parse_reply(reply: str) -> Parsed | None:
    """Read the (mention, type) pairs of a reply, or None where it holds no list of pairs.

    Taken are lists of tuples, of two strings or of objects that say which is which ({"entity", "type"}), an
    object of lists by type, an object around a list, several of these, and tuples in lines of their own;
    alone, in a code fence, after a model's thoughts, or with text around. Where the list breaks off, its
    whole part counts. One pair that is none makes the whole reply unparseable (paper §3.1 drops such
    replies). Time is linear in the reply's length.
    """
    text = without_thoughts(reply)
    for candidate in ("\n".join(_FENCED.findall(text)), text, _unescaped(text)):
        parsed = _parse(candidate) if candidate else None
        if parsed is not None:
            return parsed
    return None


def without_thoughts(reply: str) -> str:
    """Leave out what a model thinks aloud before its reply."""
    return _THOUGHT.sub("", reply)


def refuses(reply: str) -> bool:
    """Tell whether a reply begins as refusals do."""
    return _REFUSAL.match(reply) is not None


def judge(reply: str, finish_reason: str | None, refusal: str | None) -> tuple[str, tuple[Pair, ...]]:
    """Return the outcome of a reply (see `records.Annotation`) and the pairs that stand.

    `finish_reason` and `refusal` are the chat completion's. A list that breaks off keeps its whole part under
    an outcome of its own: too_long at the token limit, cut where the server thinks the reply complete.
    """
    if refusal:
        return "refused", ()
    if finish_reason == "content_filter":
        return "filtered", ()
    parsed = parse_reply(reply)
    if finish_reason == "length":
        return "too_long", parsed.pairs if parsed else ()
    if parsed is None:
        return "refused" if refuses(reply) else "unparseable", ()
    return "cut" if parsed.cut else "ok", parsed.pairs


def _unescaped(text: str) -> str:
    """Undo the escapes of a list that came as a JSON string, or as half of one; "" where it did not."""
    if '\\"' not in text:
        return ""
    try:
        # Half of a surrogate pair, which only JSON can write, could not be stored.
        return str(json.loads(text)).encode(errors="replace").decode()
    except (ValueError, RecursionError):
        return text.replace('\\"', '"')


def _parse(text: str) -> Parsed | None:
    # A bulleted ["Ann", "person"] is a tuple; ["Ann", "Bob"] that stands alone is not.
    bulleted = _BULLET.sub(r"\1(\2)", _CHECKBOX.sub("", text))
    found = [one for one in groups(bulleted) if _counts(one)]
    read = [(one, _pairs(one.group, alone=True)) for one in found]
    if any(_spoils(one, pairs) for one, pairs in read):
        return None
    cut = any(not one.group.whole for one in found if not one.broken)
    lists = [(one, pairs) for one, pairs in read if one.group.opening != "("]
    for kind in (lists, read):  # tuples outside a list count where no list has any
        pairs = tuple(pair for _, some in kind for pair in some or ())
        if pairs:
            return Parsed(pairs, cut)
    empty = any(one.group.whole and pairs is not None for one, pairs in lists)
    return Parsed(()) if empty and not cut else None


def _counts(found: Found) -> bool:
    """Leave out what is no part of an answer: calls and subscripts of code, empty parentheses."""
    group = found.group
    if group.entries and group.opening != "(":
        return True
    in_code = found.before.isalnum() or found.before == "_"
    cut = not group.whole and not found.broken
    return not in_code and (bool(group.entries) or group.opening != "(" or cut)


def _spoils(found: Found, pairs: list[Pair] | None) -> bool:
    """Tell whether this was meant as pairs and is none; a bracket in prose was not."""
    group = found.group
    inner = [value for value in group.values if isinstance(value, Group)]
    if found.broken:
        return bool(pairs) or any(_pair(value) is not None for value in inner)
    if pairs is not None or not group.whole:
        return False
    several = len(group.entries) > 2 and all(isinstance(v, Word) and v.quoted for v in group.values)
    return bool(inner) or (group.opening == "(" and several)


def _pairs(group: Group, alone: bool = False) -> list[Pair] | None:
    """Return the pairs in a bracket, in the whole part of it where it is cut, or None where it has none."""
    if not (alone and group.opening == "["):
        pair = _pair(group)
        if pair is not None:
            return pair
    if any(key is not None for key, _ in group.entries):
        return _pairs_of_object(group)
    pairs: list[Pair] = []
    for value in group.values:
        inner = _pairs(value) if isinstance(value, Group) else None
        if inner is None and isinstance(value, Group) and not value.whole:
            continue  # the last one, in the middle of which the text ends
        if inner is None:
            return None
        pairs += inner
    return pairs


def _pairs_of_object(group: Group) -> list[Pair] | None:
    """Read {"entities": [...]}, other fields aside, or {"person": ["Ann", ...], ...}."""
    fields = [(key or "", value) for key, value in group.entries]
    lists = [value for key, value in fields if key.lower() in _WRAPPERS and isinstance(value, Group)]
    pairs: list[Pair] = []
    for listed in lists:
        inner = _pairs(listed, alone=True)
        if inner is None:
            return None
        pairs += inner
    if lists:
        return pairs
    for key, value in fields:
        said = key.lower() in (*_MENTIONS, *_TYPES, "")
        mentions = None if said or isinstance(value, Word) else _strings(value)
        if mentions is None:
            return None
        pairs += [(mention, key) for mention in mentions]
    return pairs


def _pair(group: Group) -> list[Pair] | None:
    """Read one tuple or object; several pairs where it gives a mention several types, or the reverse."""
    if not group.whole or not group.entries:
        return None
    keyed = [key for key, _ in group.entries if key is not None]
    if not keyed:
        return _pair_of_values(group.values)
    if len(keyed) < len(group.entries):
        return None
    if group.opening == "(":
        return _pair_of_values([Word(keyed[0], True), *group.values]) if len(keyed) == 1 else None
    fields = {key.lower(): value for key, value in group.entries if key is not None}
    mention = next((name for name in _MENTIONS if name in fields), None)
    kind = next((name for name in _TYPES if name in fields), None)
    if kind is None and mention == "entity":  # {"word": "Ann", "entity": "PER"}
        kind, mention = mention, next((name for name in _MENTIONS[1:] if name in fields), None)
    if mention is None or kind is None:
        return None
    return _product(_strings(fields[mention]), _strings(fields[kind]))


def _pair_of_values(values: list[Word | Group]) -> list[Pair] | None:
    # Numbers beside two strings are offsets, scores or running numbers; a year may be a mention.
    said = [value for value in values if not (isinstance(value, Word) and value.number and _digits(value))]
    if len(said) == 1 and len(values) == 2 and values[0] is not said[0]:
        said = values
    if len(said) != 2 or not isinstance(said[0], Word):
        return None
    if not isinstance(said[1], Word) and said[1].opening == "{":
        return None
    return _product([said[0].text], _strings(said[1]))


def _digits(word: Word) -> bool:
    return any(letter.isdigit() for letter in word.text)


def _strings(value: Word | Group) -> list[str] | None:
    if isinstance(value, Word):
        return [value.text]
    if not all(key is None and isinstance(inner, Word) for key, inner in value.entries):
        return None
    return [inner.text for inner in value.values if isinstance(inner, Word)]


def _product(mentions: list[str] | None, types: list[str] | None) -> list[Pair] | None:
    return list(product(mentions, types)) if mentions and types else None
