"""Rules after the model: what they add, change and drop, in which order, and what is counted of it."""

import json
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniner.records import BY_RULE, RETYPED, Passage, TaggedEntity, TaggedPassage
from uniner.storage.manifest import StageTotals, Summary, few_examples
from uniner.tag.bounded_regex import BoundedRegex
from uniner.tag.rule_file import RuleSet, parse_rule
from uniner.tag.rule_words import TextWithoutCase, word_starts, words_of
from uniner.tag.rules import describe_rules, rule_lines, rules_line, without_rule_figures
from uniner.tag.tagger import EntityRules, apply_rules

TEXT = "😀 Ann Lee of Acme Corp paid DE89 3704 0044 0532 0130 00 in Łódź on 3 May 1999."


def rule_set(*lines):
    return RuleSet(rules=tuple(parse_rule(json.dumps(line), number) for number, line in enumerate(lines, 1)))


def passage(text=TEXT, start=100, before=0, after=0):
    return Passage(
        passage_id=f"d-{start}",
        doc_id="d",
        passage_index=start,
        char_start=start,
        char_end=start + len(text),
        text=text,
        n_tokens=9,
        source="",
        overlap_before=before,
        overlap_after=after,
    )


def found(text, type_name, score=0.5, of=None):
    start = 100 + (of or TEXT).index(text)
    return TaggedEntity(
        text=text, type=type_name, start=start, end=start + len(text), score=score, grounding="exact"
    )


def tagged(lines, *entities, passages=None, **rules):
    """The entities, counts and examples after these rules."""
    passages = passages or [passage()]
    rows = [
        TaggedPassage(
            doc_id="d", passage_id=each.passage_id, char_start=each.char_start, entities=own, outcome="ok",
            failed_types=(),
        )
        for each, own in zip(passages, [entities, *[()] * (len(passages) - 1)], strict=True)
    ]  # fmt: skip
    rows, counts, examples = apply_rules(passages, rows, EntityRules(patterns=rule_set(*lines), **rules))
    for each, row in zip(passages, rows, strict=True):
        for entity in row.entities:
            if entity.start >= 0:
                assert each.text[entity.start - each.char_start : entity.end - each.char_start] == entity.text
    return rows, counts, few_examples([examples])


def shown(rows):
    return [(entity.text, entity.type, entity.grounding) for row in rows for entity in row.entities]


def test_texts_and_expressions_add_entities_with_offsets_into_the_document():
    rows, counts, examples = tagged(
        [
            {"label": "company", "pattern": "Acme Corp"},
            {"label": "city", "pattern": "łódź", "match_case": False},
            {"label": "iban", "regex": "[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{2,4}){2,8}", "check": "iban"},
            {"label": "isbn", "regex": "[0-9]{4} [0-9]{4} [0-9]{4}", "check": "isbn"},
            {"label": "person", "pattern": "nn Le"},
        ]
    )  # fmt: skip
    assert shown(rows) == [
        ("Acme Corp", "company", BY_RULE),
        ("DE89 3704 0044 0532 0130 00", "iban", BY_RULE),
        ("Łódź", "city", BY_RULE),
    ]
    assert {entity.score for entity in rows[0].entities} == {1.0}
    assert (counts["rules_added"], counts["rule 3 added"], counts["entities"]) == (3, 1, 3)
    assert examples["1 added"] == ["Acme Corp"]


def test_a_rule_that_finds_what_the_model_found_confirms_it():
    rows, counts, _ = tagged([{"label": "company", "pattern": "Acme Corp"}], found("Acme Corp", "company"))
    assert shown(rows) == [("Acme Corp", "company", BY_RULE)]
    assert counts["rules_confirmed"] == 1 and "rules_added" not in counts


