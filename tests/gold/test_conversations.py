"""Published conversations: rows of one passage are joined, mentions located, wrong rows named."""

import json

import pytest

from uniner.build.conversations import ConversationSettings, gold_conversations
from uniner.errors import UserError
from uniner.gold.reader import read_gold

TEXT = "Dune is by Herbert; Dune Messiah follows Dune."


def row(name, passage, *answers, dataset=""):
    """Return a row in the published layout."""
    values = [f"{dataset}Text: {passage}", "I've read this text."]
    for type_name, mentions in answers:
        values += [f"What describes {type_name} in the text?", json.dumps(mentions)]
    turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
    return {"id": name, "conversations": turns}


def write(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


def entities(passage):
    return [(entity.start, entity.text, entity.type) for entity in passage.entities]


def test_rows_with_the_same_passage_are_joined_and_mentions_located(tmp_path):
    rows = [
        row("a_0", TEXT, ("book", ["Dune", "Dune Messiah", "Dune", "Dune Heretics"])),
        row("a_1", TEXT, ("person", ["herbert"])),
        row("a_2", TEXT, ("city", [])),
        row("a_3", TEXT, ("book", []), ("city", []), dataset="Dataset: twice\n "),
        row("b_0", "Nothing.", ("book", [])),
    ]
    first, again, last = read_gold(write(tmp_path / "test.json", rows))
    assert (first.id, again.id, last.id) == ("a_0", "a_3", "b_0")
    assert first.text == again.text == TEXT, "the data set's line is not part of the passage"
    assert entities(first) == [(0, "Dune", "book"), (20, "Dune Messiah", "book"), (20, "Dune", "book"),
                            (11, "Herbert", "person")]  # fmt: skip
    assert first.questions == (
        ("book", ("Dune", "Dune Messiah", "Dune Heretics")),
        ("person", ("herbert",)),
        ("city", ()),
    )
    assert first.left_out == {"ungrounded": 1}
    assert again.questions == (("book", ()), ("city", ())) and last.questions == (("book", ()),)


def test_lines_of_conversations_become_training_data_for_their_own_questions(tmp_path):
    rows = [
        row("a", "Bo saw Rome.", ("person", ["Bo"]), ("city", ["Rome"])),
        row("b", "Eve slept.", ("person", ["Eve"]), ("river", [])),
        row("c", "Ghost.", ("person", ["Di"]), ("river", [])),
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    passages = list(read_gold(str(path)))
    settings = ConversationSettings(0, negatives_per_passage=5, validation_share=0)
    conversations, counts = gold_conversations(passages, "d", "frequency", settings, dataset_line=False)
    # A type is a negative only if it was asked for and its answer is empty.
    assert [(c.positive_types, c.negative_types) for c in conversations] == [
        (("city", "person"), ()),
        (("person",), ("river",)),
        ((), ("river",)),
    ]
    assert counts["left_out_ungrounded"] == 1


GOOD = row("a", "Bo.", ("person", ["Bo"]))


def turn(place, value):
    turns = [dict(turn) for turn in GOOD["conversations"]]
    turns[place]["value"] = value
    return {"conversations": turns}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"id": "b"}, r"entry 2: Object missing required field `conversations`"),
        (
            {"conversations": GOOD["conversations"][:3]},
            r"entry 2: the turns are human, gpt, human; they must alternate",
        ),
        ({"conversations": GOOD["conversations"][::-1]}, r"entry 2: the turns are gpt, human"),
        (turn(0, "Bo."), r"entry 2: the first turn must be 'Text: ' and the passage, not 'Bo\.'"),
        (turn(2, "Who is there?"), r"entry 2: a question is 'What describes TYPE .*not 'Who is there\?'"),
        (turn(3, "Bo"), r"entry 2: the answer to 'person' must be a JSON list of strings, not 'Bo'"),
        (turn(3, "[1]"), r"entry 2: the answer to 'person' must be"),
        (row("b", "Bo.", ("a", []), ("a", [])), r"entry 2: asks for 'a' twice"),
        (row("a", "Eve.", ("person", [])), r"entry 2: the id 'a' occurs twice"),
    ],
)
def test_a_row_that_is_not_a_conversation_is_named(tmp_path, bad, message):
    with pytest.raises(UserError, match=message):
        list(read_gold(write(tmp_path / "test.json", [GOOD, bad])))


def test_nan_in_a_field_that_is_not_read_costs_no_row(tmp_path):
    rows = [{**row("a", TEXT, ("book", ["Dune"])), "score": float("nan")}]
    (passage,) = read_gold(write(tmp_path / "test.json", rows))
    assert entities(passage) == [(0, "Dune", "book")]
