"""Each wrong and each missed mention gets one kind: passages worked out by hand."""

from uniner.evaluate.error_analysis import EXAMPLES, Mistake, MistakeCounts
from uniner.evaluate.scoring import score
from uniner.records import Prediction

TEXT = "The Bank of Oslo sued Ann Lee of Rome."


def answers(passage_id, text=TEXT, **types):
    """Make a passage's predictions: type = (predicted, gold), or (None, gold) of a broken answer."""
    return [
        Prediction(
            dataset="d",
            passage_id=passage_id,
            text=text,
            type=name,
            reply="[]" if predicted is not None else '["Bonn", "',
            predicted=tuple(predicted or ()),
            gold=tuple(gold),
            gold_spans=(),
            outcome="ok" if predicted is not None else "too_long",
        )
        for name, (predicted, gold) in types.items()
    ]


def test_every_mistake_gets_the_first_kind_that_holds():
    scores = score(
        answers(
            "1",
            person=(["Ann", "Rome", "Smith"], ["Ann Lee"]),  # boundary, confused, not in the text
            city=(["Oslo"], ["Rome", "Bonn"]),  # made up; Rome answered as a person, Bonn overlooked
            company=(["the bank of oslo"], ["Bank of Oslo"]),  # right
            country=(None, ["Norway"]),  # broken
        )
    )["d"]
    errors = scores.errors
    assert errors.types == {
        "city": MistakeCounts(wrong={"made_up": 1}, missed={"confused": 1, "overlooked": 1}),
        "country": MistakeCounts(wrong={}, missed={"broken": 1}),
        "person": MistakeCounts(
            wrong={"boundary": 1, "confused": 1, "not_in_text": 1}, missed={"boundary": 1}
        ),
    }
    assert errors.confusions == {"person": {"city": 1}}
    assert sum(errors.wrong.values()) == scores.fp == 4
    assert sum(errors.missed.values()) == scores.fn == 4

    def example(predicted, gold):
        return (Mistake(passage_id="1", text=TEXT, predicted=predicted, gold=gold),)

    assert errors.examples == {
        "boundary": {"person": example("Ann", "ann lee")},
        "broken": {"country": example('["Bonn", "', "Norway")},
        "confused": {"person": example("Rome", "city")},
        "made_up": {"city": example("Oslo", "")},
        "not_in_text": {"person": example("Smith", "")},
        "overlooked": {"city": example("", "Bonn")},
    }


def test_confusions_are_within_a_passage_and_of_mentions_in_its_text():
    first = answers("1", text="Ann left.", person=([], ["Ann"]), city=([], []))
    second = answers("2", text="Rome.", person=(["Ann"], []), city=(["Rome"], ["Rome"]))
    errors = score(first + second)["d"].errors
    assert (errors.wrong, errors.missed) == ({"not_in_text": 1}, {"overlooked": 1})
    assert errors.confusions == {}


def test_examples_are_few_and_show_the_part_of_a_long_passage_around_the_mention():
    long = f"{'word ' * 200}Oslo {'word ' * 200}"
    rows = [row for number in range(9) for row in answers(f"{number}", text=long, city=(["Oslo"], []))]
    scores = score(rows)["d"]
    examples = scores.errors.examples["made_up"]["city"]
    assert [example.passage_id for example in examples] == ["0", "1", "2"] and len(examples) == EXAMPLES
    text = examples[0].text
    assert "Oslo" in text and len(text) < 250
    assert text.startswith("…") and text.endswith("…")
    assert scores.errors.wrong == {"made_up": 9}
    brief = scores.without_examples()
    assert brief.errors.examples == {} and brief.errors.wrong == {"made_up": 9}
    assert scores.errors.examples
