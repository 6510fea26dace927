"""Chunks: resumable at every position, with rejects by reason and filtered overlaps."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import zstandard

from uniner.config.schema import Ingest
from uniner.ingest import chunk_reader, selection
from uniner.ingest.chunk_reader import IngestSettings, ShardPosition, read_chunks
from uniner.ingest.document_reader import REASONS, RowFields
from uniner.ingest.passage_filters import FilterResult
from uniner.ingest.sampling import Sampling, duplicates
from uniner.ingest.shards import shard_digest, split_shards
from uniner.passages import cut_passages, own_span
from uniner.records import Passage, from_table
from uniner.storage.manifest import StageTotals, merge
from uniner.storage.stage_folder import StageFolder, rejects_name

SETTINGS = IngestSettings(20, 0, 5, Sampling(0, 1.0), RowFields("text", "meta.pile_set_name"), 10**6)
LINES = [
    json.dumps({"text": f"Document {number} is here. " * (1 + number % 4), "meta": {"pile_set_name": "Mine"}})
    for number in range(30)
]


@pytest.fixture
def shard(tmp_path):
    def write(lines: list[str], name: str = "0.jsonl.zst", frames: int = 2) -> str:
        part = -(-len(lines) // frames)
        pieces = [lines[start : start + part] for start in range(0, len(lines), part)]
        data = b"".join(
            zstandard.compress("".join(f"{line}\n" for line in piece).encode()) for piece in pieces
        )
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write


def part(url, number=0):
    return replace(split_shards([url], [shard_digest(url).bytes], "text")[0], number=number)


def passages(chunks):
    return [passage for chunk in chunks for passage in from_table(chunk.table, Passage)]


def test_every_passage_gives_back_its_text(shard, tokenizer):
    every = passages(read_chunks(part(shard(LINES), 3), ShardPosition(), SETTINGS, tokenizer))
    texts = {f"00003-{number:09d}": json.loads(line)["text"] for number, line in enumerate(LINES)}
    assert {passage.doc_id for passage in every} == texts.keys()
    assert all(texts[p.doc_id][p.char_start : p.char_end] == p.text for p in every)
    assert len({p.passage_id for p in every}) == len(every)
    assert {p.source for p in every} == {"Mine"}


class WordFilter:
    """Finds a fault in every passage with this word."""

    def __init__(self, word):
        self.word = word

    def check(self, text, n_tokens):
        return FilterResult("language" if self.word in text else None, [])


def require_each_character_owned_once(every):
    for passage in every:
        owners = [
            sum(p.doc_id == passage.doc_id and own_span(p)[0] <= position < own_span(p)[1] for p in every)
            for position in range(passage.char_start, passage.char_end)
        ]
        assert set(owners) == {1}


@pytest.mark.parametrize("word", ["word7 ", "word0 ", "word59", "word3", "no such"])
def test_the_neighbours_of_a_dropped_passage_own_their_overlap(word, shard, tokenizer):
    settings = replace(SETTINGS, overlap_tokens=8, chunk_passages=2)
    url = shard([json.dumps({"text": " ".join(f"word{n}" for n in range(60))})] * 2, frames=1)
    whole = list(read_chunks(part(url), ShardPosition(), settings, tokenizer, WordFilter(word)))
    every = list(read_chunks(part(url), ShardPosition(), settings, tokenizer))
    assert (len(passages(whole)) < len(passages(every))) == (word != "no such")
    require_each_character_owned_once(passages(whole))
    for number, chunk in enumerate(whole[:-1]):
        rest = read_chunks(part(url), ShardPosition(**chunk.position), settings, tokenizer, WordFilter(word))
        assert [c.table for c in rest] == [c.table for c in whole[number + 1 :]]


def test_the_neighbours_of_a_duplicate_own_their_overlap(shard, tokenizer, tmp_path):
    settings = replace(SETTINGS, overlap_tokens=8, chunk_passages=2, digests=True)
    first = " ".join(f"word{n}" for n in range(60))
    candidates, folder = StageFolder(str(tmp_path / "candidates")), StageFolder(str(tmp_path / "ingest"))
    url = shard([json.dumps({"text": text}) for text in (first, first + " and more of it")], frames=1)
    summaries = [
        candidates.write_chunk(chunk)
        for chunk in read_chunks(part(url), ShardPosition(), settings, tokenizer)
    ]
    keys = sorted(summary.key for summary in summaries)
    rows = [row for key in keys for row in candidates.read_chunk(key).table.to_pylist()]
    duplicate = duplicates(np.array([row["digest"] for row in rows], np.uint64))
    assert 0 < duplicate.sum() < len(rows)
    chunks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            selection.chunk_pipeline,
            "make_chunks",
            lambda _, items, make: chunks.extend(chunk for item in items for chunk in make(item)) or [],
        )
        chunks_before = StageTotals(summaries).chunks()
        selection.select_passages(folder, candidates, chunks_before, Ingest(dedupe=True))
    assert len(passages(chunks)) == len(rows) - duplicate.sum()
    require_each_character_owned_once(passages(chunks))


def test_a_resumed_shard_gives_the_same_chunks_from_every_point(shard, tokenizer):
    url = shard(LINES)
    whole = list(read_chunks(part(url), ShardPosition(), SETTINGS, tokenizer))
    assert len(whole) > 5
    assert [chunk.position["last"] for chunk in whole] == [0] * (len(whole) - 1) + [1]
    for number, chunk in enumerate(whole[:-1]):
        rest = list(read_chunks(part(url), ShardPosition(**chunk.position), SETTINGS, tokenizer))
        assert [c.key for c in rest] == [c.key for c in whole[number + 1 :]]
        assert [c.table for c in rest] == [c.table for c in whole[number + 1 :]]
        assert [c.figures["documents"] for c in rest if "documents" in c.figures] == [
            c.figures["documents"] for c in whole[number + 1 :] if "documents" in c.figures
        ]


BAD = {
    b"{broken": "not_json",
    b'{"text": "cut': "not_json",
    b'{"text": "a\x00b"}': "not_json",
    b'{"text": "\xff\xfe"}': "invalid_utf8",
    b"[1]": "not_object",
    b"null": "not_object",
    b'{"no": 1}': "no_text",
    b'{"text": null}': "no_text",
    b'{"text": 3}': "text_not_string",
    b'{"text": ""}': "empty_text",
    b'{"text": " \\n "}': "empty_text",
    b'{"text": "a\\u0000b"}': "nul_character",
    b'{"text": "' + b"long " * 100 + b'"}': "too_long",
}


@pytest.fixture
def bad_shard(tmp_path):
    """Write good lines, every kind of bad line and blank lines. Returns the shard's address."""
    lines = [
        line for bad, good in zip(BAD, LINES, strict=False) for line in (good.encode(), bad, b"", b"  \r")
    ]
    path = tmp_path / "bad.jsonl.zst"
    path.write_bytes(zstandard.compress(b"\n".join(lines)))
    return str(path)


