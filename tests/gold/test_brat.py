"""brat: text-bound annotations are read, discontinuous ones counted, wrong lines named in errors."""

import pytest

from uniner.errors import UserError
from uniner.gold.reader import count_left_out, gold_digest, read_gold

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


def read(tmp_path, text: str, annotations: str):
    """Read one document; return its text, its entities and what was left out."""
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.ann").write_bytes(annotations.encode())
    (passage,) = read_gold(str(tmp_path))
    assert all(passage.text[entity.start : entity.end] == entity.text for entity in passage.entities)
    return passage.text, [(entity.start, entity.text) for entity in passage.entities], passage.left_out


def test_white_space_at_the_ends_of_a_mention_is_not_part_of_it(tmp_path):
    text = "Add NaCl\xa0to 5 ml now"
    annotations = "T1\tX 4 9\tNaCl\nT2\tY 11 17\t 5 ml \nT3\tZ 8 9\t\xa0\nT4\tY 12 16\t5 ml \n"
    assert read(tmp_path, text, annotations) == (
        text,
        [(4, "NaCl"), (12, "5 ml"), (12, "5 ml")],
        {"blank_mention": 1},
    )


def test_a_mention_over_several_lines_is_read(tmp_path):
    text = "at ca.\n25\n\nEinheiten here"
    annotations = "T1\tX 3 21\tca.\n25\n\nEinheiten\n#1\tAnnotatorNotes T1\tone\nT2\tX 0 2\tat\n"
    assert read(tmp_path, text, annotations)[1:] == ([(3, "ca.\n25\n\nEinheiten"), (0, "at")], {})
    fragments = "T1\tX 0 2;7 9\tat\n25\nT2\tX 3 6;7 9\tca.\n25\nT3\tX 0 2\tat\n"
    assert read(tmp_path, text, fragments.replace("0 2;7 9\tat\n25", "0 2;7 9\tat 25"))[1:] == (
        [(3, "ca.\n25"), (0, "at")],
        {"discontinuous": 1},
    )


def test_a_mention_over_lines_that_are_not_the_text_is_left_out_and_counted(tmp_path):
    text = "at ca.\n25 units"
    annotations = "T1\tX 3 15\tca.\n26 units\nand more\nT2\tX 0 2\tat\n"
    assert read(tmp_path, text, annotations)[1:] == ([(0, "at")], {"broken_over_lines": 1})
    with pytest.raises(UserError, match=r"a\.ann, line 3: 'half a line' is not a brat annotation"):
        read(tmp_path, text, "T1\tX 3 15\tca.\n25 units\nhalf a line\n")
    with pytest.raises(UserError, match=r"a\.ann, line 1: the text from 3 to 15 is"):
        read(tmp_path, text, "T1\tX 3 15\tca.\nT2\tX 0 2\tat\n")
    with pytest.raises(UserError, match=r"a\.ann, line 1: the text from 3 to 15 is"):
        read(tmp_path, text, "T1\tX 3 15\tca.\n\n")


@pytest.mark.parametrize("empty", ["a", "b", "c"])
def test_documents_without_text_are_left_out_and_counted(tmp_path, empty):
    for name in "abc":
        text = "" if name == empty else "R 4"
        (tmp_path / f"{name}.txt").write_text(text)
        (tmp_path / f"{name}.ann").write_text("T1\tProgram 0 1\tR\n" if text else "")
    passages = list(read_gold(str(tmp_path)))
    assert [passage.id for passage in passages] == sorted({"a", "b", "c"} - {empty})
    assert count_left_out(passages) == {"left_out_empty_document": 1}


def test_offsets_may_count_a_windows_line_end_as_one_character_or_two(tmp_path):
    text = "Ann left.\r\nBo saw.\r\nCy too."
    one = "T1\tX 0 3\tAnn\r\nT2\tX 10 12\tBo\r\nT3\tX 18 20\tCy\r\n"
    two = "T1\tX 0 3\tAnn\r\nT2\tX 11 13\tBo\r\nT3\tX 20 22\tCy\r\n"
    found = [(0, "Ann"), (10, "Bo"), (18, "Cy")]
    assert read(tmp_path, text, one) == (text.replace("\r\n", "\n"), found, {})
    assert read(tmp_path, text, two) == (text, [(0, "Ann"), (11, "Bo"), (20, "Cy")], {})
    message = r"line 3: the text from 17 to 19 is .* Windows line ends were tried as one character too"
    with pytest.raises(UserError, match=message):
        read(tmp_path, text, two.replace("20 22", "17 19"))


def test_files_that_macos_writes_beside_are_passed_over(tmp_path):
    (tmp_path / "a.txt").write_text("Ann left")
    (tmp_path / "a.ann").write_text("T1\tperson 0 3\tAnn\n")
    for name in ("._a.txt", "._a.ann"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07\xff")
    (passage,) = read_gold(str(tmp_path))
    assert [each.text for each in passage.entities] == ["Ann"]


def test_a_mention_whose_line_is_broken_in_the_annotations_alone_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("The Bank of England rose. Ann left.")
    (tmp_path / "a.ann").write_text("T1\tOrg 4 19\tBank of\nEngland\nT2\tPerson 26 29\tAnn\n")
    (passage,) = read_gold(str(tmp_path))
    assert [entity.text for entity in passage.entities] == ["Bank of England", "Ann"]
    assert passage.left_out == {}


@pytest.mark.parametrize("start", [4, 5])
def test_offsets_may_count_the_byte_order_mark(tmp_path, start):
    (tmp_path / "a.txt").write_bytes("The Bank rose.".encode("utf-8-sig"))
    (tmp_path / "a.ann").write_text(f"T1\tOrg {start} {start + 4}\tBank\n")
    (passage,) = read_gold(str(tmp_path))
    assert [entity.text for entity in passage.entities] == ["Bank"]
