"""Shard formats: the same documents from each, on disk, S3 and any fsspec address; rejected rows."""

import gzip
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from uniner.errors import UserError
from uniner.ingest.document_reader import RowFields, read_rows
from uniner.ingest.shards import TEXT_FILES, shard_digests, split_shards
from uniner.storage.filesystem import expand

FIELDS = RowFields("text", "meta.pile_set_name", "id")
ROWS = [
    {"text": f"Text {number} é🙂.", "id": f"d{number}", "meta": {"pile_set_name": f"S{number % 3}"}}
    for number in range(300)
]
JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def parquet(rows=ROWS, row_group_size=70) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=row_group_size)
    return sink.getvalue().to_pybytes()


FILES = {
    "a.jsonl": JSON_LINES,
    "a.json.gz": gzip.compress(JSON_LINES[:9_000]) + gzip.compress(JSON_LINES[9_000:]),
    "a.jsonl.gz": gzip.compress(JSON_LINES),
    "a.jsonl.zst": zstandard.compress(JSON_LINES[:5_000]) + zstandard.compress(JSON_LINES[5_000:]),
    "a.parquet": parquet(),
}


def parts(*urls, text_field="text"):
    files = expand(urls)
    sizes = [digest.bytes for digest in shard_digests(files)]
    return split_shards(files, sizes, text_field)


def documents(shard_parts, fields=FIELDS, max_bytes=10**6):
    return [row.content for part in shard_parts for row in read_rows(part, fields, max_bytes)]


@pytest.mark.parametrize("folder", ["disk", "s3", "memory"])
@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_documents_from_everywhere(name, folder, tmp_path, request):
    url = {
        "disk": lambda: str(tmp_path),
        "s3": lambda: f"{request.getfixturevalue('bucket')}/{tmp_path.name}",
        "memory": lambda: f"memory://{tmp_path.name}",
    }[folder]()
    with fsspec.open(f"{url}/{name}", "wb") as file:
        file.write(FILES[name])
    shard_parts = parts(f"{url}/*.{name.split('.', 1)[1]}")
    assert documents(shard_parts) == [(row["text"], row["meta"]["pile_set_name"], row["id"]) for row in ROWS]
    assert documents(shard_parts, RowFields("text", "absent"))[7] == ("Text 7 é🙂.", "", "")


def test_a_row_group_is_a_part_with_row_numbers_of_its_shard(tmp_path):
    (tmp_path / "a.parquet").write_bytes(FILES["a.parquet"])
    (tmp_path / "b.jsonl").write_bytes(JSON_LINES)
    shard_parts = parts(str(tmp_path / "a.parquet"), str(tmp_path / "b.jsonl"))
    assert [(part.number, part.kind, part.group, part.first) for part in shard_parts] == [
        (0, "parquet", 0, 0),
        (1, "parquet", 1, 70),
        (2, "parquet", 2, 140),
        (3, "parquet", 3, 210),
        (4, "parquet", 4, 280),
        (5, "lines", 0, 0),
    ]
    assert shard_parts[2].place(3) == ("a.parquet", 144)
    assert shard_parts[5].place(3) == ("b.jsonl", 4)
    assert shard_parts[3].manifest_entry() == {
        "part": 3,
        "shard": "a.parquet",
        "row_group": 3,
        "first_row": 210,
    }
    rows = list(read_rows(shard_parts[1], FIELDS, 10**6, first=64))
    assert [row.content.id for row in rows] == [f"d{number}" for number in range(134, 140)]
    assert rows[-1].bytes_read == shard_parts[1].bytes


def test_a_bounded_parquet_shard_has_only_its_first_rows(tmp_path):
    (tmp_path / "a.parquet").write_bytes(FILES["a.parquet"])
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    size = (tmp_path / "a.parquet").stat().st_size
    bound = group.total_byte_size + group.total_byte_size // 2
    shard_parts = split_shards([str(tmp_path / "a.parquet")], [size], "text", bound)
    ids = [row.id for row in documents(shard_parts)]
    assert ids == [f"d{number}" for number in range(len(ids))]
    assert [part.limit for part in shard_parts] == [70, len(ids) - 70]
    assert 95 < len(ids) < 115


def test_text_files_are_documents_and_share_parts(tmp_path):
    folder = tmp_path / "letters"
    folder.mkdir()
    for number in range(TEXT_FILES + 2):
        (folder / f"{number:04d}.txt").write_text(f"Letter {number}\nof two lines.\n")
    (folder / "0003.txt").write_bytes(b"\xff\x00")
    (folder / "0004.txt").write_bytes(b"")
    (folder / "0005.txt").write_bytes(b"long" * 100)
    shard_parts = parts(str(folder / "*.txt"))
    assert [len(part.urls) for part in shard_parts] == [TEXT_FILES, 2]
    rows = documents(shard_parts, max_bytes=300)
    assert rows[:3] == [
        (f"Letter {number}\nof two lines.\n", "letters", f"{number:04d}.txt") for number in range(3)
    ]
    assert documents(shard_parts, RowFields("text", ""), 300) == rows, "also without ingest.id_field"
    assert rows[3:6] == ["invalid_utf8", "empty_text", "too_long"]
    assert len(rows) == TEXT_FILES + 2
    assert shard_parts[1].place(1) == (f"{TEXT_FILES + 1:04d}.txt", 1)


