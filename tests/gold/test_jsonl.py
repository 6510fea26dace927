"""JSON rows: formats, compression, and the errors of wrong rows."""

import gzip
import json

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.gold.reader import read_gold


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


@pytest.mark.parametrize("name", ["g.jsonl", "g.jsonl.gz", "g.jsonl.zst", "list.json", "unnamed"])
def test_a_file_is_read_plain_or_compressed_without_else_types(tmp_path, name):
    lines = [json.dumps(LINES)] if name == "list.json" else [*LINES, ""]
    passages = list(read_gold(write(tmp_path / name, lines)))
    assert [passage.id for passage in passages] == ["0000001", "empty", "0000003"]
    assert [[entity.text for entity in passage.entities] for passage in passages] == [
        ["Łódź", "Ann"],
        [],
        ["Bo"],
    ]
    assert [passage.left_out for passage in passages] == [{}, {}, {"else_type": 1}]


def test_blanks_at_the_ends_of_a_mention_are_not_part_of_it(tmp_path):
    row = {"text": "so Ann left", "entities": [{"start": 2, "end": 7, "text": " Ann ", "type": "person"}]}
    (passage,) = read_gold(write(tmp_path / "g.jsonl", [row]))
    assert [(e.start, e.end, e.text) for e in passage.entities] == [(3, 6, "Ann")]
    row["entities"][0] |= {"end": 3, "text": " "}
    with pytest.raises(UserError, match=r"line 1: the text from 2 to 3 is blank; remove the entity"):
        list(read_gold(write(tmp_path / "g.jsonl", [row])))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", r"g\.jsonl, line 2: "),
        ('{"text": "x"}', r"line 2: Object missing required field `entities`.*; a row is \{\"text\""),
        ({"text": "x", "entities": [{"start": 0}]}, r"line 2: Object missing required field"),
        ({"text": 3, "entities": []}, r"line 2: Expected `str`, got `int` - at `\$\.text`"),
        ({"text": " ", "entities": []}, r"line 2: the text is blank"),
        (
            {"text": "Ann", "entities": [{"start": 1, "end": 3, "text": "Ann", "type": "person"}]},
            r"line 2: the text from 1 to 3 is 'nn', not 'Ann'",
        ),
        (
            {"text": "Ann", "entities": [{"start": 0, "end": 9, "text": "Ann", "type": "person"}]},
            r"line 2: the text from 0 to 9 is 'Ann', not 'Ann'; offsets count characters from 0",
        ),
        (
            {"text": "Ann", "entities": [{"start": 0, "end": 3, "text": "Ann", "type": " "}]},
            r"line 2: 'Ann' has a blank type",
        ),
        ({"text": "Ann", "entities": [], "id": "0000001"}, r"line 2: the id '0000001' occurs twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path, bad, message):
    with pytest.raises(UserError, match=message):
        list(read_gold(write(tmp_path / "g.jsonl", [LINES[0], bad])))


def test_a_missing_broken_or_empty_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.jsonl: no such file"):
        list(read_gold(str(tmp_path / "no.jsonl")))
    write(tmp_path / "g.jsonl.zst", LINES)
    for name in ("cut.jsonl.zst", "cut.json.zst"):
        (tmp_path / name).write_bytes((tmp_path / "g.jsonl.zst").read_bytes()[:60])
        with pytest.raises(UserError, match=r"cut\.jsonl?\.zst: broken or truncated zstd"):
            list(read_gold(str(tmp_path / name)))
    with pytest.raises(UserError, match=r"entry 2: Object missing required field"):
        list(read_gold(write(tmp_path / "list.json", [json.dumps([LINES[0], {"text": "x"}])])))
    with pytest.raises(UserError, match=r"half\.json: not a JSON list"):
        list(read_gold(write(tmp_path / "half.json", [json.dumps(LINES)[:-9]])))
    with pytest.raises(UserError, match=r"empty\.jsonl: contains no passages"):
        list(read_gold(write(tmp_path / "empty.jsonl", [""])))
    with pytest.raises(UserError, match=r"none\.jsonl: contains no entities of a type .* in 1 passages"):
        list(read_gold(write(tmp_path / "none.jsonl", [LINES[1]])))


@pytest.mark.parametrize("name", ["gold.jsonl", "list.json"])
def test_nan_in_a_field_that_is_not_read_costs_no_row(tmp_path, name):
    row = {"text": "Ann left", "score": float("nan"), "entities": [entity("Ann left", "Ann", "person")]}
    lines = [json.dumps([row] * 3)] if name == "list.json" else [row] * 3
    passages = list(read_gold(write(tmp_path / name, lines)))
    assert [[each.text for each in passage.entities] for passage in passages] == [["Ann"]] * 3


@pytest.mark.parametrize("name", ["gold.jsonl", "list.json"])
def test_half_a_surrogate_pair_costs_the_row_only_where_it_is_read(tmp_path, name):
    sound = {"text": "Ann left", "note": "\ud83d", "entities": [entity("Ann left", "Ann", "person")]}
    rows = [sound] * 10 + [{"text": "Ann \ud83d", "entities": []}]
    lines = [json.dumps(rows)] if name == "list.json" else rows
    passages = list(read_gold(write(tmp_path / name, lines)))
    assert [passage.text for passage in passages] == ["Ann left"] * 10
    assert sum(passage.left_out.get("bad_row", 0) for passage in passages) == 1


def test_an_id_may_be_any_value(tmp_path):
    ids = [7, 8.0, None, [1], float("nan"), "nine", 0, 1.5]
    lines = [{"id": each, **LINES[0]} for each in ids]
    passages = list(read_gold(write(tmp_path / "gold.jsonl", lines)))
    of_rows = [f"{number:07}" for number in (3, 4, 5, 8)]
    assert [passage.id for passage in passages] == ["7", "8", *of_rows[:3], "nine", "0", of_rows[3]]


def test_an_entity_that_nobody_sees_is_blank(tmp_path):
    text = "Ann\u200b\u200b left"
    unseen = {"start": 3, "end": 5, "text": "\u200b\u200b", "type": "person"}
    lines = [{"text": text, "entities": [entity(text, "Ann", "person"), unseen]}] + [LINES[0]] * 99
    first = next(iter(read_gold(write(tmp_path / "gold.jsonl", lines))))
    assert [each.text for each in first.entities] == ["Ann"]
    assert first.left_out == {"bad_annotation": 1}
