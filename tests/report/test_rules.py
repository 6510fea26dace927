"""The report shows what the rules after the model did, with examples, as tag's manifest has it."""

from dataclasses import replace

from tests.report.test_render import REPORT
from uniner.report.collect import _rules
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
