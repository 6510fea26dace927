"""The report shows proposed thresholds and what the rules after the model did, as the manifests have it."""

from dataclasses import replace

from tests.report.test_render import REPORT
from uniner.evaluate.scoring import score
from uniner.metrics.type_thresholds import TypeThreshold
from uniner.records import Prediction
from uniner.report.collect import _rules, _thresholds
from uniner.report.render import render_html
from uniner.report.stages import _tag
from uniner.storage.manifest import Identity, Manifest

DID = [
    {"line": 3, "id": "", "label": "<iban>", "kind": "regex", "added": 1234, "examples": ["DE89 <b>"]},
    {"line": 7, "id": "", "label": "*", "kind": "stop_words", "dropped": 5678, "examples": []},
]


def test_the_report_shows_counts_and_examples_of_what_each_rule_did():
    results = {"rules": {"added": 1234, "dropped": 5678, "retyped": 0, "did": DID}}
    manifest = Manifest.of(Identity(stage="tag", settings={}), [], 1.0, results=results)
    assert _tag(manifest).endswith("; by rules: added 1,234, dropped 5,678")
    (table,) = tables = _rules(manifest)
    assert [row[:3] for row in table.rows] == [(7, "*", "stop words"), (3, "<iban>", "regex")]
    counts = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert counts[0]["dropped"] == 5678 and counts[1]["added"] == 1234 and counts[1]["dropped"] == 0
    page = render_html(replace(REPORT, tables=tables))
    assert "1,234" in page and "DE89 &lt;b&gt;" in page and "&lt;iban&gt;" in page
    assert "Rules after the model" in page
    without = Manifest.of(Identity(stage="tag", settings={}), [], 1.0)
    assert _rules(without) == () and "by rules" not in _tag(without)
    assert "Rules after the model" not in render_html(replace(REPORT, tables=()))


def test_the_report_shows_the_thresholds_that_evaluate_proposes():
    answer = Prediction(
        dataset="own", passage_id="1", text="Ann left", type="<person>", reply="", predicted=("Ann",),
        gold=("Ann",), gold_spans=(), outcome="ok",
    )  # fmt: skip
    proposed = TypeThreshold(threshold=0.99994, f1=0.9, precision=0.95, recall=0.8555, plain_f1=0.8)
    scored = replace(score([answer])["own"], thresholds={"<person>": proposed})
    results = {"scores": {"base": {"own": scored.to_json()}, "student": {"own": scored.to_json()}}}
    evaluated = Manifest.of(Identity(stage="evaluate", settings={}), [], 1.0, results=results)
    (table,) = tables = _thresholds(evaluated)
    (row,) = table.rows
    shown = dict(zip(table.columns, row, strict=True))
    assert shown == {
        "system": "student", "gold data": "own", "type": "<person>", "lowest score": 0.99994,
        "F1 without": 0.8, "F1 with": 0.9, "precision": 0.95, "recall": 0.856,
    }  # fmt: skip
    page = render_html(replace(REPORT, tables=tables))
    assert "Proposed thresholds" in page and "0.99994" in page and "&lt;person&gt;" in page
    results["scores"]["student"]["own"] = replace(scored, thresholds={}).to_json()
    assert _thresholds(evaluated) == ()
