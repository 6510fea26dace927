"""The parser of replies: which ones it reads, which are unparseable, and that the two never look alike."""

import json
import re
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from uniner.teacher.reply_parser import ParsedReply, judge_reply, parse_reply

ANN, BONN = ("Ann", "person"), ("Bonn", "city")

WHOLE = {
    "as the prompt asks": ('[("Ann", "person"), ("Bonn", "city")]', [ANN, BONN]),
    "single quotes": ("[('Ann', 'person'), ('Bonn', 'city')]", [ANN, BONN]),
    "tuples as lists": ('[["Ann", "person"], ["Bonn", "city"]]', [ANN, BONN]),
    "a tuple of tuples": ('(("Ann", "person"), ("Bonn", "city"))', [ANN, BONN]),
    "sets": ('[{"Ann", "person"}, {"Bonn", "city"}]', [ANN, BONN]),
    "a line each": ('[\n  ("Ann", "person"),\n  ("Bonn", "city")\n]', [ANN, BONN]),
    "a trailing comma": ('[("Ann", "person"), ("Bonn", "city"),]', [ANN, BONN]),
    "trailing commas within": ('[("Ann", "person",), ("Bonn", "city",),]', [ANN, BONN]),
    "commas left out": ('[("Ann", "person")\n("Bonn", "city")]', [ANN, BONN]),
    "semicolons": ('[("Ann", "person"); ("Bonn", "city")]', [ANN, BONN]),
    "colons in tuples": ('[("Ann": "person"), ("Bonn": "city")]', [ANN, BONN]),
    "and so on": ('[("Ann", "person"), ("Bonn", "city"), ...]', [ANN, BONN]),
    "a code fence": ('```python\n[("Ann", "person")]\n```', [ANN]),
    "a fence with no language": ('```\n[("Ann", "person")]\n```', [ANN]),
    "a fence after another list": ('As [("a", "b")]:\n```\n[("Ann", "person")]\n```', [ANN]),
    "a fence with no end": ('```python\n[("Ann", "person")]', [ANN]),
    "an assignment in code": ('```python\nfound = [("Ann", "person")]\nprint(found)\n```', [ANN]),
    "text around": ('Here they are: [("Ann", "person")]. Anything else?', [ANN]),
    "a bracket in the text": ('See [1] and [the list]: [("Ann", "person")] (that is all)', [ANN]),
    "a label": ('Output: [("Ann", "person")]', [ANN]),
    "remarks after an empty list": ('[]\n("he", "she") are pronouns.', []),
    "remarks in a list of their own": ('{"entities": []}\n\nI left out:\n- ("he", "pronoun")', []),
    "thoughts of Seed-OSS": ('<seed:think>[("Bob", "person")]</seed:think>[("Ann", "person")]', [ANN]),
    "thoughts of Command": ('<|START_THINKING|>("Bob", "person")<|END_THINKING|>[("Ann", "person")]', [ANN]),
    "thoughts of Gemma": ('<unused94>thought\n[("Bob", "person")]<unused95>[("Ann", "person")]', [ANN]),
    "thoughts by another name": ('<antThinking>[("Bob", "x")]</antThinking>[("Ann", "person")]', [ANN]),
    "thoughts before": ('<think>[("Bob", "person")]?</think>\n[("Ann", "person")]', [ANN]),
    "a mention with fences": ('```\n[("```a```b", "x"), ("Ann", "person")]\n```', [("```a```b", "x"), ANN]),
    "two fences": ('```\n[("Ann", "person")]\n```\nand\n```\n[("Bonn", "city")]\n```', [ANN, BONN]),
    "several lists": ('People: [("Ann", "person")]\nPlaces: [("Bonn", "city")]', [ANN, BONN]),
    "an empty list and another": ('Dates: []\nPeople: [("Ann", "person")]', [ANN]),
    "a list a line": ('[("Ann", "person")]\n[("Bonn", "city")]', [ANN, BONN]),
    "numbered tuples": ('1. ("Ann", "person")\n2. ("Bonn", "city")', [ANN, BONN]),
    "bulleted tuples": ('- ("Ann", "person")\n- ("Bonn", "city")', [ANN, BONN]),
    "bulleted lists of two": ('* ["Ann", "person"]\n* ["Bonn", "city"]', [ANN, BONN]),
    "tuples alone": ('("Ann", "person"), ("Bonn", "city")', [ANN, BONN]),
    "tuples after text": ('Entities: ("Ann", "person"), ("Bonn", "city")', [ANN, BONN]),
    "objects": ('[{"entity": "Ann", "type": "person"}, {"entity": "Bonn", "type": "city"}]', [ANN, BONN]),
    "objects with other names": ('[{"text": "Ann", "label": "person"}]', [ANN]),
    "objects with more fields": ('[{"Name": "Ann", "Type": "person", "start": 3, "sure": true}]', [ANN]),
    "objects of a tagger": ('[{"word": "Ann", "entity": "person", "score": 0.98}]', [ANN]),
    "an object a line": (
        '{"entity": "Ann", "type": "person"}\n{"entity": "Bonn", "type": "city"}',
        [ANN, BONN]),
    "one object": ('{"entity": "Ann", "type": "person"}', [ANN]),
    "several types": ('[{"entity": "Ann", "type": ["person", "poet"]}]', [ANN, ("Ann", "poet")]),
    "several types in a tuple": ('[("Ann", ["person", "poet"])]', [ANN, ("Ann", "poet")]),
    "several mentions": ('[{"type": "person", "text": ["Ann", "Bob"]}]', [ANN, ("Bob", "person")]),
    "lists by type": (
        '{"person": ["Ann", "Bob"], "city": ["Bonn"], "date": []}',
        [ANN, ("Bob", "person"), BONN]),
    "a list of lists by type": ('[{"person": ["Ann"]}, {"city": ["Bonn"]}]', [ANN, BONN]),
    "the JSON schema": ('{"entities": [{"entity": "Ann", "type": "person"}]}', [ANN]),
    "the schema around tuples": ('{"entities": [["Ann", "person"]]}', [ANN]),
    "the schema by type": ('{"entities": {"person": ["Ann"]}}', [ANN]),
    "the schema with more": ('{"language": "en", "entities": [("Ann", "person")], "n": 1}', [ANN]),
    "typographic quotes": ("[(“Ann”, “person”), (‘Bonn’, ‘city’)]", [ANN, BONN]),
    "German and French quotes": ("[(„Ann“, „person“), («Bonn», «city»)]", [ANN, BONN]),
    "backquotes": ("[(`Ann`, `person`)]", [ANN]),
    "no quotes": ("[(Ann, person), (New York, city in America)]", [ANN, ("New York", "city in America")]),
    "types without quotes": ("[('Ann', person), ('Bonn', city)]", [ANN, BONN]),
    "no type": ('[("Ann", None)]', [("Ann", "None")]),
    "a year without quotes": ('[(1984, "year")]', [("1984", "year")]),
    "running numbers": ('[(1, "Ann", "person"), (2, "Bonn", "city")]', [ANN, BONN]),
    "offsets and scores": ('[("Ann", "person", 0, 3), ("Bonn", "city", 0.9)]', [ANN, BONN]),
    "an apostrophe": (
        "[('Ann O'Hara', 'person'), ('the Smiths'', 'band')]",
        [("Ann O'Hara", "person"), ("the Smiths'", "band")]),
    "an apostrophe before a comma": ("[('James', Ann and co', 'firm')]", [("James', Ann and co", "firm")]),
    "a quotation within": ('[("the "Ritz" hotel", "hotel")]', [('the "Ritz" hotel', "hotel")]),
    "inches": ('[("5\'10"", "height")]', [("5'10\"", "height")]),
    "escaped quotes": (
        '[("the \\"Ritz\\"", "hotel"), (\'O\\\'Hara\', \'person\')]',
        [('the "Ritz"', "hotel"), ("O'Hara", "person")]),
    "brackets in a mention": ('[("f(x) [sic]", "function")]', [("f(x) [sic]", "function")]),
    "other escapes": (
        '[("Zo\\u00eb\\n", "person"), ("\\ud83d\\ude00", "emoji")]',
        [("Zoë\n", "person"), ("😀", "emoji")]),
    "a list as a JSON string": ('"[(\\"Ann\\", \\"person\\")]"', [ANN]),
    "escaped for nothing": ('[(\\"Ann\\", \\"person\\")]', [ANN]),
    "a bracket too many": ('[("Ann", "person")), ("Bonn", "city")]]', [ANN, BONN]),
    "a tuple's end left out": ('[("Ann", "person"), ("Bonn", "city"]', [ANN, BONN]),
    "full-width punctuation": (
        "[(\"安娜\"，\"人物\")，（“波恩”、「城市」）]",
        [("安娜", "人物"), ("波恩", "城市")]),
    "full-width brackets": ("［（「安娜」，『人物』），】", [("安娜", "人物")]),
    "full-width objects": ("【{\"entity\"：\"安娜\"，\"type\"：\"人物\"}】", [("安娜", "人物")]),
    "comments": (
        '[\n  # people (see ["x"])\n  ("Ann", "person"),  # the "author", a\n  ("Bonn", "city")  // here\n]',
        [ANN, BONN]),
    "comments within": (
        '[("Ann",  # the author\n"person"), /* and ] so on */ {"entity": "Bonn", // x\n"type": "city"}]',
        [ANN, BONN]),
    "a hashtag without quotes": ("[(#metoo, hashtag)]", [("#metoo", "hashtag")]),
    "a note with quoted words": (
        '[("Ann", "person")]\n\nNote: I left out articles ("the", "a", "an") and it ("he", "she").',
        [ANN]),
    "a note of its own with quoted words": ('[("Ann", "person")]\n("the", "a", "an") are left out.', [ANN]),
    "a note that is cut": ('[("Ann", "person")] I left out pronouns (such as "he', [ANN]),
    "labels before tuples": ('**Entities:** ("Ann", "person")\n- A city: ("Bonn", "city")', [ANN, BONN]),
    "numbers in brackets": ('(1) ("Ann", "person")\n(2) ("Bonn", "city")', [ANN, BONN]),
    "letters and rules": ('a) ("Ann", "person")\n> ii. `("Bonn", "city")`', [ANN, BONN]),
    "a table": ('| ("Ann", "person") |\n|---|\n| ("Bonn", "city") |', [ANN, BONN]),
    "ticked boxes": ('- [x] ("Ann", "person")\n- [ ] ("Bonn", "city")', [ANN, BONN]),
    "tuples joined by and": ('Entities: ("Ann", "person") and ("Bonn", "city")', [ANN, BONN]),
    "tuples between prose": ('As seen ("he", "she"):\n("Ann", "person")\nSo ("it", "they").', [ANN]),
    "thoughts with another name": ('<Thought>[("Bob", "person")]</Thought>\n[("Ann", "person")]', [ANN]),
    "thoughts of Magistral": ('[THINK]("Bob", "person")[/THINK][("Ann", "person")]', [ANN]),
    "a channel": (
        '<|channel|>analysis<|message|>[("Bob", "x")]<|end|><|start|>assistant<|channel|>final<|message|>'
        '[("Ann", "person")]',
        [ANN]),
    "thoughts after it that never end": ('[("Ann", "person")]\n<think>\nOr ("Bob", "person")', [ANN]),
    "a mark of thoughts in quotes": ('[("</think>", "tag"), ("Ann", "person")]', [("</think>", "tag"), ANN]),
    "windows line ends": ('[\r\n("Ann", "person"),\r\n]\r\n', [ANN]),
}  # fmt: skip

