"""The page is escaped, self-contained and lets no script run but its own; the terminal shows the same."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from uniner.display import TaggedText
from uniner.records import TaggedEntity
from uniner.report.collect import ResultTable, RunReport, TrainingCurves, TypeSurfaces
from uniner.report.funnel import FunnelLane, FunnelStep
from uniner.report.quality import BoardRow, DatasetScore, PublishedBoard, ScoreCalibration, SystemMistakes
from uniner.report.render import duration, print_report, render_html
from uniner.report.sample import PassageSample, SampledPassage
from uniner.report.stages import Spending, StageRow

HOSTILE = "</script><script>alert(1)</script><!-- <b> \"'& \x00\x1b[1m \u202e אב \ud800"
ENTITIES = (
    TaggedEntity(text="<Ann>", type="person", start=0, end=5, score=0.9, grounding="exact"),
    TaggedEntity(text="Bonn", type="city", start=15, end=19, score=0.8, grounding="exact"),
)
REPORT = RunReport(
    name="a & b",
    stages=(
        StageRow(stage="ingest", rows=1234, seconds=5.0, figure="3 documents"),
        StageRow(
            stage="annotate", rows=77, seconds=None, figure="begun, 2 chunks done", rejects={"refused": 8},
            tokens_in=4567, tokens_out=89, cost_usd=1.5, worker_seconds=7200,
        ),
    ),
    spending=Spending(spent_usd=1.5, budget_usd=6.0, asked=200, cached=50, saved_usd=0.75),
    scores=(
        DatasetScore(system="base", dataset="held-out", f1=0.25, questions=100, broken=7),
        DatasetScore(
            system="student", dataset="held-out", f1=0.875, questions=100, broken=0, precision=0.9,
            recall=0.85, interval=(0.8, 0.95), passages_per_s=1234.56, usd_per_million=0.789,
            calibration=ScoreCalibration(
                mentions=321, expected_error=0.0456, expected_error_calibrated=0.012, slope=0.8, intercept=0.1
            ),
        ),
        DatasetScore(system="student", dataset="mit_movie", f1=0.5, questions=9, broken=0, own=False),
    ),
    published=(
        PublishedBoard(
            title="Zero-shot",
            columns={"mit_movie": "MIT Movie"},
            rows=(
                BoardRow(system="student", source="this run", ours=True, cells={"mit_movie": 50.0}),
                BoardRow(system="GNER", source="Table 2", ours=False, cells={"mit_movie": 62.5}),
            ),
        ),
    ),
    mistakes=(
        SystemMistakes(
            system="student", wrong={"made up": 3}, missed={"overlooked": 9},
            worst=(("person", 0.5, 3, 4),), confusions=(("dish", "drug", 6),),
        ),
    ),
    examples=(TaggedText(text="<Ann> lives in Bonn.", source="cities & men", entities=ENTITIES),),
    curves={
        "student": TrainingCurves(
            loss=((1, 2.0), (2, 1.0)), validation_loss=((2, 1.5),), validation_f1=((2, 0.5),)
        )
    },
    funnel=(
        FunnelLane(
            unit="passages",
            steps=(
                FunnelStep(label="passages annotated", count=4321, dropped={"refused": 8}),
                FunnelStep(label="conversations", count=4313),
            ),
        ),
    ),
    tables=(ResultTable(title="Rules", columns=("rule", "added"), rows=(("dates", 4711),), note="Why."),),
    types=(
        TypeSurfaces(type="person", mentions=5432, surfaces=(("<ann>", 3210), ("bo [b]", 2))),
        TypeSurfaces(type="city", mentions=1358, surfaces=()),
    ),
    sample=PassageSample(
        passages=(
            SampledPassage(
                passage_id="p1", text="<Ann> lives in Bonn.", source="cities & men", outcome="ok",
                entities=ENTITIES,
            ),
        ),
        stage="tag", rows=10, chunks=5, keys=("a", "b"),
    ),
)  # fmt: skip


def data_of(page):
    return json.loads(re.search('id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_shows_all_parts():
    page = render_html(REPORT)
    for part in (
        "1,234", "3 documents", "unfinished", "begun, 2 chunks done", "8 refused", "4,567", "2 h 0 min",
        "1.50 USD</strong> of a budget of 6.00 USD", "width:25.0%", "50 of 200 replies from the cache",
        "saved 0.75 USD", "0.875", "0.250", "0.800–0.950", "1,234.6", "0.79", "MIT Movie", "62.5",
        "off by 4.6 points", "1.2 after scaling", "321 mentions", "3 wrong, 9 missed", "made up",
        "overlooked", "dish", "− 8 refused", "4,321", "Rules", "4,711", "Why.", "5,432", "&lt;ann&gt; ",
        "3,210", "1 of 10 passages", "from 2 of 5 chunks",
    ):  # fmt: skip
        assert part in page, part
    assert page.index("Own data sets") < page.index("Data sets of the benchmark") < page.index("MIT Movie")
    assert page.count("<polyline") == 4  # three curves of the training, one of the calibration
    assert "None" not in page.replace(re.search("<script>.*</script>", page, re.DOTALL)[0], "")


def test_the_page_loads_nothing_and_its_policy_allows_its_own_script_alone():
    page = render_html(REPORT)
    script = re.search("<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert not re.search(r'(src|href)="(?!#|evaluate/leaderboard\.html)|url\(|@import|https?:', page)


def test_no_text_of_the_run_is_markup():
    hostile_entity = TaggedEntity(
        text=HOSTILE, type=HOSTILE, start=0, end=len(HOSTILE), score=0.5, grounding="exact"
    )
    loose = replace(hostile_entity, start=-1, end=-1, grounding="ungrounded")
    passage = SampledPassage(
        passage_id=HOSTILE, text=HOSTILE, source=HOSTILE, outcome=HOSTILE,
        entities=(hostile_entity, loose), other=(loose,),
    )  # fmt: skip
    step = FunnelStep(label=HOSTILE, count=1, dropped={HOSTILE: 1})
    report = replace(
        REPORT,
        name=HOSTILE,
        stages=(StageRow(stage=HOSTILE, rows=1, seconds=1.0, figure=HOSTILE, rejects={HOSTILE: 1}),),
        scores=(replace(REPORT.scores[1], system=HOSTILE, dataset=HOSTILE),),
        mistakes=(
            SystemMistakes(
                system=HOSTILE, wrong={HOSTILE: 1}, missed={HOSTILE: 1},
                worst=((HOSTILE, 0.5, 1, 1),), confusions=((HOSTILE, HOSTILE, 1),),
            ),
        ),
        published=(
            PublishedBoard(
                title=HOSTILE, columns={HOSTILE: HOSTILE},
                rows=(BoardRow(system=HOSTILE, source=HOSTILE, ours=False, cells={HOSTILE: 1.0}),),
            ),
        ),
        curves={HOSTILE: REPORT.curves["student"]},
        funnel=(FunnelLane(unit=HOSTILE, steps=(step, step)),),
        tables=(ResultTable(title=HOSTILE, columns=(HOSTILE,), rows=((HOSTILE,),), note=HOSTILE),),
        types=(TypeSurfaces(type=HOSTILE, mentions=1, surfaces=((HOSTILE, 1),)),),
        sample=replace(REPORT.sample, passages=(passage,), other=HOSTILE),
    )  # fmt: skip
    page = render_html(report)
    page.encode()  # no lone surrogate is left
    assert page.count("<script") == page.count("</script") == 2
    assert "<!--" not in page
    outside_data = page.replace(re.search('id="data">(.*?)</script>', page, re.DOTALL)[1], "")
    assert not re.search("[\x00\x1b\u202e]", outside_data)
    data = data_of(page)
    assert (data["text"], data["source"], data["sources"], data["types"]) == (
        [HOSTILE],
        [0],
        [HOSTILE],
        [HOSTILE],
    )
    assert (data["outcomes"], data["id"], data["other"]) == ([HOSTILE], [HOSTILE], HOSTILE)
    assert data["entities"]["loose"] == {"1": HOSTILE}


def test_offsets_count_what_javascript_counts_and_loose_mentions_come_last():
    text = "\U0001f600 Ann \U0001f600\U0001f600 Bonn"
    entities = (
        TaggedEntity(text="gone", type="x", start=-1, end=-1, score=0.1234, grounding="ungrounded"),
        TaggedEntity(text="Bonn", type="city", start=9, end=13, score=-1.0, grounding="exact"),
        TaggedEntity(text="Ann", type="person", start=2, end=5, score=0.9876, grounding="exact"),
    )
    passage = SampledPassage(passage_id="p", text=text, source="", outcome="ok", entities=entities)
    data = data_of(render_html(replace(REPORT, sample=replace(REPORT.sample, passages=(passage,)))))
    columns, units = data["entities"], text.encode("utf-16-le")
    spans = zip(columns["start"], columns["length"], strict=True)
    assert [units[2 * start : 2 * (start + length)].decode("utf-16-le") for start, length in spans][:2] == [
        "Ann",
        "Bonn",
    ]
    assert columns["start"][2] == -1 and columns["loose"] == {"2": "gone"}
    assert columns["score"] == [988, -1, 123]
    assert [data["types"][number] for number in columns["type"]] == ["person", "city", "x"]
    assert columns["count"] == [3]


def test_a_page_without_passages_has_no_browser():
    page = render_html(replace(REPORT, sample=PassageSample()))
    assert ('id="data"' in page, 'id="browser"' in page) == (False, False)


@pytest.mark.parametrize(
    ("seconds", "words"), [(12.34, "12.3 s"), (300, "5.0 min"), (12_000, "3 h 20 min"), (7199.9, "2 h 0 min")]
)
def test_a_duration_is_in_words_of_its_size(seconds, words):
    assert duration(seconds) == words


def test_the_terminal_shows_the_same():
    console = Console(width=100, record=True, file=io.StringIO())
    print_report(REPORT, console)
    text = console.export_text()
    for part in (
        "ingest",
        "1,234",
        "3 documents",
        "begun, 2 chunks done",
        "<Ann> [person]",
        "Bonn [city]",
        "F1 0.875 student",
        "0 broken answers, 1,234.6 passages/s)",
        "passages annotated 4,321, dropped: refused -8",
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
        funnel=(FunnelLane(unit=hostile, steps=(FunnelStep(label=hostile, count=1),)),),
    )
    sink = io.StringIO()
    print_report(report, Console(width=100, file=sink))
    assert not re.search("[\x1b\x07\u202e]", sink.getvalue())
    assert "[bold]\ufffd]0;x\ufffd\ufffd: F1 0.500" in sink.getvalue()
