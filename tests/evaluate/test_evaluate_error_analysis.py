"""Each wrong and each missed mention is of one kind: passages worked by hand."""

from uniner.evaluate.error_analysis import EXAMPLES
from uniner.evaluate.scoring import score, without_examples
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
            reply="[]" if said is not None else '["Bonn", "',
            predicted=tuple(said or ()),
            gold=tuple(gold),
            gold_spans=(),
            outcome="ok" if said is not None else "too_long",
        )
        for name, (said, gold) in types.items()
    ]


def test_every_mistake_is_of_the_first_kind_that_holds():
    found = score(
        answers(
            "1",
            person=(["Ann", "Rome", "Smith"], ["Ann Lee"]),  # boundary, confused, not in the text
            city=(["Oslo"], ["Rome", "Bonn"]),  # made up; one said to be a person, one overlooked
            company=(["the bank of oslo"], ["Bank of Oslo"]),  # right
            country=(None, ["Norway"]),  # broken
        )
    )["d"]
    errors = found["errors"]
    assert errors["types"] == {
        "city": {"wrong": {"made_up": 1}, "missed": {"confused": 1, "overlooked": 1}},
        "country": {"wrong": {}, "missed": {"broken": 1}},
        "person": {"wrong": {"boundary": 1, "confused": 1, "not_in_text": 1}, "missed": {"boundary": 1}},
    }
    assert errors["confusions"] == {"person": {"city": 1}}
    assert sum(errors["wrong"].values()) == found["fp"] == 4
    assert sum(errors["missed"].values()) == found["fn"] == 4
    shown = {"passage_id": "1", "text": TEXT}
    assert errors["examples"] == {
        "boundary": {"person": [{**shown, "predicted": "Ann", "gold": "ann lee"}]},
        "broken": {"country": [{**shown, "predicted": '["Bonn", "', "gold": "Norway"}]},
        "confused": {"person": [{**shown, "predicted": "Rome", "gold": "city"}]},
        "made_up": {"city": [{**shown, "predicted": "Oslo", "gold": ""}]},
        "not_in_text": {"person": [{**shown, "predicted": "Smith", "gold": ""}]},
        "overlooked": {"city": [{**shown, "predicted": "", "gold": "Bonn"}]},
    }


def test_a_type_is_not_confused_over_passages_and_what_is_absent_is_no_confusion():
    one = answers("1", text="Ann left.", person=([], ["Ann"]), city=([], []))
    two = answers("2", text="Rome.", person=(["Ann"], []), city=(["Rome"], ["Rome"]))
    errors = score(one + two)["d"]["errors"]
    assert (errors["wrong"], errors["missed"]) == ({"not_in_text": 1}, {"overlooked": 1})
    assert errors["confusions"] == {}


def test_examples_are_few_and_show_the_piece_of_a_long_passage_about_the_mention():
    long = f"{'word ' * 200}Oslo {'word ' * 200}"
    rows = [row for number in range(9) for row in answers(f"{number}", text=long, city=(["Oslo"], []))]
    scores = score(rows)
    shown = scores["d"]["errors"]["examples"]["made_up"]["city"]
    assert [each["passage_id"] for each in shown] == ["0", "1", "2"] and len(shown) == EXAMPLES
    assert "Oslo" in shown[0]["text"] and len(shown[0]["text"]) < 250
    assert shown[0]["text"].startswith("…") and shown[0]["text"].endswith("…")
    assert scores["d"]["errors"]["wrong"] == {"made_up": 9}
    brief = without_examples(scores)["d"]
    assert "examples" not in brief["errors"] and brief["errors"]["wrong"] == {"made_up": 9}
    assert "examples" in scores["d"]["errors"]
