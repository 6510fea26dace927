"""Read a teacher's reply: a list of (mention, type) tuples, in the shapes that models give it.

An unparseable reply and an empty list never look alike, and nothing is invented: every mention and type
stands in the reply.
"""

import ast
import re

_CODE_FENCE = re.compile(r"```[a-zA-Z]*\n?(.*?)```", re.DOTALL)


def parse_reply(reply: str) -> list[tuple[str, str]] | None:
    """Return the (mention, type) pairs of a reply in order, or None where it holds no list of pairs.

    Taken are lists of tuples or lists of two strings, with single or double quotes, alone, in a code fence or
    with text around. One pair that is none makes the whole reply unparseable (paper §3.1 drops such replies).
    """
    fenced = _CODE_FENCE.search(reply)
    text = (fenced[1] if fenced else reply).strip()
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return None
    try:
        value = ast.literal_eval(text[start : end + 1])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    pairs = [_pair(item) for item in value] if isinstance(value, list) else [None]
    if any(pair is None for pair in pairs):
        return None
    return [pair for pair in pairs if pair is not None]


def _pair(item: object) -> tuple[str, str] | None:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        return None
    mention, type_name = item
    if not isinstance(mention, str) or not isinstance(type_name, str):
        return None
    return mention, type_name
