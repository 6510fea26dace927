"""Types are asked for by name, synonym or name with description, never by words for another type."""

from collections import Counter
from dataclasses import replace

import pytest

from uniner.build.conversations import ConversationSettings, NegativeSampler, passage_conversations
from uniner.build.type_forms import TypeForms, with_synonyms
from uniner.templates import SINGLE_TYPE, MultiTypeTemplate, WordsTemplate
from uniner.type_descriptions import TypeDescription

DESCRIPTIONS = {
    "movie": TypeDescription(description="a motion picture by its title", synonyms=("film", "picture")),
    "image": TypeDescription(description="a drawing or photo", synonyms=("picture",)),
    "city": TypeDescription(description="a large town", synonyms=("location", "town")),
    "person": TypeDescription(description="a human being"),
}
FORMS = TypeForms(descriptions=DESCRIPTIONS, synonym_share=0.5, description_share=0.25, seed=3)


def drawn(forms, present, absent=(), passages=4000):
    return [forms.asked(f"p{number}", present, absent) for number in range(passages)]


def test_forms_are_drawn_by_their_shares_and_the_same_in_any_order():
    forms = Counter(asked["movie"] for asked in drawn(FORMS, ["movie"]))
    shares = {form: count / 4000 for form, count in forms.items()}
    assert shares == {
        "movie": pytest.approx(0.25, abs=0.03),
        "film": pytest.approx(0.25, abs=0.03),
        "picture": pytest.approx(0.25, abs=0.03),
        "movie (a motion picture by its title)": pytest.approx(0.25, abs=0.03),
    }
    assert {asked["person"] for asked in drawn(FORMS, ["person"], passages=200)} == {
        "person", "person (a human being)",
    }, "a type without synonyms is not asked for by one"  # fmt: skip
    assert FORMS.asked("p7", ["movie", "city"], ["person"]) == FORMS.asked(
        "p7", ["city", "movie"], ["person"]
    )
    assert drawn(FORMS, ["movie"], passages=50) != drawn(replace(FORMS, seed=4), ["movie"], passages=50)
    assert drawn(TypeForms(), ["movie"], ["city"], 5) == [{"movie": "movie", "city": "city"}] * 5


def test_no_synonym_is_drawn_that_means_another_type_of_the_passage():
    def ways(name, present, absent=(), **changes):
        return {asked[name] for asked in drawn(replace(FORMS, **changes), present, absent, 300)}

    assert "picture" in ways("movie", ["movie"])
    assert "film" not in ways("movie", ["movie", "film"])
    assert "film" not in ways("movie", ["movie"], ["film"]), "two questions would be the same"
    assert "picture" not in ways("movie", ["image"], ["movie"]), "the passage's image is a picture"
    near = {"country": {"location"}, "location": {"country"}}
    assert "location" in ways("city", ["city", "country"])
    assert "location" not in ways("city", ["city", "country"], near=near), "a country is a location too"
    for absent in (["movie", "image"], ["person", "person (a human being)"]):
        for asked in drawn(FORMS, [], absent, 300):
            assert len({*asked.values()}) == 2


def conversations(in_validation=False, **changes):
    settings = ConversationSettings(3, validation_share=float(in_validation), forms=FORMS, **changes)
    sampler = NegativeSampler({"movie": 5, "city": 9, "person": 3}, "uniform")
    return [
        each
        for number in range(60)
        for each in passage_conversations(
            f"p{number}",
            "Ann saw Heat.",
            {"movie": ("Heat",)},
            sampler,
            settings,
            spans={"movie": ((8, 12),)},
        )
    ]


@pytest.mark.parametrize("template", [SINGLE_TYPE, MultiTypeTemplate(2), WordsTemplate()])
def test_answers_and_the_types_of_a_conversation_stay_as_they_are(template):
    asked = Counter()
    for conversation in conversations(template=template):
        assert conversation.positive_types == ("movie",)
        turns = [turn["value"] for turn in conversation.conversations]
        answers = {}
        for question, answer in zip(turns[2::2], turns[3::2], strict=True):
            types = template.types_of(question)
            if types:
                answers |= template.parse(types, answer, "Ann saw Heat.").mentions
        (found,) = [name for name, mentions in answers.items() if mentions == ("Heat",)]
        assert found in ("movie", "film", "picture", "movie (a motion picture by its title)")
        assert len(answers) == 2
        asked.update(answers.keys())
    assert len(asked) > 6
    counts = FORMS.count(conversations(template=template), template)
    assert sum(counts.values()) == 120
    assert min(counts[f"asked_by_{form}"] for form in ("name", "synonym", "description")) > 15


def test_validation_asks_by_name_and_without_descriptions_nothing_is_counted():
    for conversation in conversations(in_validation=True):
        questions = {turn["value"] for turn in conversation.conversations[2::2]}
        names = (*conversation.positive_types, *conversation.negative_types)
        assert questions == {SINGLE_TYPE.question([name]) for name in names}
    assert TypeForms().count(conversations(), SINGLE_TYPE) == {}


def test_types_that_a_description_calls_synonyms_are_near_ones():
    near = with_synonyms({"a": {"b"}}, ["movie", "film", "a", "b"], DESCRIPTIONS)
    assert near == {"a": {"b"}, "movie": {"film"}, "film": {"movie"}}