@pytest.mark.parametrize(
    "rule",
    [
        {"label": "year", "regex": "[0-9]{4}", "retype": ["date"]},
        {"label": "year", "pattern": "1999", "retype": ["date", "number"]},
        {"label": "year", "regex": "[0-9]+", "retype": ["*"]},
    ],
)
def test_a_rule_changes_the_type_of_what_it_matches_as_a_whole(rule):
    rows, counts, examples = tagged([rule], found("3 May 1999", "date"), found("1999", "date", 0.4))
    assert shown(rows) == [("3 May 1999", "date", "exact"), ("1999", "year", RETYPED)]
    assert rows[0].entities[1].score == 0.4
    assert counts["rules_retyped"] == 1 and examples == {"1 retyped": ["1999 (date)"]}


@pytest.mark.parametrize(
    ("rule", "dropped"),
    [
        ({"label": "person", "deny": ["ann  LEE"]}, ["Ann Lee"]),
        ({"label": "person", "deny": ["ann lee"], "match_case": True}, []),
        ({"label": "city", "deny": ["Ann Lee"]}, []),
        ({"label": "*", "stop_words": ["of", "in", "on"]}, ["of", "in"]),
        ({"label": "person", "stop_words": ["of", "in", "lee"]}, ["of"]),
        ({"label": "*", "min_length": 3}, ["of", "in", "😀"]),
        ({"label": "*", "min_length": 2}, ["😀"]),  # a character, not its two halves
        ({"label": "number", "check": "card"}, ["1999"]),
    ],
)
def test_rules_drop_entities_and_count_them(rule, dropped):
    model = [found("😀", "person"), found("Ann Lee", "person"), found("of", "person"), found("in", "city")]
    model.append(found("1999", "number"))
    rows, counts, examples = tagged([{"label": "city", "pattern": "nowhere"}, rule], *model)
    assert [each.text for each in model if each.text not in [text for text, *_ in shown(rows)]] == sorted(
        dropped, key=TEXT.index
    )
    assert counts.get("dropped_by_rule", 0) == counts.get("rule 2 dropped", 0) == len(dropped)
    assert len(examples.get("2 dropped", ())) == len(dropped)


def test_what_one_rule_adds_another_may_drop_and_thresholds_come_first():
    rows, counts, _ = tagged(
        [{"label": "year", "regex": "[0-9]{4}"}, {"label": "*", "deny": ["1999", "Łódź"]}],
        found("Łódź", "city", 0.2),
        min_score=0.3,
    )
    assert [text for text, *_ in shown(rows)] == ["3704", "0044", "0532", "0130"]
    assert counts["dropped_low_score"] == 1 and counts["dropped_by_rule"] == 1
    assert counts["rule 1 added"] == 5 and counts["dropped_overlapping"] == 0


@pytest.mark.parametrize("overlaps", ["flat", "longest", "nested"])
def test_an_entity_of_a_rule_comes_before_the_models_that_overlap_it(overlaps):
    rows, counts, _ = tagged(
        [{"label": "company", "pattern": "Lee of Acme"}],
        found("Ann Lee", "person", 1.0),
        found("Acme Corp paid", "company", 1.0),
        found("Lee of Acme", "person", 1.0),
        overlaps=overlaps,
    )
    assert shown(rows) == [("Lee of Acme", "company", BY_RULE)]
    assert counts["dropped_overlapping"] == 3


def test_of_the_matches_of_rules_the_one_with_more_words_stays():
    rows, counts, _ = tagged(
        [
            {"label": "a", "pattern": "Corp"},
            {"label": "b", "pattern": "of Acme Corp"},
            {"label": "c", "regex": "Lee of"},
            {"label": "d", "pattern": "of Acme Corp"},
        ]
    )
    assert [(text, label) for text, label, _ in shown(rows)] == [("of Acme Corp", "b")]
    assert counts["rules_added"] == 1


def test_text_that_two_passages_share_is_found_once():
    left, right = passage(TEXT[:40], 100, after=24), passage(TEXT[16:], 116, before=24)
    rows, counts, _ = tagged([{"label": "c", "pattern": "Acme Corp"}], passages=[left, right])
    assert counts["entities"] == 1
    assert [len(row.entities) for row in rows] == [1, 0]


