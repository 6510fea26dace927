"""Every template parses what it renders, and a broken answer never looks empty."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniner.templates import (
    READ,
    SINGLE_TYPE,
    TEMPLATES,
    MultiTypeTemplate,
    ParsedAnswer,
    make_template,
    parse_settling_answer,
    render_conversation,
    settling_question,
)

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ANSWERS = st.dictionaries(WORDS, st.lists(WORDS, unique=True, max_size=4).map(tuple), min_size=1, max_size=9)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "words"])
@given(answers=ANSWERS, group_types=st.integers(2, 4))
def test_a_template_parses_what_it_renders(name, answers, group_types):
    template = make_template(name, group_types)
    groups, pairs = template.groups(list(answers)), template.render("", answers)
    assert [question for question, _ in pairs[: len(groups)]] == [
        template.question(group) for group in groups
    ]
    assert [template.types_of(question) for question, _ in pairs] == [
        *groups, *[None] * (len(pairs) - len(groups))
    ]  # fmt: skip
    parsed = {}
    for group, (_, answer) in zip(groups, pairs, strict=False):
        parsed |= template.parse(group, answer, "").mentions
    assert parsed == answers and list(parsed) == list(answers)


@given(answers=ANSWERS, group_types=st.integers(2, 4))
def test_grouped_asks_to_settle_a_mention_among_types_of_several_questions(answers, group_types):
    template = MultiTypeTemplate(group_types)
    groups, pairs = template.groups(list(answers)), template.render("", answers)
    settling = pairs[len(groups) :]
    assert len(settling) == (len(groups) > 1 and any(answers.values()))
    for question, answer in settling:
        mention, true_types = next(
            (mention, [name for name in answers if mention in answers[name]])
            for mentions in answers.values()
            for mention in mentions
        )
        types = json.loads(question[question.rindex("in the text? ") + len("in the text? ") :])
        assert question == settling_question(mention, types)
        assert list(parse_settling_answer(types, answer)) == true_types
        assert len({number for number, group in enumerate(groups) for name in types if name in group}) > 1


def test_prompts_are_word_for_word_the_published_ones_or_ours():
    answers = {"person": ["Ada"], "city": [], "river": ["Ada", "Po"]}
    assert render_conversation("Ada.", answers) == (
        {"from": "human", "value": "Text: Ada."},
        {"from": "gpt", "value": READ},
        {"from": "human", "value": "What describes person in the text?"},
        {"from": "gpt", "value": '["Ada"]'},
        {"from": "human", "value": "What describes city in the text?"},
        {"from": "gpt", "value": "[]"},
        {"from": "human", "value": "What describes river in the text?"},
        {"from": "gpt", "value": '["Ada", "Po"]'},
    )
    assert make_template("grouped", 2).render("Ada.", answers) == [
        ('What describes each of these in the text? ["person", "city"]', '{"person": ["Ada"]}'),
        ('What describes each of these in the text? ["river"]', '{"river": ["Ada", "Po"]}'),
        ('Which of these describe "Ada" in the text? ["person", "river"]', '["person", "river"]'),
    ]
    assert make_template("all_in_one", 2).render("Ada.", answers) == [
        (
            'What describes each of these in the text? ["person", "city", "river"]',
            '{"person": ["Ada"], "river": ["Ada", "Po"]}',
        )
    ]
    assert render_conversation("Ada.", {}, "wnut")[0]["value"] == "Dataset: wnut\n Text: Ada."


BROKEN = ["", "{", "[1]", "null", '"a"', "[" * 100_000, '["a"', "[] []"]


@pytest.mark.parametrize("answer", [*BROKEN, '{"t": ["a"]}'])
def test_an_answer_that_is_not_a_list_of_strings_is_broken(answer):
    assert SINGLE_TYPE.parse(["t"], answer, "") is None and parse_settling_answer(["a"], answer) is None
    assert SINGLE_TYPE.parse(["t"], "[]", "") == ParsedAnswer({"t": ()})
    assert SINGLE_TYPE.parse(["t"], '["a", "a"]', "") == ParsedAnswer({"t": ("a",)})


@pytest.mark.parametrize(
    "answer", [*BROKEN, "[]", '{"t": "a"}', '{"t": [1]}', '{"x": []}', '{"t": [], "t": ["a"]}', '{"t": null}']
)
def test_an_answer_that_is_not_an_object_of_the_types_is_broken(answer):
    assert MultiTypeTemplate().parse(["t", "u"], answer, "") is None
    parsed = MultiTypeTemplate().parse(["t", "u"], '{"t": ["a", "a"]}', "")
    assert parsed == ParsedAnswer({"t": ("a",), "u": ()})


def test_only_types_from_several_questions_conflict():
    mentions = {"a": ("x", "y"), "b": ("x", "z"), "c": ("y",), "d": ("w",)}
    assert MultiTypeTemplate(2).conflicts(mentions) == {"y": ("a", "c")}
    assert MultiTypeTemplate().conflicts(mentions) == SINGLE_TYPE.conflicts(mentions) == {}
