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
