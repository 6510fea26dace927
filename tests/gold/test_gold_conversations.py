"""The published conversations: questions of a passage together, mentions located, what is none named."""

import json

import pytest

from uniner.build.conversations import Recipe
from uniner.build.supervised import converse_gold
from uniner.errors import UserError
from uniner.gold.reader import read_gold

TEXT = "Dune is by Herbert; Dune Messiah follows Dune."


def row(name, passage, *answers, dataset=""):
    """A row in the published layout."""
    values = [f"{dataset}Text: {passage}", "I've read this text."]
    for type_name, mentions in answers:
        values += [f"What describes {type_name} in the text?", json.dumps(mentions)]
    turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
    return {"id": name, "conversations": turns}


def write(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


def found(passage):
    return [(one.start, one.text, one.type) for one in passage.entities]


def test_the_rows_of_a_passage_are_one_passage_and_mentions_are_located(tmp_path):
    rows = [
        row("a_0", TEXT, ("book", ["Dune", "Dune Messiah", "Dune", "Dune Heretics"])),
        row("a_1", TEXT, ("person", ["herbert"])),
        row("a_2", TEXT, ("city", [])),
        row("a_3", TEXT, ("book", []), ("city", []), dataset="Dataset: twice\n "),
        row("b_0", "Nothing.", ("book", [])),
    ]
    first, again, last = read_gold(write(tmp_path / "test.json", rows))
    assert (first.id, again.id, last.id) == ("a_0", "a_3", "b_0")
    assert first.text == again.text == TEXT, "the line of the data set is no part of the passage"
    assert found(first) == [(0, "Dune", "book"), (20, "Dune Messiah", "book"), (20, "Dune", "book"),
                            (11, "Herbert", "person")]  # fmt: skip
    assert first.asked == (
        ("book", ("Dune", "Dune Messiah", "Dune Heretics")),
        ("person", ("herbert",)),
        ("city", ()),
    )
    assert first.left_out == {"ungrounded": 1}
    assert again.asked == (("book", ()), ("city", ())) and last.asked == (("book", ()),)


def test_lines_of_conversations_are_read_too_and_train_on_what_they_asked(tmp_path):
    rows = [
        row("a", "Bo saw Rome.", ("person", ["Bo"]), ("city", ["Rome"])),
        row("b", "Eve slept.", ("person", ["Eve"]), ("river", [])),
        row("c", "Ghost.", ("person", ["Di"]), ("river", [])),
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    passages = list(read_gold(str(path)))
    recipe = Recipe(0, negatives_per_passage=5, validation_share=0)
    made, counts = converse_gold(passages, "d", "frequency", recipe, dataset_line=False)
    # Of a type that was not asked nobody knows that it is absent; nor of one whose mention is not found.
    assert [(c.positive_types, c.negative_types) for c in made] == [
        (("city", "person"), ()),
        (("person",), ("river",)),
        ((), ("river",)),
    ]
    assert counts["left_out_ungrounded"] == 1


GOOD = row("a", "Bo.", ("person", ["Bo"]))


def turn(place, value):
    changed = [dict(one) for one in GOOD["conversations"]]
    changed[place]["value"] = value
    return {"conversations": changed}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"id": "b"}, r"entry 2: Object missing required field `conversations`"),
        (
            {"conversations": GOOD["conversations"][:3]},
            r"entry 2: the turns are human, gpt, human; they must",
        ),
        ({"conversations": GOOD["conversations"][::-1]}, r"entry 2: the turns are gpt, human"),
        (turn(0, "Bo."), r"entry 2: the first turn must be 'Text: ' and the passage, not 'Bo\.'"),
        (turn(2, "Who is there?"), r"entry 2: a question is 'What describes TYPE .*not 'Who is there\?'"),
        (turn(3, "Bo"), r"entry 2: the answer to 'person' must be a JSON list of strings, not 'Bo'"),
        (turn(3, "[1]"), r"entry 2: the answer to 'person' must be"),
        (row("b", "Bo.", ("a", []), ("a", [])), r"entry 2: asks for 'a' twice"),
        (row("a", "Eve.", ("person", [])), r"entry 2: the id 'a' was there before"),
    ],
)
def test_what_is_no_such_conversation_is_named(tmp_path, bad, said):
    with pytest.raises(UserError, match=said):
        list(read_gold(write(tmp_path / "test.json", [GOOD, bad])))
