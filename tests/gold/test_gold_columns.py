"""CoNLL columns: every scheme to the same entities, offsets exact, what is no tag named."""

import pytest

from uniner.errors import UserError
from uniner.gold.reader import read_gold
from uniner.gold.token_tags import spans

TOKENS = ["The", "New", "York", "Times", "asked", "Łódź", "Gdańsk", "."]
SCHEMES = {
    "bio": "O B-ORG I-ORG I-ORG O B-LOC B-LOC O",
    "iob1": "O I-ORG I-ORG I-ORG O I-LOC B-LOC O",
    "bioes": "O B-ORG I-ORG E-ORG O S-LOC S-LOC O",
    "bilou": "O B-ORG I-ORG L-ORG O U-LOC U-LOC O",
}
FOUND = [(1, 4, "ORG"), (5, 6, "LOC"), (6, 7, "LOC")]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_gives_the_same_entities(tmp_path, scheme):
    tags = SCHEMES[scheme].split()
    assert list(spans(tags)) == FOUND
    lines = [
        "-DOCSTART- -X- O O",
        "",
        *(f"{token} NN {tag}" for token, tag in zip(TOKENS, tags, strict=True)),
    ]
    path = tmp_path / f"test.{scheme}"
    path.write_text("\n".join([*lines, "", "", "Nothing NN O", "here NN O"]))
    first, second = read_gold(str(path))
    assert first.text == "The New York Times asked Łódź Gdańsk ."
    assert [(one.text, one.type) for one in first.entities] == [
        ("New York Times", "ORG"),
        ("Łódź", "LOC"),
        ("Gdańsk", "LOC"),
    ]
    assert all(first.text[one.start : one.end] == one.text for one in first.entities)
    assert (second.text, second.entities) == ("Nothing here", ())
    assert (first.id, second.id) == ("0000003", "0000013"), "a sentence's first line"


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O I-A O", [(1, 2, "A")]),  # an I after nothing begins
        ("B-A I-B I-B", [(0, 1, "A"), (1, 3, "B")]),  # another type begins
        ("I-A B-A I-A", [(0, 1, "A"), (1, 3, "A")]),
        ("E-A E-A", [(0, 1, "A"), (1, 2, "A")]),  # an end after nothing is an entity
        ("B-A E-A I-A", [(0, 2, "A"), (2, 3, "A")]),  # what is ended does not go on
        ("S-A I-A O", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A B-A", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A I-A", [(0, 2, "A")]),
    ],
)
def test_a_sequence_that_breaks_its_scheme_is_read_as_conlleval_does(tags, found):
    assert list(spans(tags.split())) == found


def test_tabs_keep_blanks_in_tokens_comments_and_windows_line_ends_go(tmp_path):
    path = tmp_path / "test.txt"
    lines = ["\ufeff# id 7 domain=train", "New York\t_\tB-LOC", "# \tO", "\xa0\tO", "", "# O", "Bo B-PER"]
    path.write_bytes("\r\n".join(lines).encode())
    first, second = read_gold(str(path))
    assert (first.text, [one.text for one in first.entities]) == ("New York # \xa0", ["New York"])
    assert (second.text, [one.text for one in second.entities]) == ("# Bo", ["Bo"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"Bo person", r"test\.conll, line 3: 'Bo person' is no token .*a tag is O or B-, I-"),
        (b"Bo B-", r"line 3: 'Bo B-' is no token"),
        (b"alone", r"line 3: 'alone' is no token"),
        (b"\tB-PER", r"line 3: '\\tB-PER' is no token"),
        (b"# nothing", r"line 3: '# nothing' is no token"),
        (b"B\xe9 B-PER", r"line 3: is no UTF-8"),
    ],
)
def test_what_is_no_tag_is_named(tmp_path, line, said):
    path = tmp_path / "test.conll"
    path.write_bytes(b"Ann B-PER\nsaw O\n" + line + b"\n")
    with pytest.raises(UserError, match=said):
        list(read_gold(str(path)))
