"""The file of rules: what is right is read, and every bad line is named with an example."""

import json
import re
import time

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from uniner.errors import UserError
from uniner.tag.bounded_regex import BoundedRegex, _slowness, fault_of
from uniner.tag.checksums import is_card, is_iban, is_isbn
from uniner.tag.rule_file import Rule, parse_rule, read_rules, unused_labels_line

GOOD = [
    {"label": "company", "pattern": "Acme Corp", "id": "acme"},
    {"label": "company", "pattern": "acme", "match_case": False},
    {"label": "city", "pattern": [{"LOWER": "san"}, {"lower": "francisco"}]},
    {"label": "code", "pattern": [{"TEXT": {"REGEX": "^[A-Z]{2}$"}, "LENGTH": {">=": 2}, "OP": "{1,3}"}]},
    {
        "label": "n",
        "pattern": [{"LIKE_NUM": True}, {"ORTH": {"NOT_IN": ["kg"]}}, {"IS_TITLE": True, "OP": "+"}],
    },
    {"label": "n", "pattern": [{"LOWER": {"REGEX": {"IN": ["^a", "b$"]}}}, {"LOWER": {"FUZZY1": "colour"}}]},
    {"label": "iban", "regex": "[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", "check": "iban"},
    {"label": "isbn", "check": "isbn"},
    {"label": "year", "regex": "[0-9]{4}", "retype": ["date"]},
    {"label": "person", "deny": ["Monday"]},
    {"label": "*", "stop_words": ["the"], "match_case": True},
    {"label": "*", "min_length": 2},
]


def write(tmp_path, *lines):
    path = tmp_path / "rules.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return str(path)


def test_every_kind_of_rule_is_read_with_its_line(tmp_path):
    rules = read_rules(write(tmp_path, *GOOD[:6], "", *GOOD[6:])).rules
    assert [rule.line for rule in rules] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]
    assert [rule.number for rule in rules] == list(range(1, 13))
    assert [rule.action for rule in rules] == ["add"] * 7 + ["drop", "retype", "drop", "drop", "drop"]
    assert [rule.match_case for rule in rules[:2]] == [True, False]


