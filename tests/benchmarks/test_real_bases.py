"""The parts of the real bases' benchmark that need no base."""

import argparse
import gzip
import json
import tomllib
from pathlib import Path

import pytest

from benchmarks.cascade import toml
from benchmarks.real_bases import (
    gold_file,
    package,
    passages_in,
    sections,
    table,
    write_corpus,
    write_held_out,
)
from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.evaluate.scoring import score
from uniner.gold.reader import read_gold
from uniner.records import Prediction


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def scores(f1_is_one):
    answers = [
        Prediction(
            dataset=name, passage_id="1", text="Ann left", type="person", reply="",
            predicted=("Ann",) if right else (), gold=("Ann",), gold_spans=(), outcome="ok",
        )
        for name, right in f1_is_one.items()
    ]  # fmt: skip
    return score(answers)


def options(**changed):
    given = {"gpu": False, "student_steps": None, "encoder_epochs": 4, "max_passages": 100}
    return argparse.Namespace(**given | changed)


def config(**changed):
    bases = {"student": Path("smollm"), "encoder": Path("minilm")}
    written = toml(sections(options(**changed), Path("/somewhere"), bases, {"mit_movie": "/gold/test.jsonl"}))
    return Config.model_validate(tomllib.loads(written))


def test_the_table_has_a_row_for_each_system_that_was_scored():
    one, two = scores({"a": True, "b": False}), scores({"a": True, "b": True})
    assert table({"student": two, "base": one, "cascade": two}, ["a", "b"]) == [
        "| F1 | a | b | mean |",
        "|---|---:|---:|---:|",
        "| base | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0] | 50.0 [50.0, 50.0] |",
        "| student | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] |",
        "| cascade | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] |",
    ]


def test_passages_come_once_each_from_plain_and_compressed_files(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(lines({"passage": " Ann left. ", "reply": "1"}))
    more = lines({"passage": "Ann left.", "reply": "2"}, {"passage": "Bob", "reply": "3"})
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(more.encode()))
    (tmp_path / "queries.jsonl").write_text(lines({"id": "1", "text": "Carl"}))
    assert dict(passages_in(tmp_path)) == {"Ann left.": "1", "Bob": "3"}
    assert "queries.jsonl is left out" in capsys.readouterr().out


def test_a_corpus_of_the_first_passages_has_their_replies(tmp_path):
    source = tmp_path / "given"
    source.mkdir()
    (source / "a.jsonl").write_text(lines(*({"passage": f"Ann {n}", "reply": "[]"} for n in range(5))))
    write_corpus(source, tmp_path, 2)
    texts = [json.loads(line)["text"] for line in (tmp_path / "passages.jsonl").read_text().splitlines()]
    replies = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert texts == [row["passage"] for row in replies] == ["Ann 0", "Ann 1"]


def test_queried_passages_that_are_not_trained_on_are_held_out_with_the_types_that_were_asked(tmp_path):
    asked = {"text": "Ann met Ann.", "entities": [{"text": "Ann", "type": "person"}] * 2, "queried": ["city"]}
    (tmp_path / "queries.jsonl").write_text(lines(asked, asked | {"text": "Bob"}))
    (tmp_path / "others.jsonl").write_text(lines({"passage": "Bob", "reply": "[]"}))
    (gold,) = write_held_out(tmp_path, tmp_path, {"Bob"}).values()
    (passage,) = read_gold(gold)
    assert passage.text == "Ann met Ann."
    assert {question.type: question.mentions for question in passage.questions} == {
        "city": (),
        "person": ("Ann",),
    }
    assert write_held_out(tmp_path, tmp_path, {"Bob", "Ann met Ann."}) == {}


def test_a_user_s_mistake_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"has no \.jsonl"):
        write_corpus(tmp_path, tmp_path, None)
    (tmp_path / "a.jsonl").write_text("nothing\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: is not JSON"):
        list(passages_in(tmp_path))
    with pytest.raises(UserError, match="mit_movie: has no test"):
        gold_file(tmp_path, "mit_movie")
    with pytest.raises(UserError, match="package no_such_package is not installed; run: pip install"):
        package("no_such_package")


def test_the_flags_decide_the_config():
    default, short, on_gpu = config(), config(student_steps=7, encoder_epochs=2), config(gpu=True)
    assert (default.train.epochs, default.train.max_steps, default.encoder.epochs) == (1, None, 4)
    assert (short.train.max_steps, short.encoder.epochs) == (7, 2)
    for section in (default.train, default.encoder):
        assert (section.workers, section.use_gpu, section.dtype) == (2, False, "bfloat16")
    for section in (on_gpu.train, on_gpu.encoder):
        assert (section.workers, section.use_gpu) == (1, True)
    assert (default.engine.gpus, on_gpu.engine.gpus) == (0, 1)
    assert default.evaluate.gold == {"mit_movie": "/gold/test.jsonl"}
