"""Hugging Face Parquet: label names from wherever they stand, splits by name, what is missing named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniner.errors import UserError
from uniner.gold.reader import digest, read_gold

NAMES = ["O", "B-PER", "I-PER"]
# As the library datasets (5.2) writes it; older versions say "Sequence" for "List".
FEATURES = {
    "tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
    "ner_tags": {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "List"},
}
CARD = """---
license: mit
dataset_info:
- config_name: {name}
  features:
  - name: tokens
    sequence: string
  - name: ner_tags
    sequence:
      class_label:
        names:
          '0': O
          '1': {first}
          '2': I-PER
- config_name: other
  features:
  - name: ner_tags
    list:
      class_label:
        names: {{'0': B-X, '1': O, '2': O}}
---
# A data set
"""
ROWS = ([["Ann", "Łódź"], [1, 2]], [["Nothing"], [0]])


def write(path, rows=ROWS, metadata=None, tags=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "id": pa.array([str(n) for n in range(len(rows))]),
        "tokens": pa.array([row[0] for row in rows], pa.list_(pa.string())),
        "ner_tags": pa.array([row[1] for row in rows], pa.list_(tags or pa.int64())),
    }
    pq.write_table(pa.table(columns, metadata=metadata), path)
    return str(path)


def own(features=FEATURES):
    return {"huggingface": json.dumps({"info": {"features": features}})}


def found(address):
    return [(p.id, [(one.text, one.type) for one in p.entities]) for p in read_gold(str(address))]


EXPECTED = [("0000001", [("Ann Łódź", "PER")]), ("0000002", [])]


def test_label_names_of_the_file_itself_or_tags_that_are_names(tmp_path):
    assert found(write(tmp_path / "a.parquet", metadata=own())) == EXPECTED
    rows = [(tokens, [NAMES[tag] for tag in tags]) for tokens, tags in ROWS]
    assert found(write(tmp_path / "b.parquet", rows, tags=pa.string())) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_info.json", json.dumps({"description": "", "features": FEATURES})),
        ("dataset_infos.json", json.dumps({"wiki": {"features": FEATURES}})),
        ("README.md", CARD.format(name="wiki", first="B-PER")),
    ],
)
def test_label_names_of_a_description_beside_the_file(tmp_path, name, content):
    file = write(tmp_path / "wiki" / "test" / "0000.parquet")
    with pytest.raises(
        UserError, match=r"0000\.parquet: ner_tags are numbers, and their names stand neither"
    ):
        found(file)
    (tmp_path / name).write_text(content)
    before = digest(file)
    assert found(tmp_path) == found(file) == EXPECTED
    (tmp_path / name).write_text(content.replace("B-PER", "B-HUMAN"))
    assert digest(file) != before, "other names make other entities"


def test_configurations_that_differ_are_not_guessed_between(tmp_path):
    file = write(tmp_path / "news" / "test.parquet")
    (tmp_path / "README.md").write_text(CARD.format(name="wiki", first="B-PER"))
    with pytest.raises(UserError, match=r"README\.md: has several configurations that name ner_tags"):
        found(file)


def test_a_split_is_chosen_by_its_files(tmp_path):
    for shard in range(2):
        write(tmp_path / "data" / f"test-{shard:05d}-of-00002.parquet", metadata=own())
    assert [name for name, _ in found(tmp_path)] == [
        "000-0000001",
        "000-0000002",
        "001-0000001",
        "001-0000002",
    ]
    write(tmp_path / "data" / "train-00000-of-00001.parquet", metadata=own())
    said = r"has the splits data/test, data/train; name one .*instance .*/data/train-\*\.parquet"
    with pytest.raises(UserError, match=said):
        found(tmp_path)
    assert len(found(tmp_path / "data" / "test-*.parquet")) == 4


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([["a"], [3]], r"g\.parquet, row 3: 3 of ner_tags, None, is no tag"),
        ([["a"], [-1]], r"row 3: -1 of ner_tags"),
        ([["a"], [None]], r"row 3: None of ner_tags"),
        ([["a", "b"], [0]], r"row 3: 2 tokens and 1 ner_tags"),
        ([["a", None], [0, 0]], r"row 3: 2 tokens and 2 ner_tags \(a null is none\); leave the row out"),
        ([None, None], r"row 3: 0 tokens and 0 ner_tags"),
        ([[""], [1]], r"row 3: an entity of type PER is blank"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, said):
    with pytest.raises(UserError, match=said):
        found(write(tmp_path / "g.parquet", [*ROWS, row], own()))


def test_what_is_no_such_file_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "text.parquet")
    with pytest.raises(
        UserError, match=r"has the columns text; a gold data set has lists in tokens and ner_tags"
    ):
        found(tmp_path / "text.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(UserError, match=r"broken\.parquet: broken or truncated Parquet"):
        found(tmp_path / "broken.parquet")
