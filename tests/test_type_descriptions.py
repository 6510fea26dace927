"""The file of descriptions and synonyms: read strictly, written to be read again."""

import json
import time

import pytest

from uniner.errors import UserError
from uniner.type_descriptions import (
    TypeDescription,
    descriptions_json,
    read_descriptions,
    split_description,
    with_description,
)


def test_a_nested_file_and_two_names_of_one_type_are_one_line():
    with pytest.raises(UserError, match=r"types\.json: is not JSON"):
        read_descriptions(b"[" * 100_000, "types.json")
    with pytest.raises(UserError, match=r"'Person' and 'person' are one type \(person\); remove one"):
        read_descriptions(b'{"Person": {"description": "x"}, "person": {"description": "y"}}', "types.json")


def test_a_file_of_many_types_is_read_in_no_time():
    data = json.dumps({f"type {number}": {"description": "x"} for number in range(30_000)}).encode()
    started = time.process_time()
    assert len(read_descriptions(data, "types.json")) == 30_000
    assert time.process_time() - started < 4


def test_a_file_is_read_as_it_was_written():
    entries = {
        "person": TypeDescription(description='a human "being"', synonyms=("individual", "персона")),
        "pH": TypeDescription(synonyms=("acidity",)),
    }
    data = descriptions_json(entries)
    assert data.count(b"\n") == 4, "a line for each type"
    read = read_descriptions(data, "x.json")
    assert read == {"person": entries["person"], "ph": entries["pH"]}


def test_names_are_normalised_and_useless_synonyms_left_out():
    entry = {
        "description": " A human  being. ",
        "synonyms": ["Human", "person", "human", " ", "a b c d e f g"],
    }
    assert read_descriptions(json.dumps({"Person ": entry}).encode(), "x") == {
        "person": TypeDescription(description="A human being", synonyms=("human",))
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"x\.json: is not JSON"),
        ("[]", r"x\.json: is not an object of types; write, for example, \{"),
        ('{"a": "text"}', "the entry of 'a' is wrong; give it a description"),
        ('{"a": {"descriptions": "b"}}', "the entry of 'a' is wrong"),
        ('{"a": {"synonyms": "b"}}', "the entry of 'a' is wrong"),
        ('{"a": {"synonyms": [1]}}', "the entry of 'a' is wrong"),
        ('{"a": {"description": ""}, "a": {}}', "'a' occurs twice"),
        ('{" ": {}}', "the entry of ' ' is wrong"),
    ],
)
def test_a_wrong_file_is_refused_with_the_entry_and_an_example(text, message):
    with pytest.raises(UserError, match=message):
        read_descriptions(text.encode(), "x.json")


def test_a_type_is_split_from_its_description():
    assert split_description("person: a human being.") == ("person", "a human being")
    assert split_description("c: drive: d") == ("c", "drive: d")
    for plain in ("person", "person:", "a:b", ": x"):
        assert split_description(plain) == (plain, "")
    assert with_description("person", "a human being") == "person (a human being)"
