"""The table of the templates' benchmark: means over seeds, and what was timed."""

from benchmarks.templates import TYPE_COUNTS, Scored, table, type_names
from uniner.metrics.counts import Counts


def test_the_table_has_what_was_scored_and_timed():
    scored = {
        "type": [Scored(0.5, 0.0, [Counts(1, 1, 1)] * 9), Scored(0.7, 0.1, [Counts(7, 3, 3)] * 9)],
        "words": [Scored(0.9, 0.0, [Counts(9, 1, 1)] * 9)],
        "grouped": [],
    }
    rate = {"prompt_tokens": 300, "cached_tokens": 100, "answer_tokens": 40, "passages_per_s": 2.5}
    rates = {f"type, {count} types, 6 passages": rate for count in TYPE_COUNTS[:2]}
    header, rule, by_type, words = table(scored, rates, timed=6)
    assert header.count("|") == rule.count("|") == by_type.count("|") == words.count("|") == 15
    assert by_type.startswith("| type | 2 | 0.600 | [0.") and "| 5.0% | 200 | 200 | - | 40 |" in by_type
    assert by_type.endswith("| 2.50 | 2.50 | - |")
    assert words.startswith("| words | 1 | 0.900 | [0.900, 0.900] | 0.0% | - |")


def test_fifty_types_can_be_asked():
    assert len(set(type_names(max(TYPE_COUNTS)))) == 50