def test_the_identity_is_the_content_and_not_the_place(tmp_path):
    (tmp_path / "other").mkdir()
    one = read_rules(write(tmp_path, *GOOD)).identity()
    moved = read_rules(write(tmp_path / "other", "", *GOOD[:1], "", *GOOD[1:]))
    assert moved.identity() == one and set(one) == {"rules", "rules_language"}
    assert read_rules(write(tmp_path, *GOOD[1:])).identity() != one
    assert set(read_rules(write(tmp_path, *GOOD[:2]), "de").identity()) == {"rules"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"label": "a"', ["is not JSON"]),
        ("[" * 100_000, ["is not JSON"]),
        ('{"label": "a", "label": "b", "min_length": 2}', ["'label' occurs twice"]),
        ("[1]", ["is not a JSON object"]),
        ({"pattern": "x"}, ["has no label"]),
        ({"label": "a"}, ["says nothing to do", "pattern, regex"]),
        ({"label": "a", "min_len": 2}, ["min_len", "min_length"]),
        ({"label": " a", "pattern": "x"}, ["blanks around it"]),
        ({"label": "a\u200b", "pattern": "x"}, ["characters without width"]),
        ({"label": "a\nb", "pattern": "x"}, ["line break"]),
        ({"label": 3, "pattern": "x"}, ["label = 3"]),
        ({"label": "*", "pattern": "x"}, ["needs a type"]),
        ({"label": "a", "pattern": ""}, ["visible character"]),
        ('{"label": "a", "pattern": "a\\ud800"}', ["surrogate"]),
        ({"label": "a", "pattern": "x" * 2_000}, ["1,000 characters"]),
        ({"label": "a", "pattern": "x", "regex": "y"}, ["pattern and regex", "a line for each"]),
        ({"label": "a", "pattern": "x", "check": "iban"}, ["check goes with regex or alone"]),
        ({"label": "a", "check": "vat"}, ['check = "vat"', "iban, card, isbn"]),
        ({"label": "a", "regex": "("}, ["is not a regular expression"]),
        ({"label": "a", "regex": "(a|aa)+$"}, ["in too many ways", "a+ in place of"]),
        ({"label": "a", "regex": "((a{1000}){1000}){1000}"}, ["repeats a part more than 1,000 times"]),
        ({"label": "a", "regex": "(?:foo){e<=5}"}, ["brace"]),
        ({"label": "a", "deny": "x"}, ["is not a list of texts", '"deny": ["Monday"']),
        ({"label": "a", "deny": []}, ["is not a list of texts"]),
        ({"label": "a", "min_length": True}, ["number of characters"]),
        ({"label": "a", "deny": ["x"], "retype": ["b"]}, ["retype without a pattern"]),
        ({"label": "a", "regex": "x", "match_case": False}, ["match_case, which goes with"]),
        ({"label": "a", "pattern": []}, ["list of 1 to 50 token patterns"]),
        ({"label": "a", "pattern": ["x"]}, ["token 1", "not a JSON object"]),
        ({"label": "a", "pattern": [{"LOWR": "x"}]}, ["'LOWR'", "LOWER"]),
        ({"label": "a", "pattern": [{"LOWER": "x"}, {"POS": "NOUN"}]}, ["token 2", "trained pipeline"]),
        ({"label": "a", "pattern": [{"LOWER": {"REGEX": "(a|aa)+$"}}]}, ["in too many ways"]),
        ({"label": "a", "pattern": [{"LOWER": {"REGEX": {"IN": ["("]}}}]}, ["not a regular expression"]),
        ({"label": "a", "pattern": [{"LENGTH": "3"}]}, ["LENGTH"]),
        ({"label": "a", "pattern": [{"IS_DIGIT": 1}]}, ["neither true nor false"]),
        ({"label": "a", "pattern": [{"IS_DIGIT": True, "OP": "{3,2}"}]}, ["OP"]),
        ({"label": "a", "pattern": [{"OP": "*"}, {"OP": "+"}, {"OP": "+"}]}, ["3 tokens that repeat"]),
        ({"label": "a", "pattern": [{"LOWER": "x"}, {"OP": "{0,20}"}]}, ["20 tokens that may be left out"]),
        ({"label": "a", "pattern": [{"OP": "*"}]}, ["no token at all"]),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_with_what_is_wrong_and_an_example(tmp_path, line, words):
    with pytest.raises(UserError) as error:
        read_rules(write(tmp_path, GOOD[0], line))
    message = str(error.value)
    assert "rules.jsonl: line 2 " in message and "such as" in message and len(message.splitlines()) == 1
    assert len(message) < 700
    for word in words:
        assert word in message


def test_several_bad_lines_are_named_and_the_rest_counted(tmp_path):
    with pytest.raises(UserError, match=r"line 1 .*; line 2 .*; line 4 .*; and 2 more lines"):
        read_rules(write(tmp_path, "x", "x", GOOD[0], "x", "x", "x"))


def test_a_file_without_rules_and_a_missing_one_are_errors(tmp_path):
    with pytest.raises(UserError, match="has no rule"):
        read_rules(write(tmp_path, "", " "))
    with pytest.raises(UserError, match="nowhere"):
        read_rules(str(tmp_path / "nowhere.jsonl"))


KEYS = ["label", "pattern", "regex", "check", "deny", "stop_words", "min_length", "retype", "id"]
TOKEN_KEYS = ["LOWER", "REGEX", "OP", "IN", "LENGTH", "IS_ALPHA", "FUZZY", ">=", "_"]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 60) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(TOKEN_KEYS) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
lines = st.dictionaries(
    st.sampled_from(
        ["label", "pattern", "regex", "check", "deny", "stop_words", "min_length", "retype", "id"]
    ),
    values,
    max_size=4,
)


@settings(max_examples=120, deadline=None)
@given(lines.map(json.dumps) | st.text(max_size=40))
def test_whatever_a_line_is_it_becomes_a_rule_or_a_sentence(line):
    try:
        rule = parse_rule(line, 1)
    except ValueError as error:
        assert "such as" in str(error) and len(str(error).splitlines()) == 1
    else:
        assert isinstance(rule, Rule) and hash(rule) is not None