def test_rejected_rows_of_parquet_have_a_reason(tmp_path):
    texts = ["good", None, " ", "a\x00", "x" * 50]
    (tmp_path / "a.parquet").write_bytes(parquet([{"text": text, "id": 5} for text in texts]))
    assert documents(parts(str(tmp_path / "a.parquet")), max_bytes=40) == [
        ("good", "", "5"),
        "no_text",
        "empty_text",
        "nul_character",
        "too_long",
    ]
    (tmp_path / "c.parquet").write_bytes(parquet([{"text": "good", "id": None}, {"text": "a", "id": "x"}]))
    assert documents(parts(str(tmp_path / "c.parquet"))) == ["no_id", ("a", "", "x")]
    offsets = pa.py_buffer(b"\x00\x00\x00\x00\x02\x00\x00\x00\x06\x00\x00\x00")
    texts = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"\xff\xfefine"))
    pq.write_table(pa.table({"text": texts, "id": ["a", "b"]}), tmp_path / "d.parquet")
    assert documents(parts(str(tmp_path / "d.parquet"))) == ["invalid_utf8", ("fine", "", "b")]


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_parquet_is_named(tmp_path, keep):
    data = FILES["a.parquet"]
    (tmp_path / "a.parquet").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"a\.parquet: broken or truncated Parquet \(.*\); download"):
        parts(str(tmp_path / "a.parquet"))


def test_corrupt_parquet_is_named_when_it_is_read(tmp_path):
    data = bytearray(FILES["a.parquet"])
    data[4:60] = bytes(56)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet: broken or truncated Parquet"):
        documents(parts(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "a.parquet",
            "a.parquet: has no column body; set ingest.text_field to one of text, id, meta.pile_set_name",
        ),
        ("a.csv", "a.csv: unknown file suffix; JSON lines end in"),
        ("a.parquet.gz", "a.parquet.gz: unknown file suffix"),
        ("a.zst", "a.zst: unknown file suffix"),
    ],
)
def test_an_unreadable_shard_is_named_before_any_work(tmp_path, name, message):
    (tmp_path / name).write_bytes(FILES["a.parquet"])
    with pytest.raises(UserError) as caught:
        parts(str(tmp_path / name), text_field="body")
    assert message in str(caught.value)


def test_an_unknown_protocol_is_named():
    with pytest.raises(UserError, match="nonsense://x/y: this kind of address is not supported"):
        expand(["nonsense://x/y"])


def test_json_lines_may_begin_with_a_byte_order_mark(tmp_path):
    rows = b'{"text": "Ann", "id": 1}\n{"text": "Bo", "id": 2}\n'
    for name, data in (("a.jsonl", rows), ("b.jsonl.gz", gzip.compress(b"\xef\xbb\xbf" + rows))):
        (tmp_path / name).write_bytes(data)
        assert documents(parts(str(tmp_path / name))) == [("Ann", "", "1"), ("Bo", "", "2")]
    (tmp_path / "c.jsonl").write_bytes(b"\xef\xbb\xbf\n" + rows)
    assert documents(parts(str(tmp_path / "c.jsonl"))) == [("Ann", "", "1"), ("Bo", "", "2")]


