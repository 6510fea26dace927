"""Types whose names a text encoder finds close."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, T5Config, T5Model

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
