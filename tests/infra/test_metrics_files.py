"""The rules and the dashboard ask for metrics and labels that there are, and the docs list them all."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ray._private import ray_constants

from uniner.runtime.metrics import METRICS

FOLDER = Path(__file__).parents[2] / "infra" / "metrics"
DOCS = FOLDER.parents[1] / "docs" / "metrics.md"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
SERVED = {f"ray_{name}{suffix}" for name, metric in METRICS.items() for suffix in SUFFIXES[metric.kind]}


def expressions():
    for rule in RULES:
        yield rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_asks_for_metrics_that_there_are(expression):
    asked = set(re.findall(r"ray_uniner_\w+", expression))
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    assert asked <= SERVED and (asked or recorded & set(re.findall(r"uniner:\w+", expression)))


def test_labels_are_those_of_the_metrics():
    for expression in expressions():
        for name, labels in re.findall(r"(ray_uniner_\w+?)(?:_total|_bucket)?\{([^}]*)\}", expression):
            known = {"run", "stage", *METRICS[name.removeprefix("ray_")].labels}
            assert set(re.findall(r"(\w+)\s*(?:=|!=)~?\"", labels)) <= known, expression


def test_the_docs_list_every_metric():
    listed = set(re.findall(r"^\| `(ray_uniner_\w+)` \| (\w+)", DOCS.read_text(), re.MULTILINE))
    total = {"counter": "_total"}
    assert listed == {(f"ray_{name}{total.get(m.kind, '')}", m.kind) for name, m in METRICS.items()}


def test_panels_keep_runs_and_stages_apart():
    """The dashboard's variable chooses several runs: a sum over them would be no run's figure."""
    for target in (target for panel in DASHBOARD["panels"] for target in panel["targets"]):
        groups = re.findall(r"(?:sum|max) by \(([^)]*)\)", target["expr"])
        assert groups and all({"run", "stage"} <= set(group.split(", ")) for group in groups), target["expr"]
        assert "{{run}} {{stage}}" in target["legendFormat"]


def test_the_docs_list_every_rule():
    listed = re.findall(r"^\| `((?:uniner:|Uniner)\w+)` \|", DOCS.read_text(), re.MULTILINE)
    assert listed == [rule.get("record") or rule["alert"] for rule in RULES]


def test_prometheus_reads_the_file_that_ray_writes():
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    ((file,),) = [sd["files"] for sd in job["file_sd_configs"]]
    assert file == f"/tmp/ray/{ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE}"


def test_the_dashboard_has_what_grafana_needs():
    """By Grafana's JSON model: a unique id, a type, a place and targets for each panel."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) and DASHBOARD["title"] and DASHBOARD["schemaVersion"] >= 36
    for panel in DASHBOARD["panels"]:
        assert panel["type"] == "timeseries" and panel["title"]
        assert set(panel["gridPos"]) == {"x", "y", "w", "h"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert [target["refId"] for target in panel["targets"]] == ["A", "B", "C"][: len(panel["targets"])]


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool (apt-get install prometheus)")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", FOLDER / "prometheus.yml"),
        ("check", "rules", FOLDER / "alerts.yaml"),
        ("test", "rules", Path(__file__).with_name("alerts_test.yaml")),
    ],
    ids=["the configuration is valid", "the rules are valid", "the alerts fire where they should"],
)
def test_promtool_accepts_the_rules(arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
