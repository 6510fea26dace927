"""Scores of whole data sets against examples worked by hand."""

import pytest

from uniner.evaluate.scoring import Scores, score
from uniner.grounding import locate
from uniner.metrics.protocols import PROTOCOLS
from uniner.records import Prediction, Span

TEXT = "Ann and Eve saw Paris, Rome, Oslo, X and The Hague."


def prediction(
    passage_id, type_name, predicted, gold, outcome="ok", dataset="d", scores=(), text=TEXT, spans=()
):
    gold_spans = tuple(
        Span(start=span[0], end=span[1]) for mention in gold for span in locate(text, mention)[0]
    )
    reply = "[]" if not predicted else str(list(predicted)).replace("'", '"')
    return Prediction(
        dataset=dataset,
        passage_id=passage_id,
        text=text,
        type=type_name,
        reply=reply,
        predicted=tuple(predicted),
        gold=tuple(gold),
        gold_spans=gold_spans,
        outcome=outcome,
        scores=scores,
        spans=spans,
    )


def test_micro_over_all_questions_per_type_and_broken_answers_count_as_no_prediction():
    found = score(
        [
            prediction("1", "city", ["Paris", "Rome"], ["paris"]),  # 1 right, 1 too many
            prediction("1", "person", [], ["Ann"]),  # 1 missed
            prediction("2", "city", ["Oslo"], ["Oslo"], outcome="too_long"),  # broken: 1 missed
            prediction("2", "person", [], [], outcome="unparseable"),  # broken, nothing to find
            prediction("9", "city", ["X"], ["X"], dataset="other"),
        ]
    )
    assert list(found) == ["d", "other"]
    one = found["d"]
    assert (one["tp"], one["fp"], one["fn"]) == (1, 1, 2)
    assert one["precision"] == 0.5
    assert one["recall"] == pytest.approx(1 / 3, abs=1e-11)
    assert one["f1"] == 0.4
    assert (one["passages"], one["questions"], one["broken"]) == (2, 4, 2)
    assert one["outcomes"] == {"ok": 2, "too_long": 1, "unparseable": 1}
    assert one["types"]["city"]["f1"] == 0.5
    assert one["types"]["person"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "tp": 0,
        "fp": 0,
        "fn": 1,
    }
    assert found["other"]["f1"] == 1.0
    assert found["other"]["interval"] == [1.0, 1.0]


def test_every_protocol_counts_the_same_answers_in_its_own_way():
    text = "Rome is near Rome; Ann Lee left New York."
    found = score(
        [
            prediction("1", "city", ["Rome", "York"], ["Rome", "New York"], text=text),
            prediction("1", "person", ["Ann", "Bo"], ["Ann Lee"], text=text),
            prediction("1", "river", ["York"], [], text=text),
            prediction("2", "city", [], [], text="Nothing."),
            prediction("2", "person", ["Rome"], ["Ann"], outcome="too_long", text="Ann."),
        ]
    )["d"]
    figures = found["protocols"]
    assert PROTOCOLS.keys() - figures.keys() == {"strict_with_else"}

    def counts(name):
        return figures[name]["tp"], figures[name]["fp"], figures[name]["fn"]

    assert counts("strict") == (1, 4, 3) == (found["tp"], found["fp"], found["fn"])
    assert counts("released") == (1, 5, 3)  # it takes the list of a broken reply
    assert counts("partial") == (2, 3, 2)
    # Both Romes, York inside New York (not its span), Ann (not that of Ann Lee), and Bo, who is nowhere.
    assert counts("span") == (2, 4, 3)
    assert counts("strict_present") == (1, 3, 3)  # the river does not count
    assert (figures["strict_present"]["questions"], figures["strict"]["questions"]) == (3, 5)
    assert {name: each["broken"] for name, each in figures.items()} == dict.fromkeys(figures, 1)
    # Passage 1: tp 1, fp 4, fn 2; passage 2: 0, 0, 1.
    assert figures["strict_by_passage"]["f1"] == pytest.approx((2 / 8 + 0) / 2)
    assert figures["strict_by_passage"]["precision"] == pytest.approx((1 / 5 + 0) / 2)
    for each in figures.values():
        assert each["interval"][0] <= each["f1"] <= each["interval"][1]


