"""CoNLL columns: all schemes give the same entities, offsets are exact, invalid tags are named."""

import json

import pytest

from uniner.errors import UserError
from uniner.gold.reader import read_gold
from uniner.gold.tags import token_spans

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


def entities(path, **options):
    return [
        (passage.text, [(entity.text, entity.type) for entity in passage.entities])
        for passage in read_gold(str(path), **options)
    ]


@pytest.mark.parametrize("separator", ["\t", " "])
@pytest.mark.parametrize("numbers", [(0, 1, 2, 0, 1), (1, 2, 3, 1, 2), (1, 2, 3, 4, 5)])
def test_a_first_column_of_running_numbers_is_not_the_words(tmp_path, numbers, separator):
    words, tags = ("On", "7", "Ann", "Bo", "left"), ("O", "B-DAY", "B-PER", "B-PER", "O")
    lines = [separator.join(map(str, line)) for line in zip(numbers, words, tags, strict=True)]
    path = tmp_path / "test.conllu"
    path.write_text("\n".join(["# a comment", *lines[:3], "", *lines[3:]]))
    assert entities(path) == [("On 7 Ann", [("7", "DAY"), ("Ann", "PER")]), ("Bo left", [("Bo", "PER")])]


def test_numbers_among_the_words_are_words(tmp_path):
    path = tmp_path / "test.conll"
    path.write_text("1 CD O\nAnn NNP B-PER\n\n1 CD O\n2 CD O\nBo NNP B-PER\nleft VBD O\n")
    assert [text for text, _ in entities(path)] == ["1 Ann", "1 2 Bo left"]


@pytest.mark.parametrize(
    "lines",
    [
        ["1 Ann B-PER", "1 left O", "", "2 Bo B-PER"],  # the number of the sentence
        ["1 B-PER", "2 O", "3 O"],  # no column of words
        ["1 1 Ann B-PER", "2 2 left O"],
        ["7 CD B-DAY"],  # a token, or the number of one
        ["17 Ann B-PER", "12 left O", "3 Bo O"],
    ],
)
def test_a_first_column_of_other_numbers_is_refused(tmp_path, lines):
    path = tmp_path / "test.conll"
    path.write_text("\n".join(lines))
    message = r"lines have a number in the first column, but .* remove the columns .* `cut -d ' ' -f 2-`"
    with pytest.raises(UserError, match=message):
        list(read_gold(str(path)))


@pytest.mark.parametrize("first", [
    "1-{0}", "{0}.", "s1-w{0}", "doc1.txt", "train",
])  # fmt: skip
def test_a_first_column_that_is_the_same_but_for_its_numbers_is_refused(tmp_path, first):
    path = tmp_path / "test.conll"
    words = zip(
        ["Ann", "Lee", "met", "Bob", "in", "Bonn"],
        ["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC"],
        strict=True,
    )
    path.write_text("\n".join(f"{first.format(n)} {word} {tag}" for n, (word, tag) in enumerate(words, 1)))
    message = r"the first column is the same in 6 of 6 lines .* `cut -d ' ' -f 2-`"
    with pytest.raises(UserError, match=message):
        list(read_gold(str(path)))


@pytest.mark.parametrize("form", ["{0}_{1}", "{0}:{1}", "{0}/{1}", "{1}-{0}", "{1}_{0}"])
def test_tags_of_another_form_are_refused_with_the_right_one(tmp_path, form):
    path = tmp_path / "test.conll"
    tags = [form.format(*tag) for tag in (("B", "PER"), ("I", "PER"), ("B", "LOC"))]
    path.write_text(f"Ann {tags[0]}\nLee {tags[1]}\nmet O\nin O\nBonn {tags[2]}\n")
    with pytest.raises(UserError, match=r"tags such as .* are of another form; write it as [BI]-(PER|LOC)"):
        list(read_gold(str(path)))
    path = tmp_path / "test.jsonl"
    path.write_text(
        json.dumps({"tokens": ["Ann", "Lee", "met", "in", "Bonn"], "tags": [*tags[:2], "O", "O", tags[2]]})
    )
    with pytest.raises(UserError, match=r"are of another form"):
        list(read_gold(str(path)))


def test_bare_types_that_end_like_a_tag_are_types(tmp_path):
    path = tmp_path / "test.conll"
    path.write_text("Retinol vitamin-A\nand O\nThiamine vitamin-B\nare O\nhere O\n")
    assert entities(path)[0][1] == [("Retinol", "vitamin-A"), ("Thiamine", "vitamin-B")]


TWO = "We\tO\tWe\tO\nuse\tO\tuse\tO\nBo\tB-PER\tBo\tO\nnow\tO\tnow\tB-TIME\n"


def test_two_columns_of_tags_that_differ_need_a_column_number(tmp_path):
    path = tmp_path / "test.conll"
    path.write_text(TWO)
    message = r"line 3: column 2 and the last column are both tags, and differ; keep .* `cut -f 1,2`"
    with pytest.raises(UserError, match=message):
        list(read_gold(str(path)))
    assert entities(path, tag_column=2) == [("We use Bo now", [("Bo", "PER")])]
    assert entities(path, tag_column=4) == [("We use Bo now", [("now", "TIME")])]
    with pytest.raises(UserError, match=r"line 1: .* needs a token in the first, a tag in column 3"):
        list(read_gold(str(path), tag_column=3))
    path.write_text("1 Bo B-PER O\n2 sat O O\n")
    with pytest.raises(UserError, match=r"line 1: column 3 and the last .* `cut -d ' ' -f 2,3`"):
        list(read_gold(str(path)))


