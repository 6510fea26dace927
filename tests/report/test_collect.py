"""What is read of a run: unfinished stages too, a bounded sample of passages, and another run's entities."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from uniner import cli
from uniner.errors import UserError
from uniner.records import (
    ANNOTATION,
    PASSAGE,
    TAGGED_PASSAGE,
    Annotation,
    Entity,
    Passage,
    TaggedEntity,
    TaggedPassage,
    to_table,
)
from uniner.report import sample
from uniner.report.collect import _curves, collect
from uniner.report.funnel import funnel_lanes
from uniner.report.quality import dataset_scores, published_boards
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk, StageFolder

TEXT = "Ann met Bo in Bonn."


def passage(number, text=TEXT):
    return Passage(
        passage_id=f"p{number}", doc_id="d", passage_index=number, char_start=100 * number,
        char_end=100 * number + len(text), text=text, n_tokens=9, source=f"s{number % 3}",
    )  # fmt: skip


def tagged(row, *entities, outcome="ok"):
    return TaggedPassage(
        doc_id="d", passage_id=row.passage_id, char_start=row.char_start, entities=entities, outcome=outcome,
        failed_types=(),
    )  # fmt: skip


def entity(row, text="Ann", type_="person", score=0.75):
    start = row.text.find(text)
    place = row.char_start + start if start >= 0 else -1
    return TaggedEntity(
        text=text, type=type_, start=place, end=place + len(text) if start >= 0 else -1, score=score,
        grounding="exact" if start >= 0 else "ungrounded",
    )  # fmt: skip


@pytest.fixture
def make_run(tmp_path, complete_stage):
    """Return a function that writes a run's ingest and tag. entities: of a passage; rows: per chunk."""

    def make(name, entities, count=40, rows=8, text=TEXT, tag="complete"):
        run = StageFolder(str(tmp_path)) / name
        passages = [passage(number, text) for number in range(count)]
        parts = [passages[start : start + rows] for start in range(0, count, rows)]
        complete_stage(
            run / "ingest",
            [Chunk(f"00000-{number:07d}", to_table(part, PASSAGE)) for number, part in enumerate(parts)],
            figures={"documents": 1, "documents_chosen": 1},
        )
        chunks = [
            Chunk(
                f"00000-{number:07d}", to_table([tagged(row, *entities(row)) for row in part], TAGGED_PASSAGE)
            )
            for number, part in enumerate(parts)
        ]
        if tag == "complete":
            complete_stage(run / "tag", chunks, figures={"entities": count, "questions": 3 * count})
        elif tag == "begun":
            (run / "tag").begin(Identity(stage="tag", settings={}))
            for chunk in chunks[:2]:
                (run / "tag").write_chunk(chunk)
        return run

    return make


def test_a_sample_is_bounded_in_the_order_of_the_corpus_and_the_same_each_time(make_run):
    run = make_run("r", lambda row: [entity(row)])
    report = collect(run, "r", passages=10)
    ids = [each.passage_id for each in report.sample.passages]
    assert len(ids) == 10 and ids == sorted(ids, key=lambda name: int(name[1:]))
    assert ids != [f"p{number}" for number in range(10)]
    assert collect(run, "r", passages=10).sample == report.sample
    assert (report.sample.rows, report.sample.chunks, len(report.sample.keys)) == (40, 5, 5)
    (first, *_) = report.sample.passages
    assert [first.text[each.start : each.end] for each in first.entities] == ["Ann"]
    assert collect(run, "r", passages=0).sample.passages == ()


def test_characters_and_chunks_that_are_read_are_bounded_too(make_run, monkeypatch):
    run = make_run("r", lambda row: [])
    monkeypatch.setattr(sample, "MOST_CHARACTERS", 3 * len(TEXT))
    assert len(collect(run, "r").sample.passages) == 3
    monkeypatch.setattr(sample, "_LEAST_CHUNKS", 1)
    monkeypatch.setattr(sample, "_MOST_CHUNKS", 2)
    assert collect(run, "r").sample.keys == ("00000-0000000", "00000-0000002")


def test_an_unfinished_run_shows_what_there_is(make_run, tmp_path):
    run = make_run("r", lambda row: [entity(row)], tag="begun")
    report = collect(run, "r")
    assert [(row.stage, row.complete, row.rows) for row in report.stages] == [
        ("ingest", True, 40),
        ("tag", False, 16),
    ]
    assert "2 chunks" in report.stages[1].figure
    assert len(report.sample.passages) == 16
    assert collect(StageFolder(str(tmp_path)) / "none", "none").stages == ()


def test_without_tagged_passages_those_of_the_teacher_are_shown(make_run, complete_stage):
    run = make_run("r", lambda row: [], count=2, tag="none")
    complete_stage(run / "annotate", [annotations(2)], figures=TEACHER)
    (first, _) = collect(run, "r").sample.passages
    assert [(each.type, each.start, each.score) for each in first.entities] == [("person", 0, -1.0)]
    assert collect(run, "r").sample.stage == "annotate"


