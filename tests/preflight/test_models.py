"""Models by their config and tokenizer alone, on disk and in a bucket."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from tests.encoder.conftest import make_base, make_encoder  # noqa: F401
from uniner.encoder.folder import save_encoder
from uniner.errors import UserError
from uniner.preflight.models import ModelUse, check_base, check_encoder, check_use, read_model
from uniner.preflight.results import Check, results_of
from uniner.storage.folder import Folder


@pytest.fixture
def model(base, tmp_path):
    """A copy of the nano base."""
    return Path(shutil.copytree(base, tmp_path / "model"))


def check(name, **use):
    return [*results_of(Check("student.base", lambda: check_use(ModelUse("student.base", str(name), **use))))]


def test_a_folder_that_loads_is_one_line(model):
    (result,) = check(model)
    assert result.level == "ok" and "llama, its config and tokenizer load, 2." in result.found


def test_of_a_remote_folder_no_weights_are_fetched(model, bucket, tmp_path, monkeypatch):
    url = f"{bucket}/{tmp_path.name}/base"
    Folder(url).upload(model)
    read, really = [], Folder.read
    monkeypatch.setattr(Folder, "read", lambda folder, name: read.append(name) or really(folder, name))
    (result,) = check(url)
    assert result.level == "ok"
    assert "tokenizer.json" in read and "model.safetensors" not in read
    assert read_model("student.base", url).fetched_bytes == sum(f.stat().st_size for f in model.iterdir())
    assert read_model("student.base", str(model)).fetched_bytes == 0


def break_config(model):
    (model / "config.json").write_text("{")


def forget_config(model):
    (model / "config.json").unlink()


def forget_weights(model):
    (model / "model.safetensors").unlink()


def forget_a_shard(model):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def unknown_type(model):
    (model / "config.json").write_text('{"model_type": "no-such-model"}')


def break_tokenizer(model):
    (model / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (break_config, "cannot be loaded as a model"),
        (forget_config, "no config.json"),
        (forget_weights, "has no weights (*.safetensors)"),
        (forget_a_shard, "lacks model-2.safetensors, which its index names"),
        (unknown_type, "cannot be loaded as a model"),
        (break_tokenizer, "student.base"),
    ],
)
def test_a_damaged_folder_is_one_line(model, damage, text):
    damage(model)
    (result,) = check(model)
    assert result.level == "error" and text in result.found and "\n" not in result.found


def test_a_hub_name_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read at import, maybe too early
    (result,) = check("nobody/no-such-model")
    assert result.level == "error" and "nobody/no-such-model" in result.found


def test_a_teacher_needs_a_chat_template(model):
    (result,) = check(model, chat=True)
    assert result.level == "error" and "no chat template" in result.found
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    read_model.cache_clear()
    (result,) = check(model, chat=True)
    assert result.level == "ok"


def test_a_base_must_take_the_conversations_and_have_attention(model):
    def base_of(tokens):
        (result,) = results_of(Check("student.base", lambda: check_base(str(model), tokens)))
        return result

    assert base_of(512).level == "ok"
    assert "the base model takes at most" in base_of(1 << 20).found
    (model / "config.json").write_text('{"model_type": "mamba", "vocab_size": 300}')
    read_model.cache_clear()
    assert "layers without attention" in base_of(512).found


def test_an_encoder_that_the_hub_does_not_have_is_one_line(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/no-gliner is no folder .* cannot be fetched from the hub"):
        list(check_encoder("tag.student", "nobody/no-gliner"))


def test_an_encoder_is_checked_by_its_own_config(make_encoder, tmp_path):  # noqa: F811
    folder = tmp_path / "encoder"
    encoder = make_encoder()
    save_encoder(folder, encoder, encoder.model.state_dict())
    (found,) = check_encoder("tag.student", str(folder))
    assert "bert with a markerV0 head, its configs and tokenizer load" in found.found
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        list(check_encoder("tag.student", str(folder)))
    (folder / "gliner_config.json").write_text('{"span_mode": "conv_max"}')
    (folder / "model.safetensors").touch()
    with pytest.raises(UserError, match="span_mode = 'conv_max' is not supported"):
        list(check_encoder("tag.student", str(folder)))
