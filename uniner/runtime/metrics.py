"""The run's metrics, which Ray serves for Prometheus on every node. docs/metrics.md lists them.

The driver and the training's worker 0 record them; Ray adds `ray_` before a name, and labels of its own. Its
other metrics tell the rest, such as the use of CPUs, GPUs and memory.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple, Self

from ray.util import metrics

from uniner.runtime.rate_limits import MeterState
from uniner.storage.folder import Folder
from uniner.storage.manifest import Summary

_SECONDS = [1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0]
"""The bounds of the histogram of chunk seconds."""


class MetricKind(NamedTuple):
    """A metric's kind (counter, gauge or histogram), its description, and the labels beside run and stage."""

    kind: str
    description: str
    labels: tuple[str, ...] = ()


METRICS = {
    "uniner_rows": MetricKind("counter", "Rows of finished chunks", ("outcome",)),
    "uniner_figures": MetricKind(
        "counter",
        "Sums over finished chunks by the manifest's names, such as tokens and dollars",
        ("figure",),
    ),
    "uniner_chunks": MetricKind("counter", "Finished chunks"),
    "uniner_chunk_seconds": MetricKind("histogram", "Seconds that a chunk took"),
    "uniner_rows_wanted": MetricKind("gauge", "Rows that the stage has in all"),
    "uniner_rows_done": MetricKind("gauge", "Rows of finished chunks, with those of earlier drivers"),
    "uniner_rows_in_work": MetricKind("gauge", "Rows done of chunks that are not finished"),
    "uniner_engine_waiting_share": MetricKind(
        "gauge", "Share of the engines' room for questions that is empty, 0 to 1"
    ),
    "uniner_teacher_requests_in_flight": MetricKind("gauge", "Requests at the teacher"),
    "uniner_teacher_requests_waiting": MetricKind("gauge", "Requests that the limits hold back"),
    "uniner_teacher_retries": MetricKind("counter", "Tries of requests after the first"),
    "uniner_teacher_spent_usd": MetricKind("gauge", "Dollars spent, with what is reserved"),
    "uniner_teacher_budget_usd": MetricKind("gauge", "The budget in dollars"),
    "uniner_teacher_pause_seconds": MetricKind("gauge", "Seconds of the pause that the teacher asked for"),
    "uniner_train": MetricKind("gauge", "The last step's figures by history.json's names", ("figure",)),
    "uniner_train_checkpoint_seconds": MetricKind("gauge", "Seconds that the last checkpoint took to write"),
}
"""All metrics by name."""


@functools.cache
def _metric(name: str) -> metrics.Counter | metrics.Gauge | metrics.Histogram:
    kind, description, labels = METRICS[name]
    keys = ("run", "stage", *labels)
    if kind == "histogram":
        return metrics.Histogram(name, description, boundaries=_SECONDS, tag_keys=keys)
    return {"counter": metrics.Counter, "gauge": metrics.Gauge}[kind](name, description, tag_keys=keys)


class StageMetrics:
    """Records a stage's metrics from one process."""

    def __init__(self, run: str, stage: str):
        self._labels = {"run": run, "stage": stage}
        self._retries = 0

    @classmethod
    def of(cls, folder: Folder, name: str) -> Self:
        """Return those of the work in a folder, `<run>/<stage>` or `<run>/evaluate/<system>`."""
        parts = folder.url.split("/")
        return cls(parts[-3] if parts[-2] == "evaluate" else parts[-2], name)

    def finished(self, summary: Summary) -> None:
        """Record a finished chunk."""
        self._add("uniner_chunks", 1)
        for outcome, rows in summary.outcomes.items():
            self._add("uniner_rows", rows, outcome=outcome)
        for figure, value in summary.figures.items():
            self._add("uniner_figures", value, figure=figure)
        _metric("uniner_chunk_seconds").observe(summary.seconds, self._labels)  # type: ignore[union-attr]

    def progress(self, done: int, wanted: int) -> None:
        """Record how many rows are done, and how many there are."""
        self._set("uniner_rows_done", done)
        self._set("uniner_rows_wanted", wanted)

    def in_work(self, rows: int, waiting_share: float | None) -> None:
        """Record the rows done of chunks in work, and how much of the engines' room is empty."""
        self._set("uniner_rows_in_work", rows)
        if waiting_share is not None:
            self._set("uniner_engine_waiting_share", waiting_share)

    def teacher(self, state: MeterState, budget_usd: float | None) -> None:
        """Record the state of the meter of requests to a teacher."""
        self._set("uniner_teacher_requests_in_flight", state.in_flight)
        self._set("uniner_teacher_requests_waiting", state.waiting)
        self._add("uniner_teacher_retries", state.retries - self._retries)
        self._retries = state.retries
        self._set("uniner_teacher_spent_usd", state.spent_usd)
        self._set("uniner_teacher_pause_seconds", state.pause_s)
        if budget_usd is not None:
            self._set("uniner_teacher_budget_usd", budget_usd)

    def training(self, figures: Mapping[str, float]) -> None:
        """Record a training step's figures."""
        for figure, value in figures.items():
            self._set("uniner_train", value, figure=figure)

    def checkpoint(self, seconds: float) -> None:
        """Record how long a checkpoint took to write."""
        self._set("uniner_train_checkpoint_seconds", seconds)

    def _add(self, name: str, value: float, **labels: str) -> None:
        if value > 0:  # Ray refuses counters that stay or fall
            _metric(name).inc(value, self._labels | labels)  # type: ignore[union-attr]

    def _set(self, name: str, value: float, **labels: str) -> None:
        _metric(name).set(value, self._labels | labels)  # type: ignore[union-attr]
