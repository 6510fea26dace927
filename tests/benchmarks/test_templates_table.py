"""The table of the templates' benchmark: means over seeds, and what was timed."""

import json

from benchmarks.templates import TYPE_COUNTS, Scored, frequent_types, made_up_types, table
from uniner.metrics.counts import Counts


def test_the_table_has_what_was_scored_and_timed():
    scored = {
        "type": [
            Scored(0.0, {"held-out": [Counts(1, 1, 1)] * 9}),
            Scored(0.1, {"held-out": [Counts(7, 3, 3)] * 9}),
        ],
        "words": [Scored(0.0, {"held-out": [Counts(9, 1, 1)] * 9})],
        "grouped": [],
    }
    rate = {"prompt_tokens": 300, "cached_tokens": 100, "answer_tokens": 40, "passages_per_s": 2.5}
    rates = {f"type, {count} types, 6 passages": rate for count in TYPE_COUNTS[:2]}
    header, rule, by_type, words = table(scored, rates, timed=6)
    assert header.count("|") == rule.count("|") == by_type.count("|") == words.count("|") == 14
    assert by_type.startswith("| type | 2 | 60.0 [") and "| 5.0% | 200 | 200 | - | 40 |" in by_type
    assert by_type.endswith("| 2.50 | 2.50 | - |")
    assert words.startswith("| words | 1 | 90.0 [90.0, 90.0] | 0.0% | - |")


def test_of_several_data_sets_f1_is_the_mean_and_not_that_of_all_passages():
    passages = {"long": [Counts(9, 1, 1)] * 9, "short": [Counts(1, 1, 1)]}
    row = table({"type": [Scored(0.0, passages)]}, {}, timed=6)[-1]
    assert row.startswith("| type | 1 | 70.0 [")


def test_fifty_types_can_be_asked():
    assert len(set(made_up_types())) >= max(TYPE_COUNTS)


def test_the_real_base_is_asked_for_the_types_that_the_teacher_gave_most(tmp_path):
    replies = ['[("Ann", "Person"), ("Bob", "person")]', '[("Oslo", "city")]', "I cannot."]
    rows = ({"passage": str(number), "reply": reply} for number, reply in enumerate(replies))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert frequent_types(tmp_path) == ["person", "city"]
