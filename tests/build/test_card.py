"""The data card names the texts that the teacher wrote."""

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
