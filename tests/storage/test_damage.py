"""Damage: a flipped bit anywhere in a chunk, a manifest, an identity or a crash log is harmless or named."""

import random

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.records import ANNOTATION, Annotation, Entity, to_table
from uniner.runtime.crash_log import CrashHistory, CrashLog
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.sealed_json import BrokenFileError
from uniner.storage.sealed_parquet import column_digest, open_sealed, sealed_parquet
from uniner.storage.stage_folder import Chunk, StageFolder

FLIPS = 300
ROWS = [
    Annotation(
        passage_id=f"p{number}",
        doc_id="d",
        text=f"Passage {number} is about Łódź. " * 5,
        outcome="ok",
        reply="[]",
        entities=tuple(Entity(text="Łódź", type="city", start=n, end=n + 4) for n in range(number % 4)),
        model="teacher",
        tokens_in=number,
        tokens_out=3,
        cost_usd=0.001,
        attempts=1,
    )
    for number in range(12)
]
TABLE = to_table(ROWS, ANNOTATION)
IDENTITY = Identity(stage="annotate", settings={"annotate": {"temperature": 0.5, "prompt": None}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = StageFolder(str(tmp_path_factory.mktemp("runs"))) / "run" / "annotate"
    folder.begin(IDENTITY)
    summary = folder.write_chunk(Chunk("00-01", TABLE, 1.5, {"cost_usd": 0.25}, {"line": 7}))
    folder.write_manifest(Manifest.of(IDENTITY, [summary], 1.0, results={"figure": 1.5}))
    CrashLog(folder, "k").write(CrashHistory(driver="d", crashes=2, suspects={"3": 1}))
    return folder


READS = {
    "whole": ("chunk-00-01.parquet", lambda folder: folder.read_chunk("00-01").table),
    "columns": ("chunk-00-01.parquet", lambda folder: folder.read_columns("00-01", ["text", "entities"])),
    "summary": ("chunk-00-01.parquet", lambda folder: folder.read_summary("00-01")),
    "manifest": ("manifest.json", lambda folder: folder.manifest()),
    "list": ("chunks.parquet", lambda folder: folder.manifest()),
    "identity": ("identity.json", lambda folder: folder.read_identity()),
    "crash log": ("crashes-k.json", lambda folder: CrashLog(folder, "k").read("d")),
}


@pytest.mark.parametrize("what", READS)
def test_a_flipped_bit_is_harmless_or_named_with_what_to_do(folder, what):
    name, read = READS[what]
    whole, expected, generator = folder.read(name), read(folder), random.Random(what)
    named = 0
    try:
        for flip in range(FLIPS):
            # Half of them in the last bytes of a chunk: its footer.
            first = max(0, len(whole) - 3000) if flip % 2 else 0
            bit = generator.randrange(8 * first, 8 * len(whole))
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            folder.write(name, bytes(flipped))
            try:
                found = read(folder)
            except UserError as error:
                named += 1
                message = str(error)
                assert message.startswith(folder.url) and "\n" not in message
                assert "damaged" in message or "another version" in message
                assert "delete " in message or "run.name" in message
            else:
                assert found.equals(expected) if isinstance(found, pa.Table) else found == expected
    finally:
        folder.write(name, whole)
    assert named > FLIPS / 4 and (read(folder) == expected)


def test_a_missing_chunk_and_a_chunk_of_another_key_are_named(folder):
    with pytest.raises(UserError, match=r"chunk-b\.parquet: is missing; delete manifest\.json .* `uniner an"):
        folder.read_chunk("b")
    folder.write("chunk-b.parquet", folder.read("chunk-00-01.parquet"))
    for read in (folder.read_chunk, folder.read_summary, lambda key: folder.read_columns(key, ["text"])):
        with pytest.raises(UserError, match=r"chunk-b\.parquet: is damaged: it is the chunk 00-01; delete"):
            read("b")
    folder.remove(["chunk-b.parquet"])


def test_damaged_json_of_every_kind_is_named(folder):
    for name in ("types.json", "rejects-k.jsonl"):
        folder.write(name, b'{"a": 1')
    with pytest.raises(UserError, match=r"types\.json: is damaged"):
        folder.read_json("types.json")
    with pytest.raises(UserError, match=r"rejects-k\.jsonl: is damaged"):
        folder.read_rejects("k")
    folder.remove(["types.json", "rejects-k.jsonl"])


def test_a_column_s_digest_does_not_depend_on_its_layout():
    values = [["a", "Łódź"], [], ["b"], ["c", "d", "e"]]
    column = pa.chunked_array([pa.array(values)])
    sliced = pa.chunked_array([pa.array([["x"], *values, ["y"]]).slice(1, 4)])
    divided = pa.chunked_array([pa.array(values[:1]), pa.array(values[1:])])
    bitmap = pa.array(values).buffers()
    bitmap[0] = pa.py_buffer(b"\xff")  # a bitmap that says that nothing is null
    with_bitmap = pa.chunked_array(
        [pa.Array.from_buffers(column.type, 4, bitmap[:2], children=[pa.array(values).values])]
    )
    digests = {column_digest(each) for each in (column, sliced, divided, with_bitmap)}
    assert len(digests) == 1
    others = [[["a"], ["Łódź"], ["b"], ["c", "d", "e"]], [["a", "Łódź"], None, ["b"], ["c", "d", "e"]]]
    assert len(digests | {column_digest(pa.chunked_array([pa.array(other)])) for other in others}) == 3
    numbers = [pa.chunked_array([pa.array([1, 2], kind)]) for kind in (pa.int64(), pa.int32(), pa.float64())]
    assert len({column_digest(each) for each in numbers}) == 3


@pytest.mark.parametrize("rows", [0, 1, 12])
def test_a_sealed_table_comes_back_equal(rows):
    table = TABLE.slice(3, rows)
    data = sealed_parquet(table)
    assert open_sealed(data).equals(table) and sealed_parquet(table) == data
    with pytest.raises(BrokenFileError):
        open_sealed(data[: len(data) // 2])
    with pytest.raises(BrokenFileError):
        open_sealed(b"")