def test_a_rule_for_a_type_that_nothing_gives_is_named(tmp_path):
    rules = read_rules(write(tmp_path, *GOOD))
    assert unused_labels_line(rules, ["person", "date", "isbn"]) == ""
    line = unused_labels_line(rules, ["persons", "date", "isbn"])
    assert "line 10: 'person'" in line and "nearest: 'persons'" in line
    assert "'date'" in unused_labels_line(rules, ["person", "isbn"])


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (is_iban, "DE89 3704 0044 0532 0130 00", "DE88 3704 0044 0532 0130 00"),
        (is_iban, "GB82WEST12345698765432", "GB82WEST12345698765423"),
        (is_card, "4111 1111 1111 1111", "4111 1111 1111 1112"),
        (is_card, "3782-822463-10005", "3782-822463-10050"),
        (is_isbn, "0-306-40615-2", "0-306-40615-3"),
        (is_isbn, "080442957X", "0804429570"),
        (is_isbn, "978-0-306-40615-7", "978-0-306-40615-1"),
        (is_iban, "GB82WEST12345698765432", "٣٣"),
        (is_card, "4111111111111111", "٤١١١١١١١١١١١١١١١"),
    ],
)
def test_a_checksum_tells_a_number_from_one_with_a_slip(check, right, wrong):
    assert check(right) and not check(wrong) and not check("")


def test_an_expression_that_is_too_slow_ends_and_says_so(monkeypatch):
    monkeypatch.setattr("uniner.tag.bounded_regex.LIMIT_S", 0.05)
    slow = BoundedRegex("(a|aa)+$")
    assert slow.spans("a" * 60 + "!") == [] and slow.timed_out
    assert slow.search("aaa") is None  # until the next text
    slow.restart()
    assert slow.search("aaa") and not slow.timed_out


@pytest.mark.parametrize(
    "expression", [r"\d{4}-\d{2}", r"(?i)straße|gasse", r"(?<!\w)[A-Z]\w+(?: [A-Z]\w+){0,3}"]
)
def test_usual_expressions_are_right(expression):
    assert fault_of(expression) == ""


def test_matches_have_no_blanks_around_them_and_are_not_empty():
    assert BoundedRegex(r"\s*\d*\s*").spans("a 12  b") == [(2, 4)]


@pytest.mark.parametrize(
    ("check", "text", "right"),
    [
        (is_isbn, "978\u20110\u2011306\u201140615\u20117", True),
        (is_isbn, "ISBN 978-0-306-40615-7", True),
        (is_isbn, "ISBN-10: 0-306-40615-2", True),
        (is_isbn, "0000000000", False),
        (is_card, "4111\u20101111\u20101111\u20101111", True),
        (is_card, "0000000000000000", False),
        (is_iban, "DE89370400440532013000", True),
        (is_iban, "DE8937040044053201", False),
        (is_iban, "ZZ89370400440532013000", False),
        (is_iban, "IBAN DE89 3704 0044 0532 0130 00", True),
        (is_iban, "iban: DE89370400440532013000", True),
        (is_iban, "IBAN-Nr. DE89370400440532013000", True),
        (is_iban, "IBAN DE88370400440532013000", False),
        (is_iban, "ISBN DE89370400440532013000", False),
        (is_card, "Card 4111 1111 1111 1111", True),
        (is_card, "Credit card number: 4111-1111-1111-1111", True),
        (is_card, "card no. 4111 1111 1111 1112", False),
        (is_card, "IBAN 4111 1111 1111 1111", False),
        (is_isbn, "ISBN no. 0-306-40615-2", True),
        (is_isbn, "ISBN 1306406153", True),
        (is_isbn, "ISBN-13: 978-0-306-40615-7", True),
    ],
)
def test_numbers_as_they_are_printed_and_of_the_right_length(check, text, right):
    assert check(text) is right


@pytest.mark.parametrize("expression", ["(?:a?){9999}", "(a{100}){100}(b{100}){100}"])
def test_an_expression_that_is_written_out_too_often_is_refused(expression):
    with pytest.raises(ValueError, match="repeats a part more than 1,000 times"):
        parse_rule(json.dumps({"label": "a", "regex": expression}), 1)


def test_a_named_character_is_no_number_of_repeats_and_stop_words_have_words():
    assert parse_rule(json.dumps({"label": "a", "regex": "\\N{DIGIT ONE}+"}), 1)
    with pytest.raises(ValueError, match=r"'\.\.\.' has no word"):
        parse_rule(json.dumps({"label": "a", "stop_words": ["..."]}), 1)


FUZZY = ["(?:foo){1<=e<=3}", "(?:foo){e}", "x{e<=0}", "x{2i+2d+1s<=4}", "x{d<=1:[a-z]}", "x{e", r"\[{e}]",
         "(?x)a # [ \n (?:b){e}", "(?x)a[#]\n(?:b){i}", "(?x:a{1, 3})", "a#(?:b){s<2}?"]  # fmt: skip
