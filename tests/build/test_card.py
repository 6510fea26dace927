"""The data card names the texts that the teacher wrote, and how types are asked for."""

from collections import Counter

from uniner.build.card import CardFacts, TeacherFacts, render

FACTS = {
    "run": "a",
    "seed": 0,
    "negatives": "frequency",
    "teacher": TeacherFacts(model="some-teacher", temperature=0.0, prompt="List the entities.\n{passage}"),
}
DOMAINS = {"contract law": 30, "beekeeping": 25}


def test_the_card_says_which_texts_the_teacher_wrote():
    plain = render(CardFacts(**FACTS), {"conversations": 3}, Counter(), Counter())
    generated = render(CardFacts(**FACTS, domains=DOMAINS), {}, Counter(), Counter())
    assert "wrote passages" not in plain
    assert (
        "\n\nThe teacher also wrote passages about the domains contract law (30), beekeeping (25)"
        in generated
    )


def test_names_and_the_prompt_are_text():
    teacher = TeacherFacts(model="a`b", temperature=0.0, prompt="<b>{passage}")
    hostile = "<img src=x onerror=alert(1)>|`x`\n# y"
    facts = CardFacts(**{**FACTS, "teacher": teacher}, supervised=(hostile,), domains={hostile: 2})
    card = render(facts, {f"from_{hostile}": 2}, Counter(), Counter())
    escaped = "&lt;img src=x onerror=alert(1)&gt;\\|\\`x\\` # y"
    assert f"| {escaped} | 2 |" in card and f"the domains {escaped} (2)" in card
    assert "Model ``a`b``" in card and "> &lt;b>{passage}" in card
    assert "<img" not in card and "<b>" not in card


def test_the_card_counts_questions_by_how_their_types_are_asked():
    facts = CardFacts(run="r", seed=0, negatives="frequency", near_synonyms_skipped=True)
    counts = {"asked_by_name": 5, "asked_by_synonym": 6, "asked_by_description": 7}
    text = render(facts, counts, Counter(), Counter())
    assert "by name (5), by a synonym (6) or by name with a description\n(7)" in text
    assert "A type that is a synonym of another by its description is no negative beside it." in text
    assert "by a synonym" not in render(facts, {}, Counter(), Counter())
