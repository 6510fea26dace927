"""The catalogue: its facts are consistent, splits are found, labels become words, groups resolve."""

import io
import json

import pytest
from rich.console import Console

from uniner.errors import UserError
from uniner.evaluate.dataset_listing import list_datasets
from uniner.evaluate.gold_questions import cut_questions
from uniner.gold.catalogue import (
    DOMAINS,
    catalogue,
    find_splits,
    group_members,
    label_renamer,
    require_types,
    resolve_group,
    summarize_split,
)
from uniner.gold.reader import read_gold

CONLL = "Ann B-PER\nof O\nUN S-ORG\n\nBlue B-MISC\n"


def test_the_benchmark_is_49_splits_of_43_data_sets_in_9_domains():
    known = catalogue()
    assert [len(group_members(group)) for group in ("all", "zero-shot-7", "supervised-20")] == [49, 7, 20]
    assert len({dataset.counted_as or dataset.name for dataset in group_members("all")}) == 43
    assert {dataset.domain for dataset in known.values()} == set(DOMAINS) and len(DOMAINS) == 9
    assert [name for name, dataset in known.items() if not dataset.benchmark] == ["conll03"]
    for dataset in known.values():
        assert dataset.source and dataset.licence and all(size > 0 for size in dataset.sizes)
    fine = known["fewnerd_fine"]
    assert len(set(fine.labels.values()) - {"other"}) == fine.types == 59