TEACHER = {
    "entities": 2,
    "cost_usd": 1.25,
    "cache_hits": 3,
    "cache_misses": 1,
    "saved_usd": 0.5,
    "tokens_in": 9,
}


def annotations(count):
    rows = [
        Annotation(
            passage_id=f"p{number}", doc_id="d", text=TEXT, outcome="ok", reply="", attempts=1, model="m",
            entities=(Entity(text="Ann", type=" PERSON", start=0, end=3),), tokens_in=1, tokens_out=1,
            cost_usd=0.0,
        )
        for number in range(count)
    ]  # fmt: skip
    return Chunk("00000-0000000", to_table(rows, ANNOTATION))


def test_the_teachers_cost_stands_beside_the_budget_and_the_cache(make_run, complete_stage):
    run = make_run("r", lambda row: [], count=2, tag="none")
    complete_stage(run / "annotate", [annotations(2)], figures=TEACHER, outcomes={"ok": 1, "too_long": 1})
    report = collect(run, "r", budget_usd=2.0)
    spent = report.spending
    assert (spent.spent_usd, spent.budget_usd, spent.asked, spent.cached, spent.saved_usd) == (
        1.25,
        2.0,
        4,
        3,
        0.5,
    )
    row = report.stages[1]
    assert (row.cost_usd, row.tokens_in, row.rejects) == (1.25, 9, {"too long": 1})
    assert collect(make_run("other", lambda row: []), "other").spending is None


def test_another_runs_entities_stand_beside_each_passage(make_run):
    here = make_run("here", lambda row: [entity(row)])
    there = make_run("there", lambda row: [entity(row, "Bonn", "city"), entity(row, "gone", "city")])
    compared = collect(here, "here", passages=7, compare_with=there).sample
    assert (compared.other, compared.lacking, len(compared.passages)) == ("there", 0, 7)
    for each in compared.passages:
        assert [(other.text, other.start) for other in each.other] == [("Bonn", 14), ("gone", -1)]
        assert [own.text for own in each.entities] == ["Ann"]


def test_a_run_of_other_chunks_is_compared_by_its_passages(make_run, complete_stage):
    """tag joins chunks of ingest, and two runs may have joined other numbers of them."""
    here = make_run("here", lambda row: [entity(row)], count=16)
    there = make_run("there", lambda row: [], count=16, tag="none")
    rows = [tagged(passage(number), entity(passage(number), "Bo")) for number in range(16)]
    complete_stage(
        there / "tag", [Chunk("00000-0000000x2", to_table(rows, TAGGED_PASSAGE))], figures={"entities": 1}
    )
    compared = collect(here, "here", compare_with=there).sample
    assert [[other.text for other in each.other] for each in compared.passages] == [["Bo"]] * 16


def test_the_runs_own_folder_compares_with_its_teacher(make_run, complete_stage):
    run = make_run("r", lambda row: [entity(row)], count=2)
    complete_stage(run / "annotate", [annotations(2)], figures=TEACHER)
    compared = collect(run, "r", compare_with=run).sample
    assert compared.other == "r (teacher)"
    assert [[other.type for other in each.other] for each in compared.passages] == [["person"]] * 2


def test_the_command_writes_the_page_without_ray(make_run, tmp_path, monkeypatch):
    """Also with another run beside it; an unknown folder is the user's error."""
    monkeypatch.setattr(cli, "_run_checked", lambda stages: pytest.fail("this starts Ray"))
    here, there = (
        make_run("here", lambda row: [entity(row)], count=4),
        make_run("there", lambda row: [], count=4),
    )
    config = tmp_path / "run.toml"
    config.write_text(f'[run]\nroot = "{tmp_path}"\nname = "here"\n[student]\nbase = "x"\n')

    def report(*words):
        return CliRunner().invoke(cli.app, ["report", str(config), *words])

    done = report("report.passages=3", "run.budget_usd=5")
    assert (done.exit_code, f"report: {here.path('report.html')}" in done.output) == (0, True), done.output
    page = here.read("report.html").decode()
    assert ("3 of 4 passages" in page, "here beside" in page) == (True, False)
    assert report("--with", there.url).exit_code == 0
    assert "here beside there" in here.read("report.html").decode()
    assert report("--with", str(tmp_path / "nothing")).exit_code == 2
    assert report("run.name=empty").exit_code == 2


def test_what_cannot_be_compared_is_said(make_run, tmp_path):
    here = make_run("here", lambda row: [entity(row)])
    part = collect(here, "here", compare_with=make_run("part", lambda row: [], count=8)).sample
    assert part.lacking == 32 and [each.other for each in part.passages].count(None) == 32
    other_corpus = make_run("other", lambda row: [], text="Another corpus.")
    with pytest.raises(UserError, match=r"none of the passages of this run.*--with runs/other-student"):
        collect(here, "here", compare_with=other_corpus)
    with pytest.raises(UserError, match="no tagged passages to compare with; --with takes"):
        collect(here, "here", compare_with=StageFolder(str(tmp_path)) / "nothing")
    with pytest.raises(UserError, match="no tagged passages to compare with"):
        collect(here, "here", compare_with=here)  # it has no teacher's annotations
    with pytest.raises(UserError, match="nothing is tagged or annotated yet"):
        collect(StageFolder(str(tmp_path)) / "empty", "empty", compare_with=here)


