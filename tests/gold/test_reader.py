"""Any format from one address, on disk and on a real S3 server; digests; counts of the real data sets."""

import gzip
import hashlib
import io
import json
import os

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniner.errors import UserError
from uniner.gold import reader
from uniner.gold.reader import gold_digest, read_gold
from uniner.storage.stage_folder import StageFolder


def parquet() -> bytes:
    table = pa.table({"tokens": [["Bo", "sat"]], "ner_tags": [["B-person", "O"]]})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


OWN_FORMAT = {"text": "Bo sat", "entities": [{"start": 0, "end": 2, "text": "Bo", "type": "person"}]}
TURNS = ["Text: Bo sat", "I've read this text.", "What describes person in the text?", '["Bo"]']
ASKED = {"conversations": [{"from": ("human", "gpt")[n % 2], "value": turn} for n, turn in enumerate(TURNS)]}
FILES = {
    "gold.jsonl": json.dumps(OWN_FORMAT).encode(),
    "gold.data.gz": gzip.compress(json.dumps(OWN_FORMAT).encode()),
    "test.json": json.dumps([ASKED], indent=1).encode(),
    "test.conll": b"{ O\nBo B-person\n",
    "corpus.gz": gzip.compress(b"1|t|Bo sat\n1\t0\t2\tBo\tperson\n"),
    "hub/test.parquet": parquet(),
    "brat/1.txt": b"Bo sat",
    "brat/1.ann": b"T1\tperson 0 2\tBo\n",
}


def test_every_format_is_recognised_on_disk_and_on_s3(root):
    folder = StageFolder(root)
    for name, data in FILES.items():
        folder.write(name, data)
    addresses = [name for name in FILES if "/" not in name] + ["hub", "hub/test.parquet", "brat", "brat/"]
    for address in map(folder.path, addresses):
        (passage,) = read_gold(address)
        assert [(entity.text, entity.type) for entity in passage.entities] == [("Bo", "person")], address
    folder.write("more/b.conll", b"Eve B-person")
    folder.write("more/a.jsonl", FILES["gold.jsonl"])
    assert [(p.id, p.text) for p in read_gold(folder.path("more/*"))] == [
        ("000-0000001", "Bo sat"),
        ("001-0000001", "Eve"),
    ]
    with pytest.raises(UserError, match=r"more: this folder has neither \.ann .* nor \.parquet"):
        list(read_gold(folder.path("more")))
    with pytest.raises(UserError, match="none: no such file or folder"):
        list(read_gold(folder.path("none")))


def test_a_changed_file_changes_the_digest_and_an_unchanged_one_is_read_once(root, monkeypatch):
    folder = StageFolder(root)
    for name in ("a.conll", "b.conll"):
        folder.write(name, b"Bo B-person\n")
    opened = []
    filesystem = reader.filesystem

    def recording_filesystem(url):
        system, path = filesystem(url)
        return RecordingFilesystem(system, opened), path

    monkeypatch.setattr(reader, "filesystem", recording_filesystem)
    single, both = gold_digest(folder.path("a.conll")), gold_digest(folder.path("*.conll"))
    assert single == hashlib.sha256(b"Bo B-person\n").hexdigest()[:16] != both
    assert len(opened) == 2
    assert (gold_digest(folder.path("a.conll")), gold_digest(folder.path("*.conll"))) == (single, both)
    assert len(opened) == 2, "an unchanged file is not read again"
    folder.write("b.conll", b"Eve B-person\n")
    assert gold_digest(folder.path("*.conll")) != both
    assert len(opened) == 3


class RecordingFilesystem:
    """A file system that records the files it opens."""

    def __init__(self, system, opened):
        self._system, self._opened = system, opened

    def __getattr__(self, name):
        return getattr(self._system, name)

    def open(self, path, *args, **kwargs):
        self._opened.append(os.fspath(path))
        return self._system.open(path, *args, **kwargs)


OFFICIAL = {
    "CrossNER_AI": (431, 1624, 13),
    "CrossNER_literature": (416, 2025, 11),
    "CrossNER_music": (465, 3163, 12),
}
"""Passages, gold strings and types according to the benchmark."""


def counts_of(file):
    passages = list(read_gold(str(file)))
    entities = [entity for passage in passages for entity in passage.entities]
    assert not any(passage.left_out for passage in passages)
    return len(passages), len(entities), {entity.type for entity in entities}


def test_every_real_data_set_has_the_passages_entities_and_types_of_its_file(shared_data):
    files = sorted(shared_data("ner").glob("*/*.jsonl.gz"))
    assert len({file.parent for file in files}) == 21
    for file in files:
        rows = [msgspec.json.decode(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        entities = [entity for row in rows for entity in row["entities"]]
        assert counts_of(file) == (len(rows), len(entities), {entity["type"] for entity in entities}), file


def test_the_published_test_files_have_the_benchmarks_counts(shared_data):
    files = sorted(shared_data("universal_ner_official").glob("*.json.gz"))
    assert [file.name.split(".")[0] for file in files] == sorted(OFFICIAL)
    for file in files:
        rows = [row["conversations"] for row in json.loads(gzip.decompress(file.read_bytes()))]
        answers = [json.loads(turns[3]["value"]) for turns in rows]
        types = {
            turns[2]["value"].split(" in the text?")[0].removeprefix("What describes ") for turns in rows
        }
        passages, entities, found_types = counts_of(file)
        assert (passages, entities, len(found_types)) == OFFICIAL[file.name.split(".")[0]]
        assert (entities, found_types) == (sum(map(len, answers)), types)
        questions = [question for passage in read_gold(str(file)) for question in passage.questions]
        assert len(questions) == len(rows)
        assert [set(mentions) for _, mentions in questions] == [set(answer) for answer in answers]
