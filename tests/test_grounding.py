"""`locate` returns the same occurrences as a definition by regular expressions."""

import random
import re

from uniner.grounding import _letter_pattern, locate


def by_expressions(text, mention):
    """Define `locate` by regular expressions, tried in order."""
    words = mention.split()
    if not words:
        return [], "ungrounded"
    pattern_words = r"\s+".join("".join(map(_letter_pattern, word)) for word in words)
    for bounds in (r"(?<!\w){}(?!\w)", "{}"):
        tries = ((re.escape(mention), re.NOFLAG, "exact"), (pattern_words, re.IGNORECASE, "normalized"))
        for pattern, flags, grounding in tries:
            spans = [match.span() for match in re.finditer(bounds.replace("{}", pattern), text, flags)]
            if spans:
                return spans, grounding
    return [], "ungrounded"


def test_locate_agrees_with_its_definition():
    chance = random.Random(0)
    letters = "aAbB _-.'’0é½²\n"
    kinds = []
    for _ in range(1200):
        text = "".join(chance.choices(letters, k=chance.randint(0, 25)))
        mention = "".join(chance.choices(letters, k=chance.randint(0, 4)))
        occurrences = locate(text, mention)
        assert occurrences == by_expressions(text, mention), (text, mention)
        kinds.append(occurrences.grounding)
    assert min(map(kinds.count, ("exact", "normalized", "ungrounded"))) > 60
