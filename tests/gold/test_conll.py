"""CoNLL columns: all schemes give the same entities, offsets are exact, invalid tags are named."""

import pytest

from uniner.errors import UserError
from uniner.gold.conll import token_spans
from uniner.gold.reader import read_gold

TOKENS = ["The", "New", "York", "Times", "asked", "Łódź", "Gdańsk", "."]
SCHEMES = {
    "bio": "O B-ORG I-ORG I-ORG O B-LOC B-LOC O",
    "iob1": "O I-ORG I-ORG I-ORG O I-LOC B-LOC O",
    "bioes": "O B-ORG I-ORG E-ORG O S-LOC S-LOC O",
    "bilou": "O B-ORG I-ORG L-ORG O U-LOC U-LOC O",
}
SPANS = [(1, 4, "ORG"), (5, 6, "LOC"), (6, 7, "LOC")]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_gives_the_same_entities(tmp_path, scheme):
    tags = SCHEMES[scheme].split()
    assert list(token_spans(tags)) == SPANS
    lines = [
        "-DOCSTART- -X- O O",
        "",
        *(f"{token} NN {tag}" for token, tag in zip(TOKENS, tags, strict=True)),
    ]
    path = tmp_path / f"test.{scheme}"
    path.write_text("\n".join([*lines, "", "", "Nothing NN O", "here NN O"]))
    first, second = read_gold(str(path))
    assert first.text == "The New York Times asked Łódź Gdańsk ."
    assert [(entity.text, entity.type) for entity in first.entities] == [
        ("New York Times", "ORG"),
        ("Łódź", "LOC"),
        ("Gdańsk", "LOC"),
    ]
    assert all(first.text[entity.start : entity.end] == entity.text for entity in first.entities)
    assert (second.text, second.entities) == ("Nothing here", ())
    assert (first.id, second.id) == ("0000003", "0000013"), "the number of the sentence's first line"


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O I-A O", [(1, 2, "A")]),  # an I without a preceding entity starts one
        ("B-A I-B I-B", [(0, 1, "A"), (1, 3, "B")]),  # another type starts an entity
        ("I-A B-A I-A", [(0, 1, "A"), (1, 3, "A")]),
        ("E-A E-A", [(0, 1, "A"), (1, 2, "A")]),  # an E without a preceding entity is one
        ("B-A E-A I-A", [(0, 2, "A"), (2, 3, "A")]),  # an ended entity does not continue
        ("S-A I-A O", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A B-A", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A I-A", [(0, 2, "A")]),
    ],
)
def test_a_sequence_that_breaks_its_scheme_is_read_as_conlleval_does(tags, spans):
    assert list(token_spans(tags.split())) == spans


def test_tabs_keep_blanks_in_tokens_and_comments_and_windows_line_ends_are_removed(tmp_path):
    path = tmp_path / "test.txt"
    lines = ["\ufeff# id 7 domain=train", "New York\t_\tB-LOC", "# \tO", "\xa0\tO", "", "# O", "Bo B-PER"]
    path.write_bytes("\r\n".join(lines).encode())
    first, second = read_gold(str(path))
    assert (first.text, [entity.text for entity in first.entities]) == ("New York # \xa0", ["New York"])
    assert (second.text, [entity.text for entity in second.entities]) == ("# Bo", ["Bo"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"Bo person", r"test\.conll, line 3: 'Bo person' needs a token .*a tag is O, or B-, I-"),
        (b"Bo B-", r"line 3: 'Bo B-' needs a token"),
        (b"alone", r"line 3: 'alone' needs a token"),
        (b"\tB-PER", r"line 3: '\\tB-PER' needs a token"),
        (b"# nothing", r"line 3: '# nothing' needs a token"),
        (b"B\xe9 B-PER", r"line 3 is not UTF-8"),
    ],
)
def test_a_line_without_token_and_tag_is_named(tmp_path, line, message):
    path = tmp_path / "test.conll"
    path.write_bytes(b"Ann B-PER\nsaw O\n" + line + b"\n")
    with pytest.raises(UserError, match=message):
        list(read_gold(str(path)))