def test_tagged_passages_of_another_ingest_are_refused(make_run, complete_stage):
    run = make_run("r", lambda row: [], count=2, tag="none")
    rows = [tagged(passage(number)) for number in (1, 0)]
    complete_stage(
        run / "tag", [Chunk("00000-0000000", to_table(rows, TAGGED_PASSAGE))], figures={"entities": 0}
    )
    with pytest.raises(UserError, match="chunk 00000-0000000 has other passages than ingest"):
        collect(run, "r")


def test_the_funnel_has_a_lane_for_each_unit():
    figures = {
        "ingest": {"documents": 100, "documents_chosen": 60, "passages_sampled": 90, "dropped_short": 10,
                   "rejected_no_text": 2},
        "annotate": {"entities": 500},
        "build": {"passages": 80, "dropped_cut": 5, "conversations": 75, "train": 70, "mentions": 400,
                  "mentions_else_type": 50, "positives": 30, "negatives": 60},
        "tag": {"questions": 240, "entities": 300, "ungrounded": 20, "dropped_low_score": 40},
    }  # fmt: skip
    lanes = funnel_lanes(figures, {"ingest": 80, "annotate": 80, "build": 75, "tag": 80})
    counts = {lane.unit: [(step.count, dict(step.dropped)) for step in lane.steps] for lane in lanes}
    assert counts == {
        "passages": [(100, {"no text": 2}), (60, {}), (90, {"short": 10}), (80, {}), (80, {"cut": 5}),
                     (75, {}), (70, {}), (80, {})],
        "mentions of the teacher": [(500, {}), (450, {"else type": 50}), (400, {})],
        "questions": [(90, {}), (30, {}), (240, {})],
        "entities": [(340, {"low score": 40}), (300, {}), (280, {})],
    }  # fmt: skip
    assert funnel_lanes({}, {}) == ()


def test_own_data_sets_come_first():
    figures = {"f1": 0.5, "questions": 1, "broken": 0}
    manifest = Manifest.of(
        Identity(stage="evaluate", settings={}), [], 1.0,
        results={"scores": {"student": {"mit_movie": figures, "mine": figures}}},
    )  # fmt: skip
    assert [(score.dataset, score.own) for score in dataset_scores(manifest)] == [
        ("mine", True),
        ("mit_movie", False),
    ]


def test_only_comparable_published_numbers_are_shown(tmp_path):
    def row(system, ours, compares_with, **cells):
        protocol = compares_with if ours else "gner"
        values = {name: {"f1": f1} for name, f1 in cells.items()}
        return {"system": system, "source": "s", "ours": ours, "protocol": protocol,
                "compares_with": compares_with, "cells": values}  # fmt: skip

    board = {
        "name": "zero-shot-7", "title": "Zero-shot",
        "columns": {"mit_movie": "Movie", "mit_restaurant": "Food"},
        "rows": [
            row("ours", True, "strict", mit_movie=50.0),
            row("ours", True, "partial", mit_movie=99.0),
            row("A", False, "strict", mit_movie=62.5, mit_restaurant=51.0),
            row("B", False, "partial", mit_movie=88.0),
            row("C", False, "strict", mit_restaurant=40.0),
        ],
    }  # fmt: skip
    folder = StageFolder(str(tmp_path)) / "evaluate"
    folder.write_json("leaderboard.json", {"boards": [board, {**board, "name": "others"}]})
    (shown,) = published_boards(folder)
    assert dict(shown.columns) == {"mit_movie": "Movie"}
    assert [(each.system, dict(each.cells)) for each in shown.rows] == [
        ("ours", {"mit_movie": 50.0}),
        ("A", {"mit_movie": 62.5}),
    ]
    assert published_boards(StageFolder(str(tmp_path)) / "elsewhere") == ()


def test_a_page_that_cannot_be_written_and_a_damaged_history_are_one_line(make_run, tmp_path):
    here = make_run("here", lambda row: [entity(row)], count=4)
    config = tmp_path / "run.toml"
    config.write_text(f'[run]\nroot = "{tmp_path}"\nname = "here"\n[student]\nbase = "x"\n')
    Path(here.path("report.html")).mkdir()
    done = CliRunner().invoke(cli.app, ["report", str(config)])
    assert done.exit_code == 2 and "is a folder; name a file" in done.output + (done.stderr or "")
    (here / "train").write("history.json", b"[" * 100_000)
    with pytest.raises(UserError, match=r"history.json: is damaged: .*; delete that file; the page then"):
        _curves(here / "train")
