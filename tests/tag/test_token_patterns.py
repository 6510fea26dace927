"""Token patterns give the spans of spaCy's EntityRuler; without spaCy a line says what to install."""

import json
import sys

import pytest

from uniner.errors import UserError
from uniner.records import TaggedEntity
from uniner.tag.rule_file import RuleSet, parse_rule, read_rules
from uniner.tag.rules import RuleRunner
from uniner.tag.token_patterns import TokenMatcher, require_spacy

from .test_rules import passage

TEXTS = [
    "San Francisco's mayor met Acme Corp, and ACME Corp in san francisco, not in Santa Francisco.",
    "😀 Zoë paid 3.5 million EUR (12 kg) to ann@acme.org; see https://acme.org/a?b=1 or call 0800.",
    "The Bank of New South Wales, Bank of England and the bank of nowhere. Colour, color, colonel!",
    "AB-12 and CD34; x\u00a0y\n\nNew York\tCity, U.S.A. e\u0301te\u0301 İstanbul straße 北京大学 in 2024.",
    "",
    " \n ",
]
KINDS = {
    "text": ["Acme Corp", "New York", "Bank of England"],
    "words": [[{"LOWER": "san"}, {"LOWER": "francisco"}], [{"ORTH": "Zoë"}], [{"TEXT": "U.S.A."}]],
    "expressions": [[{"TEXT": {"REGEX": "^[A-Z]{2}-?\\d+$"}}],
                    [{"LOWER": {"REGEX": {"IN": ["^colou?r$", "^strass"]}}}],
                    [{"LOWER": {"FUZZY1": "colour"}}], [{"NORM": {"REGEX": "^.te.?$"}}]],
    "flags": [[{"LIKE_NUM": True, "OP": "+"}, {"LOWER": {"NOT_IN": ["kg", "million"]}, "IS_ALPHA": True}],
              [{"LIKE_EMAIL": True}], [{"LIKE_URL": True}], [{"IS_TITLE": True, "OP": "{2,4}"}],
              [{"IS_DIGIT": True, "LENGTH": {">=": 4}}]],
    "repeats": [[{"LOWER": "bank"}, {"LOWER": "of"}, {"IS_TITLE": True, "OP": "+"}],
                [{"LOWER": "the", "OP": "?"}, {"LOWER": {"IN": ["bank", "mayor"]}}],
                [{"IS_PUNCT": True, "OP": "!"}, {"LOWER": "corp"}, {"IS_PUNCT": True, "OP": "*"}]],
}  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, "all together"])
def test_the_spans_are_those_of_spacys_entity_ruler(kind):
    spacy = pytest.importorskip("spacy", reason="spaCy is an optional extra")
    patterns = KINDS.get(kind) or [each for of_kind in KINDS.values() for each in of_kind]
    lines = [{"label": f"T{number}", "pattern": pattern} for number, pattern in enumerate(patterns)]
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns(lines)
    runner = RuleRunner(rules(*lines))
    seen = 0
    for text in TEXTS:
        wanted = [(entity.start_char, entity.end_char, entity.text) for entity in nlp(text).ents]
        (entities,) = runner.apply([passage(text, 7)], [[]], [[0]]).kept
        assert [(each.start - 7, each.end - 7, each.text) for each in entities] == wanted
        seen += len(wanted)
    assert seen >= len(patterns) / 2


def test_a_plain_text_is_whole_words_whatever_spacys_tokenizer_joins():
    (entities,) = (
        RuleRunner(rules({"label": "c", "pattern": "Corp"}))
        .apply([passage("Corp. Corp's Corporate Corp-x Corp\u0301", 7)], [[]], [[0]])
        .kept
    )
    assert [each.start - 7 for each in entities] == [0, 6, 23]


def rules(*lines):
    return RuleSet(rules=tuple(parse_rule(json.dumps(line), number) for number, line in enumerate(lines, 1)))


def test_a_token_pattern_changes_the_type_of_an_entity_with_the_same_span():
    pytest.importorskip("spacy", reason="spaCy is an optional extra")
    text = "Zoë met Ann Lee."
    entities = [
        TaggedEntity(text=text[s:e], type="word", start=7 + s, end=7 + e, score=0.5, grounding="exact")
        for s, e in ((0, 3), (8, 11), (8, 15))
    ]
    runner = RuleRunner(rules({"label": "name", "pattern": [{"IS_TITLE": True}] * 2, "retype": ["word"]}))
    (kept,) = runner.apply([passage(text, 7)], [entities], [[0]]).kept
    assert [(each.text, each.type) for each in kept] == [
        ("Zoë", "word"),
        ("Ann", "word"),
        ("Ann Lee", "name"),
    ]


def test_an_expression_of_a_token_that_is_too_slow_ends_and_names_its_pattern(monkeypatch):
    pytest.importorskip("spacy", reason="spaCy is an optional extra")
    monkeypatch.setattr("uniner.tag.bounded_regex.LIMIT_S", 0.05)
    slow = [[{"TEXT": {"REGEX": "(a|aa)+$"}}], [{"TEXT": {"REGEX": {"NOT_IN": ["(aa|a)+$"]}}}]]
    matcher = TokenMatcher([json.dumps(each) for each in ([{"LOWER": "b"}], *slow)], "en")
    text = " ".join(["a" * 60 + "b"] * 30 + ["b"])
    assert (0, len(text) - 1, len(text)) in matcher.matches(text)[0]
    assert matcher.timed_out == [1, 2]
    matcher.matches("b", given_up=[1])
    assert matcher.timed_out == [1]
    matcher.matches("b")
    assert matcher.timed_out == []


def test_without_spacy_a_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "spacy", None)
    (tmp_path / "rules.jsonl").write_text(json.dumps({"label": "a", "pattern": [{"LOWER": "x"}]}))
    assert read_rules(str(tmp_path / "rules.jsonl")).needs_spacy  # reading needs none
    with pytest.raises(UserError, match="pip install spacy"):
        require_spacy("en")


def test_a_language_that_spacy_lacks_is_named():
    pytest.importorskip("spacy", reason="spaCy is an optional extra")
    with pytest.raises(UserError, match="rules_language = 'qq'"):
        require_spacy("qq")