def test_a_passage_on_which_a_rule_is_too_slow_says_so_and_the_rule_is_given_up(monkeypatch):
    monkeypatch.setattr("uniner.tag.bounded_regex.LIMIT_S", 0.02)
    monkeypatch.setattr("uniner.tag.rule_file.fault_of", lambda expression: "")
    slow = [passage("a" * 60 + "!", 1000 * number) for number in range(1, 7)]
    lines = [{"label": "x", "regex": "(a|aa)+$"}, {"label": "y", "pattern": "!"}]
    rows, counts, _ = tagged(lines, passages=[*slow, passage("aaa", 9000)])
    assert [row.outcome for row in rows] == ["rule_late"] * 7  # none looks as if nothing was there
    assert {row.failed_types for row in rows} == {("x",)}
    assert counts["rules_late"] == 7 and counts["rule 2 added"] == 6
    rows, _, _ = tagged(lines, passages=[passage("aaa", 9000)])  # a new chunk starts afresh
    assert (rows[0].outcome, shown(rows)) == ("ok", [("aaa", "x", BY_RULE)])


def test_the_manifest_says_what_each_rule_did_with_examples():
    lines = [{"label": "c", "pattern": "Acme", "id": "acme"}, {"label": "c", "deny": ["x"]}]
    totals = StageTotals(
        Summary(
            f"{number}", 1, 1, 1.0, figures={"rule 1 added": 2.0, "rules_added": 2.0, "entities": 5.0},
            examples={"1 added": [f"Acme {number}"]},
        )
        for number in range(5)
    )  # fmt: skip
    described = describe_rules(rule_set(*lines), totals.figures, totals.examples)
    assert described["added"] == 10 and described["without_effect"] == 1
    (did,) = described["did"]
    assert (did["line"], did["id"], did["added"], len(did["examples"])) == (1, "acme", 10, 3)
    assert "added 10 entities" in rules_line(described) and "1 of 2 rules had no effect" in rules_line(
        described
    )
    assert rule_lines(described) == [f"line 1 (c, pattern): added 10: {', '.join(did['examples'])}"]
    assert without_rule_figures(totals.figures) == {"rules_added": 10, "entities": 25}
    backwards = StageTotals()
    for number in reversed(range(5)):
        backwards.add(Summary(f"{number}", 1, 1, 1.0, examples={"1 added": [f"Acme {number}"]}))
    assert backwards.examples == totals.examples


def test_without_rules_nothing_is_counted_or_changed():
    entity = found("Ann Lee", "person")
    rows, counts, examples = tagged([], entity)
    assert rows[0].entities == (entity,) and examples == {}
    assert not [name for name in counts if "rule" in name]


@pytest.mark.parametrize("scores", [(0.6, 0.9), (0.9, 0.6)])
def test_an_entity_whose_new_type_another_one_has_there_is_one_entity(scores):
    person = found("Ann", "person", scores[0], of="Ann left.")
    rows, counts, _ = tagged(
        [{"label": "name", "retype": ["person"], "pattern": "Ann"}],
        person,
        replace(person, type="name", score=scores[1]),
        passages=[passage("Ann left.")],
        overlaps="keep",
    )
    assert [(entity.type, entity.score) for row in rows for entity in row.entities] == [("name", 0.9)]
    assert counts["entities"] == 1


@pytest.mark.parametrize("word", ["राम", "दिल्ली", "jose\u0301", "don't", "Mr.", "C++", "New York"])
def test_stop_words_are_divided_as_entities_are(word):
    text = f"{word} left"
    rows = tagged(
        [{"label": "p", "stop_words": [word]}],
        found(word, "p", of=text),
        found("left", "p", of=text),
        passages=[passage(text)],
    )[0]
    assert [entity.text for row in rows for entity in row.entities] == ["left"]


@pytest.mark.parametrize(
    ("stop_words", "text", "dropped"),
    [
        (["New York"], "York", False),
        (["New York"], "New", False),
        (["New York"], "new  york", True),
        (["New York"], "New York City", False),
        (["New York", "city"], "City", True),
        (["New York", "the"], "the York", False),
        (["don't", "the"], "the don't", True),
        (["don't"], "don", False),
        (["and", "or"], "and/or", True),
    ],
)
def test_a_stop_word_of_several_words_drops_only_what_is_all_of_it(stop_words, text, dropped):
    rows = tagged(
        [{"label": "p", "stop_words": stop_words}], found(text, "p", of=text), passages=[passage(text)]
    )[0]
    assert [entity.text for row in rows for entity in row.entities] == ([] if dropped else [text])