@pytest.mark.parametrize(
    ("line", "content"),
    [
        (rb'{"text": "Ann", "id": "a", "score": NaN, "low": -Infinity}', ("Ann", "", "a")),
        (rb'{"text": "Ann", "id": "a", "score": 1e999}', ("Ann", "", "a")),
        (rb'{"text": "Ann", "id": "a", "url": "x\udc97"}', ("Ann", "", "a")),
        (b'{"text": "Ann", "id": "a", "url": "\xff"}', ("Ann", "", "a")),
        (
            rb'{"text": "A \ud83d nn \ud83d\ude42", "id": "a\udc97"}',
            ("A \ufffd nn \U0001f642", "", "a\ufffd"),
        ),
        (rb'{"text": NaN, "id": "a"}', "text_not_string"),
        (b'{"text": "\xff", "id": "a"}', "invalid_utf8"),
        (b'{"text": "Ann", "id": "\xff"}', "invalid_utf8"),
        (b"\xff", "invalid_utf8"),
        (
            b'{"text": "Ann", "id": "a", "more": ' + b"[" * 5000 + b'{"x": "]"}' + b"]" * 5000 + b"}",
            ("Ann", "", "a"),
        ),
        (
            b'{"more": ' + b'{"a": ' * 150 + b"NaN" + b"}" * 150 + b', "text": "Ann", "id": "a"}',
            ("Ann", "", "a"),
        ),
        (b'{"text": "Ann", "id": "a", "more": ' + b"[" * 5000 + b"}", "not_json"),
        (b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b', "id": "a"}', "text_not_string"),
        (b'{"text": "Ann", "id": "a", "size": ' + b"9" * 9000 + b"}", ("Ann", "", "a")),
        (b'{"text": "Ann", "id": ' + b"9" * 9000 + b"}", "no_id"),
        (b'{"text": "Ann", "id": 7.0, "x": 1, "x": {"x": NaN}}', ("Ann", "", "7")),
        (b'{"text": "Ann", "id": 7.5}', "no_id"),
        (b'{"text": "old", "text": "Ann", "id": "a"}', ("Ann", "", "a")),
        (b'{"text": "Ann", "id": "a", "url": nan}', "not_json"),
        (b'{"text": "a\tb", "id": "a"}', "not_json"),
    ],
)
def test_fields_that_are_not_asked_for_decide_nothing(tmp_path, line, content):
    (tmp_path / "a.jsonl").write_bytes(line)
    (found,) = documents(parts(str(tmp_path / "a.jsonl")))
    assert found == content


def test_a_valid_archive_of_nothing_has_no_rows(tmp_path):
    for name, data in (("a.jsonl.gz", gzip.compress(b"")), ("a.jsonl.zst", zstandard.compress(b""))):
        (tmp_path / name).write_bytes(data)
        assert documents(parts(str(tmp_path / name))) == []


def test_a_column_is_found_by_its_own_name_before_nested_fields(tmp_path):
    rows = [{"content.text": "Ann", "content": {"text": "other", "id": "a"}}]
    (tmp_path / "a.parquet").write_bytes(parquet(rows))
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]))
    (tmp_path / "b.parquet").write_bytes(parquet([{"content.text": "Ann"}]))
    fields = RowFields("content.text", "", "content.id")
    for name in ("a.parquet", "a.jsonl"):
        assert documents(parts(str(tmp_path / name), text_field="content.text"), fields) == [("Ann", "", "a")]
    assert documents(
        parts(str(tmp_path / "b.parquet"), text_field="content.text"), RowFields("content.text", "")
    ) == [("Ann", "", "")]


def test_text_in_a_binary_column_is_read(tmp_path):
    rows = [
        {"text": text, "id": b"a", "meta": {"pile_set_name": b"S"}} for text in ("Łódź".encode(), b"\xff")
    ]
    (tmp_path / "a.parquet").write_bytes(parquet(rows))
    assert documents(parts(str(tmp_path / "a.parquet"))) == [("Łódź", "S", "a"), "invalid_utf8"]