def test_spans_that_a_system_tells_are_taken_as_they_are():
    text = "Rome, Rome."
    gold = prediction("1", "city", [], ["Rome"], text=text).gold_spans
    assert gold == (Span(start=0, end=4), Span(start=6, end=10))
    told = prediction("1", "city", ["Rome"], ["Rome"], text=text, spans=(Span(start=6, end=10),))
    figures = score([told])["d"]["protocols"]
    assert (figures["span"]["tp"], figures["span"]["fp"], figures["span"]["fn"]) == (1, 0, 1)
    assert figures["strict"]["f1"] == 1


def test_else_types_count_in_a_protocol_of_their_own_and_nowhere_else():
    plain = [prediction("1", "city", ["Rome"], ["Rome"]), prediction("2", "city", ["Ann"], [])]
    other = prediction("1", "MISC", ["Oslo"], ["Paris"])
    without, with_else = score(plain)["d"], score([plain[0], other, plain[1]])["d"]
    else_figures = with_else["protocols"].pop("strict_with_else")
    assert without == with_else
    assert (else_figures["tp"], else_figures["fp"], else_figures["fn"]) == (1, 2, 1)
    assert (else_figures["questions"], without["questions"]) == (3, 2)


def test_by_length_passages_are_counted_with_those_of_their_length():
    rows = [
        prediction("1", "city", ["Rome"], ["Rome"], text="Rome " * 15),
        prediction("2", "city", [], ["Rome"], text="Rome " * 16),
        prediction("3", "city", ["Rome"], ["Rome"], text="Rome " * 31),
        prediction("3", "river", [], [], text="Rome " * 31),
        prediction("4", "city", ["Rome"], [], text="Rome " * 999),
    ]
    found = [
        (one["words"], one["passages"], one["questions"], one["f1"]) for one in score(rows)["d"]["by_length"]
    ]
    assert found == [([0, 15], 1, 1, 1.0), ([16, 31], 2, 3, pytest.approx(2 / 3)), ([256, None], 1, 1, 0.0)]


def test_the_passages_counts_add_up_to_the_score():
    rows = [
        prediction("1", "city", ["Rome", "X"], ["Rome"]),
        prediction("1", "river", [], ["Oslo"]),
        prediction("2", "city", [], [], text="No, none."),
        prediction("1", "city", ["X"], [], dataset="other"),
    ]
    table = Scores(rows).passages().to_pylist()
    assert table == [
        {"dataset": "d", "passage_id": "1", "words": 11, "tp": 1, "fp": 1, "fn": 1},
        {"dataset": "d", "passage_id": "2", "words": 2, "tp": 0, "fp": 0, "fn": 0},
        {"dataset": "other", "passage_id": "1", "words": 11, "tp": 0, "fp": 1, "fn": 0},
    ]
    assert Scores([]).passages().num_rows == 0


def test_a_passage_s_answers_must_stand_together():
    rows = [
        prediction("1", "city", [], []),
        prediction("2", "city", [], []),
        prediction("1", "river", [], []),
    ]
    with pytest.raises(ValueError, match="the answers to passage 1 of d do not stand together"):
        score(rows)


def test_scores_of_mentions_are_held_against_what_is_right():
    told = [
        prediction(f"{n}", "city", ["The Hague", "Rome"], ["hague"], scores=(0.9, 0.5)) for n in range(40)
    ]
    found = score([*told, prediction("x", "city", ["Oslo"], [], outcome="too_long", scores=(0.1,))])["d"]
    assert found["calibration"]["mentions"] == 80
    assert found["calibration"]["expected_error"] == pytest.approx(0.3)
    assert found["calibration"]["expected_error_calibrated"] < 0.1 < found["calibration"]["slope"]
    assert score([prediction("1", "city", [], ["Rome"])])["d"]["calibration"] is None
