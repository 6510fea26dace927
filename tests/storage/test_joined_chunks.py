"""Chunks that are joined: always the same ones, whatever comes later, and their rows in order."""

import pyarrow as pa
import pytest

from uniner.storage.chunk_list import ChunkEntry, ChunkList
from uniner.storage.joined_chunks import join_chunks, member_keys, read_joined, read_joined_columns
from uniner.storage.stage_folder import Chunk, StageFolder


def chunks(*parts):
    """Return chunks of these rows, part by part."""
    return [
        ChunkEntry(key=f"{part:05d}-{number:07d}", rows=rows, bytes=10 * rows, digest="d")
        for part, counts in enumerate(parts)
        for number, rows in enumerate(counts)
    ]


def joined(entries, rows):
    return {chunk.key: chunk.rows for chunk in join_chunks(ChunkList.of(entries), rows)}


def test_chunks_of_a_part_are_joined_until_they_have_enough_rows():
    entries = chunks([4, 4, 1, 0, 9, 3], [5], [0, 0])
    assert joined(entries, 8) == {
        "00000-0000000x2": 8,
        "00000-0000002x3": 10,
        "00000-0000005": 3,
        "00001-0000000": 5,
        "00002-0000000x2": 0,
    }
    assert join_chunks(ChunkList.of(entries), 8)[0].bytes == 80
    assert joined(entries, 1) == {entry.key: entry.rows for entry in entries}
    assert joined([], 8) == {}


def test_what_is_added_leaves_the_joined_chunks_as_they_are():
    before, after = chunks([4, 4, 1], [2, 2]), chunks([4, 4, 1], [2, 2], [9, 9], [1])
    assert joined(before, 100).items() <= joined(after, 100).items()


def test_chunks_with_a_gap_or_other_names_are_not_joined():
    keys = ["00000-0000000", "00000-0000002", "a", "b", "9", "10"]
    assert list(joined([ChunkEntry(key=key, rows=1, bytes=1) for key in keys], 100)) == keys


@pytest.mark.parametrize("number", [98, 9_999_999])
def test_a_joined_key_names_its_members(number):
    keys = [f"00012-{number + n:07d}" for n in range(3)]
    (key,) = joined([ChunkEntry(key=key, rows=1, bytes=1) for key in keys], 9)
    assert member_keys(key) == keys
    assert member_keys("00012-0000098") == ["00012-0000098"] and member_keys("sixx2") == ["sixx2"]


def test_rows_are_those_of_the_members_in_order(tmp_path):
    folder = StageFolder(str(tmp_path))
    for number in range(3):
        rows = pa.table({"text": [f"{number}a", f"{number}b"], "n": [number, number]})
        folder.write_chunk(Chunk(f"0-{number}", rows))
    assert read_joined(folder, "0-1x2").table["text"].to_pylist() == ["1a", "1b", "2a", "2b"]
    assert read_joined(folder, "0-1x2").key == "0-1x2"
    assert read_joined_columns(folder, "0-0x3", ["n"]).to_pydict() == {"n": [0, 0, 1, 1, 2, 2]}