EMPTY = {
    "nothing": "[]",
    "a blank": "[ ]",
    "a fence": "```json\n[]\n```",
    "the schema": '{"entities": []}',
    "text around": "There are no entities in this passage: []",
    "quoted words before": 'Words like ("he", "she") are pronouns.\n[]',
    "quoted words after": "[]\n\nNote: words like (“he”, “she”, 'it') are pronouns.",
    "types with none": '{"person": [], "city": []}',
    "no object": "{}",
}

CUT = {
    "within a mention": ('[("Ann", "person"), ("Bo', [ANN]),
    "after a mention": ('[("Ann", "person"), ("Bonn"', [ANN]),
    "within a type": ('[("Ann", "person"), ("Bonn", "ci', [ANN]),
    "before a tuple's end": ('[("Ann", "person"), ("Bonn", "city"', [ANN]),
    "between tuples": ('[("Ann", "person"), ("Bonn", "city"),', [ANN, BONN]),
    "before the list's end": ('[("Ann", "person"), ("Bonn", "city")', [ANN, BONN]),
    "within an object": ('[{"entity": "Ann", "type": "person"}, {"entity": "Bonn", "ty', [ANN]),
    "within several types": ('[("Ann", "person"), ("Bonn", ["city", "cap', [ANN]),
    "within the schema": ('{"entities": [{"entity": "Ann", "type": "person"}, {"ent', [ANN]),
    "within lists by type": ('{"person": ["Ann"], "city": ["Bonn", "Col', [ANN, BONN]),
    "within a fence": ('```python\n[("Ann", "person"), ("Bo', [ANN]),
    "within lines of tuples": ('1. ("Ann", "person")\n2. ("Bo', [ANN]),
    "and text goes on": ('[("Ann", "person"),\n("Bonn", "city")\n\nThat is all.', [ANN, BONN]),
}