@pytest.mark.parametrize("data", [b'[{"text": "Ann"}]', b' [\n  {\n"text": 1}]', b"\xef\xbb\xbf[", b"[]\n"])
@pytest.mark.parametrize("suffix", ["json", "jsonl.gz"])
def test_one_json_list_is_refused_before_any_work(tmp_path, data, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    with pytest.raises(UserError, match=r"a\.jsonl?(\.gz)?: is one JSON list, not JSON lines; .* `jq -c"):
        parts(str(path))


def test_a_glob_passes_over_folders_and_the_files_that_programs_leave(tmp_path):
    for name in ("part-0.jsonl", "_SUCCESS", ".part-0.crc", "_temporary/0/part-1.jsonl", "sub/part-2.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "Ann"}')
    (tmp_path / "link").symlink_to(tmp_path / "sub")

    def names(pattern):
        return [file.removeprefix(f"{tmp_path}/") for file in expand([f"{tmp_path}/{pattern}"])]

    assert names("*") == ["part-0.jsonl"]
    assert names("**/*.jsonl") == ["part-0.jsonl", "sub/part-2.jsonl"]
    assert names("_temporary/*/*") == ["_temporary/0/part-1.jsonl"]
    assert names("_S*") == names("_SUCCESS") == ["_SUCCESS"]
    with pytest.raises(UserError, match=r"sub\*: the glob matches only folders and names that begin with"):
        names("sub*")


def test_a_text_files_id_is_its_path_below_the_folder_that_all_share(tmp_path):
    for name in ("a/x.txt", "b/x.txt", "b/c/y.txt.gz"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        data = name.encode()
        (tmp_path / "corpus" / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    (tmp_path / "other.jsonl").write_text('{"text": "x"}')
    shard_parts = parts(f"{tmp_path}/corpus/**/*.txt*", f"{tmp_path}/other.jsonl")
    assert documents(shard_parts[:1]) == [
        ("a/x.txt", "a", "a/x.txt"),
        ("b/c/y.txt.gz", "c", "b/c/y.txt.gz"),
        ("b/x.txt", "b", "b/x.txt"),
    ]
    assert shard_parts[0].place(2) == ("b/x.txt", 1)
    (one,) = documents(parts(f"{tmp_path}/corpus/a/x.txt"))
    assert one.id == "x.txt"
    urls = [f"memory://{tmp_path.name}/d/x.txt", f"{tmp_path}/corpus/a/x.txt"]
    with fsspec.open(urls[0], "wb") as file:
        file.write(b"far")
    assert [row.id for row in documents(parts(*urls))] == [expand(urls)[0], urls[1].lstrip("/")]


def test_a_byte_order_mark_is_no_part_of_a_text_whatever_its_encoding(tmp_path):
    for number, encoding in enumerate(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")):
        mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
        (tmp_path / f"{number}.TXT").write_bytes(mark + "Łódź\r\n lies\rhere.\n".encode(encoding))
    assert {row.text for row in documents(parts(f"{tmp_path}/*.TXT"))} == {"Łódź\r\n lies\rhere.\n"}


def test_lines_may_end_either_way_and_be_empty(tmp_path):
    rows = [
        b'{"text": "Ann", "id": 1}',
        b"",
        b"\r",
        b'  {"text": "Bo", "id": 2}  \r',
        b'{"text": "C", "id": 3}',
    ]
    (tmp_path / "A.JSONL").write_bytes(b"\n".join(rows))
    assert [row.id for row in documents(parts(f"{tmp_path}/A.JSONL"))] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", '{"text": "Ann"}'.encode("utf-16"), "is UTF-16, not UTF-8; convert it"),
        (
            "a.jsonl",
            gzip.compress(b"{}", mtime=0),
            "is gzip, though its name does not say so; rename it to end in .gz",
        ),
        ("a.json", zstandard.compress(b"{}"), "is zstd, though its name does not say so"),
        ("a.jsonl", FILES["a.parquet"], "is Parquet, not JSON lines; rename it to end in .parquet"),
        ("a.jsonl.gz", b'{"text": "Ann"}\n', "is not gzip, as its name says; correct its name"),
        ("a.jsonl.gz", b"", "is not gzip, as its name says; correct its name"),
        ("a.jsonl.zst", gzip.compress(b"{}", mtime=0), "is not zstd, as its name says; correct its name"),
        ("a.json", b'{\n  "text": "Ann"\n}\n', "has a JSON object over several lines"),
        ("a.json", b'{"rows": [\n{"text": "Ann"}]}\n', "has a JSON object over several lines"),
        ("a.json.gz", gzip.compress(b'\xef\xbb\xbf{"text": "Ann",\r\n"id": 1}', mtime=0), "several lines"),
        ("a.tsv", b"id\ttext\n", "unknown file suffix; JSON lines end in"),
    ],
)
def test_a_shard_of_another_format_is_named_before_any_work(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        parts(str(tmp_path / name))
    assert f"{name}: {message}" in str(caught.value) or message in str(caught.value)


def column_file(path, array):
    pq.write_table(pa.table({"text": array, "id": pa.array([1.0, None])}), path)
    return str(path)


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_text_of_any_string_column_is_read(tmp_path, kind):
    values = ["Ann", "Bo"]
    is_dictionary = pa.types.is_dictionary(kind)
    array = pa.array(values).dictionary_encode() if is_dictionary else pa.array(values).cast(kind)
    found = documents(parts(column_file(tmp_path / "a.parquet", array)))
    assert found == [("Ann", "", "1"), "no_id"]


def test_a_column_that_holds_no_text_is_named_before_any_work_with_those_that_do(tmp_path):
    turns = pa.array([[{"role": "user", "content": "Ann"}], []])
    path = column_file(tmp_path / "a.parquet", turns)
    with pytest.raises(UserError, match=r"a\.parquet: the column text holds list<.*, and no other column"):
        parts(path)
    path = column_file(tmp_path / "b.parquet", pa.array([{"body": "Ann", "n": 1}, None]))
    with pytest.raises(
        UserError, match=r"the column text holds struct<.*>; set ingest.text_field to one of text.body$"
    ):
        parts(path)
    assert documents(parts(path, text_field="text.body"), RowFields("text.body", "")) == [
        ("Ann", "", ""),
        "no_text",
    ]
    with pytest.raises(
        UserError, match=r"has no column text\.title; set ingest.text_field to one of text.body"
    ):
        parts(path, text_field="text.title")
    files = expand([path])
    with pytest.raises(
        UserError, match=r"has no column uuid; set ingest.id_field to one of text.body, text.n, id"
    ):
        split_shards(files, [1], "text.body", id_field="uuid")
    split_shards(files, [1], "text.body", id_field="id")
