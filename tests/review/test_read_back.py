"""Reviewed files with wrong values: a line that says what is wrong, never an empty review or a traceback."""

import json

import pytest

from uniner.review import form, label_studio
from uniner.review.read_back import (
    ReadBack,
    ReviewFormat,
    gold_lines_format,
    latest,
    passed_over,
    read_reviews,
    unknown_type_lines,
)
from uniner.review.tasks import Review, ReviewTask

TEXT = "Ann met Bo in Rome"
FORMATS = (
    ReviewFormat("Label Studio", label_studio.is_export, label_studio.read_export),
    ReviewFormat("form", form.is_saved_form, form.read_saved_form),
    gold_lines_format(),
)
ANN = {"start": 0, "end": 3, "text": "Ann", "type": "person"}
REGION = {"type": "labels", "value": {"start": 0, "end": 3, "text": "Ann", "labels": ["person"]}}


def tasks():
    made = [
        ReviewTask(passage_id=name, doc_id="d", source="", text=TEXT, part="unsure", entities=())
        for name in ("p", "q")
    ]
    return {task.passage_id: task for task in made}


def gold(*entities, **changes):
    return {"id": "p", "text": TEXT, "reviewer": "Ann", "entities": list(entities), **changes}


def saved(*reviews, reviewer="Ann"):
    rows = [{"id": "p", "text": TEXT, "outcome": "ok", "entities": [ANN], **each} for each in reviews]
    return {"format": form.FORM, "reviewer": reviewer, "reviews": rows}


def exported(*annotations):
    made = [{"completed_by": 3, "result": [REGION], **each} for each in annotations]
    return {"data": {"text": TEXT, "passage_id": "p"}, "annotations": made}


@pytest.fixture
def read(tmp_path):
    """Return a function that reads rows back as one file."""

    def run(*rows, reviewer=""):
        path = tmp_path / "back.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        back = ReadBack()
        read_reviews(str(path), tasks(), FORMATS, reviewer, back)
        assert all(len(error.splitlines()) == 1 and "Error(" not in error for error in back.errors)
        return back

    return run


def who(back):
    return [
        (review.reviewer, review.passage_id, review.outcome, len(review.entities)) for review in back.reviews
    ]


WRONG_ENTITIES = [None, 1, "Ann", [], {}, {**ANN, "start": 0.0}, {**ANN, "end": True}, {**ANN, "text": 1}]


@pytest.mark.parametrize("entity", WRONG_ENTITIES)
def test_a_wrong_entity_is_the_error_of_its_review_alone(read, entity):
    back = read(saved({}, {"id": "q", "entities": [ANN, entity]}, {"id": "q"}))
    assert who(back) == [("Ann", "p", "ok", 1), ("Ann", "q", "ok", 1)] and back.rows == 3
    (error,) = back.errors
    assert "line 1, passage 'q', number 2 of reviews: is not as form writes it: the entity" in error
    assert 'such as {"start": 0, "end": 3' in error
    back = read(gold(entity), gold(ANN, id="q"))
    assert who(back) == [("Ann", "q", "ok", 1)] and "line 1: is not as" in back.errors[0]


WRONG_ANNOTATIONS = [
    ({"result": {}}, 'result must be a list, not {}, such as [{"type": "labels"'),
    ({"result": None}, "result must be a list, not null"),
    ({"result": ""}, 'result must be a list, not ""'),
    ({"result": [None]}, "a region must be an object with a type"),
    ({"result": [{"value": {"choices": ["a"]}}]}, "a region must be an object with a type"),
    ({"result": [{**REGION, "value": {"end": 3, "labels": ["person"]}}]}, "whole numbers, not null and 3"),
    ({"result": [{**REGION, "value": {"start": 0, "labels": ["person"]}}]}, "whole numbers, not 0 and null"),
    ({"result": [{"type": "labels"}]}, "a region must have a value"),
    ({"result": [{"type": "hypertextlabels", "value": {"labels": ["x"]}}]}, "a region of type 'hypertextl"),
    ({"updated_at": 5}, 'updated_at must be a text, not 5, such as "2026-11-27T10:00:00Z"'),
    ({"completed_by": [3]}, "completed_by must be a user, such as"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_ANNOTATIONS)
def test_an_annotation_that_cannot_be_read_is_left_out_alone_and_never_empty(read, change, message):
    back = read(exported({}, change, {"completed_by": 4}))
    assert who(back) == [("label-studio-3", "p", "ok", 1), ("label-studio-4", "p", "ok", 1)]
    (error,) = back.errors
    assert "passage 'p', number 2 of annotations: is not as Label Studio writes it" in error
    assert message in error


def test_what_marks_no_span_and_cancelled_annotations_are_no_errors(read):
    about = [{"type": "relation"}, {"type": "choices", "value": {"choices": ["a"]}}]
    back = read(exported({"result": about}, {"completed_by": 4, "was_cancelled": True, "result": {}}))
    assert back.errors == []
    assert who(back) == [("label-studio-3", "p", "ok", 0), ("label-studio-4", "p", "skipped", 0)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**saved(), "reviews": {}}, "reviews must be a list, not {}"),
        ({**exported(), "annotations": {}}, "annotations must be a list, not {}"),
        ({**exported(), "data": {"text": TEXT}}, "passage_id must be a text; it is missing, such as"),
        (saved({"entities": {}}), "entities must be a list, not {}"),
        (gold(at=20261127), 'at must be a text, not 20261127, such as "2026-11-27T10:00:00Z"'),
        (gold(at="20261127"), "at = '20261127' is not a time, such as"),
        (gold(at="2026-13-01T00:00:00"), "is not a time, such as"),
        (gold(reviewer=5), 'reviewer must be a text, not 5, such as "Ann"'),
        (gold(id=7), "id must be a text, not 7"),
        (gold(text=None), "text must be a text, not null"),
        ('{"id": "p", "te', "is not JSON, and so none of"),
        ({"a": 1}, "is none of Label Studio, form, "),
    ],
)
def test_a_row_that_cannot_be_read_is_an_error_in_words_and_the_others_are_kept(read, row, message):
    back = read(gold(ANN, id="q"), row)
    assert who(back) == [("Ann", "q", "ok", 1)] and back.rows == 2
    (error,) = back.errors
    assert message in error and "back.jsonl, line 2" in error


