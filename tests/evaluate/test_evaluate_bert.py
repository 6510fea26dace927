"""An encoder's pieces of long passages, and what it refuses to be trained from."""

import json
from pathlib import Path

import pytest

from uniner.evaluate.gold_questions import cut
from uniner.evaluate.systems.bert import pieces
from uniner.evaluate.systems.bert_training import Order, train
from uniner.records import Question, from_table
from uniner.storage.model_folders import load_tokenizer


def test_a_long_passage_is_read_in_pieces_and_no_word_is_lost(tiny_bert):
    text = "Ann Lee of Velmora met Bo in Tarn. " * 20
    cut_up = pieces(load_tokenizer(tiny_bert), text, 32)
    assert len(cut_up) > 3 and max(len(piece.ids) for piece in cut_up) <= 32
    words = "".join(text[word.start : word.end] for piece in cut_up for word in piece.words)
    assert words == "".join(text.split())


def order(tmp_path, base, gold, **more):
    settings = {"epochs": 1, "learning_rate": 1e-3, "batch_passages": 1, "max_tokens": 128}
    fixed = {"max_passages": None, "seed": 0, "use_gpu": False, "dataset": "d", "labels": {}}
    return Order(base=base, gold=str(gold), folder_url=f"{tmp_path}/model", **{**settings, **fixed, **more})


@pytest.mark.parametrize(
    ("dataset", "labels", "words"),
    [("conll03", {}, "person"), ("mine", {}, "per"), ("mine", {"PER": "human being"}, "human being")],
)
def test_it_learns_the_words_that_it_is_asked_for(tmp_path, tiny_bert, dataset, labels, words):
    gold = tmp_path / "train.txt"
    gold.write_text("Ann B-PER\nLee I-PER\nsleeps O\n")
    assert "error" not in train(order(tmp_path, tiny_bert, gold, dataset=dataset, labels=labels))
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert set(config["label2id"]) == {"O", f"B-{words}", f"I-{words}"}
    (chunk,) = cut(dataset, str(gold), 9, None, labels=labels)
    assert [one.type for one in from_table(chunk.table, Question)] == [words]


def test_a_model_that_labels_no_words_is_one_line(tmp_path, base):
    gold = tmp_path / "gold.jsonl"
    gold.write_text(
        '{"text": "Ann.", "entities": [{"start": 0, "end": 3, "text": "Ann", "type": "person"}]}\n'
    )
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text('{"model_type": "t5"}')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).write_bytes((Path(base) / name).read_bytes())
    told = train(order(tmp_path, f"{tmp_path}/base", gold))
    assert told.keys() == {"error"}
    assert f"evaluate.system.*.model {tmp_path}/base: cannot be loaded as a model" in told["error"]
    assert "\n" not in told["error"] and not (tmp_path / "model").exists()
