"""The page is escaped and self-contained, with entities marked in the text; the terminal shows the same."""

import io
import re
from dataclasses import replace

from rich.console import Console

from uniner.display import TaggedText
from uniner.records import TaggedEntity
from uniner.report.collect import DatasetScore, Funnel, RunReport, StageRow, TrainingCurves, TypeSurfaces
from uniner.report.render import print_report, render_html

ENTITIES = (
    TaggedEntity(text="<Ann>", type="person", start=0, end=5, score=0.9, grounding="exact"),
    TaggedEntity(text="Bonn", type="city", start=15, end=19, score=0.8, grounding="exact"),
)
REPORT = RunReport(
    name="a & b",
    stages=(StageRow(stage="ingest", rows=1234, seconds=5.0, figure="3 documents"),),
    scores=(
        DatasetScore(system="base", dataset="held-out", f1=0.25, questions=100, broken=7),
        DatasetScore(
            system="student",
            dataset="held-out",
            f1=0.875,
            questions=100,
            broken=0,
            passages_per_s=1234.56,
            usd_per_million=0.789,
        ),
    ),
    examples=(TaggedText(text="<Ann> lives in Bonn.", source="cities & men", entities=ENTITIES),),
    curves=TrainingCurves(loss=((1, 2.0), (2, 1.0)), validation_loss=((2, 1.5),), validation_f1=((2, 0.5),)),
    funnel=Funnel(
        passages={"passages annotated": 4321, "dropped: refused": -8}, mentions={"mentions kept": 9876}
    ),
    types=(
        TypeSurfaces(type="person", mentions=5432, surfaces=(("<ann>", 3210), ("bo [b]", 2))),
        TypeSurfaces(type="city", mentions=1358, surfaces=()),
    ),
)


def test_the_page_marks_entities_and_escapes_text():
    page = render_html(REPORT)
    assert "&lt;Ann&gt;<small>person</small></mark> lives in <mark" in page
    assert "cities &amp; men" in page
    assert "<Ann>" not in page
    assert ("0.875" in page, "0.250" in page, "1,234" in page) == (True, True, True)
    assert ("4,321" in page, "dropped: refused" in page, "-8" in page, "9,876" in page) == (True,) * 4
    assert ("5,432" in page, "&lt;ann&gt; " in page, "3,210" in page, "width:25.0%" in page) == (True,) * 4
    assert ("1,234.6" in page, "0.79" in page, "None" in page) == (True, True, False)
    assert "<svg" in page
    assert ("<!-- training -->" in page, "<!-- validation -->" in page) == (True, True)
    assert "<!-- F1 -->" in page
    assert "<script" not in page
    assert "src=" not in page


def test_the_terminal_shows_the_same():
    console = Console(width=100, record=True, file=io.StringIO())
    print_report(REPORT, console)
    text = console.export_text()
    for part in (
        "ingest",
        "1,234",
        "3 documents",
        "<Ann> [person]",
        "Bonn [city]",
        "F1 0.875 student",
        "0 broken answers, 1,234.6 passages/s)",
        "dropped: refused -8",
        "person: 5,432 (<ann> 3,210, bo [b] 2)",
    ):
        assert part in text


def test_the_terminal_gets_no_control_characters_of_the_corpus():
    hostile = "\x1b]0;x\x07\u202e"
    report = replace(
        REPORT,
        examples=(TaggedText(text=hostile, source=hostile, entities=()),),
        types=(TypeSurfaces(type=hostile, mentions=1, surfaces=((hostile, 1),)),),
        scores=(DatasetScore(system=hostile, dataset=f"[bold]{hostile}", f1=0.5, questions=1, broken=0),),
    )
    sink = io.StringIO()
    print_report(report, Console(width=100, file=sink))
    assert not re.search("[\x1b\x07\u202e]", sink.getvalue())
    assert "[bold]\ufffd]0;x\ufffd\ufffd: F1 0.500" in sink.getvalue()
