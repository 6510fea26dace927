"""Students are scored with 8 bits and without, and tag checks how far F1 falls. No engine."""

import asyncio
import json
from dataclasses import asdict

import pytest

from uniner.config.schema import EngineSection
from uniner.errors import UserError
from uniner.evaluate import stage, system_pools
from uniner.evaluate.system_pools import Predictor
from uniner.inference.fp8_gate import answer_identity, require_f1
from uniner.inference.questions import PassageAnswers, TypeAnswer
from uniner.storage.model_folders import StudentFacts, model_digest
from uniner.storage.stage_folder import Identity, Manifest, StageFolder
from uniner.tag import stage as tag

FP8 = {"quantization": "fp8", "kv_cache_dtype": "fp8"}


class DegradedSystem:
    """Finds the person; with 8 bits it misses the person in one passage of ten."""

    def __init__(self, settings):
        self.worse = settings.quantization is not None

    async def ask_all(self, questions):
        return [
            PassageAnswers(tuple(TypeAnswer(name, "ok", self.mentions(text), "") for name in types), {})
            for text, types in questions
        ]

    def mentions(self, text):
        return {} if self.worse and text.endswith("7") else {"Ann": 0.5}


@pytest.fixture
def run(tmp_path, base, make_engine_config, stage_context, complete_stage, monkeypatch):
    """Return a function that evaluates this run's student with stand-ins for engines."""
    student = StageFolder(str(tmp_path)) / "r" / "train" / "student"
    facts = StudentFacts(template="type", max_tokens=512, base=str(base), types=("person",))
    student.write_json("uniner.json", asdict(facts))
    student.write_json("config.json", {})
    student.write_json("tokenizer.json", {})
    student.write("model.safetensors", b"weights")
    complete_stage(StageFolder(str(tmp_path)) / "r" / "train")
    gold = tmp_path / "gold.jsonl"
    person = [{"start": 0, "end": 3, "text": "Ann", "type": "person"}]
    gold.write_text("\n".join(json.dumps({"text": f"Ann {n}", "entities": person}) for n in range(10)))
    made_with = []

    def make(model, template, settings):
        made_with.append(settings)
        return Predictor.of(DegradedSystem(settings))

    def run_stage(folder, identity, sources, *, read, pool, unit, name):
        if folder.begin(identity):
            return
        worker = pool.make_worker()
        chunks = [asyncio.run(worker(read(source.key))) for source in sources]
        folder.write_manifest(Manifest.of(identity, [folder.write_chunk(chunk) for chunk in chunks], 0.0))

    monkeypatch.setattr(system_pools, "make_predictor", make)
    monkeypatch.setattr(stage.chunk_pipeline, "gather", lambda items, function: map(function, items))
    monkeypatch.setattr(stage.chunk_pipeline, "run_stage", run_stage)

    def evaluate(systems=("student",), **engine):
        evaluate = {"gold": {"toy": str(gold)}, "systems": list(systems)}
        config = make_engine_config(tmp_path, base, engine, evaluate=evaluate)
        context = stage_context(stage, config)
        stage.check(context)
        return config, stage.run(context)

    evaluate.settings, evaluate.student = made_with, model_digest(student.url)
    evaluate.folder = StageFolder(str(tmp_path)) / "r" / "evaluate"
    return evaluate


@pytest.fixture
def check_tag(tmp_path, base, make_engine_config, stage_context):
    """Return a function that checks tag with settings of the engine and of other sections."""

    def check(engine, **sections):
        tag.check(stage_context(tag, make_engine_config(tmp_path, base, engine, **sections)))

    return check


