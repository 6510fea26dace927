"""Formats that annotation tools and libraries export: each is recognised by its content and read right."""

import base64
import json

import pytest

from uniner.errors import UserError
from uniner.gold.formats import format_of
from uniner.gold.reader import gold_digest, read_gold

TEXT = "Łódź's Ann Lee left."
ANN = (7, 14, "person")
DOCCANO = {"id": 3, "text": TEXT, "label": [[*ANN]]}
RELATIONS = {
    "id": 3, "text": TEXT, "relations": [], "Comments": [],
    "entities": [{"id": 1, "label": "person", "start_offset": 7, "end_offset": 14}],
}  # fmt: skip
GLINER = {"tokenized_text": ["Łódź's", "Ann", "Lee", "left."], "ner": [[1, 2, "person"]], "negatives": ["x"]}
INSTRUCT = {"sentence": TEXT, "entities": [{"name": "Ann Lee", "type": "person", "pos": [7, 14]}]}
SPACY_SPAN = {"start": 7, "end": 14, "label": "person"}
SPACY_TOKENS = [
    {"id": number, "orth": orth, "ner": tag}
    for number, (orth, tag) in enumerate(
        [("Łódź", "O"), ("'s", "-"), ("Ann", "B-person"), ("Lee", "L-person"), ("left", "O"), (".", "O")]
    )
]
STUDIO_VALUE = {"start": 7, "end": 14, "text": "Ann Lee", "labels": ["person"]}
STUDIO_RESULT = {"id": "a", "type": "labels", "from_name": "label", "to_name": "text", "value": STUDIO_VALUE}
STUDIO = {
    "id": 3, "data": {"title": "A much longer string than the text itself", "body": TEXT}, "predictions": [],
    "annotations": [{"was_cancelled": True, "result": []}, {"id": 9, "result": [
        STUDIO_RESULT, {"type": "choices", "value": {"choices": ["news"]}}, {"type": "relation"}]}],
}  # fmt: skip
STUDIO_MIN = {"id": 3, "annotator": 1, "lead_time": 3.2, "story": TEXT, "ner": [STUDIO_VALUE], "note": "x"}
TNER = {"tokens": ["Łódź's", "Ann", "Lee", "left."], "tags": [2, 0, 1, 2]}
OLD = {key: value for key, value in DOCCANO.items() if key != "text"} | {"data": TEXT}
JSON_ROWS = {
    "doccano": [DOCCANO, {**DOCCANO, "label": None, "labels": [[*ANN]]}, RELATIONS, OLD],
    "gliner": [GLINER],
    "instructuie": [INSTRUCT],
    "spacy": [
        [TEXT, {"entities": [[*ANN]]}],
        {"text": TEXT, "entities": [[*ANN]]},
        {"text": TEXT, "ents": [SPACY_SPAN], "tokens": [{"id": 0, "start": 0, "end": 4}]},
        {"text": TEXT, "spans": [SPACY_SPAN], "answer": "accept", "tokens": []},
        {"id": 0, "paragraphs": [{"raw": TEXT, "sentences": [{"tokens": SPACY_TOKENS, "brackets": []}]}]},
        {"classes": ["person"], "annotations": [[TEXT, {"entities": [[*ANN]]}], None]},
    ],
    "label_studio": [STUDIO, STUDIO_MIN],
    "tner": [
        {**TNER, "tags": ["O", "B-person", "I-person", "O"]},
        {**TNER, "tags": ["O", "person", "person", "O"]},
    ],
}  # fmt: skip
CASES = [(name, row) for name, rows in JSON_ROWS.items() for row in rows]


def found(address):
    return [
        (p.text, [(e.start, e.text, e.type) for e in p.entities], p.left_out) for p in read_gold(str(address))
    ]


@pytest.mark.parametrize("layout", ["lines", "list", "indented"])
@pytest.mark.parametrize(("name", "row"), CASES)
def test_a_row_is_read_by_its_fields_in_lines_and_in_lists(tmp_path, name, row, layout):
    path = tmp_path / ("export.jsonl" if layout == "lines" else "export.json")
    path.write_text(
        json.dumps(row)
        if layout == "lines"
        else json.dumps([row], indent=2 if layout == "indented" else None)
    )
    assert format_of(str(path)) == name
    assert found(path) == [(TEXT, [(7, "Ann Lee", "person")], {})]
    if layout == "lines":
        path.rename(tmp_path / "export")
        assert format_of(str(tmp_path / "export")) == name, "without a name that says so"


