"""Gold passages become questions, in chunks with their own keys."""

import json

import pytest

from uniner.errors import UserError
from uniner.evaluate.gold_questions import cut_questions
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
    questions = from_table(chunk.table, Question)
    return [(question.passage_id, question.type, question.gold) for question in questions]


def test_each_passage_is_asked_for_all_types_of_the_data_set_in_chunks(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    first, second = cut_questions("news", str(path), chunk_passages=2, max_passages=None)
    assert (first.key, second.key) == ("news-00000", "news-00001")
    assert (first.figures, second.figures) == ({"passages": 2}, {"passages": 1, "left_out_else_type": 1})
    assert asked(first) == [
        ("0000001", "city", ("Łódź",)),
        ("0000001", "person", ("Ann",)),
        ("empty", "city", ()),
        ("empty", "person", ()),
    ]
    (only,) = cut_questions("news", str(path), chunk_passages=2, max_passages=1)
    assert [question.type for question in from_table(only.table, Question)] == ["city", "person"]


def test_a_file_with_questions_is_asked_these_and_its_answers_are_gold(tmp_path):
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
    (chunk,) = cut_questions("published", str(path), 9, None)
    assert asked(chunk) == [
        ("q0", "person", ("Ann", "saw Bo", "Eve")),
        ("q0", "city", ()),
        ("q3", "city", ("Rome",)),
    ]
    assert chunk.figures == {"passages": 2, "left_out_ungrounded": 1, "left_out_else_type": 1}


def test_questions_have_the_spans_of_gold_mentions_that_occur_in_the_text(tmp_path):
    twice = {"text": "Ann, Ann", "entities": [
        {"start": start, "end": start + 3, "text": "Ann", "type": "person"} for start in (5, 0)
    ]}  # fmt: skip
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps(twice))
    ((only,),) = [from_table(chunk.table, Question) for chunk in cut_questions("d", str(path), 9, None)]
    assert (only.gold, only.gold_spans) == (("Ann",), (Span(start=0, end=3), Span(start=5, end=8)))
    turns = ["Text: Ann", "I've read this text.", "What describes person in the text?", '["Ann", "Eve"]']
    conversation = [{"from": ("human", "gpt")[n % 2], "value": turn} for n, turn in enumerate(turns)]
    path.write_text(json.dumps({"conversations": conversation}))
    ((only,),) = [from_table(chunk.table, Question) for chunk in cut_questions("d", str(path), 9, None)]
    assert (only.gold, only.gold_spans) == (("Ann", "Eve"), (Span(start=0, end=3),))


def test_too_many_questions_are_sampled_in_order_the_same_way_each_time(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text("\n".join(json.dumps(LINES[0]) for _ in range(50)))

    def draw(name, max_questions, chunk_passages=10):
        chunks = list(cut_questions(name, str(path), chunk_passages, None, max_questions=max_questions))
        return [question for chunk in chunks for question in asked(chunk)], chunks

    complete, chunks = draw("news", 100)
    assert len(complete) == 100 and all("not_drawn" not in chunk.figures for chunk in chunks)
    drawn, chunks = draw("news", 30)
    assert len(drawn) == 30 == len(set(drawn))
    assert [question for question in complete if question in set(drawn)] == drawn
    assert {type_name for _, type_name, _ in drawn} == {"city", "person"}
    assert sum(chunk.figures["not_drawn"] for chunk in chunks) == 70
    assert [chunk.figures["passages"] for chunk in chunks] == [10] * 5
    assert draw("news", 30, chunk_passages=7)[0] == drawn, "the sample depends on the data set alone"
    assert draw("other", 30)[0] != drawn


def test_else_types_are_asked_with_the_setting(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    (chunk,) = cut_questions("news", str(path), 9, None, else_types=True)
    assert asked(chunk)[-3:] == [
        ("0000003", "city", ()),
        ("0000003", "misc", ("Blue",)),
        ("0000003", "person", ("Bo",)),
    ]
    assert chunk.figures == {"passages": 3}


def test_a_data_set_without_a_type_is_refused(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps(LINES[1]))
    with pytest.raises(UserError, match="contains no entities of a type that can be asked for"):
        list(cut_questions("d", str(path), 2, None))
