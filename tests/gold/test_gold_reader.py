"""One address, any format, on disk and on a real S3 server; bytes are digested once."""

import gzip
import hashlib
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniner.errors import UserError
from uniner.gold import reader
from uniner.gold.reader import digest, read_gold
from uniner.storage.stage_folder import Folder


def parquet() -> bytes:
    table = pa.table({"tokens": [["Bo", "sat"]], "ner_tags": [["B-person", "O"]]})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


UNIFORM = {"text": "Bo sat", "entities": [{"start": 0, "end": 2, "text": "Bo", "type": "person"}]}
TURNS = ["Text: Bo sat", "I've read this text.", "What describes person in the text?", '["Bo"]']
ASKED = {"conversations": [{"from": ("human", "gpt")[n % 2], "value": turn} for n, turn in enumerate(TURNS)]}
FILES = {
    "gold.jsonl": json.dumps(UNIFORM).encode(),
    "gold.data.gz": gzip.compress(json.dumps(UNIFORM).encode()),
    "test.json": json.dumps([ASKED], indent=1).encode(),
    "test.conll": b"{ O\nBo B-person\n",
    "corpus.gz": gzip.compress(b"1|t|Bo sat\n1\t0\t2\tBo\tperson\n"),
    "hub/test.parquet": parquet(),
    "brat/1.txt": b"Bo sat",
    "brat/1.ann": b"T1\tperson 0 2\tBo\n",
}


def test_every_format_is_recognised_on_disk_and_on_s3(root):
    folder = Folder(root)
    for name, data in FILES.items():
        folder.write(name, data)
    addresses = [name for name in FILES if "/" not in name] + ["hub", "hub/test.parquet", "brat", "brat/"]
    for address in map(folder.path, addresses):
        (passage,) = read_gold(address)
        assert [(one.text, one.type) for one in passage.entities] == [("Bo", "person")], address
    folder.write("more/b.conll", b"Eve B-person")
    folder.write("more/a.jsonl", FILES["gold.jsonl"])
    assert [(p.id, p.text) for p in read_gold(folder.path("more/*"))] == [
        ("000-0000001", "Bo sat"),
        ("001-0000001", "Eve"),
    ]
    with pytest.raises(UserError, match=r"more: is a folder with neither \.ann .* nor \.parquet"):
        list(read_gold(folder.path("more")))
    with pytest.raises(UserError, match="none: no such file or folder"):
        list(read_gold(folder.path("none")))


def test_what_changes_changes_the_digest_and_nothing_is_read_twice(root, monkeypatch):
    folder = Folder(root)
    for name in ("a.conll", "b.conll"):
        folder.write(name, b"Bo B-person\n")
    opened = []
    filesystem = reader.filesystem

    def watched(url):
        system, path = filesystem(url)
        return Watched(system, opened), path

    monkeypatch.setattr(reader, "filesystem", watched)
    one, both = digest(folder.path("a.conll")), digest(folder.path("*.conll"))
    assert one == hashlib.sha256(b"Bo B-person\n").hexdigest()[:16] != both
    assert len(opened) == 2
    assert (digest(folder.path("a.conll")), digest(folder.path("*.conll"))) == (one, both)
    assert len(opened) == 2, "a file that stands is not read again"
    folder.write("b.conll", b"Eve B-person\n")
    assert digest(folder.path("*.conll")) != both
    assert len(opened) == 3


class Watched:
    """A file system that notes what is opened."""

    def __init__(self, system, opened):
        self._system, self._opened = system, opened

    def __getattr__(self, name):
        return getattr(self._system, name)

    def open(self, path, *words, **settings):
        self._opened.append(os.fspath(path))
        return self._system.open(path, *words, **settings)
