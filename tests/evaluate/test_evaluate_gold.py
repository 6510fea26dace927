"""Gold files: what is read, what is refused and with which words."""

import gzip
import json

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.evaluate.gold import Question, cut, digest, read_gold
from uniner.records import from_table


def entity(text: str, mention: str, type_name: str) -> dict:
    start = text.index(mention)
    return {"start": start, "end": start + len(mention), "text": mention, "type": type_name}


PARIS = "Ann saw Łódź and Paris; Paris won."
LINES = [
    {"text": PARIS, "entities": [entity(PARIS, "Łódź", "city"), entity(PARIS, "Ann", "person")]},
    {"text": "Nothing.", "entities": [], "id": "empty", "split": "test"},
    {"text": "Blue Bo", "entities": [entity("Blue Bo", "Blue", "MISC"), entity("Blue Bo", "Bo", "person")]},
]


def write(path, lines):
    data = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = b"".join(pa.compress(part, codec="zstd", asbytes=True) for part in (data[:70], data[70:]))
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("name", ["g.jsonl", "g.jsonl.gz", "g.jsonl.zst"])
def test_a_file_is_read_plain_or_compressed_and_else_types_go(tmp_path, name):
    passages = list(read_gold(write(tmp_path / name, [*LINES, ""])))
    assert [passage.id for passage in passages] == ["0000001", "empty", "0000003"]
    assert [[one.text for one in passage.entities] for passage in passages] == [["Łódź", "Ann"], [], ["Bo"]]


def test_all_types_of_the_data_set_are_asked_of_each_passage_in_chunks_with_keys_of_their_own(tmp_path):
    url = write(tmp_path / "g.jsonl", LINES)
    first, second = cut("news", url, chunk_passages=2, max_passages=None)
    assert (first.key, second.key) == ("news-00000", "news-00001")
    assert (first.figures, second.figures) == ({"passages": 2}, {"passages": 1})
    asked = from_table(first.table, Question)
    assert [(one.passage_id, one.type, one.gold) for one in asked] == [
        ("0000001", "city", ("Łódź",)),
        ("0000001", "person", ("Ann",)),
        ("empty", "city", ()),
        ("empty", "person", ()),
    ]
    (only,) = cut("news", url, chunk_passages=2, max_passages=1)
    assert [one.type for one in from_table(only.table, Question)] == ["city", "person"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", r"g\.jsonl, line 2: "),
        ('{"text": "x"}', r"line 2: Object missing required field `entities`"),
        ({"text": "x", "entities": [{"start": 0}]}, r"line 2: Object missing required field"),
        ({"text": 3, "entities": []}, r"line 2: Expected `str`, got `int` - at `\$\.text`"),
        (
            {"text": "Ann", "entities": [{"start": 1, "end": 3, "text": "Ann", "type": "person"}]},
            r"line 2: the text from 1 to 3 is 'nn', not 'Ann'",
        ),
        ({"text": "Ann", "entities": [], "id": "0000001"}, r"line 2: the id '0000001' was there before"),
    ],
)
def test_a_bad_line_is_named(tmp_path, bad, said):
    with pytest.raises(UserError, match=said):
        list(read_gold(write(tmp_path / "g.jsonl", [LINES[0], bad])))


def test_a_missing_broken_or_typeless_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.jsonl: no such file"):
        list(read_gold(str(tmp_path / "no.jsonl")))
    whole = write(tmp_path / "g.jsonl.zst", LINES)
    (tmp_path / "cut.jsonl.zst").write_bytes((tmp_path / "g.jsonl.zst").read_bytes()[:60])
    with pytest.raises(UserError, match=r"cut\.jsonl\.zst: broken or truncated zstd"):
        list(read_gold(str(tmp_path / "cut.jsonl.zst")))
    assert digest(whole) != digest(str(tmp_path / "cut.jsonl.zst"))
    with pytest.raises(UserError, match="data set d has no entity of a type"):
        list(cut("d", write(tmp_path / "none.jsonl", [LINES[1]]), 2, None))
