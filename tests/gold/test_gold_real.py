"""Every real data set at hand, against a count that uses nothing of the project."""

import gzip
import json

import msgspec

from uniner.gold.reader import read_gold

OFFICIAL = {
    "CrossNER_AI": (431, 1624, 13),
    "CrossNER_literature": (416, 2025, 11),
    "CrossNER_music": (465, 3163, 12),
}
"""Passages, gold strings and types as the benchmark states them."""


def counted(file):
    passages = list(read_gold(str(file)))
    entities = [one for passage in passages for one in passage.entities]
    assert not any(passage.left_out for passage in passages)
    return len(passages), len(entities), {one.type for one in entities}


def test_every_data_set_has_the_rows_entities_and_types_that_stand_in_its_file(shared_data):
    files = sorted(shared_data("ner").glob("*/*.jsonl.gz"))
    assert len({file.parent for file in files}) == 21
    for file in files:
        rows = [msgspec.json.decode(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        entities = [one for row in rows for one in row["entities"]]
        assert counted(file) == (len(rows), len(entities), {one["type"] for one in entities}), file


def test_the_published_test_files_have_the_benchmarks_passages_answers_and_types(shared_data):
    files = sorted(shared_data("universal_ner_official").glob("*.json.gz"))
    assert [file.name.split(".")[0] for file in files] == sorted(OFFICIAL)
    for file in files:
        rows = [row["conversations"] for row in json.loads(gzip.decompress(file.read_bytes()))]
        answers = [json.loads(turns[3]["value"]) for turns in rows]
        types = {
            turns[2]["value"].split(" in the text?")[0].removeprefix("What describes ") for turns in rows
        }
        passages, entities, found = counted(file)
        assert (passages, entities, len(found)) == OFFICIAL[file.name.split(".")[0]]
        assert (entities, found) == (sum(map(len, answers)), types)
        asked = [one for passage in read_gold(str(file)) for one in passage.asked]
        assert len(asked) == len(rows)
        assert [set(mentions) for _, mentions in asked] == [set(answer) for answer in answers]