@pytest.mark.parametrize(
    ("pattern", "text", "places"),
    [
        ("STRASSE", "😀 Die straße, die Straße und STRASSE.", ["straße", "Straße", "STRASSE"]),
        ("straße", "😀 STRASSE ß", ["STRASSE"]),
        ("stras", "straße stras", ["stras"]),
        ("s", "ß S", ["S"]),
        ("ΟΔΟΣ", "ŉ οδος οδοσ", ["οδος", "οδοσ"]),
        ("istanbul", "İstanbul ISTANBUL", ["ISTANBUL"]),
        ("İSTANBUL", "ß İstanbul istanbul", ["İstanbul"]),
        ("ﬁsch", "FISCH ﬁsch", ["FISCH", "ﬁsch"]),
        ("ram", "राम RAM", ["RAM"]),
    ],
)
def test_case_is_ignored_in_one_way_by_all_rules_and_offsets_stay_right(pattern, text, places):
    adds = {"label": "a", "pattern": pattern, "match_case": False}
    rows = tagged([adds], passages=[passage(text)])[0]
    assert [entity.text for entity in rows[0].entities] == places  # `tagged` compares the offsets
    for place in dict.fromkeys(places):
        entity = found(place, "b", of=text)
        assert shown(tagged([{**adds, "retype": ["b"]}], entity, passages=[passage(text)])[0]) == [
            (place, "a", RETYPED)
        ]
        for drops in ({"deny": [pattern]}, {"stop_words": [pattern]}):
            assert not shown(tagged([{"label": "b", **drops}], entity, passages=[passage(text)])[0])


@settings(max_examples=80, deadline=None)
@given(st.text("aAsSßẞİiıIﬁŉſΣσς k\u0301😀", max_size=12), st.text("aAsSßİiIﬁſΣς", min_size=1, max_size=3))
def test_places_without_case_are_those_whose_text_folds_to_the_phrase(text, phrase):
    size = range(len(text) + 1)
    spans = [(start, end) for start in size for end in size if start < end]
    wanted = [span for span in spans if text[span[0] : span[1]].casefold() == phrase.casefold()]
    assert TextWithoutCase(text).places(phrase.casefold()) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("दिल्ली की", ["दिल्ली", "की"]),
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("jose\u0301 e\u0301te\u0301", ["jose\u0301", "e\u0301te\u0301"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("don't ❤\ufe0f a_1", ["don", "t", "a_1"]),
    ],
)
def test_a_word_has_its_marks(text, words):
    assert list(words_of(text)) == words
    starts = word_starts(text)
    assert {text.index(word) for word in words} <= set(starts)
    assert len(starts) == len(words) + text.count("'") + text.count("❤")


@pytest.mark.parametrize(
    ("one", "two"), [("दिल्ली", "की ओर"), ("مُحَمَّد", "بن علي"), ("de\u0301ja\u0300", "vu la")]
)
def test_a_word_with_marks_counts_as_one_where_matches_of_rules_overlap(one, two):
    text = f"{one} {two}"
    first, *_ = two.split()
    rows, _, _ = tagged(
        [{"label": "short", "pattern": f"{one} {first}"}, {"label": "long", "regex": f"{first}.*"}],
        passages=[passage(text)],
    )
    # Both have two words, so the earlier one stays, however many marks the other has.
    assert shown(rows) == [(f"{one} {first}", "short", BY_RULE)]
    rows, _, _ = tagged(
        [{"label": "short", "pattern": one}, {"label": "long", "regex": f"{one[-1]} {two}"}],
        passages=[passage(text)],
    )
    assert [label for _, label, _ in shown(rows)] == ["long"]  # three words against one


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("of_rule", ["NFC", "NFD"])
@pytest.mark.parametrize("match_case", [True, False])
def test_accents_on_the_letter_and_apart_are_the_same_for_a_rule(form, of_rule, match_case):
    text, word = (
        unicodedata.normalize(form, "At Café Renée today."),
        unicodedata.normalize(of_rule, "Café Renée"),
    )
    name = unicodedata.normalize(form, "Café Renée")
    rows, _, _ = tagged(
        [{"label": "place", "pattern": word, "match_case": match_case}], passages=[passage(text)]
    )
    assert shown(rows) == [(name, "place", BY_RULE)]
    entity = found(name, "company", of=text)
    retype = {"label": "bar", "pattern": word, "match_case": match_case, "retype": ["company"]}
    rows, _, _ = tagged([retype], entity, passages=[passage(text)])
    assert shown(rows) == [(name, "bar", RETYPED)]
    deny = {"label": "company", "deny": [word], "match_case": match_case}
    rows, _, _ = tagged([deny], entity, passages=[passage(text)])
    assert shown(rows) == []