TEXT = ["[{x]", "[^]{e]x", r"[\]{e]", r"\{e}", "x{ab}", "{", "x{}", "x{2}", "x{2,}", "x{,2}", "x{2,3}?",
        "a{1, 3}", "(?x)a # {e}", "(?x: a # {e}\n)b", "(?#{e})a", "(?x)(?-x:a{1, 3})", "${name}"]  # fmt: skip


@pytest.mark.parametrize("expression", FUZZY)
def test_a_brace_that_would_allow_errors_is_refused_and_its_escape_is_right(expression):
    fault = fault_of(expression)
    assert fault.startswith("has the brace {") and r"write \{ for the character, such as \{" in fault
    assert len(fault.splitlines()) == 1


@pytest.mark.parametrize("expression", TEXT)
def test_a_brace_that_is_text_or_a_number_of_repeats_is_right(expression):
    assert fault_of(expression) == ""


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"{}[]()^#\n x\\e,1<=-:?", "(?x)", "(?x:", "(?-x:", "(?#", "e<=1", "{1,2}", "{e}"]),
        max_size=12,
    ).map("".join)
)
def test_what_is_accepted_matches_as_python_would(expression):
    if fault_of(expression) == "":
        for text in ("x", "xx", "{e}", "x{e}", "x{1, 2}", "x1", "1e", expression):
            assert bool(regex.fullmatch(expression, text)) == bool(re.fullmatch(expression, text))


def test_the_time_of_all_expressions_of_a_file_is_bounded_and_the_slowest_lines_named(tmp_path, monkeypatch):
    tried = []

    def seconds(expression):
        tried.append(expression)
        return "", 0.4 if expression.endswith("y") else 0.3 if expression.endswith("x") else 0.001

    monkeypatch.setattr("uniner.tag.bounded_regex._tried", seconds)
    quick = [{"label": "a", "regex": f"q{number}"} for number in range(200)]
    assert len(read_rules(write(tmp_path, *quick)).rules) == 200  # many quick ones are no slow one
    slow = [{"label": "a", "regex": f"{number}x"} for number in range(30)]
    slow[4]["regex"] = "4y"
    tried.clear()
    with pytest.raises(UserError) as error:
        read_rules(write(tmp_path, *slow, "no rule"))
    message = str(error.value)
    assert 'line 17 has regex = "16x", which makes the expressions up to here need more than 5 s' in message
    assert "a+ in place of (a|aa)+" in message and "the slowest: line 5 (0.40 s), line 1 (0.30 s)" in message
    assert len(tried) == 17 and len(message.splitlines()) == 1
    # Expressions that are refused take time too.
    monkeypatch.setattr("uniner.tag.bounded_regex._tried", lambda expression: ("is slow", seconds("x")[1]))
    tried.clear()
    with pytest.raises(UserError, match=r"line 17 has regex = .* is slow; .*; the slowest: line 1"):
        read_rules(write(tmp_path, *slow))
    assert len(tried) == 17
    monkeypatch.setattr("uniner.tag.bounded_regex._tried", seconds)
    # A pattern of tokens with many expressions is bounded in the same way.
    tokens = [{"LOWER": {"REGEX": {"IN": [f"{number}x" for number in range(30)]}}}]
    tried.clear()
    with pytest.raises(UserError, match=r"line 1 has pattern = .* more than 5 s"):
        read_rules(write(tmp_path, {"label": "a", "pattern": tokens}))
    assert len(tried) == 17


def test_the_hard_texts_of_one_expression_are_bounded_together(monkeypatch):
    monkeypatch.setattr("uniner.tag.bounded_regex._PROBE_LIMIT_S", 0.1)
    monkeypatch.setattr("uniner.tag.bounded_regex._PROBES_LIMIT_S", 0.03)
    asked = []

    class Slow:
        """Needs 0.01 s on each text, which is no fault of one."""

        def finditer(self, text, timeout):
            asked.append(timeout)
            end = time.thread_time() + 0.01
            while time.thread_time() < end:
                pass
            return []

    assert "or more than 0.03 s on several such texts" in _slowness(Slow())
    assert len(asked) <= 4 and asked == sorted(asked, reverse=True)
