"""The briefs: all different, and repeated by the seed."""

import re
from collections import Counter

from uniner.generate.briefs import ASPECTS


def test_all_briefs_differ_and_the_seed_repeats_them(make_briefs, texts_of):
    whole = texts_of(make_briefs())
    assert Counter(whole.values()) == {"generated:contract law": 30, "generated:beekeeping": 25}
    assert texts_of(make_briefs()) == whole
    assert not texts_of(make_briefs(seed=1)).keys() & whole.keys()
    more = texts_of(
        make_briefs(domains={"aviation": 3, "contract law": 40, "beekeeping": 25}, chunk_passages=7)
    )
    assert whole.items() <= more.items(), "a larger run reuses the paid replies"
    assert len(more) == 3 + 40 + 25
    without_number = Counter(re.sub("Brief number: .*", "", text) for text in whole)
    assert max(without_number.values()) == 1, "they differ in more than the number"
    for name, values in ASPECTS.items():
        drawn = {re.search(f"{name}: (.*)", text)[1] for text in texts_of(make_briefs(domains={"law": 300}))}
        assert drawn == set(values)
    lengths = [int(re.search(r"about (\d+) words", text)[1]) for text in whole]
    assert 50 <= min(lengths) < 65 < 135 < max(lengths) <= 150
    own = texts_of(make_briefs(aspects={"Kind of text": ["court ruling"]}))
    assert all("Kind of text: court ruling" in text and "Place" not in text for text in own)
