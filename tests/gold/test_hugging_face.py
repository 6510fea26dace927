"""Hugging Face Parquet: label names from metadata or descriptions, splits by name, errors."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniner.errors import UserError
from uniner.gold.reader import gold_digest, read_gold

NAMES = ["O", "B-PER", "I-PER"]
# As written by the library datasets 5.2; older versions write "Sequence" for "List".
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


def metadata_of(features=FEATURES):
    return {"huggingface": json.dumps({"info": {"features": features}})}


def read(address):
    return [(p.id, [(entity.text, entity.type) for entity in p.entities]) for p in read_gold(str(address))]


EXPECTED = [("0000001", [("Ann Łódź", "PER")]), ("0000002", [])]


def test_label_names_in_the_file_and_tags_that_are_strings(tmp_path):
    assert read(write(tmp_path / "a.parquet", metadata=metadata_of())) == EXPECTED
    rows = [(tokens, [NAMES[tag] for tag in tags]) for tokens, tags in ROWS]
    assert read(write(tmp_path / "b.parquet", rows, tags=pa.string())) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_info.json", json.dumps({"description": "", "features": FEATURES})),
        ("dataset_infos.json", json.dumps({"wiki": {"features": FEATURES}})),
        ("README.md", CARD.format(name="wiki", first="B-PER")),
    ],
)
def test_label_names_in_a_description_beside_the_file(tmp_path, name, content):
    file = write(tmp_path / "wiki" / "test" / "0000.parquet")
    with pytest.raises(UserError, match=r"0000\.parquet: ner_tags are numbers without names"):
        read(file)
    (tmp_path / name).write_text(content)
    before = gold_digest(file)
    assert read(tmp_path) == read(file) == EXPECTED
    (tmp_path / name).write_text(content.replace("B-PER", "B-HUMAN"))
    assert gold_digest(file) != before, "other names give other entities"


def test_configurations_with_different_names_are_an_error(tmp_path):
    file = write(tmp_path / "news" / "test.parquet")
    (tmp_path / "README.md").write_text(CARD.format(name="wiki", first="B-PER"))
    with pytest.raises(UserError, match=r"README\.md: has several configurations that name ner_tags"):
        read(file)


def test_a_split_is_chosen_by_its_files(tmp_path):
    for shard in range(2):
        write(tmp_path / "data" / f"test-{shard:05d}-of-00002.parquet", metadata=metadata_of())
    assert [name for name, _ in read(tmp_path)] == [
        "000-0000001",
        "000-0000002",
        "001-0000001",
        "001-0000002",
    ]
    write(tmp_path / "data" / "train-00000-of-00001.parquet", metadata=metadata_of())
    message = (
        r"has the splits data/test, data/train; name the files of one .*instance .*/data/train-\*\.parquet"
    )
    with pytest.raises(UserError, match=message):
        read(tmp_path)
    assert len(read(tmp_path / "data" / "test-*.parquet")) == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([["a"], [3]], r"g\.parquet, row 3: 3 of ner_tags, None, is not a tag"),
        ([["a"], [-1]], r"row 3: -1 of ner_tags"),
        ([["a"], [None]], r"row 3: None of ner_tags"),
        ([["a", "b"], [0]], r"row 3: 2 tokens and 1 ner_tags"),
        ([["a", None], [0, 0]], r"row 3: 2 tokens and 2 ner_tags; .* without nulls; remove the row"),
        ([None, None], r"row 3: 0 tokens and 0 ner_tags"),
        ([[""], [1]], r"row 3: an entity of type PER is blank"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "g.parquet", [*ROWS, row], metadata_of()))


def test_tokens_that_are_numbers_are_no_words(tmp_path):
    rows = [(["0", "1", "2"], [0, 1, 2]), (["0", "left"], [0, 0])]
    with pytest.raises(UserError, match=r"a\.parquet: 4 of 5 words are numbers; name a file with the words"):
        read(write(tmp_path / "a.parquet", rows, metadata_of()))
    table = pa.table({"tokens": [[101, 7]], "ner_tags": [["O", "B-PER"]]})
    pq.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: tokens are of type int64; they must be words"):
        read(tmp_path / "b.parquet")
    table = pa.table({"tokens": [["Ann"]], "ner_tags": [["7"]]})
    pq.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"row 1: '7' of ner_tags is not a tag"):
        read(tmp_path / "c.parquet")


def test_o_with_a_prefix_means_o(tmp_path):
    rows = [(["Gold", "Bo", "sat"], ["I-O", "B-PER", "B-O"])]
    assert read(write(tmp_path / "a.parquet", rows, tags=pa.string())) == [("0000001", [("Bo", "PER")])]


def test_a_file_without_the_columns_or_broken_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "text.parquet")
    with pytest.raises(
        UserError, match=r"has the columns text; a gold data set has lists in tokens and ner_tags"
    ):
        read(tmp_path / "text.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(UserError, match=r"broken\.parquet: broken or truncated Parquet"):
        read(tmp_path / "broken.parquet")
