"""Documents that share an id are found over all chunks, in bounded memory."""

import pyarrow as pa
import pytest

from uniner.ingest import repeated_ids, stage
from uniner.ingest.repeated_ids import RepeatedIds, collect_digests, divide_chunks, find_repeated
from uniner.ingest.shards import ShardPart


class Chunks:
    """A folder's chunks: key to passages, each its document's id, part and row."""

    def __init__(self, chunks):
        self.chunks = chunks

    def read_columns(self, key, names):
        assert names == ["doc_id", "passage_id"]
        rows = self.chunks[key]
        ids = [f"{part:05d}-{row:09d}-{number:09d}" for number, (_, part, row) in enumerate(rows)]
        return pa.table({"doc_id": [doc_id for doc_id, _, _ in rows], "passage_id": ids})


def repeated(chunks, documents=1):
    tasks = divide_chunks(sorted(chunks), documents)
    return find_repeated((collect_digests(task, Chunks(chunks)) for task in tasks), tasks[0]["share"])


@pytest.fixture(params=[1, 2000])
def _task_size(request, monkeypatch):
    monkeypatch.setattr(repeated_ids, "_CHUNKS_PER_TASK", request.param)


@pytest.mark.usefixtures("_task_size")
def test_repeated_ids_are_counted_with_the_places_of_the_first():
    chunks = {
        "00000-0": [("a", 0, 0), ("a", 0, 0), ("b", 0, 1)],  # a document of several passages is one
        "00000-1": [("b", 0, 1), ("é", 0, 2), ("a", 0, 5)],
        "00001-0": [("c", 1, 0), ("é", 1, 7), ("a", 1, 8)],
    }
    assert repeated(chunks) == RepeatedIds(share=1.0, documents=3, example=((0, 5), (0, 0)))
    del chunks["00000-1"]
    assert repeated(chunks) == RepeatedIds(share=1.0, documents=1, example=((1, 8), (0, 0)))
    del chunks["00001-0"]
    assert repeated(chunks) == RepeatedIds(share=1.0, documents=0)


def test_of_a_large_corpus_a_share_of_the_ids_is_compared_and_a_pair_is_never_split(monkeypatch):
    monkeypatch.setattr(repeated_ids, "MAX_DOCUMENTS", 500)
    rows = [(f"id {number // 2}", 0, number) for number in range(2_000)]
    assert repeated_ids.divide_chunks(["0"], 2_000)[0]["share"] == 0.25
    found = repeated({"0": rows[:1_000], "1": rows[1_000:]}, documents=2_000)
    assert found.share == 0.25
    assert 180 < found.documents < 320
    (_, later), (_, earlier) = found.example
    assert later == earlier + 1


def test_the_warning_names_the_lines():
    parts = [
        ShardPart(0, "lines", ("/c/a.jsonl",), (1,)),
        ShardPart(3, "parquet", ("/c/b.parquet",), (1,), group=1, first=70),
    ]
    line = stage._describe_repeated(RepeatedIds(share=1.0, documents=2, example=((3, 4), (0, 2))), parts)
    assert line.startswith("ingest: 2 documents have the id of an earlier one (ingest.id_field), such as ")
    assert "line 75 of b.parquet, which has that of line 3 of a.jsonl;" in line
    line = stage._describe_repeated(RepeatedIds(share=0.1, documents=2, example=((3, 4), (0, 2))), parts)
    assert line.startswith("ingest: among 10.00% of the ids, which were compared, 2 documents")