def test_labels_become_plain_words_and_plain_words_are_unchanged():
    own = label_renamer("my-own-news", {"GPE": "Country or City"})
    labels = ("PER", "GPE", "ACTOR", "plot  Twist", "person-artist/author", "building-other", "MISC")
    words = ["person", "country or city", "actor", "plot twist", "artist or author", "building other", "misc"]
    assert [own(label) for label in labels] == words
    assert label_renamer("conll03", {"PER": "human being"})("PER") == "human being"
    expected = {
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
    for dataset, labels in expected.items():
        assert {label: label_renamer(dataset, {})(label) for label in labels} == labels


def test_labels_that_are_plain_words_are_unchanged(shared_data):
    for name, address in find_splits(str(shared_data("ner"))).items():
        for number, (raw, renamed) in enumerate(
            zip(read_gold(address), read_gold(address, rename=label_renamer(name, {})), strict=True)
        ):
            assert raw == renamed
            if number == 200:
                break


def test_splits_are_found_by_name_in_any_layout_and_read(tmp_path):
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

    splits = {
        name: address.removeprefix(f"{tmp_path}/") for name, address in find_splits(str(tmp_path)).items()
    }
    assert splits == {
        "conll03": "conll03/test.txt",
        "fabner": "fabner/fabner/test*.parquet",
        "somesci": "somesci/test",
        "mit_movie": "Mit-Movie.jsonl",
        "findvehicle": "FindVehicle_test.txt",
    }
    (chunk,) = cut_questions("conll03", str(tmp_path / "conll03" / "test.txt"), 9, None)
    questions = [(row["type"], row["gold"]) for row in chunk.table.to_pylist()]
    assert questions == [("organization", ["UN"]), ("person", ["Ann"]), ("organization", []), ("person", [])]
    assert chunk.figures["left_out_else_type"] == 1

    console = Console(width=150, file=io.StringIO())
    list_datasets(str(tmp_path), console)
    text = console.file.getvalue()
    assert "5 of 50 data sets found" in text
    assert "2 (3,453, 3,453)" in text and "2 (4,946)" in text and "2 (3, 3)" in text  # conll03
    assert "warning: conll03: 2 passages, not 3,453, 2 entities, not 4,946, 2 types, not 3 as its" in text
    assert "Mit-Movie.jsonl, line 1: " in text and "cannot be read" in text
    assert "ace04 (general; LDC agreement): LDC2005T09" in text
    (tmp_path / "conll2003.txt").write_text(CONLL)
    with pytest.raises(
        UserError, match=r"conll03/test\.txt and .*conll2003\.txt are both conll03; remove one"
    ):
        find_splits(str(tmp_path))


def test_the_catalogue_names_the_tag_column_of_a_data_set_with_two(tmp_path):
    path = tmp_path / "stackoverflow.txt"
    path.write_text("Use\tO\tUse\tO\nfoo\tB-Language\tfoo\tB-Code_Block\n")
    address = find_splits(str(tmp_path))["stackoverflow_ner"]
    (chunk,) = cut_questions("stackoverflow_ner", address, 9, None)
    assert chunk.table.column("type").to_pylist() == ["programming language"]
    summary = summarize_split("stackoverflow_ner", address)
    assert (summary.passages, summary.types, summary.error) == (1, 1, "")
    with pytest.raises(UserError, match="column 2 and the last column are both tags"):
        list(cut_questions("mine", address, 9, None))


def test_a_split_that_lost_types_is_refused(tmp_path):
    require_types("conll03", "a.txt", {"person", "organization", "location"})
    require_types("mine", "a.txt", {"person"})
    message = (
        r"a\.txt: has 1 types \(person\), and its public copy has 3; get it .*"
        r'set evaluate\.trust_gold = \["conll03"\]'
    )
    with pytest.raises(UserError, match=message):
        require_types("conll03", "a.txt", {"person"})
    # Nobody counted the public copy: some honest ones have a type or two less than the paper says.
    require_types("multinerd", "a.txt", set("abcdefgh"))
    with pytest.raises(UserError, match=r"has 7 types .* and the paper's has 16"):
        require_types("multinerd", "a.txt", set("abcdefg"))


@pytest.mark.parametrize("name", ["StackOverflow", "SoMeSci"])
def test_marks_that_are_not_types_of_the_paper_are_renamed_or_left_out(name):
    rename = label_renamer({"StackOverflow": "stackoverflow_ner", "SoMeSci": "somesci"}[name], {})
    expected = {
        "StackOverflow": {"Code_Block": "other", "User_Interface_Element": "user interface element"},
        "SoMeSci": {"PlugIn_Usage": "plugin", "OperatingSystem_Mention": "operating system"},
    }[name]
    assert {label: rename(label) for label in expected} == expected


def test_a_file_with_its_own_questions_keeps_their_words(tmp_path):
    turns = ["Text: C here", "I've read this text.", "What describes programlang in the text?", '["C"]']
    speakers = ("human", "gpt") * 2
    row = {
        "id": "q",
        "conversations": [{"from": s, "value": v} for s, v in zip(speakers, turns, strict=True)],
    }
    (tmp_path / "CrossNER_AI.json").write_text(json.dumps([row]))
    address = find_splits(str(tmp_path))["crossner_ai"]
    (chunk,) = cut_questions("crossner_ai", address, 9, None)
    assert chunk.table.column("type").to_pylist() == ["programlang"]
    summary = summarize_split("crossner_ai", address)
    assert (summary.passages, summary.types) == (1, 1)


def test_a_group_resolves_to_its_splits_and_missing_ones_are_reported(bucket, tmp_path):
    import fsspec

    data = f"{bucket}/{tmp_path.name}"
    fsspec.filesystem("s3").pipe_file(f"{data}/CrossNER_music.txt", CONLL.encode())
    lines = []
    own = {"mit_movie": "own.jsonl", "mine": "mine.jsonl"}
    gold = resolve_group("zero-shot-7", data, own, lines.append)
    assert gold == {"crossner_music": f"{data}/CrossNER_music.txt", **own}
    (line,) = lines
    assert line.startswith("evaluate: found 2 of the 7 data sets of zero-shot-7; missing: crossner_ai, ")
    assert resolve_group("zero-shot-7", data, gold) == gold
    assert resolve_group(None, None, own) == own
    with pytest.raises(UserError, match="has no data set of the group supervised-20"):
        resolve_group("supervised-20", data, {})
    with pytest.raises(UserError, match=r"evaluate\.group = 'all' needs evaluate\.data"):
        resolve_group("all", None, {})
    with pytest.raises(UserError, match="no such file or folder"):
        resolve_group("all", str(tmp_path / "nowhere"), {})