@pytest.mark.parametrize("row", [row for row in JSON_ROWS["spacy"] if isinstance(row, dict)])
def test_one_object_may_be_the_whole_file(tmp_path, row):
    path = tmp_path / "export.json"
    path.write_text(json.dumps(row, indent=2))
    assert found(path) == [(TEXT, [(7, "Ann Lee", "person")], {})]


WRONG = [
    ("doccano", {"text": TEXT, "label": [[7, 99, "person"]]}, "an entity from 7 to 99 is not within the"),
    ("doccano", {"text": TEXT, "label": [["7", 14, "person"]]}, r"Expected `int`, got `str`"),
    ("gliner", {**GLINER, "ner": [[1, 4, "person"]]}, "the tokens 1 to 4 are not among the 4 of the row"),
    ("gliner", {**GLINER, "ner": [[1, 1, None]]}, "Expected `str`, got `null`"),
    ("instructuie", {**INSTRUCT, "entities": [{"name": "Ann", "type": "person", "pos": [7, 14]}]},
     "the text from 7 to 14 is 'Ann Lee', not 'Ann'"),
    ("instructuie", {**INSTRUCT, "entities": [{"name": "Ann", "type": "person", "pos": [7]}]},
     "Expected `array`"),
    ("spacy", [TEXT, {"entities": [[-3, 2, "person"]]}], "an entity from -3 to 2 is not within"),
    ("spacy", [TEXT, {"entities": [[7, 14, " "]]}], "'Ann Lee' has a blank type"),
    ("label_studio", {**STUDIO_MIN, "ner": [{**STUDIO_VALUE, "start": 6, "text": "Ann"}]},
     "the text from 6 to 14 is ' Ann Lee', not 'Ann'"),
    ("tner", {"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens and 1 tags; a row needs as many"),
    ("tner", {"tokens": ["a"], "tags": ["B-"]}, "'B-' of tags is not a tag"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "message"), WRONG)
def test_a_span_that_does_not_fit_is_left_out_and_counted_up_to_a_limit(tmp_path, name, row, message):
    good = JSON_ROWS[name][1 if name == "label_studio" else 0]
    path = tmp_path / "export.json"
    rows = [_with_id(good, number) for number in range(10)]
    path.write_text(json.dumps([*rows, _with_id(row, 10)]))
    passages = list(read_gold(str(path)))
    left_out = {reason: n for passage in passages for reason, n in passage.left_out.items()}
    assert sum(len(passage.entities) for passage in passages) == 10
    assert left_out in ({"bad_annotation": 1}, {"bad_row": 1})
    path.write_text(json.dumps([*rows, _with_id(row, 10), _with_id(row, 11)]))
    message = rf"export\.json, entry 11: {message}.*\(2 of 2\d rows and annotations"
    with pytest.raises(UserError, match=message):
        list(read_gold(str(path)))


def _with_id(row, number):
    return {**row, "id": number} if isinstance(row, dict) else row


def test_what_may_be_two_formats_is_refused_until_the_address_says_which(tmp_path):
    path = tmp_path / "both.jsonl"
    row = {"text": TEXT, "label": [[0, 4, "city"]], "entities": [
        {"start": 7, "end": 14, "text": "Ann Lee", "type": "person"}]}  # fmt: skip
    path.write_text(json.dumps({**row, "entities": [], "label": []}) + "\n" + json.dumps(row))
    message = (
        rf"both\.jsonl, line 2: may be jsonl or doccano; say which before the address, such as jsonl:{path}"
    )
    with pytest.raises(UserError, match=message):
        list(read_gold(str(path)))
    with pytest.raises(UserError, match="may be jsonl or doccano"):
        gold_digest(str(path))
    assert found(f"jsonl:{path}")[1][1] == [(7, "Ann Lee", "person")]
    assert gold_digest(f"jsonl:{path}") != gold_digest(f"gliner:{path}")
    path.write_text('{"words": 3}\n')
    with pytest.raises(
        UserError, match=r"line 1: has the fields words, which is none of the formats jsonl, "
    ):
        list(read_gold(str(path)))


def test_rows_without_annotations_do_not_decide_the_format(tmp_path):
    path = tmp_path / "export.jsonl"
    for name, row in CASES:
        if isinstance(row, dict) and "text" in row:
            empty = {**row, **{key: [] for key, value in row.items() if isinstance(value, list)}}
            path.write_text("".join(json.dumps(each) + "\n" for each in (empty, {**row, "id": 4})))
            assert format_of(str(path)) == name
            assert [len(passage.entities) for passage in read_gold(str(path))] == [0, 1]


def test_label_studio_tasks_without_annotations_and_prodigy_examples_not_accepted_are_left_out(tmp_path):
    path = tmp_path / "export.json"
    path.write_text(json.dumps([STUDIO, {**STUDIO, "id": 4, "annotations": []}]))
    assert found(path) == [(TEXT, [(7, "Ann Lee", "person")], {"not_annotated": 1})]
    accepted = JSON_ROWS["spacy"][3]
    path.write_text(json.dumps([accepted, {**accepted, "answer": "reject"}]))
    assert found(path) == [(TEXT, [(7, "Ann Lee", "person")], {"not_accepted": 1})]


def test_numbered_tags_are_named_by_a_file_near_them(tmp_path):
    (tmp_path / "dataset").mkdir()
    path = tmp_path / "dataset" / "test.json"
    path.write_text(json.dumps(TNER) + "\n" + json.dumps(TNER))
    with pytest.raises(
        UserError, match=r"tags are numbers without names .*label\.json.*add label\.json, such as \{"
    ):
        list(read_gold(str(path)))
    (tmp_path / "label.json").write_text('{"B-person": 0, "I-person": 1, "O": 2}')
    assert found(path) == [(TEXT, [(7, "Ann Lee", "person")], {})] * 2
    before = gold_digest(str(path))
    (tmp_path / "label.json").write_text('{"B-human": 0, "I-human": 1, "O": 2}')
    assert gold_digest(str(path)) != before, "other names give other entities"
    assert found(path)[0][1] == [(7, "Ann Lee", "human")]
    (tmp_path / "label.json").write_text('{"human": 0, "O": 2, "place": 1}')
    assert [e[1:] for e in found(path)[0][1]] == [("Ann", "human"), ("Lee", "place")], "bare types"


def test_a_field_of_tags_may_be_named(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(
        json.dumps({"tokens": ["Ann", "x"], "coarse": ["B-person", "O"], "fine": ["B-judge", "O"]})
    )
    assert [p.entities[0].type for p in read_gold(str(path), tag_column="fine")] == ["judge"]


CONLLU = """# newdoc id = 1
# sent_id = s-1
# text = Ann Lee's  left.\tNo?
1\tAnn\tAnn\tPROPN\t_\t_\t0\t_\t_\tNER=B-PER
2-3\tLee's\t_\t_\t_\t_\t_\t_\t_\t_
2\tLee\tLee\tPROPN\t_\t_\t1\t_\t_\tNER=I-PER
3\t's\t's\tPART\t_\t_\t1\t_\t_\tNER=O
3.1\tgone\t_\t_\t_\t_\t_\t_\t_\t_
4\tleft\tleave\tVERB\t_\t_\t1\t_\t_\tSpaceAfter=No|NER=O
5\t.\t.\tPUNCT\t_\t_\t1\t_\t_\tSpacesAfter=\\t
6\tNo\tNo\tPROPN\t_\t_\t1\t_\t_\tSpaceAfter=No|NER=B-LOC
7\t?\t?\tPUNCT\t_\t_\t1\t_\t_\t_
"""


def test_conllu_has_offsets_in_the_sentences_own_text(tmp_path):
    path = tmp_path / "test.conllu"
    path.write_text(CONLLU + "\n" + CONLLU.replace("# text", "# title").replace("s-1", "s-2"))
    first, second = read_gold(str(path))
    assert (first.id, first.text) == ("s-1", "Ann Lee's  left.\tNo?")
    assert [(e.start, e.text, e.type) for e in first.entities] == [(0, "Ann Lee's", "PER"), (17, "No", "LOC")]
    assert (second.id, second.text) == ("s-2", "Ann Lee's left. No?"), "SpaceAfter=No"
    assert [e.text for e in second.entities] == ["Ann Lee's", "No"]
    # Universal NER: the tag is one of the columns after the word.
    lines = [
        "# text = Ann left, so.",
        "1\tAnn\tB-PER\t-\ta",
        "2\tleft\tO\t-\ta",
        "3\t,\tO\t-\ta",
        "4\tso.\tO\t-\ta",
    ]
    path.write_text("\n".join(lines))
    assert found(path) == [("Ann left, so.", [(0, "Ann", "PER")], {})]
    path.write_text(
        "\n".join(
            ["# global.columns = ID FORM LEMMA X:NER", *(line.replace("-\ta", "B-X") for line in lines)]
        )
    )
    assert [e[1:] for e in found(path)[0][1]] == [("Ann", "X"), ("left", "X"), (",", "X"), ("so.", "X")]
    path.write_text("\n".join(lines).replace("-\ta", "B-X"))
    with pytest.raises(
        UserError, match=r"the columns 3, 4 have a tag on every line; keep one .*global\.columns"
    ):
        list(read_gold(str(path)))
    path.write_text("\n".join(lines).replace("so", "co", 1))
    with pytest.raises(UserError, match=r"line 2: the words are not those of `# text = Ann left, co\.`"):
        list(read_gold(str(path)))


DOCBIN = (
    "eJzrWl6WWlScmZ+32EDPcGliSUlR8VxHZ08vbx9fP/+As4xHzjIePct4bFlJfnZqXvFRjg+POAuNHlWbu02aVWy6LI0vnYEAYMIhzkhA314V"
    "jrPqnyT/wWhy7SEE9u0MPfbwoTcPjKaVPbDwojTcCAE+UWPdgu89BTCaVvYkvNrNFfhyQyeMppU9+9MY++InW+yzUrMvbDt+4zAh9cxQuoZQ"
    "AkMDZ84qLZm3Tlneu+hHe7La/gZC6mHGk2pPGsdGW4GuVwthNCH15Ibb+6XrF2b+aP03I27Gx0M8qisJqYeFG5+qXsnMqFVniLVn0aE1Pm9u"
    "1q+H0YTUk+ufV+IvK+tMYnlhNK3sqYfG5xslqUOuX9uWElIPC7d6EtOB4A+3Q5+tMstgNCH15Ponu2hr1Izerawwmlb2xGm07Nr0tjRp9dHL"
    "3Mu/1vYSUg8LN61Li0V7GXtOw8QJBaPTjjfiKWUR+jCaXHsIAXqF204xqe7et3+UYTSt7EnedHuy7r41mjCaVvbAysMLCfEvpD6nnqWVPWlT"
    "i63iv8YetNd7tKjSVmAfmcYQTG/LigsSk1OLj4gxwgBEE5AGMZfnpOall2QUH+HhB4qzQQ1cXlxSlJmXXnyHQX7BQq6FCgt1FuotdszLW+yT"
    "mrrcL78kAyi52D/IfVmAa1Cwv9/ikIzURaF+ixPz8hYllixJTixOXZKcWVK5JCO1KHVRZt6izOLFOampK3IrFXISk1JzluQl5qYuz4OYsyg/"
    "bXF+UfqyAmA7DtiMKwEaVZq3uDyxePnRxsObU47uWn60CUwDzS0pntzQ0LA0LScxvXhy46aMxOL40rzsvPzyvHiINw8RL7gaSOfFpxfllxYU"
    "Tz7COAGCVpYWpxbFpySWJALFGiAIAIdrT1k="
)
"""Three documents that spaCy 3.8 wrote, with words (name) and a type (PERSON) that it knows by number."""


def test_spacys_docbin_is_read_as_spacy_wrote_it(tmp_path):
    data = base64.b64decode(DOCBIN)
    for name in ("train.spacy", "train"):
        (tmp_path / name).write_bytes(data)
        assert found(tmp_path / name) == [
            (
                "The name of the case was Ann Lee at UN.\nORG  here",
                [(25, "Ann Lee", "PERSON"), (36, "UN", "my label"), (40, "ORG", "ORG")],
                {},
            ),
            ("Łódź is here, in PERSON", [(0, "Łódź", "city"), (5, "is", "city")], {}),
            ("Nothing", [], {}),
        ]
    for broken in (data[:-40], data[:60] + b"x" + data[61:], b"no DocBin"):
        (tmp_path / "broken.spacy").write_bytes(broken)
        with pytest.raises(
            UserError, match=r"broken\.spacy: (not a DocBin|ends too early|.* tokens).*DocBin\.to_disk"
        ):
            list(read_gold(str(tmp_path / "broken.spacy")))
