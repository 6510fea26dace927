"""An encoder's pieces of long passages, and what it refuses to be trained from."""

from pathlib import Path

from uniner.evaluate.systems.bert import pieces
from uniner.evaluate.systems.bert_training import Order, train
from uniner.student import load_tokenizer


def test_a_long_passage_is_read_in_pieces_and_no_word_is_lost(tiny_bert):
    text = "Ann Lee of Velmora met Bo in Tarn. " * 20
    cut_up = pieces(load_tokenizer(tiny_bert), text, 32)
    assert len(cut_up) > 3 and max(len(piece.ids) for piece in cut_up) <= 32
    words = "".join(text[word.start : word.end] for piece in cut_up for word in piece.words)
    assert words == "".join(text.split())


def test_a_model_that_labels_no_words_is_one_line(tmp_path, base):
    gold = tmp_path / "gold.jsonl"
    gold.write_text(
        '{"text": "Ann.", "entities": [{"start": 0, "end": 3, "text": "Ann", "type": "person"}]}\n'
    )
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text('{"model_type": "t5"}')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).write_bytes((Path(base) / name).read_bytes())
    order = Order(f"{tmp_path}/base", str(gold), f"{tmp_path}/model", 1, 1e-3, 1, 128, None, 0, False)
    told = train(order)
    assert told.keys() == {"error"}
    assert f"evaluate.system.*.model {tmp_path}/base: cannot be loaded as a model" in told["error"]
    assert "\n" not in told["error"] and not (tmp_path / "model").exists()
