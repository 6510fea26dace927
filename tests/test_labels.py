"""Type names are normalised, labels become plain words, and unknown types are said with the nearest."""

import pytest

from uniner.labels import nearest_type, normalize_type, plain_label, unknown_types_line


@pytest.mark.parametrize(
    ("raw", "normalized"), [(" Programming  Language", "programming language"), ("City.", "city")]
)
def test_types_are_normalized(raw, normalized):
    assert normalize_type(raw) == normalized


LABELS = {
    "PER": "person", "per": "person", "Org": "organization", "LOC": "location", "MISC": "misc",
    "GPE": "geopolitical entity", "NORP": "nationality, religious or political group", "FAC": "facility",
    "WORK_OF_ART": "work of art", "geo-loc": "location", "programlang": "programming language",
    "ProgrammingLanguage": "programming language", "product_name": "product name", "CellLine": "cell line",
    "LEGISLATION/ACT": "legislation or act", "LOC.city": "location city", "ORG-TEAM": "organization team",
    "HTMLTag": "html tag", "pH": "ph", "DNA": "dna", "mRNA": "mrna", "U.S.": "u.s", "C++": "c++",
    "DateOfBirth": "date of birth", "EntityOfFutureInterest": "entity of future interest",
    "PartOfDNA": "part of dna", "McDonald": "mcdonald", "HasPhD": "has phd",
    "plot  Twist": "plot twist", "cell type": "cell type", "人物": "人物", "Ünïon": "ünïon", "??": "??",
}  # fmt: skip


@pytest.mark.parametrize(("label", "words"), LABELS.items())
def test_labels_of_any_data_set_become_plain_words(label, words):
    assert plain_label(label, {}, None) == words
    assert plain_label(words, {}, None) == words, "plain words stay as they are"
    assert plain_label(label, {label: "My  Own"}, None) == "my own", "the user's words come first"
    assert plain_label(label, {}, {label: "known"}) == "known", "then the catalogue's"


KNOWN = ("person", "organization", "location", "programming language", "date")


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("per", "person"),
        ("org", "organization"),
        ("programing language", "programming language"),
        ("organisation", "organization"),
        ("language", "programming language"),
        ("zebra", None),
    ],
)
def test_the_nearest_type_is_like_it_in_words_or_letters(asked, nearest):
    assert nearest_type(asked, KNOWN) == nearest


def test_types_that_a_student_was_not_trained_on_are_said():
    assert unknown_types_line(["person", "Date", "misc"], KNOWN) == ""
    assert unknown_types_line(["person"], ()) == "", "its types are unknown"
    assert unknown_types_line(["per", "zebra", "person"], KNOWN) == (
        "2 of 3 types are not among the 5 most frequent ones that the student was trained on: 'per' "
        "(nearest: 'person'), 'zebra'"
    )
    many = unknown_types_line([f"zebra {number}" for number in range(30)], KNOWN)
    assert many.endswith("'zebra 17' and 20 more")