def test_every_bad_row_is_rejected_with_its_place_and_reason(bad_shard, tokenizer):
    settings = replace(SETTINGS, max_row_bytes=300)
    chunks = list(read_chunks(part(bad_shard), ShardPosition(), settings, tokenizer))
    assert [reject for chunk in chunks for reject in chunk.rejects] == [
        {"shard": "bad.jsonl.zst", "line": 2 + 4 * number, "reason": reason}
        for number, reason in enumerate(BAD.values())
    ]
    figures = merge(chunk.figures for chunk in chunks)
    assert figures["lines"] == 2 * len(BAD)
    assert figures["documents"] == figures["documents_chosen"] == len(BAD)
    rejected = {name: count for name, count in figures.items() if name.startswith("rejected_")}
    assert rejected == {f"rejected_{reason}": count for reason, count in Counter(BAD.values()).items()}
    assert set(BAD.values()) == set(REASONS) - {"no_id"}
    assert figures["bytes_in"] == shard_digest(bad_shard).bytes


def test_no_reject_is_lost_or_doubled_at_any_resume_position(bad_shard, tokenizer, monkeypatch):
    monkeypatch.setattr(chunk_reader, "CHUNK_REJECTS", 3)
    settings = replace(SETTINGS, max_row_bytes=300)
    whole = list(read_chunks(part(bad_shard), ShardPosition(), settings, tokenizer))
    assert max(len(chunk.rejects) for chunk in whole) == 3
    for number, chunk in enumerate(whole[:-1]):
        rest = read_chunks(part(bad_shard), ShardPosition(**chunk.position), settings, tokenizer)
        assert list(rest) == whole[number + 1 :]


def test_a_written_chunk_has_its_rejects_beside_it(bad_shard, tokenizer, tmp_path):
    folder = StageFolder(str(tmp_path / "out"))
    chunks = list(read_chunks(part(bad_shard), ShardPosition(), SETTINGS, tokenizer))
    for chunk in (*chunks, *chunks):  # written twice, as after a kill
        folder.write_chunk(chunk)
    lines = [
        json.loads(line)
        for chunk in chunks
        if chunk.rejects
        for line in folder.read(rejects_name(chunk.key)).splitlines()
    ]
    assert lines == [reject for chunk in chunks for reject in chunk.rejects]
    assert len(lines) == len(BAD) - 1
    assert folder.chunk_keys() == {chunk.key for chunk in chunks}


def test_an_empty_shard_is_one_empty_last_chunk(shard, tokenizer):
    (chunk,) = read_chunks(part(shard([""])), ShardPosition(), SETTINGS, tokenizer)
    assert (chunk.table.num_rows, chunk.position["last"]) == (0, 1)


def test_a_sampled_passage_is_the_same_as_in_the_whole(shard, tokenizer, monkeypatch):
    url = shard([json.dumps({"text": f"Sentence {n} of a document. " * 200}) for n in range(40)])
    whole = passages(read_chunks(part(url), ShardPosition(), SETTINGS, tokenizer))
    cut_texts = []

    def record_cut(text, *args):
        cut_texts.append(text)
        return cut_passages(text, *args)

    monkeypatch.setattr(chunk_reader, "cut_passages", record_cut)
    settings = replace(SETTINGS, sampling=Sampling(0, 0.005))
    some = list(read_chunks(part(url), ShardPosition(), settings, tokenizer))
    sampled = passages(some)
    assert set(sampled) < set(whole)
    assert 0.2 < len(sampled) / (len(whole) * 0.005) < 3
    documents = {passage.doc_id for passage in sampled}
    assert len(cut_texts) == len(documents) == merge(chunk.figures for chunk in some)["documents_chosen"] < 40


def test_a_bounded_shard_ends_with_the_row_that_reaches_the_bound(shard, tokenizer):
    url = shard(LINES)
    size = shard_digest(url).bytes
    bound = sum(len(line) + 1 for line in LINES[:7]) - 3
    (bounded,) = split_shards([url], [size], "text", bound)
    whole = list(read_chunks(bounded, ShardPosition(), SETTINGS, tokenizer))
    assert {passage.doc_id for passage in passages(whole)} == {f"00000-{n:09d}" for n in range(7)}
    for number, chunk in enumerate(whole[:-1]):
        rest = read_chunks(bounded, ShardPosition(**chunk.position), SETTINGS, tokenizer)
        assert list(rest) == whole[number + 1 :]
