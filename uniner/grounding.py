"""Find where a mention that a model wrote stands in a text."""

import re
from typing import Literal

Grounding = Literal["exact", "folded", "ungrounded"]


# Models write the plain ones where a text has the typographic ones, and the other way round.
_QUOTATION_MARKS = ("'\u2018\u2019\u201a\u02bc`\u00b4", '"\u201c\u201d\u201e\u00ab\u00bb')


def locate(text: str, mention: str) -> tuple[list[tuple[int, int]], Grounding]:
    """Find all occurrences of a mention in a text, without overlap, in order.

    Whole words first, then anywhere, first as written (exact), then with case, white space and the kinds of
    quotation marks folded (folded). An empty list comes with `ungrounded`.
    """
    words = mention.split()
    if not words:
        return [], "ungrounded"
    exact = re.escape(mention)
    folded = r"\s+".join("".join(map(_folded, word)) for word in words)
    tries: list[tuple[str, re.RegexFlag, Grounding]] = [
        (exact, re.NOFLAG, "exact"),
        (folded, re.IGNORECASE, "folded"),
    ]
    for pattern, flags, grounding in tries:
        for bounded in (rf"(?<!\w){pattern}(?!\w)", pattern):
            spans = [match.span() for match in re.finditer(bounded, text, flags)]
            if spans:
                return spans, grounding
    return [], "ungrounded"


def _folded(letter: str) -> str:
    """Return the pattern of a letter: any mark of its kind for a quotation mark."""
    kind = next((marks for marks in _QUOTATION_MARKS if letter in marks), None)
    return f"[{kind}]" if kind else re.escape(letter)
