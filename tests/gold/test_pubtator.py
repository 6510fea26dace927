"""PubTator: offsets count in title, blank and abstract; relations are ignored, wrong lines named."""

import pytest

from uniner.errors import UserError
from uniner.gold.reader import read_gold

DOCUMENT = """
11|t|Łódź virus | a case.
11|a|A virus hit.
11\t5\t10\tvirus\tOrganism\tD1
11\t23\t28\tvirus\tOrganism
11\tCID\tD1\tD2
11\tAssociation\t6331\tD001145\tNovel
"""


def read(tmp_path, content):
    path = tmp_path / "corpus.txt"
    path.write_text(content)
    return list(read_gold(str(path)))


def test_a_document_is_one_passage_of_title_and_abstract(tmp_path):
    first, second = read(tmp_path, DOCUMENT + "\n12|t|Only a title.\n")
    assert (first.id, first.text) == ("11", "Łódź virus | a case. A virus hit.")
    assert [(entity.start, entity.end, entity.text, entity.type) for entity in first.entities] == [
        (5, 10, "virus", "Organism"),
        (23, 28, "virus", "Organism"),
    ]
    assert (second.id, second.text, second.entities) == ("12", "Only a title.", ())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "11\t22\t27\tvirus\tOrganism",
            r"corpus\.txt, line 8: the text from 22 to 27 is ' viru', not 'virus'",
        ),
        ("11\t5\t10\tvirus", r"line 8: an annotation is ID, start, end, mention and type"),
        ("11\t5\t1O\tvirus\tOrganism", r"line 8: an annotation is ID"),
        ("11", r"line 8: an annotation is ID"),
        (
            "12\t5\t10\tvirus\tOrganism",
            r"line 8: '12.* is below 11\|t\|\.\.\.; start its document with ID\|t\|",
        ),
        ("11|a|Again.", r"line 8: 11 has a second abstract"),
        ("11|t|Again.", r"line 8: the id '11' occurs twice"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, DOCUMENT + line)