UNPARSEABLE = {
    "prose": "There are none.",
    "nothing": "",
    "nothing said": "None",
    "a refusal": "I'm sorry, but I can't help with that.",
    "tuples of three": '[("Ann", "person", "extra")]',
    "one bad tuple": '[("Ann", "person"), ("Bonn", "city", "place")]',
    "one bad line": '1. ("Ann", "person")\n2. ("Bonn", "city", "place")',
    "one bad item": '[("Ann", "person"), "Bonn"]',
    "one broken tuple": '[("Ann", "person"), ("Bonn" city)]',
    "mentions alone": '["Ann", "Bonn"]',
    "a flat list": '["Ann", "person", "Bonn", "city"]',
    "a number for a type": '[("Ann", 3)]',
    "no type": '[("Ann",)]',
    "no key says which": '[{"Ann": "person"}]',
    "types alone": '{"types": ["person", "city"]}',
    "mentions in the schema": '{"entities": ["Ann", "Bonn"]}',
    "code": "[__import__('os')]",
    "code that calls": 'print("Ann", "person")',
    "code that subscripts": "int numbers[] = f();",
    "checkboxes": "- [ ] Ann\n- [ ] Bonn",
    "cut before a pair": '[("Ann',
    "cut at once": "[",
    "a list of nothing but brackets": "[[[]",
    "a list of citations": "Seen by many [1, 2], (Smith, 2010) and [see Jones].",
    "brackets": "[" * 2000,
    "quoted words in prose": 'The text has only pronouns ("he", "she") and ("it", "they").',
    "more quoted words in prose": 'The text has only pronouns ("he", "she", "it").',
    "quoted words in a list's prose": '- only pronouns ("he", "she")\n- only "x" ("it", "they")',
    "thoughts that never end": '<think>\nThe format is [("entity 1", "type")]. Maybe ("Bob", "person").',
    "thoughts of another name that never end": ' <reasoning>\nMaybe [("Bob", "person")]',
}


