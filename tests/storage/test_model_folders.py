"""Model folders: copied to each node once."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from uniner.errors import UserError
from uniner.storage import model_folders
from uniner.storage.folder import Folder
from uniner.storage.model_folders import (
    StudentFacts,
    digests_of,
    fetch_model,
    find_student_facts,
    model_digest,
)
from uniner.storage.sealed_json import sealed_json


@pytest.fixture
def folder(root):
    return Folder(root) / "run" / "stage"


def test_a_model_folder_is_copied_once_to_the_node(folder, tmp_path):
    folder.write("config.json", b"{}")
    first = fetch_model(folder.url, tmp_path / "cache")
    assert first == fetch_model(folder.url, tmp_path / "cache")
    assert (Path(first) / "config.json").read_bytes() == b"{}"
    folder.write("config.json", b"[]")  # trained again: the same size, other bytes
    assert (Path(fetch_model(folder.url, tmp_path / "cache")) / "config.json").read_bytes() == b"[]"


def test_one_of_a_node_s_processes_copies_a_model_and_the_others_wait(bucket, tmp_path, monkeypatch):
    folder = Folder(f"{bucket}/{tmp_path.name}")
    folder.write("config.json", b"{}")
    downloads, download = [], Folder.download

    def counted(self, target):
        downloads.append(target)
        download(self, target)

    monkeypatch.setattr(Folder, "download", counted)
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(lambda _: fetch_model(folder.url, tmp_path / "cache"), range(4)))
    assert len(copies) == len(downloads) == 1
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == ["", ".lock"]


@pytest.fixture
def student(folder, tmp_path):
    """A student with its facts, and a copy of it on disk."""
    local = tmp_path / "student"
    local.mkdir()
    (local / "model.safetensors").write_bytes(b"weights" * 100)
    (local / "config.json").write_bytes(b"{}")
    facts = StudentFacts(template="type", max_tokens=9, base="b", types=("a",), files=digests_of(local))
    (local / "uniner.json").write_bytes(sealed_json(asdict(facts)))
    folder.upload(local)
    return folder


def test_a_damaged_student_is_named_when_it_is_fetched_and_checked_once(student, tmp_path, monkeypatch):
    cache, digest = tmp_path / "cache", model_digest(student.url)
    copy = fetch_model(student.url, cache)
    assert model_digest(copy) == digest
    monkeypatch.setattr(model_folders, "digests_of", lambda _: pytest.fail("checked twice"))
    assert fetch_model(student.url, cache) == copy
    monkeypatch.undo()

    student.write("calibration.json", b"{}")  # evaluate's, which are no part of the model
    student.write("README.md", b"card")
    fetch_model(student.url, tmp_path / "other")
    weights = bytearray(student.read("model.safetensors"))
    weights[50] ^= 1
    student.write("model.safetensors", bytes(weights))
    for _ in range(2):
        with pytest.raises(UserError, match=r"model\.safetensors: is damaged: .* `uniner train CONFIG`"):
            fetch_model(student.url, tmp_path / "third")
    student.remove(["model.safetensors"])
    with pytest.raises(UserError, match=r"model\.safetensors: is missing"):
        fetch_model(student.url, tmp_path / "fourth")


def test_a_flipped_bit_in_a_student_s_facts_is_named(student):
    whole, expected, generator = (
        student.read("uniner.json"),
        find_student_facts(student.url),
        random.Random(0),
    )
    for _ in range(100 if student.url.startswith("/") else 10):
        bit = generator.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        student.write("uniner.json", bytes(flipped))
        try:
            assert find_student_facts(student.url) == expected
        except UserError as error:
            assert "uniner.json" in str(error)


@pytest.mark.parametrize("facts", [
    {"template": "type"}, {"template": "type", "types": [], "more": 1}, [1],
    {"template": "type", "types": "person"}, {"template": "type", "types": [], "threshold": "high"},
    *({"template": "grouped", "max_tokens": 256, "base": "b", "types": [], **wrong} for wrong in (
        {"template": "typ"}, {"template": ["type"]}, {"group_types": "5"}, {"group_types": -1},
        {"max_tokens": "256"}, {"max_tokens": True},
    )),
])  # fmt: skip
def test_facts_that_are_not_a_students_are_one_line(folder, facts):
    assert find_student_facts(folder.url) is None
    folder.write_json("uniner.json", facts)
    with pytest.raises(UserError, match=r"uniner\.json is not a student's .* it needs template \(such as"):
        find_student_facts(folder.url)
