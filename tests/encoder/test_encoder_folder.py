"""Folders in GLiNER's format, read and written; with its own library where that is installed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, T5Config, XLNetConfig

from tests.encoder.conftest import HEADS
from uniner.encoder.folder import CONFIG, WEIGHTS, LoadedEncoder, load_encoder, most_tokens, save_encoder
from uniner.errors import UserError
from uniner.inference.encoder import EncoderSettings, EncoderTagger

QUESTIONS = [
    ("Ann Lee of Velmora met Bo-Jon in Tarn on 3 May 2021 .", ["person", "city", "date"]),
    ("The river Tarn flows by Velmora", ["person", "city", "date"]),
]


def save(encoder, folder):
    save_encoder(folder, encoder, encoder.model.state_dict())
    return str(folder)


def spans(encoder: LoadedEncoder, **settings):
    """The spans found in each text, with their scores."""
    tagger = EncoderTagger(encoder, EncoderSettings(**settings))
    return [
        {
            (start, end, reply.type): score
            for reply in answer.answers
            for (start, end), score in zip(reply.spans, reply.span_scores, strict=True)
        }
        for answer in tagger.answer(QUESTIONS)
    ]


def threshold(encoder: LoadedEncoder):
    """A threshold that some 15 spans pass, and none nearly so."""
    scores = sorted(
        (score for found in spans(encoder, threshold=0.01) for score in found.values()), reverse=True
    )
    place = max(range(5, 25), key=lambda place: scores[place] - scores[place + 1])
    return (scores[place] + scores[place + 1]) / 2


def tag(encoder: LoadedEncoder):
    return spans(encoder, threshold=threshold(encoder), overlaps="flat")


def gliner_tag(theirs, limit):
    texts, types = [text for text, _ in QUESTIONS], QUESTIONS[0][1]
    return [
        {(entity["start"], entity["end"], entity["label"]): entity["score"] for entity in entities}
        for entities in theirs.inference(texts, types, threshold=limit)
    ]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["bert", "deberta", "modernbert"])
def test_a_saved_folder_loads_as_it_was(make_encoder, tmp_path, kind, head):
    encoder = make_encoder(kind, head)
    again = load_encoder(save(encoder, tmp_path / "encoder"))
    assert any(tag(encoder))
    assert tag(again) == tag(encoder)


@pytest.mark.parametrize("rnn", [0, 1])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["bert", "deberta", "modernbert"])
def test_gliner_reads_our_folder_and_finds_the_same(make_encoder, tmp_path, kind, head, rnn):
    gliner = pytest.importorskip("gliner")
    encoder = make_encoder(kind, head, num_rnn_layers=rnn)
    theirs = gliner.GLiNER.from_pretrained(save(encoder, tmp_path / "encoder"), local_files_only=True)
    found = gliner_tag(theirs, threshold(encoder))
    assert any(found)
    assert tag(encoder) == [pytest.approx(expected, abs=1e-4) for expected in found]


@pytest.mark.parametrize("head", HEADS)
def test_a_type_s_first_token_stands_for_it_there_too(make_encoder, tmp_path, head):
    gliner = pytest.importorskip("gliner")
    encoder = make_encoder(head=head, embed_ent_token=False)
    theirs = gliner.GLiNER.from_pretrained(save(encoder, tmp_path / "encoder"), local_files_only=True)
    found = gliner_tag(theirs, threshold(encoder))
    assert any(found) and tag(make_encoder(head=head)) != tag(encoder)
    assert tag(encoder) == [pytest.approx(expected, abs=1e-4) for expected in found]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["bert", "deberta", "modernbert"])
def test_a_folder_of_gliner_s_loads_here_and_finds_the_same(make_base, tmp_path, kind, head):
    """In the form of the published models: old weights, no text encoder's config beside them."""
    gliner = pytest.importorskip("gliner")
    torch.manual_seed(3)
    config = gliner.GLiNERConfig(
        model_name=make_base(kind), span_mode=head, hidden_size=24, max_width=6, num_rnn_layers=1, dropout=0.1
    )
    theirs = gliner.GLiNER.from_config(config)
    theirs.save_pretrained(tmp_path / "model")
    encoder = load_encoder(str(tmp_path / "model"))
    found = gliner_tag(theirs, threshold(encoder))
    assert any(found)
    assert tag(encoder) == [pytest.approx(expected, abs=1e-4) for expected in found]