def test_an_entity_over_a_line_end_is_retyped_as_it_is_dropped():
    text = "Acme\nCorp paid."
    retype = {"label": "firm", "pattern": "Acme Corp", "retype": ["company"]}
    rows, _, _ = tagged([retype], found("Acme\nCorp", "company", of=text), passages=[passage(text)])
    assert shown(rows) == [("Acme\nCorp", "firm", RETYPED)]


IBAN = {"label": "iban", "regex": "[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{2,4}){3,8}", "check": "iban"}
CARD = {"label": "card", "regex": "(?:[0-9][ -]?){12,19}", "check": "card"}


@pytest.mark.parametrize(
    ("rule", "text", "right"),
    [
        (IBAN, "IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFFXXX", ["DE89 3704 0044 0532 0130 00"]),
        (IBAN, "Konto DE89 3704 0044 0532 0130 00 EUR 500", ["DE89 3704 0044 0532 0130 00"]),
        (IBAN, "GB82 WEST 1234 5698 7654 32 USD", ["GB82 WEST 1234 5698 7654 32"]),
        (IBAN, "DE89 3704 0044 0532 0130 00 GB82 WEST 1234 5698 7654 32.",
         ["DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32"]),
        (IBAN, "KD12 3456 IBAN DE89 3704 0044 0532 0130 00", ["DE89 3704 0044 0532 0130 00"]),
        (IBAN, "DE88 3704 0044 0532 0130 00 EUR 500", []),
        (CARD, "4111 1111 1111 1111 12/27", []),  # a row of numbers often has a card's checksum by chance
        ({**CARD, "regex": "(?:[0-9]{4}[ -]?){4}"}, "4111 1111 1111 1111 12/27", ["4111 1111 1111 1111"]),
        ({**CARD, "regex": r"(?:\d[ -]?)*"}, "card 4111 1111 1111 1111 end", ["4111 1111 1111 1111"]),
        ({**CARD, "regex": r"\b\d{4}(?: \d{4}){2,4}\b(?! \d)"}, "ref 4111 1111 1111 1111 2222", []),
        ({**IBAN, "regex": "[A-Z0-9 ]{15,}"}, "WORD " * 350 + "; DE89 3704 0044 0532 0130 00.",
         ["DE89 3704 0044 0532 0130 00"]),
        ({"label": "isbn", "regex": r"[0-9][\w -]{9,}", "check": "isbn"}, "0-306-40615-2 second edition",
         ["0-306-40615-2"]),
        (CARD, "4111111111111111, 4111111111111112", ["4111111111111111"]),
        (CARD, "7 4111 1111 1111 1111", []),
    ],
)  # fmt: skip
def test_what_stands_behind_a_number_does_not_hide_it_from_its_check(rule, text, right):
    rows, _, _ = tagged([rule], passages=[passage(text)])
    assert [name for name, _, _ in shown(rows)] == right


def test_a_check_of_many_numbers_is_limited_in_time():
    expression = BoundedRegex(r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{2,4})*")
    assert expression.spans("AB12 " * 20_000, lambda _: False, sure=True) == []
    assert expression.timed_out
