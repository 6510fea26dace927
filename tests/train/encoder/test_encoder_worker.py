"""A training process without Ray: it learns, stops early, keeps the best step, resumes; its folder tags."""

import dataclasses
import json
import re
import shutil

import pytest

from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.inference.encoder_settings import EncoderSettings, start_encoder
from uniner.runtime import trainer
from uniner.storage.manifest import Manifest
from uniner.storage.model_folders import FACTS, StudentFacts, student_facts
from uniner.train import stage as train_stage
from uniner.train.encoder import stage, worker
from uniner.train.encoder.worker import EncoderResult

pytestmark = pytest.mark.usefixtures("group")


def history(job):
    return job.folder.read_json("history.json")


@pytest.mark.parametrize(("kind", "head"), [("modernbert", "span"), ("bert", "token"), ("deberta", "span")])
def test_it_learns_and_its_folder_tags(make_job, local_session, kind, head, tmp_path):
    job = make_job(kind=kind, head=head, epochs=8, export="last")
    session = local_session()
    figures = worker.train(job, session).figures
    assert figures.last_loss < 0.7 * figures.first_loss
    assert figures.steps == 8 * 4 and figures.passages == 21
    assert "36 mentions" not in session.lines[0] and "mentions in 21 passages" in session.lines[0]
    folder = tmp_path / "run/train-encoder/encoder"
    facts = student_facts(str(folder))
    assert facts.template == "encoder"
    # An encoder that found nothing has no best threshold.
    assert facts.threshold == (figures.threshold if figures.validation_f1 else None)
    assert set(facts.types) == {"type 1"}
    config = json.loads((folder / "gliner_config.json").read_text())
    assert config["span_mode"] == ("markerV0" if head == "span" else "token_level")
    tagger = start_encoder(str(folder), EncoderSettings(threshold=0.001))
    answer = tagger.answer([("Berlin and Nairobi.", ["type 1"])])[0]
    assert answer.answers[0].spans


def test_the_best_step_is_exported_and_training_stops_early(make_job, local_session):
    job = make_job(epochs=6, eval_steps=2, patience=2)
    figures = worker.train(job, local_session()).figures
    measured = history(job)["validation"]
    best = max(measured, key=lambda each: (each["f1"], -each["step"]))
    assert figures.exported_step == best["step"] and figures.validation_f1 == best["f1"]
    assert figures.threshold == best["threshold"]
    after = [each for each in measured if each["step"] > best["step"]]
    assert len(after) <= 2 and (len(after) == 2 or figures.steps == 24)


def test_the_setting_for_what_stands_for_a_type_reaches_the_model(make_job, local_session, tmp_path):
    worker.train(make_job(embed_ent_token=False, max_steps=1), local_session())
    folder = tmp_path / "run/train-encoder/encoder"
    assert json.loads((folder / "gliner_config.json").read_text())["embed_ent_token"] is False


def test_a_decoder_is_no_text_encoder(make_job, local_session, base):
    job = dataclasses.replace(make_job(), base_address=str(base))
    assert "llama is no text encoder" in worker.train(job, local_session()).error


def test_an_error_names_the_encoder_s_own_settings(make_job, local_session):
    error = worker.train(make_job(learning_rate=1e30, head_learning_rate=1e30), local_session()).error
    assert re.match(r"train-encoder: step \d+ has loss .*, or lower encoder\.learning_rate$", error)
    shards = worker.train(make_job(shard_workers=2), local_session()).error
    assert shards == "encoder.shard_workers = 2 does not divide 1 workers"


def test_where_no_machine_has_room_the_encoder_s_settings_are_named(make_job, monkeypatch):
    section = make_job(use_gpu=True).encoder

    def refuse(name, request, count, *, advice):
        raise UserError(f"{name}: {advice}")

    monkeypatch.setattr(trainer, "placed", refuse)
    monkeypatch.setattr(trainer, "_start_board", lambda: None)
    advice = r"^train-encoder: lower encoder\.workers, or set encoder\.use_gpu=false$"
    with pytest.raises(UserError, match=advice):
        train_stage.run_workers("train-encoder", print, None, make_job().folder, section)


