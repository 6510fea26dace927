"""Pieces of long passages, and training from labelled words."""

import json
from pathlib import Path

import pytest

from uniner.config.systems import BertSystem
from uniner.evaluate.gold_questions import cut_questions
from uniner.evaluate.systems.bert import encode_pieces
from uniner.evaluate.systems.bert_training import BertTrainingJob, BertTrainingResult, train_worker
from uniner.records import Question, from_table
from uniner.storage.model_folders import load_tokenizer


def test_a_long_passage_is_read_in_pieces_and_no_word_is_lost(tiny_bert):
    text = "Ann Lee of Velmora met Bo in Tarn. " * 20
    pieces = encode_pieces(load_tokenizer(tiny_bert), text, 32)
    assert len(pieces) > 3 and max(len(piece.ids) for piece in pieces) <= 32
    words = "".join(text[word.start : word.end] for piece in pieces for word in piece.words)
    assert words == "".join(text.split())


def make_job(tmp_path, base, gold, dataset="d", labels=None):
    sizes = {"epochs": 1, "learning_rate": 1e-3, "batch_passages": 1, "max_tokens": 128, "use_gpu": False}
    settings = BertSystem(kind="bert", model=base, train={dataset: str(gold)}, **sizes)
    return BertTrainingJob(
        settings=settings, base=base, dataset=dataset, labels=labels or {}, output=f"{tmp_path}/model", seed=0
    )


@pytest.mark.parametrize(
    ("dataset", "labels", "words"),
    [("conll03", {}, "person"), ("mine", {}, "person"), ("mine", {"PER": "human being"}, "human being")],
)
def test_it_learns_the_type_names_of_the_questions(tmp_path, tiny_bert, dataset, labels, words):
    gold = tmp_path / "train.txt"
    gold.write_text("Ann B-PER\nLee I-PER\nsleeps O\n")
    assert train_worker(make_job(tmp_path, tiny_bert, gold, dataset, labels)).error == ""
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert set(config["label2id"]) == {"O", f"B-{words}", f"I-{words}"}
    (chunk,) = cut_questions(dataset, str(gold), 9, None, labels=labels)
    assert [question.type for question in from_table(chunk.table, Question)] == [words]


def test_a_model_that_cannot_label_words_gives_one_line(tmp_path, base):
    gold = tmp_path / "gold.jsonl"
    gold.write_text(
        '{"text": "Ann.", "entities": [{"start": 0, "end": 3, "text": "Ann", "type": "person"}]}\n'
    )
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text('{"model_type": "t5"}')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).write_bytes((Path(base) / name).read_bytes())
    result = train_worker(make_job(tmp_path, f"{tmp_path}/base", gold))
    assert result == BertTrainingResult(error=result.error), "no figures beside the error"
    assert f"evaluate.system.*.model {tmp_path}/base cannot be loaded as a model" in result.error
    assert "\n" not in result.error and not (tmp_path / "model").exists()