@pytest.mark.parametrize(("reply", "pairs"), WHOLE.values(), ids=WHOLE)
def test_a_list_in_any_shape_is_read(reply, pairs):
    assert parse_reply(reply) == ParsedReply(tuple(pairs))


@pytest.mark.parametrize("reply", EMPTY.values(), ids=EMPTY)
def test_an_empty_list_means_no_entities(reply):
    assert parse_reply(reply) == ParsedReply(())


@pytest.mark.parametrize(("reply", "pairs"), CUT.values(), ids=CUT)
def test_the_complete_part_of_a_list_that_breaks_off_counts(reply, pairs):
    assert parse_reply(reply) == ParsedReply(tuple(pairs), cut=True)


@pytest.mark.parametrize("reply", UNPARSEABLE.values(), ids=UNPARSEABLE)
def test_a_reply_without_a_list_of_pairs_is_unparseable(reply):
    assert parse_reply(reply) is None


@pytest.mark.parametrize(
    ("mention", "passage", "read"),
    [
        (r"\beta-carotene", r"We gave \beta-carotene.", r"\beta-carotene"),
        (r"\nabla f", "so \\nabla\nf is", r"\nabla f"),
        (r"$\theta$", r"angle $\theta$", r"$\theta$"),
        (r"C:\new\table", r"in C:\new\table", r"C:\new\table"),
        (r"\\beta", r"We gave \beta.", r"\beta"),
        (r"the \"\beta\" cell", r'the "\beta" cell', r'the "\beta" cell'),
        (r"Zo\u00eb's \rho", r"Zoë's \rho", r"Zoë's \rho"),
        (r"New\nYork", "New\nYork", "New\nYork"),
        (r"New\tYork", "New York", "New\tYork"),
        (r"\beta", "nothing of it", "\beta"),
    ],
)
def test_a_mention_is_taken_as_the_passage_has_it(mention, passage, read):
    outcome, pairs = judge_reply(f'[("{mention}", "thing")]', "stop", None, passage)
    assert (outcome, pairs) == ("ok", ((read, "thing"),))


