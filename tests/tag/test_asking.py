"""What tags and what it is asked for, checked before anything is loaded: encoders, their types, scores."""

import json

import pytest
from typer.testing import CliRunner

from tests.encoder.conftest import make_base, make_encoder, one_thread
from uniner import cli
from uniner.config.schema import EngineSection, Evaluate, Student
from uniner.encoder.folder import load_encoder, save_encoder
from uniner.errors import UserError
from uniner.evaluate.systems_registry import choose_systems
from uniner.inference.encoder_settings import EncoderSettings, start_encoder
from uniner.storage.folder import Folder
from uniner.tag import stage
from uniner.tag.types import TypeSelection, unasked_types_line

__all__ = ["make_base", "make_encoder", "one_thread"]
LONG = "person who " * 40 + "sleeps"


@pytest.fixture(scope="session")
def encoder_folder(make_encoder, tmp_path_factory):
    """An encoder's folder, which reads 128 tokens."""
    folder = tmp_path_factory.mktemp("encoder")
    encoder = make_encoder("bert")
    save_encoder(folder, encoder, encoder.model.state_dict())
    return folder


@pytest.fixture
def context(config, encoder_folder, stage_context):
    """Return a function that makes the stage's context for an encoder that tags."""
    return lambda **tag: stage_context(stage, config(**{"student": str(encoder_folder), **tag}))


@pytest.mark.parametrize("asked", [{"types": ["person", LONG]}, {"types_of_source": {"news": [LONG]}}])
def test_a_type_that_an_encoder_cannot_read_is_found_before_ray(context, asked, capfd):
    with pytest.raises(UserError, match=r"the type 'person who .* has \d+ tokens, and the encoder reads"):
        stage.check(context(**{"types": ["person"], **asked}))
    assert "Token indices" not in capfd.readouterr().err


def test_a_prefilter_must_be_able_to_read_the_types_too(config, encoder_folder, stage_context):
    settings = config(prefilter=str(encoder_folder), prefilter_threshold=0.1, types=[LONG])
    with pytest.raises(UserError, match="the encoder reads types of at most"):
        stage.check(stage_context(stage, settings))


def test_a_text_of_an_encoder_refuses_what_the_stage_refuses(context, encoder_folder, tmp_path, base):
    path = tmp_path / "c.toml"
    path.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "r"\n[student]\nbase = "{base}"\n[engine]\ngpus = 0\n'
        f'quantization = "fp8"\n[tag]\nstudent = "{encoder_folder}"\ntypes = ["person"]\n'
    )
    result = CliRunner().invoke(cli.app, ["tag", str(path), "--text", "Ann"])
    assert result.exit_code == 2 and "an encoder has neither" in result.output
    with pytest.raises(UserError, match="the encoder reads types of at most"):
        stage.tag_text(context(types=[LONG]), "Ann")


def test_evaluate_finds_a_type_of_the_gold_data_that_an_encoder_cannot_read(encoder_folder, tmp_path):
    systems = choose_systems(
        Evaluate(systems=[str(encoder_folder)]), EngineSection(), Student(base="b"), Folder(str(tmp_path)), 0
    )
    (system,) = systems.values()
    system.check(["news"], [{"person"}])
    with pytest.raises(UserError, match="the encoder reads types of at most"):
        system.check(["news"], [{"person"}, {LONG}])


def test_a_lowest_score_of_a_type_that_is_not_asked_is_refused(config, stage_context):
    scores = {"min_score_of_type": {"Person": 0.5}}
    with pytest.raises(UserError, match=r"'Person' is not among the 2 types .* \(nearest: 'person'\); name"):
        stage.check(stage_context(stage, config(types=["person", "city"], **scores)))
    by_source = config(types=["city"], types_of_source={"news": ["Person"]}, **scores)
    stage.check(stage_context(stage, by_source))


def test_of_the_student_s_own_types_that_is_a_line_of_the_run(config, stage_context, caplog):
    settings = config(min_score_of_type={"date": 0.5})
    stage.check(stage_context(stage, settings))
    stage._warn_of_unasked_types(stage_context(stage, settings), TypeSelection(("person", "city")))
    assert "tag.min_score_of_type: 'date' is not among the 2 types that are asked for; name" in caplog.text
    assert unasked_types_line({"city": 0.5}, TypeSelection(("person", "city"))) == ""


def test_a_tokenizer_of_another_model_is_refused_when_the_encoder_is_loaded(encoder_folder, tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    for file in encoder_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["zzz"] = 10_000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"has <<ENT>> as number \d+, and class_token_index .* is \d+; copy"):
        load_encoder(str(folder))
    config = json.loads((folder / "gliner_config.json").read_text()) | {"class_token_index": -1}
    (folder / "gliner_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"tokenizer has ids up to 10,000, and its weights have \d+ embed"):
        load_encoder(str(folder))
    assert load_encoder(str(encoder_folder))


def test_a_hub_name_that_cannot_be_fetched_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match="nobody/no-gliner is no folder of this machine and cannot be fetched"
    ):
        start_encoder("nobody/no-gliner", EncoderSettings())


def test_a_student_whose_answers_repeat_the_passage_needs_room_for_them(config, stage_context, tmp_path):
    facts = {"template": "words", "group_types": 50, "max_tokens": 512, "base": "", "types": ["person"]}
    roomy = config()
    (tmp_path / "student" / "uniner.json").write_text(json.dumps(facts))
    stage.check_asking(stage_context(stage, roomy))
    long = roomy.model_copy(update={"ingest": roomy.ingest.model_copy(update={"max_tokens": 200})})
    with pytest.raises(UserError, match=r"set student\.max_tokens=810, or ingest\.max_tokens=109"):
        stage.check_asking(stage_context(stage, long))
