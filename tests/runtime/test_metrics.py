"""A real Ray serves the run's metrics to who asks for them as Prometheus does."""

import re
import urllib.request
from dataclasses import replace

import pytest
import ray

from uniner.runtime.metrics import METRICS, StageMetrics
from uniner.runtime.rate_limits import MeterState
from uniner.storage.folder import Folder
from uniner.storage.manifest import Summary


def served():
    """All lines of metrics of this project, by name and labels."""
    (node,) = (node for node in ray.nodes() if node["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    found = {}
    for name, labels, value in re.findall(r"^(ray_uniner_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        own = dict(re.findall(r'(run|stage|outcome|figure|le)="([^"]*)"', labels))
        found[name, tuple(sorted(own.items()))] = float(value)
    return found


@pytest.mark.ray
@pytest.mark.slow  # Ray's processes report every ten seconds
def test_every_metric_is_served(ray_session, wait_until):
    metrics = StageMetrics.of(Folder("/tmp/runs/my-run/evaluate/student"), "evaluate student")
    metrics.progress(3, 10)
    outcomes, figures = {"ok": 3, "too_long": 1}, {"cost_usd": 0.5, "zero": 0.0}
    metrics.finished(Summary(key="a", rows=4, bytes=1, seconds=2.5, outcomes=outcomes, figures=figures))
    metrics.in_work(5, 0.25)
    state = MeterState(in_flight=7, spent_usd=1.5, pause_s=2.0, notices=(), waiting=9, retries=3)
    metrics.teacher(state, 20.0)
    metrics.teacher(replace(state, retries=4), 20.0)
    metrics.training({"loss": 0.25})
    metrics.checkpoint(12.5)
    names = {f"ray_{name}" for name in METRICS}

    def all_there():
        return names <= {re.sub("_(total|bucket|count|sum)$", "", name) for name, _ in served()}

    wait_until(all_there, 60)
    own = (("run", "my-run"), ("stage", "evaluate student"))
    seen = served()

    def value(name, *labels):
        return seen[f"ray_uniner_{name}", tuple(sorted((*labels, *own)))]

    assert value("rows_total", ("outcome", "ok")) == 3
    assert value("rows_total", ("outcome", "too_long")) == 1
    assert value("figures_total", ("figure", "cost_usd")) == 0.5
    assert (value("rows_done"), value("rows_wanted"), value("chunks_total")) == (3, 10, 1)
    assert value("chunk_seconds_bucket", ("le", "1.0")) == 0
    assert value("chunk_seconds_bucket", ("le", "3.0")) == 1
    assert (value("rows_in_work"), value("engine_waiting_share")) == (5, 0.25)
    assert (value("teacher_requests_in_flight"), value("teacher_requests_waiting")) == (7, 9)
    assert value("teacher_retries_total") == 4
    assert (value("teacher_spent_usd"), value("teacher_budget_usd")) == (1.5, 20)
    assert value("train", ("figure", "loss")) == 0.25
    assert value("train_checkpoint_seconds") == 12.5
