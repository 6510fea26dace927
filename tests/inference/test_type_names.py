"""Types whose names a text encoder finds close."""

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizerFast, T5Config, T5Model

from uniner.build.near_synonyms import find_near_synonyms, merged, with_close_names, words_of
from uniner.errors import UserError
from uniner.inference.type_names import NameEncoder, close_pairs, nearest_names
from uniner.quickstart.make_base import make_tokenizer

MEANINGS = {
    "drug": (1, 0, 0), "medication": (0.9, 0.3, 0), "city": (0, 1, 0), "town": (0, 0.9, 0.3),
    "author": (0, 0, 1), "writer": (0, 0.5, 1), "poem": (0.5, 0.5, 0.5), "xyz": (-1, -1, -1),
}  # fmt: skip


class KnownMeanings:
    """In place of a trained encoder: vectors that are given."""

    def vectors(self, names):
        found = np.array([MEANINGS[name] for name in names], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("names"), make_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_names_vector_does_not_depend_on_the_names_beside_it(encoder_folder):
    encoder = NameEncoder(encoder_folder, "build.near_synonym_encoder")
    names = ["city", "a much longer name of a type", "drug"]
    together = encoder.vectors(names)
    assert np.allclose(np.linalg.norm(together, axis=1), 1)
    for name, vector in zip(names, together, strict=True):
        assert np.allclose(encoder.vectors([name])[0], vector, atol=1e-5)


def test_names_with_words_that_the_encoder_does_not_know_are_close_to_none(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "city", "town"]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = NameEncoder(str(tmp_path), "tag.nearest_encoder")
    thai = ["\u0e0a\u0e37\u0e48\u0e2d", "\u0e2a\u0e16\u0e32\u0e19"]  # name, place
    assert list(close_pairs(encoder.vectors([*thai, "city", "city"]), 0.99)) == [(2, 3, pytest.approx(1))]
    assert nearest_names(thai[:1], [thai[1], "city"], encoder) == {}


def test_an_end_token_in_place_of_unknown_words_says_nothing_of_a_name(encoder_folder, tmp_path):
    shutil.copytree(encoder_folder, tmp_path / "encoder")
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    tokenizer.unk_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "encoder")
    encoder = NameEncoder(str(tmp_path / "encoder"), "tag.nearest_encoder")
    names = [f"city{tokenizer.eos_token}", "city"]
    assert np.allclose(np.linalg.norm(encoder.vectors(names), axis=1), 1)


def test_a_name_longer_than_the_encoder_reads_counts_up_to_there(encoder_folder):
    vectors = NameEncoder(encoder_folder, "tag.nearest_encoder").vectors(["city " * 3_000, "city " * 2_000])
    assert np.allclose(vectors[0], vectors[1], atol=1e-5)


def test_vectors_that_are_no_numbers_are_one_line(encoder_folder, tmp_path):
    model = BertModel.from_pretrained(encoder_folder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"tag\.nearest_encoder = .* not finite"):
        NameEncoder(str(tmp_path), "tag.nearest_encoder")


def test_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"build\.near_synonym_encoder"):
        NameEncoder(str(tmp_path), "build.near_synonym_encoder")


def test_a_model_that_reads_no_names_is_one_line(tmp_path):
    tokenizer = make_tokenizer()
    sizes = {"d_model": 32, "d_ff": 32, "d_kv": 16, "num_heads": 2, "num_layers": 1}
    T5Model(T5Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"tag\.nearest_encoder") as error:
        NameEncoder(str(tmp_path), "tag.nearest_encoder")
    assert "\n" not in str(error.value)


def test_pairs_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr("uniner.inference.type_names._ROWS", 2)
    names = list(MEANINGS)
    found = {
        frozenset((names[one], names[other]))
        for one, other, _ in close_pairs(KnownMeanings().vectors(names), 0.85)
    }
    assert found == {
        frozenset(("drug", "medication")),
        frozenset(("city", "town")),
        frozenset(("author", "writer")),
    }


def test_the_nearest_known_type_is_the_closest_in_meaning_and_none_where_none_is_close():
    known = ["drug", "town", "author"]
    assert nearest_names(["writer", "city", "xyz"], known, KnownMeanings()) == {
        "writer": "author",
        "city": "town",
    }
    assert nearest_names(["writer"], [], KnownMeanings()) == {}
    assert nearest_names([], known, KnownMeanings()) == {}


def test_close_names_join_the_pairs_that_share_words_with_their_evidence():
    shared = [f"Place{number}" for number in range(8)]
    passages = [
        {"city": shared, "author": [f"A{number}" for number in range(300)]},
        {"town": [*shared[:6], *(f"T{number}" for number in range(30))], "drug": ["Aspirin"]},
        {"medication": ["aspirin", "Ibuprofen"]},
    ]
    words = merged([words_of(passages)], {})
    by_words = find_near_synonyms(words)
    pairs = {
        (pair.first, pair.second): pair for pair in with_close_names(by_words, words, KnownMeanings(), 0.85)
    }
    assert pairs.keys() == {("city", "town"), ("drug", "medication")}
    assert pairs["city", "town"].shared == 6
    assert pairs["city", "town"].likeness > 0.85  # found by both
    drug = pairs["drug", "medication"].to_json()
    assert (drug["shared"], drug["share"]) == (1, 1.0)  # too few words alone
    assert "likeness" not in by_words[0].to_json()