def test_a_wrong_base_and_choices_without_a_measurement_are_found_before_ray(make_job, stage_context):
    def check(**encoder):
        section = make_job().encoder.model_dump() | encoder
        run = {"root": "unused", "name": "r"}
        config = Config.model_validate({"run": run, "student": {"base": "unused"}, "encoder": section})
        stage.check(stage_context(stage, config))

    with pytest.raises(UserError, match=r"^encoder\.base: absent is not a model folder .*ModernBERT-base$"):
        check(base="absent")
    for wrong in ({"export": "best"}, {"export": "last", "patience": 2}):
        with pytest.raises(UserError, match=r"^encoder\.eval_passages = 0 measures no F1, which encoder\."):
            check(eval_passages=0, **wrong)
    check(eval_passages=0, export="last")


def test_a_decoder_is_refused_as_a_base_before_ray(make_job, stage_context, base):
    section = make_job().encoder.model_dump() | {"base": str(base)}
    run = {"root": "unused", "name": "r"}
    config = Config.model_validate({"run": run, "student": {"base": "unused"}, "encoder": section})
    with pytest.raises(UserError, match=r"^encoder\.base .*: llama is no text encoder"):
        stage.check(stage_context(stage, config))


def test_a_trained_encoder_needs_its_base_no_more(make_job, stage_context, tmp_path, caplog):
    gone = tmp_path / "base"
    shutil.copytree(make_job().encoder.base, gone)
    section = make_job().encoder.model_dump() | {"base": str(gone)}
    run = {"root": str(tmp_path), "name": "run"}

    def context_of(**encoder):
        sections = {"run": run, "student": {"base": "unused"}, "encoder": section | encoder}
        return stage_context(stage, Config.model_validate(sections))

    context = context_of()
    identity = stage._identity(context, {"build": (context.run_folder / "build").digest()})
    context.folder.begin(identity)
    facts = StudentFacts(template="encoder", max_tokens=9, base=str(gone), types=())
    (context.folder / "encoder").write_sealed_json(FACTS, facts.as_dict())
    manifest = context.folder.write_manifest(Manifest.of(identity, [], 1.0))
    shutil.rmtree(gone)
    stage.check(context)
    assert stage.run(context) == manifest
    with pytest.raises(UserError, match=r"encoder\.base: .*other is not a model folder"):
        stage.check(context_of(base=str(tmp_path / "other")))
    with pytest.raises(UserError, match=r"encoder\.epochs"):
        stage.check(context_of(epochs=9))


class Killed(BaseException):
    """The end of a process."""


def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(make_job, local_session, tmp_path):
    job = make_job(epochs=3)
    whole = worker.train(job, local_session())
    expected = history(job)
    for file in ("history.json",):
        job.folder.remove([file])
    (job.folder / "checkpoints").remove_all()

    class Stopped(local_session):
        def report(self, step, steps, note):
            if step == 7:
                raise Killed

    with pytest.raises(Killed):
        worker.train(job, Stopped())
    session = local_session()
    assert isinstance(worker.train(job, session), EncoderResult)
    assert any("resuming after step" in line for line in session.lines)
    again = history(job)
    losses = [[step["loss"] for step in each["steps"]] for each in (again, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert again["validation"] == [pytest.approx(each, abs=1e-5) for each in expected["validation"]]
    assert whole.figures.steps == len(losses[0])


def test_a_build_without_conversations_is_one_line(make_job, local_session, write_build, tmp_path):
    job = make_job()
    (job.run / "build").remove_all()
    write_build(job.run / "build", [])
    result = worker.train(job, local_session())
    assert "no conversation to train on" in result.error
