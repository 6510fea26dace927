"""Model folders: copied to each node once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from uniner.errors import UserError
from uniner.storage.folder import Folder
from uniner.storage.model_folders import fetch_model, find_student_facts


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


@pytest.mark.parametrize("facts", [{"template": "type"}, {"template": "type", "types": [], "more": 1}, [1]])
def test_facts_that_are_not_a_students_are_one_line(folder, facts):
    assert find_student_facts(folder.url) is None
    folder.write_json("uniner.json", facts)
    with pytest.raises(UserError, match=r"uniner\.json is not a student's .* it needs template, max_tokens"):
        find_student_facts(folder.url)
