"""The worker that turns questions into predictions, and an encoder as a worker. No engine."""

import asyncio
from itertools import pairwise

import pytest

from uniner.config.schema import EngineSection, Evaluate, Student
from uniner.evaluate.scoring import score
from uniner.evaluate.speeds import measured_speed
from uniner.evaluate.system_pools import Predictor, system_pool
from uniner.evaluate.systems_registry import _folder_name, choose_systems
from uniner.inference.questions import PassageAnswers, TypeAnswer
from uniner.records import QUESTION, Prediction, Question, from_table, to_table
from uniner.storage.folder import Folder
from uniner.storage.manifest import merge
from uniner.storage.stage_folder import Chunk, StageFolder


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


def test_an_encoder_answers_at_its_threshold_and_by_its_overlap_rule(trained_encoder, tmp_path):
    trained_encoder(tmp_path, threshold=0.45)
    types = ("city", "person", "river")
    questions = [
        Question(dataset="d", passage_id=text, text=text, type=name, gold=())
        for text in ("Ann Lee of Velmora met Bo in Tarn.", "Bo left.")
        for name in types
    ]
    names = {"own": {}, "low": {"threshold": 0.2}, "all": {"overlaps": "keep", "types_per_pass": 2}}
    system = {name: {"kind": "encoder", "model": "encoder", **more} for name, more in names.items()}
    engine = EngineSection(gpus=0, dtype="float32")
    specs = choose_systems(
        Evaluate(systems=[*names], system=system), engine, Student(base="b"), Folder(str(tmp_path)), 0
    )
    found, figures = {}, {}
    for name, spec in specs.items():
        with system_pool(spec, StageFolder(f"{tmp_path}/{name}"), {"k": 6}, {}, str(tmp_path)) as pool:
            chunk = asyncio.run(pool.make_worker()(Chunk("k", to_table(questions, QUESTION))))
        found[name], figures[name] = from_table(chunk.table, Prediction), chunk.figures
    for rows in found.values():
        assert [(row.passage_id, row.type, row.outcome) for row in rows] == [
            (question.passage_id, question.type, "ok") for question in questions
        ]
        assert all(row.text[span.start : span.end] in row.predicted for row in rows for span in row.spans)
    lowest = {name: min(each for row in rows for each in row.scores) for name, rows in found.items()}
    assert lowest["own"] > 0.45 > lowest["low"] > 0.2
    spans = {
        name: [(span.start, span.end) for row in rows[:3] for span in row.spans]
        for name, rows in found.items()
    }
    ordered = sorted(spans["own"])
    assert all(end <= start for (_, end), (start, _) in pairwise(ordered))
    assert len(spans["all"]) > len(spans["own"])
    assert figures["all"]["passes"] == 2 and "passes" not in figures["own"]
    assert figures["own"]["passages"] == 2 and figures["own"]["engine_seconds"] > 0


class Slow:
    """Answers the first chunk asked only after the second."""

    def __init__(self, now):
        self.now, self.second = now, asyncio.Event()

    async def ask_all(self, questions):
        if questions[0][0] == "first":
            await self.second.wait()
            self.now[0] += 1.0
        else:
            self.now[0] += 5.0
            self.second.set()
        return [PassageAnswers((TypeAnswer("city", "ok", {}),), {"questions": 1}) for _ in questions]


def test_chunks_that_are_in_work_together_count_their_seconds_once(monkeypatch, tmp_path):
    now = [100.0]
    monkeypatch.setattr("uniner.evaluate.speeds.time.monotonic", lambda: now[0])

    async def work():
        predict = Predictor.of(Slow(now))
        chunks = [
            Chunk(
                text,
                to_table([Question(dataset="d", passage_id="1", text=text, type="city", gold=())], QUESTION),
            )
            for text in ("first", "second")
        ]
        done = await asyncio.gather(*map(predict, chunks))
        now[0] += 50.0  # idle
        return [*done, await predict(chunks[1])]

    chunks = asyncio.run(work())
    assert [chunk.figures["engine_seconds"] for chunk in chunks] == [1.0, 5.0, 5.0]
    engine = EngineSection(gpus=2, usd_per_gpu_hour=3.6)
    (system,) = choose_systems(
        Evaluate(systems=["base"]), engine, Student(base="b"), Folder(str(tmp_path)), 0
    ).values()
    speed = measured_speed(system, merge(chunk.figures for chunk in chunks))
    assert (speed.runs_on, speed.passages_per_s) == ("2 GPUs", pytest.approx(3 / 11))
    assert speed.usd_per_million == pytest.approx(2 * 3.6 * 11 / 3600 / 3 * 1e6)
    assert measured_speed(system, {"questions": 6}) is None  # answered before chunks were timed
