"""Gold passages to questions, in chunks with keys of their own."""

import json

import pytest

from uniner.errors import UserError
from uniner.evaluate.gold_questions import cut
from uniner.records import Question, Span, from_table

LINES = [
    {
        "text": "Ann saw Łódź.",
        "entities": [
            {"start": 8, "end": 12, "text": "Łódź", "type": "city"},
            {"start": 0, "end": 3, "text": "Ann", "type": "person"},
        ],
    },
    {"text": "Nothing.", "entities": [], "id": "empty"},
    {
        "text": "Blue Bo",
        "entities": [
            {"start": 0, "end": 4, "text": "Blue", "type": "MISC"},
            {"start": 5, "end": 7, "text": "Bo", "type": "person"},
        ],
    },
]


def asked(chunk):
    return [(one.passage_id, one.type, one.gold) for one in from_table(chunk.table, Question)]


def test_all_types_of_the_data_set_are_asked_of_each_passage_in_chunks_with_keys_of_their_own(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    first, second = cut("news", str(path), chunk_passages=2, max_passages=None)
    assert (first.key, second.key) == ("news-00000", "news-00001")
    assert (first.figures, second.figures) == ({"passages": 2}, {"passages": 1, "left_out_else_type": 1})
    assert asked(first) == [
        ("0000001", "city", ("Łódź",)),
        ("0000001", "person", ("Ann",)),
        ("empty", "city", ()),
        ("empty", "person", ()),
    ]
    (only,) = cut("news", str(path), chunk_passages=2, max_passages=1)
    assert [one.type for one in from_table(only.table, Question)] == ["city", "person"]


def test_a_file_of_questions_is_asked_its_own_and_its_answers_are_the_gold(tmp_path):
    def row(name, passage, type_name, answer):
        turns = [
            f"Text: {passage}",
            "I've read this text.",
            f"What describes {type_name} in the text?",
            answer,
        ]
        speakers = ("human", "gpt") * 2
        return {
            "id": name,
            "conversations": [{"from": s, "value": v} for s, v in zip(speakers, turns, strict=True)],
        }

    rows = [
        row("q0", "Ann saw  Bo.", "person", '["Ann", "saw Bo", "Eve"]'),
        row("q1", "Ann saw  Bo.", "city", "[]"),
        row("q2", "Ann saw  Bo.", "misc", '["saw"]'),
        row("q3", "Rome.", "city", '["Rome"]'),
    ]
    path = tmp_path / "test.json"
    path.write_text(json.dumps(rows))
    (chunk,) = cut("published", str(path), 9, None)
    assert asked(chunk) == [
        ("q0", "person", ("Ann", "saw Bo", "Eve")),
        ("q0", "city", ()),
        ("q3", "city", ("Rome",)),
    ]
    assert chunk.figures == {"passages": 2, "left_out_ungrounded": 1, "left_out_else_type": 1}


def test_questions_say_where_their_gold_stands_and_a_string_that_the_text_lacks_stands_nowhere(tmp_path):
    twice = {"text": "Ann, Ann", "entities": [
        {"start": start, "end": start + 3, "text": "Ann", "type": "person"} for start in (5, 0)
    ]}  # fmt: skip
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps(twice))
    ((only,),) = [from_table(chunk.table, Question) for chunk in cut("d", str(path), 9, None)]
    assert (only.gold, only.gold_spans) == (("Ann",), (Span(start=0, end=3), Span(start=5, end=8)))
    turns = ["Text: Ann", "I've read this text.", "What describes person in the text?", '["Ann", "Eve"]']
    said = [{"from": ("human", "gpt")[n % 2], "value": turn} for n, turn in enumerate(turns)]
    path.write_text(json.dumps({"conversations": said}))
    ((only,),) = [from_table(chunk.table, Question) for chunk in cut("d", str(path), 9, None)]
    assert (only.gold, only.gold_spans) == (("Ann", "Eve"), (Span(start=0, end=3),))


def test_of_too_many_questions_the_same_ones_are_drawn_in_their_order_and_the_others_counted(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text("\n".join(json.dumps(LINES[0]) for _ in range(50)))

    def draw(name, most, chunk=10):
        chunks = list(cut(name, str(path), chunk, None, max_questions=most))
        return [one for chunk in chunks for one in asked(chunk)], chunks

    every, chunks = draw("news", 100)
    assert len(every) == 100 and all("not_drawn" not in chunk.figures for chunk in chunks)
    drawn, chunks = draw("news", 30)
    assert len(drawn) == 30 == len(set(drawn))
    assert [one for one in every if one in set(drawn)] == drawn
    assert {one[1] for one in drawn} == {"city", "person"}
    assert sum(chunk.figures["not_drawn"] for chunk in chunks) == 70
    assert [chunk.figures["passages"] for chunk in chunks] == [10] * 5
    assert draw("news", 30, chunk=7)[0] == drawn, "the draw hangs on the data set alone"
    assert draw("other", 30)[0] != drawn


def test_else_types_are_asked_where_they_are_wanted(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    (chunk,) = cut("news", str(path), 9, None, else_types=True)
    assert asked(chunk)[-3:] == [
        ("0000003", "city", ()),
        ("0000003", "misc", ("Blue",)),
        ("0000003", "person", ("Bo",)),
    ]
    assert chunk.figures == {"passages": 3}


def test_a_data_set_without_a_type_is_refused(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps(LINES[1]))
    with pytest.raises(UserError, match="contains no entities of a type"):
        list(cut("d", str(path), 2, None))
