"""Shards: streamed, resumable at every chunk, bad lines rejected by reason, broken files named."""

import json
from pathlib import Path

import pytest
import zstandard

from uniner.errors import UserError
from uniner.ingest.reader import Position, Recipe, chosen, read_chunks
from uniner.ingest.shards import fingerprint, read_lines
from uniner.records import Passage, from_table
from uniner.storage import merge

RECIPE = Recipe(20, 5, 1.0, 0, "text", "meta.pile_set_name")
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


def passages(chunks):
    return [passage for chunk in chunks for passage in from_table(chunk.table, Passage)]


def test_every_passage_gives_back_its_text(shard, tokenizer):
    found = passages(read_chunks(shard(LINES), 3, Position(), RECIPE, tokenizer))
    texts = {f"00003-{number:09d}": json.loads(line)["text"] for number, line in enumerate(LINES)}
    assert {passage.doc_id for passage in found} == texts.keys()
    assert all(texts[p.doc_id][p.char_start : p.char_end] == p.text for p in found)
    assert len({p.passage_id for p in found}) == len(found)
    assert {p.source for p in found} == {"Mine"}


def test_a_resumed_shard_gives_the_same_chunks_from_every_point(shard, tokenizer):
    url = shard(LINES)
    whole = list(read_chunks(url, 0, Position(), RECIPE, tokenizer))
    assert len(whole) > 5
    assert [chunk.position["last"] for chunk in whole] == [0] * (len(whole) - 1) + [1]
    for number, chunk in enumerate(whole[:-1]):
        rest = list(read_chunks(url, 0, Position(**chunk.position), RECIPE, tokenizer))
        assert [c.key for c in rest] == [c.key for c in whole[number + 1 :]]
        assert [c.table for c in rest] == [c.table for c in whole[number + 1 :]]
        assert [c.figures["documents"] for c in rest if "documents" in c.figures] == [
            c.figures["documents"] for c in whole[number + 1 :] if "documents" in c.figures
        ]


def test_the_figures_add_up_to_the_shard(shard, tokenizer):
    bad = [*LINES[:4], "{broken", "[1]", '{"no": 1}', '{"text": 3}', '{"text": "  "}', *LINES[4:8]]
    url = shard(bad)
    figures = merge(chunk.figures for chunk in read_chunks(url, 0, Position(), RECIPE, tokenizer))
    assert figures["lines"] == 13
    assert figures["documents"] == figures["documents_chosen"] == 8
    assert {name: count for name, count in figures.items() if name.startswith("rejected_")} == {
        f"rejected_{reason}": 1
        for reason in ("not_json", "not_object", "no_text", "text_not_string", "empty_text")
    }
    assert figures["bytes_in"] == fingerprint(url)["bytes"]


def test_invalid_utf8_is_a_rejected_line(tmp_path, tokenizer):
    path = tmp_path / "0.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "\xff\xfe"}\n{"text": "good"}'))
    figures = merge(c.figures for c in read_chunks(str(path), 0, Position(), RECIPE, tokenizer))
    assert (figures["rejected_not_json"], figures["documents"]) == (1, 1)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_shard_is_named(shard, keep):
    url = shard([f'{{"text": "{number * 7919}"}}' for number in range(20_000)], frames=1)
    data = Path(url).read_bytes()
    Path(url).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"0\.jsonl\.zst: broken or truncated zstd after line \d+"):
        list(read_lines(url))


def test_a_file_that_is_no_zstd_is_named(tmp_path):
    path = tmp_path / "0.jsonl.zst"
    path.write_bytes(b'{"text": "plain"}\n')
    with pytest.raises(UserError, match="broken or truncated zstd after line 0"):
        list(read_lines(str(path)))


def test_an_empty_shard_is_one_empty_last_chunk(shard, tokenizer):
    (chunk,) = read_chunks(shard([""])[:], 0, Position(), RECIPE, tokenizer)
    assert (chunk.table.num_rows, chunk.position["last"]) == (0, 1)


def test_the_sample_depends_on_seed_and_document_alone():
    ids = [f"00000-{number:09d}" for number in range(20_000)]
    first = {doc_id for doc_id in ids if chosen(doc_id, 1, 0.1)}
    assert first == {doc_id for doc_id in reversed(ids) if chosen(doc_id, 1, 0.1)}
    assert 1_800 < len(first) < 2_200
    assert first != {doc_id for doc_id in ids if chosen(doc_id, 2, 0.1)}
    assert first <= {doc_id for doc_id in ids if chosen(doc_id, 1, 0.2)}
    assert all(chosen(doc_id, 1, 1.0) for doc_id in ids)
