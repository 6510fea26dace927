"""Scores of whole data sets, against examples worked out by hand."""

import json

import pytest

from uniner.evaluate.scoring import DatasetScores, SystemScorer, score
from uniner.grounding import locate
from uniner.metrics.counts import F1Score
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
    by_dataset = score(
        [
            prediction("1", "city", ["Paris", "Rome"], ["paris"]),  # 1 right, 1 too many
            prediction("1", "person", [], ["Ann"]),  # 1 missed
            prediction("2", "city", ["Oslo"], ["Oslo"], outcome="too_long"),  # broken: 1 missed
            prediction("2", "person", [], [], outcome="unparseable"),  # broken, nothing to find
            prediction("9", "city", ["X"], ["X"], dataset="other"),
        ]
    )
    assert list(by_dataset) == ["d", "other"]
    scores = by_dataset["d"]
    assert (scores.tp, scores.fp, scores.fn) == (1, 1, 2)
    assert scores.precision == 0.5
    assert scores.recall == pytest.approx(1 / 3, abs=1e-11)
    assert scores.f1 == 0.4
    assert (scores.passages, scores.questions, scores.broken) == (2, 4, 2)
    assert scores.outcomes == {"ok": 2, "too_long": 1, "unparseable": 1}
    assert scores.types["city"].f1 == 0.5
    assert scores.types["person"] == F1Score(precision=0.0, recall=0.0, f1=0.0, tp=0, fp=0, fn=1)
    assert by_dataset["other"].f1 == 1.0
    assert by_dataset["other"].interval == (1.0, 1.0)


def test_scores_survive_json():
    rows = [prediction("1", "city", ["Paris", "Rome"], ["paris"], scores=(0.9, 0.5))]
    scores = score([*rows, prediction("2", "person", ["Ann"], ["Eve"], scores=(0.1,))])["d"]
    assert scores.errors.examples and scores.calibration
    value = scores.to_json()
    assert json.loads(json.dumps(value)) == value
    assert DatasetScores.from_json(value) == scores


def test_every_protocol_counts_the_same_answers_by_its_own_rule():
    text = "Rome is near Rome; Ann Lee left New York."
    scores = score(
        [
            prediction("1", "city", ["Rome", "York"], ["Rome", "New York"], text=text),
            prediction("1", "person", ["Ann", "Bo"], ["Ann Lee"], text=text),
            prediction("1", "river", ["York"], [], text=text),
            prediction("2", "city", [], [], text="Nothing."),
            prediction("2", "person", ["Rome"], ["Ann"], outcome="too_long", text="Ann."),
        ]
    )["d"]
    protocols = scores.protocols
    assert PROTOCOLS.keys() - protocols.keys() == {"strict_with_else", "paraphrase"}

    def counts(name):
        return protocols[name].tp, protocols[name].fp, protocols[name].fn

    assert counts("strict") == (1, 4, 3) == (scores.tp, scores.fp, scores.fn)
    assert counts("released") == (1, 5, 3)  # it reads the list of a broken reply
    assert counts("partial") == (2, 3, 2)
    # Both Romes, York inside New York (another span), Ann (not that of Ann Lee), and Bo, who does not occur.
    assert counts("span") == (2, 4, 3)
    assert counts("strict_present") == (1, 3, 3)  # the river does not count
    assert (protocols["strict_present"].questions, protocols["strict"].questions) == (3, 5)
    assert {name: found.broken for name, found in protocols.items()} == dict.fromkeys(protocols, 1)
    # Passage 1: tp 1, fp 4, fn 2; passage 2: 0, 0, 1.
    assert protocols["strict_by_passage"].f1 == pytest.approx((2 / 8 + 0) / 2)
    assert protocols["strict_by_passage"].precision == pytest.approx((1 / 5 + 0) / 2)
    for protocol_score in protocols.values():
        assert protocol_score.interval[0] <= protocol_score.f1 <= protocol_score.interval[1]


def test_spans_that_a_system_returns_are_used_as_they_are():
    text = "Rome, Rome."
    gold = prediction("1", "city", [], ["Rome"], text=text).gold_spans
    assert gold == (Span(start=0, end=4), Span(start=6, end=10))
    second = prediction("1", "city", ["Rome"], ["Rome"], text=text, spans=(Span(start=6, end=10),))
    protocols = score([second])["d"].protocols
    assert (protocols["span"].tp, protocols["span"].fp, protocols["span"].fn) == (1, 0, 1)
    assert protocols["strict"].f1 == 1


