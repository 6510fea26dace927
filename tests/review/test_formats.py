"""Label Studio's files and the form: layout, escaping, offsets beside emoji, and what comes back."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from uniner.gold.json_rows import read_rows
from uniner.gold.label_studio import read as read_gold_export
from uniner.review import form, label_studio
from uniner.review.read_back import ReadBack, ReviewFormat, read_reviews
from uniner.review.tasks import ReviewTask, TaskEntity

TEXT = "\U0001f600 A\u00e9 <b>Ann</b> & \u201cBo\u201d \U0001f468\u200d\U0001f469\u200d\U0001f467\r\nin Rome"
TEXT += "\u2028\x01."
FORMATS = (
    ReviewFormat("Label Studio", label_studio.is_export, label_studio.read_export),
    ReviewFormat("form", form.is_saved_form, form.read_saved_form),
)


def task(text=TEXT, mention="Ann", type_name="person"):
    start = text.index(mention)
    found = TaskEntity(start=start, end=start + len(mention), text=mention, type=type_name, score=0.75)
    return ReviewTask(passage_id="p1", doc_id="d", source="web", text=text, part="unsure", entities=(found,))


def read(path, value, **tasks):
    path.write_text(json.dumps(value))
    back = ReadBack()
    read_reviews(str(path), tasks or {"p1": task()}, FORMATS, "", back)
    return back


def annotated(row, who=3, at="2026-11-26T10:00:00Z", **changes):
    """A task as Label Studio exports it after somebody accepted the prediction."""
    result = [{**each, "origin": "manual"} for each in row["predictions"][0]["result"]]
    annotation = {"completed_by": who, "updated_at": at, "was_cancelled": False, "result": result, **changes}
    return {"id": 11, "data": row["data"], "annotations": [annotation]}


def test_a_task_has_the_layout_of_label_studio_and_its_accepted_prediction_comes_back(tmp_path):
    (row,) = json.loads(label_studio.studio_tasks([task()], "run round 1"))
    assert row["data"]["text"] == TEXT and row["predictions"][0]["model_version"] == "run round 1"
    (result,) = row["predictions"][0]["result"]
    assert (result["from_name"], result["to_name"], result["type"]) == ("label", "text", "labels")
    value = result["value"]
    assert TEXT[value["start"] : value["end"]] == value["text"] == "Ann" and value["labels"] == ["person"]

    back = read(tmp_path / "export.json", [annotated(row)])
    (review,) = back.reviews
    assert (review.reviewer, review.at, review.outcome) == ("label-studio-3", "2026-11-26T10:00:00Z", "ok")
    assert [(e.text, e.type) for e in review.entities] == [("Ann", "person")]
    # The export is a gold file of its own too.
    (gold,) = read_gold_export("x", read_rows(str(tmp_path / "export.json")))
    assert [e.text for e in gold.passage.entities] == ["Ann"]


def test_several_people_and_skipped_tasks_of_an_export_are_told_apart(tmp_path):
    (row,) = json.loads(label_studio.studio_tasks([task()], "m"))
    one = annotated(row, who={"id": 4, "email": "ann@example.com"})
    one["annotations"] += annotated(row, who=5, was_cancelled=True)["annotations"]
    reviews = read(tmp_path / "export.json", [one]).reviews
    assert [(r.reviewer, r.outcome, len(r.entities)) for r in reviews] == [
        ("ann@example.com", "ok", 1),
        ("label-studio-5", "skipped", 0),
    ]


def test_offsets_of_old_exports_in_utf16_units_are_moved_and_wrong_ones_told(tmp_path):
    (row,) = json.loads(label_studio.studio_tasks([task()], "m"))
    export = annotated(row)
    value = export["annotations"][0]["result"][0]["value"]
    value["start"], value["end"] = value["start"] + 1, value["end"] + 1  # an emoji has two units
    (review,) = read(tmp_path / "export.json", [export]).reviews
    assert [e.text for e in review.entities] == ["Ann"] and review.outcome == "ok"
    value["start"] += 3
    back = read(tmp_path / "export.json", [export])
    assert back.reviews[0].outcome == "bad_span" and "entry 1, passage 'p1'" in back.errors[0]


@pytest.mark.parametrize(
    "mention", ["\U0001f468\u200d\U0001f469\u200d\U0001f467\r\nin Rome", "A\u00e9", "Rome\u2028\x01"]
)
def test_spans_over_line_ends_emoji_and_control_characters_come_back_exactly(mention, tmp_path):
    given = task(mention=mention)
    (row,) = json.loads(label_studio.studio_tasks([given], "m"))
    export = annotated(row)
    # Label Studio shows \r as a line end.
    value = export["annotations"][0]["result"][0]["value"]
    value["text"] = value["text"].replace("\r", "\n")
    (review,) = read(tmp_path / "export.json", [export]).reviews
    assert review.outcome == "ok" and review.entities[0].text == mention.strip()


def test_labels_are_escaped_in_the_labelling_config():
    types = ['a "quoted" <b>&', "it's", "person"]
    root = ElementTree.fromstring(label_studio.labelling_config(types))
    assert [label.get("value") for label in root.iter("Label")] == types
    assert root.find("Labels").get("toName") == root.find("Text").get("name") == "text"


def test_nothing_of_the_text_is_markup_in_the_form():
    hostile = '</script><script>alert(1)</script><!--<img src=x onerror="alert(2)">'
    given = task(text=f"{hostile} Ann\u2028", type_name=hostile)
    page = form.review_form(f"run {hostile}", [hostile], [given])
    assert page.count("<script") == 2 and page.count("</script>") == 2  # the page's own
    assert "http" not in page.replace("http-equiv", "")
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(data)["tasks"][0]["text"] == given.text and json.loads(data)["types"] == [hostile]


def test_a_saved_form_comes_back_with_who_when_and_note(tmp_path):
    start = TEXT.index("Rome")
    saved = {
        "format": "uniner-review",
        "reviewer": "Ann",
        "reviews": [
            {
                "id": "p1",
                "text": TEXT,
                "outcome": "ok",
                "at": "2026-11-26T10:00:00.000Z",
                "note": "sure?",
                "entities": [{"start": start, "end": start + 4, "text": "Rome", "type": "city"}],
            }
        ],
    }
    (review,) = read(tmp_path / "saved.json", saved).reviews
    assert (review.reviewer, review.note, review.at[:10]) == ("Ann", "sure?", "2026-11-26")
    assert [(e.start, e.type) for e in review.entities] == [(start, "city")]
    del saved["reviews"][0]["entities"]
    assert "is not as form writes it" in read(tmp_path / "saved.json", saved).errors[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: result.update(type="hypertextlabels"), "a region of type 'hypertextlabels'"),
        (lambda result: result["value"].update(labels=[]), r"labels must be a list of types, not \[\]"),
        (
            lambda result: result["value"].update(labels="planet"),
            "labels must be a list of types, not 'planet'",
        ),
        (lambda result: result["value"].update(labels=[None]), "labels must be a list of types"),
        (
            lambda result: result["value"].update(start=149.7),
            "start and end must be whole numbers, not 149.7",
        ),
    ],
)
def test_regions_that_cannot_be_read_are_told_and_never_no_entities(change, message, tmp_path):
    row = annotated(json.loads(label_studio.studio_tasks([task()], "m"))[0])
    change(row["annotations"][0]["result"][0])
    back = read(tmp_path / "export.json", [row])
    assert back.reviews == [] and len(back.errors) == 1 and re.search(message, back.errors[0])


def test_relations_and_choices_are_passed_over(tmp_path):
    row = annotated(json.loads(label_studio.studio_tasks([task()], "m"))[0])
    row["annotations"][0]["result"] += [
        {"type": "relation"},
        {"type": "choices", "value": {"choices": ["a"]}},
    ]
    about = {"type": "choices", "value": {"start": 1, "end": 2, "choices": ["a"]}}
    row["annotations"][0]["result"].append(about)
    back = read(tmp_path / "export.json", [row])
    assert [len(review.entities) for review in back.reviews] == [1] and not back.errors


def test_what_is_null_is_not_given_and_entities_are_a_list(tmp_path):
    saved = {"format": form.FORM, "reviewer": None, "reviews": [
        {"id": "p1", "text": TEXT, "at": None, "outcome": "ok", "note": None, "entities": []}]}  # fmt: skip
    back = ReadBack()
    (tmp_path / "form.json").write_text(json.dumps(saved))
    read_reviews(str(tmp_path / "form.json"), {"p1": task()}, FORMATS, " Ann ", back)
    assert [(review.reviewer, review.at, review.note) for review in back.reviews] == [("Ann", back.now, "")]
    saved["reviews"][0] |= {"entities": {}}
    assert "entities must be a list, not {}" in read(tmp_path / "form.json", saved).errors[0]
    saved["reviews"][0] |= {"entities": [], "at": "yesterday"}
    saved["reviewer"] = "Ann"
    assert "at = 'yesterday' is not a time, such as" in read(tmp_path / "form.json", saved).errors[0]
