"""Students are scored with 8 bits and without, and tag checks how far F1 falls. No engine."""

import asyncio
import json

import pytest

from uniner.config.schema import EngineSection
from uniner.errors import UserError
from uniner.evaluate import stage, system_pools
from uniner.evaluate.system_pools import Predictor
from uniner.inference.fp8_gate import answer_identity, require_f1, require_f1_of_training
from uniner.inference.questions import PassageAnswers, TypeAnswer
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.model_folders import model_digest
from uniner.storage.stage_folder import StageFolder
from uniner.tag import stage as tag

FP8 = {"quantization": "fp8", "kv_cache_dtype": "fp8"}
PERSON = [{"start": 0, "end": 3, "text": "Ann", "type": "person"}]


class DegradedSystem:
    """Finds the person; with 8 bits it misses the person in one passage of ten."""

    def __init__(self, settings):
        self.degraded = settings.quantization is not None

    async def ask_all(self, questions):
        return [
            PassageAnswers(tuple(TypeAnswer(name, "ok", self.mentions(text), "") for name in types), {})
            for text, types in questions
        ]

    def mentions(self, text):
        return {} if self.degraded and text.endswith("7") else {"Ann": 0.5}


@pytest.fixture
def student(tmp_path, complete_stage):
    """This run's student, trained."""
    folder = StageFolder(str(tmp_path)) / "r" / "train" / "student"
    facts = {"template": "type", "group_types": 5, "max_tokens": 512, "base": "b", "types": ["person"]}
    folder.write_json("uniner.json", facts)
    folder.write_json("config.json", {})
    folder.write_json("tokenizer.json", {})
    folder.write("model.safetensors", b"weights")
    complete_stage(StageFolder(str(tmp_path)) / "r" / "train")
    return folder


@pytest.fixture
def make_context(tmp_path, base, make_engine_config, stage_context):
    """Return a function that makes the context of a stage with this engine."""

    def make(module, engine, **sections):
        return stage_context(module, make_engine_config(tmp_path, base, engine, **sections))

    return make


@pytest.fixture
def run(tmp_path, student, make_context, monkeypatch):
    """Return a function that evaluates this run's student with stand-ins for the engines."""
    gold = tmp_path / "gold.jsonl"
    gold.write_text("\n".join(json.dumps({"text": f"Ann {n}", "entities": PERSON}) for n in range(10)))
    engine_settings = []

    def make(model, template, settings):
        engine_settings.append(settings)
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
        context = make_context(stage, engine, evaluate={"gold": {"toy": str(gold)}, "systems": list(systems)})
        stage.check(context)
        return context, stage.run(context)

    evaluate.settings, evaluate.student = engine_settings, model_digest(student.url)
    evaluate.folder = StageFolder(str(tmp_path)) / "r" / "evaluate"
    return evaluate


def test_a_student_is_scored_with_8_bits_and_without_and_the_two_are_compared(run, capsys):
    _, manifest = run()
    assert list(manifest.results["scores"]) == ["student"]
    assert " - student" not in capsys.readouterr().err
    _, manifest = run(**FP8)
    assert {name: scores["toy"]["f1"] for name, scores in manifest.results["scores"].items()} == {
        "student": 1.0, "student-fp8-fp8kv": pytest.approx(18 / 19, abs=1e-6),
    }  # fmt: skip
    errors = manifest.results["scores"]["student-fp8-fp8kv"]["toy"]["errors"]
    assert errors["missed"] == {"overlooked": 1} and errors["examples"] == {}, "manifests are read often"
    assert run.folder.manifest() == manifest, "a rerun compares with what the file holds"
    log = capsys.readouterr().err
    assert "evaluate: student-fp8-fp8kv - student -0.053 [" in log and "], p = 1.000 on toy" in log
    fp8 = [(settings.quantization, settings.kv_cache_dtype) for settings in run.settings]
    assert fp8 == [(None, None), ("fp8", "fp8")], "the plain scores existed and were not computed again"
    assert all(settings.retry_answer_tokens == 0 for settings in run.settings), "the protocol has no retry"


def test_tag_refuses_an_engine_of_8_bits_that_costs_too_much_f1_or_was_not_scored(run):
    def require(**settings):
        require_f1(run.folder, run.student, EngineSection(**{**plain, **settings}))

    context, _ = run()
    plain = context.sections.engine.model_dump()
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
        require_f1(run.folder, "another student", EngineSection(**{**plain, **FP8}))


