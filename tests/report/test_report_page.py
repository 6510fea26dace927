"""The page: escaped, self-contained, entities marked where they stand."""

import io

from rich.console import Console

from uniner.records import TaggedEntity, TaggedPassage
from uniner.report.collect import Example, Found, Funnel, Report, Score, StageRow, inside
from uniner.report.page import render
from uniner.report.terminal import show

ENTITIES = (
    TaggedEntity(text="<Ann>", type="person", start=0, end=5, score=0.9, grounding="exact"),
    TaggedEntity(text="Bonn", type="city", start=15, end=19, score=0.8, grounding="exact"),
)
REPORT = Report(
    "a & b",
    (StageRow("ingest", 1234, 5.0, "3 documents"),),
    (Score("base", "held-out", 0.25, 100, 7), Score("student", "held-out", 0.875, 100, 0)),
    (Example("<Ann> lives in Bonn.", "cities & men", ENTITIES),),
    ((1, 2.0), (2, 1.0)),
    ((2, 1.5),),
    ((2, 0.5),),
    Funnel({"passages annotated": 4321, "dropped: refused": -8}, {"mentions kept": 9876}),
    (Found("person", 5432, (("<ann>", 3210), ("bo [b]", 2))), Found("city", 1358, ())),
)


def test_the_page_marks_entities_and_escapes_text():
    page = render(REPORT)
    assert "&lt;Ann&gt;<small>person</small></mark> lives in <mark" in page
    assert "cities &amp; men" in page
    assert "<Ann>" not in page
    assert ("0.875" in page, "0.250" in page, "1,234" in page) == (True, True, True)
    assert ("4,321" in page, "dropped: refused" in page, "-8" in page, "9,876" in page) == (True,) * 4
    assert ("5,432" in page, "&lt;ann&gt; " in page, "3,210" in page, "width:25.0%" in page) == (True,) * 4
    assert "<svg" in page
    assert ("<!-- training -->" in page, "<!-- validation -->" in page) == (True, True)
    assert "<!-- F1 -->" in page
    assert "<script" not in page
    assert "src=" not in page


def test_the_terminal_shows_the_same():
    console = Console(width=100, record=True, file=io.StringIO())
    show(REPORT, console)
    text = console.export_text()
    for part in (
        "ingest",
        "1,234",
        "3 documents",
        "<Ann> [person]",
        "Bonn [city]",
        "F1 0.875 student",
        "dropped: refused -8",
        "person: 5,432 (<ann> 3,210, bo [b] 2)",
    ):
        assert part in text


def test_overlapping_and_unlocated_entities_are_left_out_of_the_picture():
    entities = (
        TaggedEntity(text="New York", type="city", start=100, end=108, score=1.0, grounding="exact"),
        TaggedEntity(text="York", type="city", start=104, end=108, score=1.0, grounding="exact"),
        TaggedEntity(text="Rome", type="city", start=-1, end=-1, score=1.0, grounding="ungrounded"),
    )
    assert [
        e.text
        for e in inside(
            TaggedPassage(
                doc_id="d", passage_id="p", char_start=100, entities=entities, outcome="ok", failed_types=()
            )
        )
    ] == ["New York"]