@pytest.mark.parametrize(
    ("reply", "finish", "refusal", "outcome", "pairs"),
    [
        ('[("Ann", "person")]', "stop", None, "ok", (ANN,)),
        ("[]", "stop", None, "ok", ()),
        ("[]", None, None, "ok", ()),
        ("I see Ann.", "stop", None, "unparseable", ()),
        ("I'm sorry, but I can't do that.", "stop", None, "refused", ()),
        ("As an AI language model, I do not.", "stop", None, "refused", ()),
        ('I am sorry for the delay: [("Ann", "person")]', "stop", None, "ok", (ANN,)),
        ("", "stop", "I will not", "refused", ()),
        ("", "content_filter", None, "filtered", ()),
        ('[("Ann", "person"), ("Bo', "length", None, "too_long", (ANN,)),
        ('[("An', "length", None, "too_long", ()),
        ('[("Ann", "person"), ("Bo', "stop", None, "cut", (ANN,)),
        ("[" * 5000 + r"\"Ann\"", "stop", None, "unparseable", ()),
        (r'"[(\"A\ud83d\", \"person\")]"', "stop", None, "ok", (("A?", "person"),)),
    ],
)
def test_every_reply_has_an_outcome_and_only_a_list_has_pairs(reply, finish, refusal, outcome, pairs):
    assert judge_reply(reply, finish, refusal) == (outcome, pairs)


# Start, repeated piece and end of replies that make a backtracking pattern try each place from each place.
ADVERSARIAL = {
    "a fence's language without an end": ("```", "a", ""),
    "a fence's blanks without an end": ("```", " ", ""),
    "opening fences": ("", "```a", ""),
    "backquotes": ("", "`", ""),
    "blanks after a bulleted list": ("- [a]", " ", "x"),
    "ends of a bulleted list": ("- [a", "] ", "x"),
    "bullets": ("", "- [a] \n", "x"),
    "bulleted brackets": ("", "- [", ""),
    "checkboxes": ("", "- [ ] ", ""),
    "numbers of a list": ("", "1", ". [a]"),
    "blanks": ("[", " ", "x"),
    "blanks after a quote": ('[("a"', " ", "x"),
    "quotes and blanks": ('[("', '"  ', "x"),
    "quotes and commas": ('[("', '", a', "x"),
    "quotes": ("[(", '"', ""),
    "apostrophes": ("[('", "' ", ""),
    "backslashes": ('[("', "\\", ""),
    "escaped quotes": ('[("', '\\"', ""),
    "opening brackets": ("", "[", ""),
    "opening brackets of all kinds": ("", "[({", "]"),
    "closing brackets": ("[", "]", ""),
    "closing parentheses": ('[("a", "b")', ")", ""),
    "lists without an end": ("", '[("a", "b"), ', ""),
    "lists by type without an end": ("", '{"a": ["b", ', ""),
    "numbers": ("[", "1,", "x"),
    "digits": ("[(", "1", "x"),
    "words": ("(", "a ", ""),
    "dots": ("[", "...", "x"),
    "thoughts without an end": ("", "</think", ""),
    "thoughts": ("", "</think>", ""),
    "empty lines": ("<", "\n", "x"),
    "lines of prose": ("", "a (b: ", ""),
    "lines of labels": ("", ":(", "x"),
    "rules before brackets": ("." * 110, "1(", "x"),
    "comments": ("[", "# a", ""),
    "comments in tuples": ("[(", '"a" # ', ""),
    "comments without an end": ("", "[/* ", ""),
    "stars of a comment": ("[/*", "*", ""),
    "full-width quotes": ("［（「", "」", ""),
    "commands": ('[("', "\\beta ", '", "x")]'),
    "mentions with commands": ("[", '("\\beta", "x"), ', "]"),
    "blanks of a refusal": ("I am", " ", "x"),
}