@pytest.mark.parametrize("states_numbers", [False, True])
def test_a_folder_that_names_its_base_takes_tokenizer_and_sizes_from_it(
    make_encoder, tmp_path, states_numbers
):
    """In the form of the models published in 2024, which have a row for [FLERT] before those of the marks."""
    encoder = make_encoder()
    folder = Path(save(encoder, tmp_path / "encoder"))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    weights = load_file(folder / WEIGHTS)
    name = "token_rep_layer.bert_layer.model.embeddings.word_embeddings.weight"
    rows = weights[name]
    weights[name] = torch.cat([rows[:-2], torch.full_like(rows[:1], 9.0), rows[-2:]])
    save_file(weights, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text()) | {"encoder_config": None}
    config |= {"class_token_index": len(rows) - 1, "vocab_size": len(rows) + 1}
    if not states_numbers:
        config |= {"class_token_index": -1, "vocab_size": -1}
    (folder / CONFIG).write_text(json.dumps(config))
    assert tag(load_encoder(str(folder))) == tag(encoder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"span_mode": "conv_max"}, "span_mode = 'conv_max' is not supported"),
        ({"labels_encoder": "x/y"}, "an encoder with labels_encoder is not supported"),
        ({"words_splitter_type": "spacy"}, "words_splitter_type = 'spacy' is not supported"),
        ({"hidden_size": 16}, "the weights do not fit the config"),
        ({"num_rnn_layers": 1}, "lacks rnn.lstm"),
        ({"encoder_config": {"model_type": "no-such"}}, "cannot be loaded as an encoder"),
        ({"encoder_config": {"model_type": "t5"}}, "a text encoder of kind t5 is not supported"),
        ({"encoder_config": "x"}, "cannot be loaded as an encoder"),
        ({"max_len": 0}, "max_len = 0 is not a right value"),
        ({"max_width": float("nan")}, "max_width = nan is not a right value"),
        ({"max_types": "a"}, "max_types = 'a' is not a right value"),
        ({"embed_ent_token": "false"}, "embed_ent_token = 'false' is not a right value"),
        ({"class_token_index": 3}, "has <<ENT>> as number .*, and class_token_index .* is 3; copy"),
        ({"ent_token": 5}, "ent_token = 5 is not a right value"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(make_encoder, tmp_path, change, said):
    folder = Path(save(make_encoder(), tmp_path / "encoder"))
    config = json.loads((folder / CONFIG).read_text()) | change
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        load_encoder(str(folder))


def test_a_text_encoder_without_positions_reads_as_much_as_attention_bears(make_base):
    tokenizer = AutoTokenizer.from_pretrained(make_base("bert"))
    tokenizer.model_max_length = 1 << 30
    config = XLNetConfig(d_model=32, n_layer=1, n_head=2, d_inner=32)  # its positions are -1
    assert most_tokens(config, tokenizer) == 1024
    assert most_tokens(T5Config(), tokenizer) == 1024


def test_a_folder_without_its_files_is_one_line(make_encoder, tmp_path):
    folder = Path(save(make_encoder(), tmp_path / "encoder"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot be loaded as an encoder.*pytorch_model\.bin"):
        load_encoder(str(folder))
    (folder / CONFIG).write_text("{")
    with pytest.raises(UserError, match=CONFIG):
        load_encoder(str(folder))
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=f"has no {CONFIG}"):
        load_encoder(str(folder))


@pytest.mark.parametrize("damage", ["cut", "renamed", "not finite", "a list", "empty", "four bytes"])
def test_damaged_weights_are_one_line(make_encoder, tmp_path, damage):
    encoder = make_encoder()
    folder = Path(save(encoder, tmp_path / "encoder"))
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "renamed":
        weights.rename(folder / "pytorch_model.bin")
    elif damage == "a list":
        weights.unlink()
        torch.save([1], folder / "pytorch_model.bin")
    elif damage in ("empty", "four bytes"):
        weights.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"" if damage == "empty" else b"\x80\x02}q")
    else:
        state = encoder.model.state_dict()
        name = "prompt_rep_layer.0.weight"
        save_encoder(folder, encoder, {**state, name: torch.full_like(state[name], torch.nan)})
    with pytest.raises(UserError, match=r"cannot be loaded as an encoder|not finite"):
        load_encoder(str(folder))


def test_a_config_that_is_no_object_is_one_line(make_encoder, tmp_path):
    folder = Path(save(make_encoder(), tmp_path / "encoder"))
    for text in ("[]", "null", "[" * 100_000):
        (folder / CONFIG).write_text(text)
        with pytest.raises(UserError, match=CONFIG):
            load_encoder(str(folder))


def test_a_config_that_is_a_folder_is_one_line(tmp_path):
    (tmp_path / CONFIG).mkdir()
    with pytest.raises(UserError, match=f"{CONFIG} cannot be read as JSON .*; copy the folder again"):
        load_encoder(str(tmp_path))


def test_a_tokenizer_whose_length_is_no_number_is_one_line(make_encoder, tmp_path):
    folder = Path(save(make_encoder(), tmp_path / "encoder"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": "x"}))
    with pytest.raises(UserError, match="model_max_length = 'x' is no number"):
        load_encoder(str(folder))