@pytest.mark.parametrize("blank", ["", "  ", "\u200b", None])
def test_a_blank_name_is_no_name(read, blank):
    assert "does not say who reviewed it" in read(gold(reviewer=blank)).errors[0]
    assert "does not say who reviewed it" in read(gold(reviewer=blank), reviewer=" \u200b").errors[0]
    assert who(read(saved({}, reviewer=blank), reviewer=" Bo  Lee ")) == [("Bo Lee", "p", "ok", 1)]
    by = [{"email": blank, "id": 5}, {"email": blank}, 6, "7", "cy@example.com"]
    back = read(exported(*({"completed_by": each} for each in by)), reviewer="Bo")
    assert [name for name, *_ in who(back)] == [
        *("label-studio-5", "Bo", "label-studio-6", "label-studio-7", "cy@example.com")
    ]


def test_values_of_thousands_of_characters_are_short_lines_and_no_traceback(read):
    long = "9" * 5_000
    assert who(read(exported({"completed_by": long}))) == [(long, "p", "ok", 1)]
    for row in (gold(ANN, id=long), gold(ANN, outcome=long), gold(ANN, at=long)):
        (error,) = read(row).errors
        assert len(error) < 500


def review(reviewer, at, *entities, passage="p", outcome="ok"):
    return Review(passage_id=passage, reviewer=reviewer, at=at, entities=entities, outcome=outcome)


def test_a_reviewer_is_one_whatever_the_case_and_older_reviews_are_counted():
    old, new = (
        review("Ann", "2026-11-26T10:00:00Z", outcome="skipped"),
        review("ann ", "2026-11-27T10:00:00Z"),
    )
    other, again = review("ANN", "", passage="q"), review("Ann", "2026-11-28T10:00:00Z")
    bad = review("ann", "2026-11-29T10:00:00Z", outcome="bad_span")
    kept = latest([old, new, other, again, bad])
    assert [(each.reviewer, each.passage_id, each.outcome) for each in kept] == [
        ("Ann", "p", "ok"),
        ("Ann", "q", "ok"),
    ]
    # The same said again is not passed over, and a wrong one was told as an error.
    assert passed_over([old, new, other, again, bad], kept) == 1
    assert passed_over([new, again], latest([new, again])) == 0


def test_a_reviewer_is_one_however_the_accents_are_written():
    whole, apart = review("Jos\u00e9", "2026-11-27T10:00:00Z"), review("Jose\u0301", "2026-11-26T10:00:00Z")
    assert [(each.reviewer, each.at[:10]) for each in latest([whole, apart])] == [("Jos\u00e9", "2026-11-27")]


def test_each_type_that_was_not_given_out_is_a_line_with_a_count_and_an_example(read):
    persn = {**ANN, "type": "persn"}
    back = read(gold(persn, {**ANN, "type": "person"}), gold(persn, id="q"))
    (line,) = unknown_type_lines(back.reviews, ("person", "city"))
    assert line.startswith("the type 'persn' was not given out and is taken: 2 entities, such as 'Ann' in ")
    assert "passage 'p'; if it is a slip (for 'person'), correct the file and import it again" in line
    assert unknown_type_lines(back.reviews, ("person", "persn")) == []
    many = read(gold(*({**ANN, "type": f"t{number}"} for number in range(8))))
    lines = unknown_type_lines(many.reviews, ("person",))
    assert len(lines) == 6 and lines[-1] == "and 3 more types that were not given out"