@pytest.mark.parametrize(("start", "piece", "end"), ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_the_time_grows_with_the_length_and_not_with_its_square(start, piece, end):
    def seconds(length):
        reply = start + piece * (length // len(piece)) + end
        begun = time.thread_time()
        judge_reply(reply, "stop", None, "We gave \\beta and more of it. " * 40)
        return time.thread_time() - begun

    # 16 times the length takes 16 times the time, 256 times where it is quadratic. The limit lies between, so
    # that a busy machine, which may slow one of the two, does not matter. Short times are noise.
    short = min(seconds(6_250) for _ in range(3))
    assert any(seconds(100_000) < max(64 * short, 0.3) for _ in range(3))


def test_a_short_list_of_types_is_given_to_each_mention_and_a_long_one_is_not_believed():
    mentions, types = [f"m{n}" for n in range(3000)], ["a", "b"]
    reply = json.dumps([{"entity": mentions, "type": types}])
    assert parse_reply(reply) == ParsedReply(tuple((mention, name) for mention in mentions for name in types))
    assert parse_reply(json.dumps([{"entity": mentions, "type": mentions}])) is None


def plain(reply):
    """The reply with its escapes undone, by another way than the parser's."""
    return re.sub(
        r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[\\'\"/bfnrt\n])",
        lambda match: (
            chr(int(match[1][1:], 16) % 0x110000)
            if len(match[1]) > 1
            else dict(zip("bfnrt\n", ["\b", "\f", "\n", "\r", "\t", ""], strict=True)).get(match[1], match[1])
        ),
        reply,
    )


# Pieces of replies, so that brackets and quotes meet in every order.
PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "[",
                "]",
                "(",
                ")",
                "{",
                "}",
                '"',
                "'",
                "“",
                "”",
                ",",
                ":",
                " ",
                "\n",
                "\\",
                '\\"',
                "```",
                "...",
                "1",
            ),
            *(
                "Ann",
                "person",
                "None",
                "entity",
                "type",
                "entities",
                '("Ann", "person")',
                "- ",
                "1. ",
                "</think>",
            ),
        ]
    ),
    max_size=40,
).map("".join)


@settings(deadline=None)
@given(st.one_of(st.text(), PIECES))
@example('[("a\\ud800", "b")]')
def test_no_reply_raises_and_nothing_is_invented(reply):
    parsed = parse_reply(reply)
    for text in (text for pair in (parsed.mentions if parsed else ()) for text in pair):
        assert any(text in source for source in (reply, plain(reply), plain(plain(reply))))
        text.encode()  # no half of a surrogate pair: it could not be stored


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(), st.text())))
def test_a_list_that_python_writes_is_read_back(pairs):
    assert parse_reply(repr(pairs)) == ParsedReply(tuple(pairs))


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=1), st.data())
def test_a_list_cut_anywhere_gives_its_first_pairs_or_nothing(pairs, data):
    whole = repr(pairs)
    parsed = parse_reply(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert parsed is None or (parsed.cut and parsed.mentions == tuple(pairs[: len(parsed.mentions)]))


JUNK = [
    "[", "(", "{", "['", "('", '["', "[(", "[('a', ", '("a"', "'", "' ' ", "',a", "[ ", "```", "\\", "{'a': ",
    "[1] ", "(a ", "[(a ", "- [x] ", "[“", "...", ", ", "</think>", "1. [",
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
def test_junk_takes_linear_time(junk):
    def lines_run(length):
        run = 0

        def trace(frame, event, argument):
            nonlocal run
            run += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            parse_reply(junk * (length // len(junk)))
        finally:
            sys.settrace(before)
        return run

    assert lines_run(20_000) < 6 * max(lines_run(4_000), 100)
