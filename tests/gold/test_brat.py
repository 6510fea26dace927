"""brat: text-bound annotations are read, discontinuous ones counted, wrong lines named in errors."""

import pytest

from uniner.errors import UserError
from uniner.gold.reader import gold_digest, read_gold

TEXT = "Łódź lies\nin Poland.\nleft and right side\n"
ANNOTATIONS = """T1\tCity 0 4\tŁódź
T2\tPlace 5 9;10 19\tlies in Poland
R1\tIn Arg1:T1 Arg2:T2\t
T3\tPart 21 25;36 40\tleft side
#1\tAnnotatorNotes T1\ta note
A1\tNegated T1
*\tEquiv T1 T2
E1\tCity:T1
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, text, annotations in (("deep/b", "Nothing.", ""), ("a", TEXT, ANNOTATIONS)):
        (tmp_path / f"{name}.txt").write_text(text)
        (tmp_path / f"{name}.ann").write_text(annotations)
    (tmp_path / "annotation.conf").write_text("[entities]")
    return tmp_path


def test_text_bound_annotations_are_read_and_discontinuous_ones_counted(folder):
    first, second = read_gold(str(folder))
    assert (first.id, first.text) == ("a", TEXT)
    # Fragments that only a line end separates are one mention.
    assert [(entity.text, entity.type) for entity in first.entities] == [
        ("Łódź", "City"),
        ("lies\nin Poland", "Place"),
    ]
    assert all(first.text[entity.start : entity.end] == entity.text for entity in first.entities)
    assert first.left_out == {"discontinuous": 1}
    assert (second.id, second.entities) == ("deep/b", ())


def test_the_digest_covers_texts_and_annotations(folder):
    before = gold_digest(str(folder))
    (folder / "annotation.conf").write_text("changed")
    assert gold_digest(str(folder)) == before
    (folder / "deep" / "b.ann").write_text("T1\tX 0 7\tNothing\n")
    assert gold_digest(str(folder)) != before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("T9\tCity 0 6\tŁódź", r"a\.ann, line 9: the text from 0 to 6 is 'Łódź l', not 'Łódź'"),
        ("T9\tCity 0 3\tŁódź", r"a\.ann, line 9: the text from 0 to 3 is 'Łód', not 'Łódź'"),
        ("T9\tCity 90 94\tŁódź", r"a\.ann, line 9: the text from 90 to 94 is ''"),
        ("T9 City 0 4 Łódź", r"a\.ann, line 9: 'T9 City 0 4 Łódź' is not a brat annotation"),
        ("half a line", r"a\.ann, line 9: 'half a line' is not a brat annotation"),
    ],
)
def test_a_wrong_line_is_named(folder, line, message):
    (folder / "a.ann").write_text(ANNOTATIONS + line)
    with pytest.raises(UserError, match=message):
        list(read_gold(str(folder)))


def test_an_annotation_file_without_a_text_file_is_named(folder):
    (folder / "a.txt").unlink()
    with pytest.raises(UserError, match=r"a\.ann: the \.txt file of this name is missing"):
        list(read_gold(str(folder)))