def test_else_types_count_only_in_a_protocol_of_their_own():
    plain = [prediction("1", "city", ["Rome"], ["Rome"]), prediction("2", "city", ["Ann"], [])]
    other = prediction("1", "MISC", ["Oslo"], ["Paris"])
    without, with_else = score(plain)["d"], score([plain[0], other, plain[1]])["d"]
    else_score = with_else.protocols.pop("strict_with_else")
    assert without == with_else
    assert (else_score.tp, else_score.fp, else_score.fn) == (1, 2, 1)
    assert (else_score.questions, without.questions) == (3, 2)


def test_scores_by_length_of_the_passage():
    rows = [
        prediction("1", "city", ["Rome"], ["Rome"], text="Rome " * 15),
        prediction("2", "city", [], ["Rome"], text="Rome " * 16),
        prediction("3", "city", ["Rome"], ["Rome"], text="Rome " * 31),
        prediction("3", "river", [], [], text="Rome " * 31),
        prediction("4", "city", ["Rome"], [], text="Rome " * 999),
    ]
    lengths = [
        (length.words, length.passages, length.questions, length.f1) for length in score(rows)["d"].by_length
    ]
    assert lengths == [((0, 15), 1, 1, 1.0), ((16, 31), 2, 3, pytest.approx(2 / 3)), ((256, None), 1, 1, 0.0)]


def test_the_passages_counts_add_up_to_the_score():
    rows = [
        prediction("1", "city", ["Rome", "X"], ["Rome"]),
        prediction("1", "river", [], ["Oslo"]),
        prediction("2", "city", [], [], text="No, none."),
        prediction("1", "city", ["X"], [], dataset="other"),
    ]
    table = SystemScorer(rows).passages().to_pylist()
    assert table == [
        {"dataset": "d", "passage_id": "1", "words": 11, "tp": 1, "fp": 1, "fn": 1},
        {"dataset": "d", "passage_id": "2", "words": 2, "tp": 0, "fp": 0, "fn": 0},
        {"dataset": "other", "passage_id": "1", "words": 11, "tp": 0, "fp": 1, "fn": 0},
    ]
    assert SystemScorer([]).passages().num_rows == 0


def test_answers_of_a_passage_must_follow_one_another():
    rows = [
        prediction("1", "city", [], []),
        prediction("2", "city", [], []),
        prediction("1", "river", [], []),
    ]
    with pytest.raises(ValueError, match="the answers to passage 1 of d do not follow one another"):
        score(rows)


def test_calibration_of_mention_scores():
    rows = [
        prediction(f"{n}", "city", ["The Hague", "Rome"], ["hague"], scores=(0.9, 0.5)) for n in range(40)
    ]
    broken = prediction("x", "city", ["Oslo"], [], outcome="too_long", scores=(0.1,))
    calibration = score([*rows, broken])["d"].calibration
    assert calibration.mentions == 80
    assert calibration.expected_error == pytest.approx(0.3)
    assert calibration.expected_error_calibrated < 0.1 < calibration.slope
    assert score([prediction("1", "city", [], ["Rome"])])["d"].calibration is None
    with pytest.raises(ValueError, match="passage 1 of d: 1 scores for 2 mentions of type city"):
        score([prediction("1", "city", ["Rome", "Oslo"], [], scores=(0.1,))])


def test_thresholds_are_proposed_by_type_from_the_mentions_scores():
    rows = [
        prediction(f"{n}", kind, ["The Hague", "Rome"], ["hague"], scores=(0.9, low))
        for n in range(40)
        for kind, low in (("city", 0.5), ("place", 0.9))
    ]
    scored = score(rows)["d"]
    (name,) = scored.thresholds
    assert name == "city" and 0.5 < scored.thresholds[name].threshold <= 0.9
    assert scored.thresholds[name].f1 == 1
    assert DatasetScores.from_json(scored.to_json()) == scored
    assert list(SystemScorer(rows, 0.9).scores()["d"].thresholds) == ["city"], "no threshold helps place"
    assert SystemScorer(rows, 0.4).scores()["d"].thresholds == {}, "all are precise enough"
