"""The worker that turns questions into predictions. No engine."""

import asyncio

from uniner.evaluate.scoring import score
from uniner.evaluate.system_pools import Predictor
from uniner.evaluate.systems_registry import _folder_name
from uniner.inference.questions import PassageAnswers, TypeAnswer
from uniner.records import QUESTION, Prediction, Question, from_table, to_table
from uniner.storage.stage_folder import Chunk


class Oracle:
    async def ask_all(self, questions):
        assert [text for text, _ in questions] == ["a", "b"]
        scores = {"city": {"Rome": 0.75, "Oslo": 0.5}, "drug": {}}
        return [
            PassageAnswers(tuple(TypeAnswer(name, "ok", scores[name], "[]") for name in types), {})
            for _, types in questions
        ]


def test_predictions_have_the_mentions_with_their_scores():
    asked = [("a", "city"), ("a", "drug"), ("b", "city")]
    questions = [
        Question(dataset="d", passage_id=text, text=text, type=name, gold=("Rome",)) for text, name in asked
    ]
    chunk = asyncio.run(Predictor.of(Oracle())(Chunk("k", to_table(questions, QUESTION))))
    rows = from_table(chunk.table, Prediction)
    assert [row.predicted for row in rows] == [("Rome", "Oslo"), (), ("Rome", "Oslo")]
    assert [row.scores for row in rows] == [(0.75, 0.5), (), (0.75, 0.5)]


def test_a_question_that_is_set_aside_stays_in_the_output_and_counts_as_broken():
    questions = [Question(dataset="d", passage_id="1", text="deadly", type="city", gold=("Rome",))]
    chunk = Predictor.of(Oracle()).set_aside(Chunk("k", to_table(questions, QUESTION)), "the reason")
    (row,) = from_table(chunk.table, Prediction)
    assert (row.outcome, row.predicted, row.gold) == ("poison", (), ("Rome",))
    assert chunk.rejects == [{"passage_id": "1", "type": "city", "reason": "the reason"}]
    assert score([row])["d"].broken == 1


def test_a_model_s_address_makes_a_folder_name_that_a_disk_takes():
    assert _folder_name("s3://bucket/a model") == "bucket--a--model"
    long = [f"s3://bucket/{'folder/' * 60}{end}" for end in "ab"]
    names = {_folder_name(address) for address in long}
    assert len(names) == 2 and all(len(name) <= 120 for name in names)
