"""The catalogue: what it says adds up, its data sets are found and named by plain words, groups fill in."""

import io
import json

import pytest
from rich.console import Console

from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.evaluate.dataset_listing import list_datasets
from uniner.evaluate.gold_questions import cut_questions
from uniner.gold.catalogue import DOMAINS, catalogue, look, members, read, with_group, words_of
from uniner.gold.reader import read_gold

CONLL = "Ann B-PER\nof O\nUN S-ORG\n\nBlue B-MISC\n"


def make_config(**evaluate):
    return Config.model_validate(
        {"run": {"name": "r"}, "student": {"base": "b"}, "evaluate": {"gold": {}, **evaluate}}
    )


def test_the_benchmark_is_49_splits_of_43_data_sets_in_9_domains():
    known = catalogue()
    assert [len(members(group)) for group in ("all", "zero-shot-7", "supervised-20")] == [49, 7, 20]
    assert len({one.counted_as or one.name for one in members("all")}) == 43
    assert {one.domain for one in known.values()} == set(DOMAINS) and len(DOMAINS) == 9
    assert [name for name, one in known.items() if not one.benchmark] == ["conll03"]
    for one in known.values():
        assert one.source and one.licence and all(size > 0 for size in one.sizes)
    fine = known["fewnerd_fine"]
    assert len(set(fine.labels.values()) - {"other"}) == fine.types == 59


def test_labels_become_plain_words_and_plain_words_stay():
    own = words_of("my-own-news", {"PER": "Person"})
    assert [own(label) for label in ("PER", "ACTOR", "plot  Twist")] == ["person", "actor", "plot twist"]
    assert words_of("conll03", {"PER": "human being"})("PER") == "human being"
    said = {
        "conll03": {"PER": "person", "MISC": "misc"},
        "genia": {"cell_type": "cell type", "DNA": "dna"},
        "biored": {"CellLine": "cell line", "OrganismTaxon": "organism"},
        "wlp": {"pH": "ph", "Generic-Measure": "generic measure"},
        "crossner_ai": {
            "programlang": "programming language",
            "programming language": "programming language",
        },
        "fewnerd_fine": {
            "event-attack/battle/war/militaryconflict": "attack, battle, war or military conflict"
        },
    }
    for dataset, labels in said.items():
        assert {label: words_of(dataset, {})(label) for label in labels} == labels


def test_the_labels_of_data_sets_that_are_in_plain_words_stay(shared_data):
    for name, address in look(str(shared_data("ner"))).items():
        for place, (raw, ours) in enumerate(
            zip(read_gold(address), read_gold(address, rename=words_of(name, {})), strict=True)
        ):
            assert raw == ours
            if place == 200:
                break


def test_data_sets_are_found_by_name_in_any_layout_and_read_raw(tmp_path):
    (tmp_path / "conll03").mkdir()
    (tmp_path / "conll03" / "test.txt").write_text(CONLL)
    (tmp_path / "conll03" / "train.txt").write_text("never read")
    (tmp_path / "FindVehicle_test.txt").write_text("red B-vehicle_color\n")
    for split in ("train", "test"):
        (tmp_path / "somesci" / split).mkdir(parents=True)
        (tmp_path / "somesci" / split / "a.txt").write_text("R 4")
        (tmp_path / "somesci" / split / "a.ann").write_text("T1\tProgrammingEnvironment 0 1\tR\n")
    (tmp_path / "fabner" / "fabner").mkdir(parents=True)
    for split in ("train", "test"):
        (tmp_path / "fabner" / "fabner" / f"{split}-00000-of-00001.parquet").touch()
    (tmp_path / "Mit-Movie.jsonl").write_text('{"text": 3}')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "test.txt").write_text(CONLL)

    found = {name: address.removeprefix(f"{tmp_path}/") for name, address in look(str(tmp_path)).items()}
    assert found == {
        "conll03": "conll03/test.txt",
        "fabner": "fabner/fabner/test*.parquet",
        "somesci": "somesci/test",
        "mit_movie": "Mit-Movie.jsonl",
        "findvehicle": "FindVehicle_test.txt",
    }
    (chunk,) = cut_questions("conll03", str(tmp_path / "conll03" / "test.txt"), 9, None)
    asked = [(row["type"], row["gold"]) for row in chunk.table.to_pylist()]
    assert asked == [("organization", ["UN"]), ("person", ["Ann"]), ("organization", []), ("person", [])]
    assert chunk.figures["left_out_else_type"] == 1

    console = Console(width=150, file=io.StringIO())
    list_datasets(str(tmp_path), console)
    text = console.file.getvalue()
    assert "5 of 50 data sets found" in text
    assert "2 (3,453)" in text and "2 (3)" in text  # conll03 here and in the paper
    assert "Mit-Movie.jsonl, line 1: " in text and "cannot be read" in text
    assert "ace04 (general; LDC agreement): LDC2005T09" in text
    (tmp_path / "conll2003.txt").write_text(CONLL)
    with pytest.raises(
        UserError, match=r"conll03/test\.txt and .*conll2003\.txt are both conll03; leave one"
    ):
        look(str(tmp_path))


def test_a_file_that_asks_its_own_questions_keeps_their_words(tmp_path):
    turns = ["Text: C here", "I've read this text.", "What describes programlang in the text?", '["C"]']
    speakers = ("human", "gpt") * 2
    row = {
        "id": "q",
        "conversations": [{"from": s, "value": v} for s, v in zip(speakers, turns, strict=True)],
    }
    (tmp_path / "CrossNER_AI.json").write_text(json.dumps([row]))
    address = look(str(tmp_path))["crossner_ai"]
    (chunk,) = cut_questions("crossner_ai", address, 9, None)
    assert chunk.table.column("type").to_pylist() == ["programlang"]
    assert (read("crossner_ai", address).passages, read("crossner_ai", address).types) == (1, 1)


def test_a_group_is_what_lies_there_and_what_is_missing_is_said(bucket, tmp_path):
    import fsspec

    data = f"{bucket}/{tmp_path.name}"
    fsspec.filesystem("s3").pipe_file(f"{data}/CrossNER_music.txt", CONLL.encode())
    said = []
    own = {"mit_movie": "own.jsonl", "mine": "mine.jsonl"}
    config = with_group(make_config(group="zero-shot-7", data=data, gold=own), said.append)
    assert config.evaluate.gold == {"crossner_music": f"{data}/CrossNER_music.txt", **own}
    (line,) = said
    assert line.startswith("evaluate: 2 of the 7 data sets of zero-shot-7 are there; missing: crossner_ai, ")
    assert with_group(config).evaluate.gold == config.evaluate.gold
    with pytest.raises(UserError, match="has no data set of the group supervised-20"):
        with_group(make_config(group="supervised-20", data=data))
    with pytest.raises(UserError, match=r"evaluate\.group = 'all' needs evaluate\.data"):
        with_group(make_config(group="all"))
    with pytest.raises(UserError, match="no such file or folder"):
        with_group(make_config(group="all", data=str(tmp_path / "nowhere")))