def test_f1_is_compared_on_the_data_sets_that_both_engines_have(tmp_path, complete_stage):
    engine = EngineSection(dtype="float32", gpus=0)
    fp8 = engine.model_copy(update={"quantization": "fp8"})
    evaluate = StageFolder(str(tmp_path))
    for name, settings in (("student", engine), ("student-fp8", fp8)):
        system = {"engine": answer_identity(settings)}
        identity = Identity(stage="evaluate", settings=system, parents={"model": "s"})
        complete_stage(evaluate / name, identity=identity)
    scores = {"student": {"a": {"f1": 0.4}, "b": {"f1": 0.8}}, "student-fp8": {"b": {"f1": 0.7}}}
    complete_stage(evaluate, results={"scores": scores})
    with pytest.raises(UserError, match=r"falls from 0\.8000 to 0\.7000"):
        require_f1(evaluate, "s", fp8)
    complete_stage(evaluate, results={"scores": {**scores, "student": {"a": {"f1": 0.4}}}})
    with pytest.raises(UserError, match=r"does not have both"):
        require_f1(evaluate, "s", fp8)


def test_tag_checks_f1_before_ray_starts_unless_evaluate_still_runs(run, make_context):
    context, _ = run(**FP8)
    with pytest.raises(UserError, match=r"falls from 1\.0000 to 0\.9474"):
        tag.check(make_context(tag, FP8))
    # With gold data, evaluate may score it again before tag runs.
    tag.check(make_context(tag, FP8, evaluate={"gold": context.sections.evaluate.gold}))
    tag.check(make_context(tag, {**FP8, "max_f1_loss": 0.06}))


def test_tag_waits_for_evaluate_where_a_group_gives_gold_data(run, make_context, tmp_path):
    run()
    with pytest.raises(UserError, match="does not have both"):
        tag.check(make_context(tag, FP8))
    (tmp_path / "crossner_ai.jsonl").write_text(json.dumps({"text": "Ann", "entities": PERSON}))
    evaluate = {"group": "zero-shot-7", "data": str(tmp_path)}
    tag.check(make_context(tag, FP8, evaluate=evaluate, tag={"calibration": "crossner_ai"}))


@pytest.fixture
def trained(tmp_path, complete_stage):
    """Return a function that writes a student and its F1 on toy data, scored by a plain engine."""
    evaluate, scores = StageFolder(str(tmp_path)) / "r" / "evaluate", {}

    def make(name, f1=None, **facts):
        folder = StageFolder(str(tmp_path)) / name
        own = {"template": "type", "max_tokens": 512, "base": "b", "types": [], **facts}
        folder.write_json("uniner.json", own)
        folder.write_json("config.json", {"name": name})
        if f1 is not None:
            scores[name] = {"toy": {"f1": f1}}
            settings = {"engine": answer_identity(make.engine)}
            parents = {"model": model_digest(folder.url)}
            complete_stage(
                evaluate / name, identity=Identity(stage="evaluate", settings=settings, parents=parents)
            )
            complete_stage(evaluate, results={"scores": scores})
        return folder.url

    make.evaluate, make.engine = evaluate, EngineSection()
    return make


def test_a_student_trained_in_8_bits_is_compared_with_one_that_was_not(trained):
    def require(reference, student=None, **settings):
        engine = EngineSection(**settings)
        require_f1_of_training(trained.evaluate, student or fp8, reference, engine)

    plain, fp8 = trained("plain", 0.8), trained("fp8", 0.795, float8=True)
    require(plain)
    require(None, student=plain)
    with pytest.raises(UserError, match=r"trained with train\.float8; name a student trained without it"):
        require(None)
    with pytest.raises(UserError, match=r"has F1 0\.7950, and .*plain 0\.8000: .*max_f1_loss \(0\.001\)"):
        require(plain, max_f1_loss=0.001)
    with pytest.raises(UserError, match=r"does not have both; run evaluate"):
        require(trained("never scored"))
    with pytest.raises(UserError, match=r"float8_reference = .*other: it was trained with train\.float8 too"):
        require(trained("other", 0.7, float8=True))
    require(plain, **FP8)  # what the engine's 8 bits cost is compared apart


def test_tag_refuses_a_student_trained_in_8_bits_until_it_is_compared(trained, make_context, complete_stage):
    trained.engine = make_context(tag, {}).sections.engine
    plain, fp8 = trained("plain", 0.8), trained("fp8", float8=True)
    settings = {"student": fp8, "types": ["person"]}
    with pytest.raises(UserError, match=r"name a student trained without it"):
        tag.check(make_context(tag, {}, tag=settings))
    compared = {**settings, "float8_reference": plain}
    with pytest.raises(UserError, match=r"does not have both"):
        tag.check(make_context(tag, {}, tag=compared))
    trained("fp8", 0.9, float8=True)
    tag.check(make_context(tag, {}, tag=compared))