def test_other_columns_of_tags_are_read_over_if_they_cannot_be_meant(tmp_path):
    path = tmp_path / "test.conll"
    for other in (("B-NP", "O"), ("B-PER", "O"), ("O", "O")):  # chunks, the same tags, no tags
        path.write_text(f"Bo NNP {other[0]} B-PER\nsat VBD {other[1]} O\n")
        assert entities(path) == [("Bo sat", [("Bo", "PER")])]


def test_o_with_a_prefix_means_o(tmp_path):
    path = tmp_path / "test.conll"
    path.write_text("Gold NNP I-NP I-O\nBo NNP I-NP I-PER\nCo NNP I-NP B-O\nLee NNP I-NP I-PER\n")
    assert entities(path) == [("Gold Bo Co Lee", [("Bo", "PER"), ("Lee", "PER")])]


def test_lines_with_o_but_no_token_are_left_out_and_counted(tmp_path):
    path = tmp_path / "test.conll"
    path.write_text("\tO\n\nBo\tB-PER\n \tO\nsat\tO\n\n  O\n\nNo\tO\n\n\tO\n")
    passages = list(read_gold(str(path)))
    assert [passage.text for passage in passages] == ["Bo sat", "No"]
    # Of a sentence without tokens, the lines count with the next sentence, or the last one.
    assert [passage.left_out for passage in passages] == [{"empty_token": 2}, {"empty_token": 2}]


@pytest.mark.parametrize("bad", ["alone", "\tB-PER", "Bo\tperson", "caf\xe9\tO"])
def test_bad_lines_are_left_out_up_to_one_percent(tmp_path, bad):
    path = tmp_path / "test.conll"

    def write(good, bad_lines):
        lines = ["Bo\tB-PER", *["sat\tO"] * (good - 1), *[bad] * bad_lines]
        path.write_bytes("\n".join(lines).encode("latin-1"))

    for good, bad_lines in ((9, 1), (198, 2)):
        write(good, bad_lines)
        (passage,) = read_gold(str(path))
        assert (passage.text, passage.left_out) == ("Bo" + " sat" * (good - 1), {"bad_line": bad_lines})
    write(197, 2)
    with pytest.raises(UserError, match=r"line 198(: .* needs a token in the first| is not UTF-8)"):
        list(read_gold(str(path)))


def test_bare_types_beside_o_are_tags(tmp_path):
    path = tmp_path / "test.tsv"
    path.write_text("Ann\tperson\nLee\tperson\nsaw\tO\nBonn\tlocation-GPE\n\nNo\tO\n")
    assert entities(path) == [
        ("Ann Lee saw Bonn", [("Ann Lee", "person"), ("Bonn", "location-GPE")]),
        ("No", []),
    ]
    path.write_text("Ann\tNNP\nsaw\tVBD\nBonn\tNNP\n")  # parts of speech
    with pytest.raises(UserError, match=r"line 1: 'Ann\\tNNP' needs a token in the first, a tag in"):
        list(read_gold(str(path)))


def test_layers_of_tags_are_nested_entities(tmp_path):
    path = tmp_path / "test.iob2"
    path.write_text("IL-2\tB-DNA\tB-protein\tO\ngene\tI-DNA\tO\tO\nx\tO\tO\tO\n")
    assert entities(path, tag_column=(2, 3, 4)) == [
        ("IL-2 gene x", [("IL-2 gene", "DNA"), ("IL-2", "protein")])
    ]


def test_a_line_without_a_token_ends_an_entity_as_o_does(tmp_path):
    path = tmp_path / "test.conll"
    path.write_text("Bo\tI-PER\n\tO\nLee\tI-PER\nsat\tO\n\nNew\tB-GPE\nYork\tI-GPE\n")
    assert entities(path) == [
        ("Bo Lee sat", [("Bo", "PER"), ("Lee", "PER")]),
        ("New York", [("New York", "GPE")]),
    ]


def test_two_columns_of_bare_types_that_differ_are_an_error(tmp_path):
    path = tmp_path / "test.conll"
    lines = ["Bo NNP PER O", "in IN O O", "Rome NNP O GPE", "sat VBD O O"]
    path.write_text("\n".join(lines * 9))
    with pytest.raises(UserError, match="line 1: column 3 and the last column are both tags"):
        list(read_gold(str(path)))
    path.write_text(
        "\n".join(line.replace("O GPE", "GPE GPE").replace("PER O", "PER PER") for line in lines * 9)
    )
    assert [entity.type for passage in read_gold(str(path)) for entity in passage.entities] == [
        "PER",
        "GPE",
    ] * 9


def test_a_column_of_chunks_beside_bare_types_is_no_other_column_of_tags(tmp_path):
    path = tmp_path / "test.conll"
    path.write_text("UN NNP I-NP ORG\naide NN I-NP O\nEkeus NNP I-NP PERSON\n. . O O\n, , O O\n\n" * 9)
    read = [entity.type for passage in read_gold(str(path)) for entity in passage.entities]
    assert read == ["ORG", "PERSON"] * 9