def test_a_student_is_scored_with_8_bits_and_without_and_the_two_are_compared(run, capsys):
    _, manifest = run()
    assert list(manifest.results["scores"]) == ["student"]
    assert " - student" not in capsys.readouterr().err
    _, manifest = run(**FP8)
    scores = manifest.results["scores"]
    assert {name: by_dataset["toy"]["f1"] for name, by_dataset in scores.items()} == {
        "student": 1.0, "student-fp8-fp8kv": pytest.approx(18 / 19, abs=1e-6),
    }  # fmt: skip
    errors = scores["student-fp8-fp8kv"]["toy"]["errors"]
    assert errors["missed"] == {"overlooked": 1} and errors["examples"] == {}, "manifests are read often"
    assert run.folder.manifest() == manifest, "a rerun compares with what the file holds"
    output = capsys.readouterr().err
    assert "evaluate: student-fp8-fp8kv - student -0.053 [" in output and "], p = 1.000 on toy" in output
    fp8 = [(settings.quantization, settings.kv_cache_dtype) for settings in run.settings]
    assert fp8 == [(None, None), ("fp8", "fp8")], "the plain scores existed and were not computed again"
    assert all(settings.retry_answer_tokens == 0 for settings in run.settings), "the protocol has no retry"


def test_tag_refuses_an_engine_of_8_bits_that_costs_too_much_f1_or_was_not_scored(run):
    def require(**settings):
        require_f1(run.folder, run.student, EngineSection(**{**plain, **settings}))

    config, _ = run()
    plain = config.engine.model_dump()
    require()
    with pytest.raises(UserError, match=r"8 bits \(fp8-fp8kv\) needs the student's F1 .*run evaluate"):
        require(**FP8)
    run(**FP8)
    with pytest.raises(UserError, match=r"falls from 1\.0000 to 0\.9474, .*max_f1_loss \(0\.01"):
        require(**FP8)
    require(**FP8, max_f1_loss=0.06)
    require(**FP8, max_f1_loss=0.06, retry_answer_tokens=0)  # evaluate's answers do not depend on it
    for other in ({"quantization": "fp8"}, {**FP8, "dtype": "bfloat16"}):
        with pytest.raises(UserError, match=r"needs the student's F1"):
            require(**other, max_f1_loss=1.0)
    with pytest.raises(UserError, match=r"needs the student's F1"):
        require_f1(run.folder, "another student", EngineSection(**plain).model_copy(update=FP8))


def test_f1_is_compared_on_the_data_sets_that_both_engines_have(tmp_path, complete_stage):
    engine = EngineSection(dtype="float32", gpus=0)
    fp8 = engine.model_copy(update={"quantization": "fp8"})
    evaluate = StageFolder(str(tmp_path))
    for name, section in (("student", engine), ("student-fp8", fp8)):
        identity = Identity(
            stage="evaluate", settings={"engine": answer_identity(section)}, parents={"model": "s"}
        )
        (evaluate / name).write_manifest(Manifest.of(identity, [], 0.0))
    scores = {"student": {"a": {"f1": 0.4}, "b": {"f1": 0.8}}, "student-fp8": {"b": {"f1": 0.7}}}
    complete_stage(evaluate, results={"scores": scores})
    with pytest.raises(UserError, match=r"falls from 0\.8000 to 0\.7000"):
        require_f1(evaluate, "s", fp8)
    complete_stage(evaluate, results={"scores": {**scores, "student": {"a": {"f1": 0.4}}}})
    with pytest.raises(UserError, match=r"does not have both"):
        require_f1(evaluate, "s", fp8)


def test_tag_checks_f1_before_ray_starts_unless_evaluate_still_runs(run, check_tag, stage_context):
    config, _ = run(**FP8)
    with pytest.raises(UserError, match=r"falls from 1\.0000 to 0\.9474"):
        check_tag(FP8)
    tag.check(stage_context(tag, config))  # evaluate may score it again before tag runs
    check_tag({**FP8, "max_f1_loss": 0.06})


def test_tag_waits_for_evaluate_where_a_group_gives_gold_data(run, check_tag, tmp_path):
    run()
    with pytest.raises(UserError, match="does not have both"):
        check_tag(FP8)
    person = [{"start": 0, "end": 3, "text": "Ann", "type": "person"}]
    (tmp_path / "crossner_ai.jsonl").write_text(json.dumps({"text": "Ann", "entities": person}))
    evaluate = {"group": "zero-shot-7", "data": str(tmp_path)}
    check_tag(FP8, evaluate=evaluate, tag={"calibration": "crossner_ai"})
