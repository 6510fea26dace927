"""The conversations are tokenised once: later workers and restarts read the same samples."""

import dataclasses

import numpy as np
import pytest

from uniner.storage.folder import Folder
from uniner.train import SAMPLES, prepare, worker
from uniner.train.tokenized import tokenized_once

pytestmark = pytest.mark.usefixtures("group")


@pytest.fixture
def splits(make_job, tokenizer):
    job = make_job()
    return prepare.tokenize(job, prepare.read_conversations(job), tokenizer)


def unused():
    raise AssertionError("tokenised again")


def require_equal(seen, expected):
    for one, other in zip(seen, expected, strict=True):
        assert (one.counts, one.per_conversation) == (other.counts, other.per_conversation)
        for sample, wanted in zip(one.samples, other.samples, strict=True):
            assert sample.passage_id == wanted.passage_id
            for name in ("ids", "loss"):
                values = getattr(sample, name), getattr(wanted, name)
                assert values[0].dtype == values[1].dtype and np.array_equal(*values)


@pytest.mark.parametrize("max_tokens", [256, 160])
def test_samples_are_read_as_they_were_made(make_job, tokenizer, tmp_path, max_tokens):
    job = make_job()
    job = dataclasses.replace(job, student=job.student.model_copy(update={"max_tokens": max_tokens}))
    expected = prepare.tokenize(job, prepare.read_conversations(job), tokenizer)
    assert (max_tokens == 160) == any(split.counts.split for split in expected), "some are cut"
    folder = Folder(str(tmp_path / "train"))
    require_equal(tokenized_once(folder, "source", lambda: expected), expected)
    require_equal(tokenized_once(folder, "source", unused), expected)


def test_no_validation_is_kept_as_none(splits, tmp_path):
    none = dataclasses.replace(splits.validation, samples=[], per_conversation=[])
    none = dataclasses.replace(none, counts=dataclasses.replace(none.counts, conversations=0, samples=0))
    folder, expected = Folder(str(tmp_path / "train")), splits._replace(validation=none)
    tokenized_once(folder, "source", lambda: expected)
    require_equal(tokenized_once(folder, "source", unused), expected)


def test_a_broken_file_and_one_of_other_conversations_are_made_again(splits, tmp_path):
    folder, made = Folder(str(tmp_path / "train")), []

    def make():
        made.append(1)
        return splits

    tokenized_once(folder, "one", make)
    tokenized_once(folder, "other", make)
    whole = folder.read(SAMPLES)
    folder.write(SAMPLES, whole[: len(whole) // 2] + b"?" + whole[len(whole) // 2 + 1 :])
    tokenized_once(folder, "other", make)
    assert len(made) == 3 and folder.read(SAMPLES) == whole


def test_workers_that_start_again_do_not_tokenise(make_job, local_session, monkeypatch):
    worker.train(make_job(epochs=1), local_session())
    monkeypatch.setattr(worker, "tokenize", unused)
    assert worker.train(make_job(epochs=1), local_session()).figures.resumed == 1
