"""The quickstart's encoder base: the same on every machine, made once, and what its section trains from."""

from importlib import resources

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from uniner.config.loader import load
from uniner.encoder.folder import new_encoder
from uniner.quickstart.encoder_base import write_encoder_base
from uniner.quickstart.prepare import BASE
from uniner.storage.folder import Folder
from uniner.storage.model_folders import model_digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = Folder(str(tmp_path_factory.mktemp("base") / "encoder-base"))
    write_encoder_base(folder, BASE)
    return folder


def test_the_same_base_is_made_again_and_the_caller_s_random_numbers_go_on(folder, tmp_path):
    other = Folder(str(tmp_path / "other"))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    write_encoder_base(other, BASE)
    assert torch.rand(1) == expected
    assert model_digest(other.url) == model_digest(folder.url)


def test_a_base_that_is_there_is_not_written_again(folder):
    before = folder.listing().modified
    write_encoder_base(folder, BASE)
    assert folder.listing().modified == before


def test_the_base_is_a_rotary_encoder_with_the_nano_base_s_tokenizer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder.url)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(BASE).get_vocab()
    model = AutoModel.from_pretrained(folder.url)
    assert model.config.model_type == "modernbert"
    assert model.config.vocab_size == len(tokenizer)
    assert sum(weight.numel() for weight in model.parameters()) < 1_200_000


def test_the_quickstart_s_settings_fit_the_base(folder):
    config = load([str(resources.files("jobs").joinpath("configs/quickstart.toml"))])
    assert "encoder" in config.evaluate.systems and not config.encoder.use_gpu
    fields = {"hidden_size": 96, "num_rnn_layers": 0}
    encoder = new_encoder(folder.url, {**fields, "embed_ent_token": config.encoder.embed_ent_token})
    collator = encoder.collator()
    ids = collator.prompts(["city", "person"])[0].ids
    named = [ids[place] for place in collator.prompts(["city", "person"])[0].places]
    assert named == [collator.tokenizer.ids(name)[0] for name in ("city", "person")]
