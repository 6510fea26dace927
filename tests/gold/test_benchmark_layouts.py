"""The benchmark's data sets in the layouts of their public copies, and the page that lists them.

The files are small and made up; their layouts are those of the data cards and repositories.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniner.errors import UserError
from uniner.gold.catalogue import catalogue, find_splits, label_renamer, tag_column
from uniner.gold.reader import read_gold

PAGE = (Path(__file__).parents[2] / "docs" / "benchmark-data.md").read_text(encoding="utf-8")


def found(folder, name):
    """Read a data set below a folder as evaluate does: the text, and (mention, type) of each passage."""
    address = find_splits(str(folder))[name]
    passages = read_gold(address, rename=label_renamer(name, {}), tag_column=tag_column(name))
    return [(p.text, [(e.text, e.type) for e in p.entities]) for p in passages]


def write(folder, files):
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(target)
        else:
            target.write_text(content, encoding="utf-8")


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(columns, names=None):
    """Return a writer of a Parquet file as the hub has it: lists of numbers, their names in the metadata."""
    described = {
        column: {"feature": {"names": labels, "_type": "ClassLabel"}, "_type": "Sequence"}
        for column, labels in (names or {}).items()
    }
    metadata = {"huggingface": json.dumps({"info": {"features": described}})} if names else None
    return lambda path: pq.write_table(pa.table(columns, metadata=metadata), path)


TOKENS = ["Ann", "Lee", "Bo", "saw", "Oslo", "in", "x"]
COARSE = ["O", "art", "building", "event", "location", "organization", "other", "person", "product"]
FINE = ["O", "person-actor", "person-other", "location-GPE", "other-award"]
FEW_NERD = parquet(
    {"id": ["0"], "tokens": [TOKENS], "ner_tags": [[7, 7, 6, 0, 4, 0, 0]],
     "fine_ner_tags": [[1, 1, 2, 0, 3, 0, 4]]},
    {"ner_tags": COARSE, "fine_ner_tags": FINE},
)  # fmt: skip
FABNER = ["O", "B-MATE", "I-MATE", "O-MATE", "E-MATE", "S-MATE", "B-MANP", "I-MANP", "O-MANP", "E-MANP"]
FABNER_ROW = parquet(
    {"id": ["0"], "tokens": [TOKENS], "ner_tags": [[1, 4, 5, 3, 6, 9, 8]]}, {"ner_tags": FABNER}
)
TWEETNER7 = ["corporation", "creative_work", "event", "group", "location", "person", "product"]
TWEETNER7_TAGS = [*(f"B-{name}" for name in TWEETNER7), *(f"I-{name}" for name in TWEETNER7), "O"]
MAPA = {"language": "en", "type": "EUR-LEX", "file_name": "a.html", "sentence_number": 0, "tokens": TOKENS,
        "coarse_grained": ["B-PERSON", "I-PERSON", "B-ORGANISATION", "O", "B-ADDRESS", "O", "O"],
        "fine_grained": ["B-GIVEN NAME - FEMALE", "B-FAMILY NAME", "O", "O", "B-CITY", "O", "O"]}  # fmt: skip
TAGS = ["B-PER", "I-PER", "B-ORG", "O", "B-LOC", "O", "O"]
ANN, LEE, BO, OSLO = (
    ("Ann Lee", "person"),
    ("Lee", "family name"),
    ("Bo", "organization"),
    ("Oslo", "location"),
)
TEXT = " ".join(TOKENS)
LAYOUTS = {
    "fewnerd_coarse": ({"supervised/test-00000-of-00001.parquet": FEW_NERD}, [ANN, OSLO]),
    "fewnerd_fine": (
        {"supervised/test-00000-of-00001.parquet": FEW_NERD},
        [("Ann Lee", "actor"), ("Oslo", "geopolitical entity"), ("x", "award")],
    ),
    "ontonotes": (
        {
            "test.json": lines({"tags": [4, 5, 11, 0, 7, 0, 0], "tokens": TOKENS}),
            "label.json": '{"O": 0, "B-PERSON": 4, "I-PERSON": 5, "B-ORG": 11, "B-GPE": 7}',
        },
        [ANN, BO, ("Oslo", "geopolitical entity")],
    ),
    "tweetner7": (
        {
            "test.json": lines(
                {"tokens": TOKENS, "tags": [5, 12, 0, 14, 4, 14, 1], "id": "118334433701638144",
                 "date": "2019-10-13"}
            ),
            "label.json": json.dumps({tag: number for number, tag in enumerate(TWEETNER7_TAGS)}),
        },
        [ANN, ("Bo", "corporation"), OSLO, ("x", "creative work")],
    ),
    "bc4chemd": (
        {"test.tsv": "Ann\tB-Chemical\nLee\tI-Chemical\nBo\tO\nsaw\tO\nOslo\tB-Chemical\nin\tO\nx\tO\n"},
        [("Ann Lee", "chemical"), ("Oslo", "chemical")],
    ),
    "deal": (
        {
            "test.jsonl": lines(
                {"bibcode": "2019X", "label_studio_id": 7, "ner_ids": [1, 2, 3, 9, 4, 9, 9],
                 "ner_tags": ["B-Person", "I-Person", "B-EntityOfFutureInterest", "O", "B-Location", *"OO"],
                 "section": "fulltext", "tokens": TOKENS, "unique_id": "fulltext_7_2019X"}
            )
        },
        [ANN, ("Bo", "entity of future interest"), OSLO],
    ),
    "fabner": (
        {"fabner/test-00000-of-00001.parquet": FABNER_ROW},
        [("Ann Lee", "material"), ("Bo", "material"), ("Oslo in", "manufacturing process")],
    ),
    "n2c2_2018": (
        {
            "test/100035.txt": TEXT,
            "test/100035.ann": "T1\tADE 0 7\tAnn Lee\nR1\tADE-Drug Arg1:T1 Arg2:T2\nT2\tDrug 15 19\tOslo\n",
        },
        [("Ann Lee", "adverse drug event"), ("Oslo", "drug")],
    ),
    "conllpp": (
        {"test.txt": "-DOCSTART- -X- -X- O\n\n" + "".join(
            f"{token} NN B-NP {tag}\n" for token, tag in zip(TOKENS, TAGS, strict=True))},
        [ANN, BO, OSLO],
    ),
    "conll03": (
        {"test.conllu": "0\t-DOCSTART-\tO\n\n" + "".join(
            f"{number}\t{token}\t{TAGS[number]}\n" for number, token in enumerate(TOKENS))},
        [ANN, BO, OSLO],
    ),
    "genia": (
        {"test.iob2": "".join(f"{token}\t{tag}\t{inner}\tO\tO\n" for token, tag, inner in zip(
            TOKENS, ["B-DNA", "I-DNA", *"OOOOO"], ["O", "B-cell_type", *"OOOOO"], strict=True))},
        [("Ann Lee", "dna"), ("Lee", "cell type")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_public_copys_layout_is_read(tmp_path, name):
    files, entities = LAYOUTS[name]
    write(tmp_path / name, files)
    assert found(tmp_path, name) == [(TEXT, entities)]


def test_few_nerds_own_columns_are_read_as_its_parquet(tmp_path):
    tags = ["person-actor", "person-actor", "person-other", "O", "location-GPE", "O", "other-award"]
    write(
        tmp_path, {"fewnerd_fine/test.txt": "".join(f"{a}\t{b}\n" for a, b in zip(TOKENS, tags, strict=True))}
    )
    assert found(tmp_path, "fewnerd_fine") == [(TEXT, LAYOUTS["fewnerd_fine"][1])]


def test_copies_in_the_layout_of_instructuie_are_read(tmp_path):
    entities = [
        {"name": "Ann Lee", "type": "person", "pos": [0, 7]},
        {"name": "Oslo", "type": "average ratings", "pos": [15, 19]},
    ]
    write(tmp_path, {"mit-movie.json": json.dumps([{"sentence": TEXT, "entities": entities}])})
    assert found(tmp_path, "mit_movie") == [(TEXT, [ANN, ("Oslo", "average ratings")])]


def columns(*tags):
    return "".join(f"{token}\t{tag}\n" for token, tag in zip(TOKENS, tags, strict=False))


def quoted(value):
    return '"' + value.replace('"', '""') + '"'


SOFC = "sofc-exp-corpus/"
POLYGLOT = parquet(
    {"id": ["1"], "lang": ["en"], "words": [TOKENS], "ner": [["PER", "PER", "ORG", *"O", "LOC", *"OO"]]}
)
TWO = [(TEXT, [ANN, OSLO])]
FOOD = [
    {"start": 0, "end": 7, "type": "PER", "entity": "Ann 'Lee"},
    {"start": 15, "end": 19, "type": "LOC", "entity": "Oslo"},
]
# Name: the public copy, and the passages after the page's command.
CONVERSIONS = {
    "tasteset": (
        {"TASTEset.csv": f"ingredients,ingredients_entities\n{quoted(TEXT)},{quoted(json.dumps(FOOD))}\n"},
        [(TEXT, [ANN, OSLO])],
    ),
    "sofc": (
        {
            SOFC + "SOFC-Exp-Metadata.csv": 'title\tname\tset\n"Two\nlines"\tA\ttrain\nC\tB\ttest\n',
            SOFC + "texts/B.txt": "Before.\nAnn Lee, x-Oslo left",
            SOFC + "annotations/sentences/B.csv": "1\t0\t0\t7\n2\t1\t8\t29\n",
            SOFC + "annotations/entity_types_and_slots/B.csv": (
                "2\t1\t0\t3\tB-MATERIAL\tO\n2\t2\t4\t7\tI-MATERIAL\tO\n2\t3\t7\t8\tO\tO\n2\t4\t9\t10\tO\tO\n"
                "2\t5\t10\t11\tO\tO\n2\t6\t11\t15\tB-DEVICE\tO\n2\t7\t16\t20\tB-EXPERIMENT\tO\n"
            ),
        },
        [("Ann Lee , x - Oslo left", [("Ann Lee", "material"), ("Oslo", "device")])],
    ),
    "scirex": (
        {
            "test.jsonl": lines(
                {"words": ["Before", ".", *TOKENS], "sentences": [[0, 2], [2, 9]], "doc_id": "a",
                 "ner": [[2, 4, "Task"], [6, 7, "Metric"], [1, 3, "Method"]], "coref": {}}
            )
        },
        [("Before .", []), (TEXT, [("Ann Lee", "task"), ("Oslo", "metric")])],
    ),
    "e_ner": (
        {
            "all.csv": "-DOCSTART-,O\n,O\nAnn,I-PERSON\nLee,I-PERSON\n"
            'Bo,I-BUSINESS\n",",I-BUSINESS\n,O\nOslo,I-LOC\nAct,I-LEGISLATION/ACT\nx,I-MISCELLANEOUS\n'
        },
        [("Ann Lee Bo ,", [ANN, ("Bo ,", "business")]),
         ("Oslo Act x", [OSLO, ("Act", "legislation or act")])],
    ),
    "finer_ord": (
        {"test/test.csv":
            "gold_label,gold_token,doc_idx,sent_idx\n1,Ann,0,0\n2,Lee,0,0\n5,Bo,0,1\n3,Oslo,1,1\n"},
        [("Ann Lee", [ANN]), ("Bo", [BO]), ("Oslo", [OSLO])],
    ),
    "findvehicle": (
        {
            "FindVehicle_test.jsonl": lines(
                {"id": 41628, "data": TEXT, "re_label": [[0, 1]], "ner_label": [
                    ["vehicle_brand", 0, 3, "Ann", 0, 1, ["Ann"]],
                    ["vehicle_type-suv", 0, 7, "Ann Lee", 0, 2, ["Ann", "Lee"]]]}
            )
        },
        [(TEXT, [("Ann", "vehicle brand"), ("Ann Lee", "vehicle type suv")])],
    ),
    "mapa_coarse": (
        {"test.jsonl": lines({**MAPA, "language": "bg"}, MAPA)},
        [(TEXT, [ANN, BO, ("Oslo", "address")])],
    ),
    "mapa_fine": (
        {"test.jsonl": lines({**MAPA, "language": "bg"}, MAPA)},
        [(TEXT, [("Ann", "given name female"), LEE, ("Oslo", "city")])],
    ),
    "multinerd": (
        {"test_en.jsonl": lines({"tokens": TOKENS, "ner_tags": [1, 2, 3, 0, 5, 0, 29], "lang": "en"})},
        [(TEXT, [ANN, BO, OSLO, ("x", "vehicle")])],
    ),
    "polyglot_ner": ({"en/0000.parquet": POLYGLOT}, [(TEXT, [ANN, BO, OSLO])]),
    "broad_twitter": (
        {"f.conll": "hey\tO\n@\tB-PER\nann\tB-PER\nOslo\tB-LOC\n@\tO\nx\tO\n"},
        [("hey @ ann Oslo @ x", [("@ ann", "person"), OSLO])],
    ),
    "mit_restaurant": (
        {"restauranttest.bio": "B-Restaurant_Name\tAnn\nI-Restaurant_Name\tLee\nO\tx\n\nB-Cuisine\tBo\n"},
        [("Ann Lee x", [("Ann Lee", "restaurant name")]), ("Bo", [("Bo", "cuisine")])],
    ),
}  # fmt: skip
CODE = dict(
    re.findall(
        r"^### (\w+)\n(?:[^`]*`[^`]+`)*?[^`]*```(?:python|bash)\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE
    )
)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_the_pages_command_converts_a_public_copy(tmp_path, name):
    files, passages = CONVERSIONS[name]
    code = CODE["mapa_coarse" if name == "mapa_fine" else name]
    copy, data = tmp_path / "copy", tmp_path / "data"
    write(copy, files)
    if code.startswith("# "):
        (copy / "convert.py").write_text(code)
        code = code.split("\n", 1)[0].removeprefix("# ").replace("mapa_coarse", name)
    (data / name).mkdir(parents=True)
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DATA": str(data)}
    subprocess.run(["bash", "-ec", code], cwd=copy, env=os.environ | variables, check=True)
    assert sorted(found(data, name)) == sorted(passages)


def test_the_page_has_a_row_for_each_data_set_with_the_catalogues_counts():
    rows = [
        [cell.strip() for cell in line.strip("|").split(" |")]
        for line in PAGE.splitlines()
        if line[:2] == "| "
    ]
    table = {row[0]: row for row in rows[1:]}
    assert list(table) == list(catalogue()) and len(rows) == 51 and {len(row) for row in rows} == {7}
    assert CODE.keys() | {"mapa_fine"} == CONVERSIONS.keys()
    for name, dataset in catalogue().items():
        _, _, reader, seen, own, paper, note = table[name]
        assert paper == f"{dataset.sizes[2]:,} / – / {dataset.types}"
        copy = " / ".join(f"{count:,}" for count in dataset.copy) if dataset.copy else ""
        assert (own == copy and seen == copy) if copy else not re.fullmatch(r"[\d,]+ / [\d,]+ / \d+", own), (
            name
        )
        if seen == "–":
            assert name in LAYOUTS or name in CONVERSIONS or "not tried" in reader, name
            assert note.startswith("not seen") or "not tried" in reader, name
        if dataset.format == "own" or "convert" in reader:
            assert dataset.convert and (name in CONVERSIONS or "not tried" in reader), name


def test_columns_with_the_tag_first_are_named(tmp_path):
    (tmp_path / "a.bio").write_text("O\tshow\nB-ACTOR\tAnn\nI-ACTOR\tLee\n")
    with pytest.raises(
        UserError, match=r"line 1: 'O\\tshow' has the tag in the first column, and .*swap them"
    ):
        list(read_gold(str(tmp_path / "a.bio")))
