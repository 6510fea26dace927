"""The report as a self-contained HTML page, and in a terminal."""

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import partial
from importlib import resources
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from uniner.display import terminal_text, type_colours, visible
from uniner.metrics.calibration import calibrate
from uniner.report.charts import CurveLine, calibration_svg, funnel_svg, lines_svg
from uniner.report.collect import RunReport, TrainingCurves
from uniner.report.embedded import page_data, script_json
from uniner.report.quality import DatasetScore

_SCRIPTS = ("passages.js", "filters.js", "panel.js", "page.js")
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def render_html(report: RunReport) -> str:
    """Return the page's HTML. It loads nothing, and its policy lets no script run but its own."""
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown, keep_trailing_newline=True
    )
    environment.filters |= {
        "count": _count,
        "duration": duration,
        "usd": "{:,.2f}".format,
        "f1": "{:.3f}".format,
    }
    script = "\n".join(_read(name) for name in _SCRIPTS)
    page = environment.from_string(_read("page.html")).render(
        report=report,
        style=Markup(_read("page.css")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=script_json(page_data(report.sample, report.name)) if report.sample.passages else None,
        lanes=[(lane.unit, funnel_svg(lane)) for lane in report.funnel],
        charts=[(model, _chart(model, curves)) for model, curves in report.curves.items() if curves.loss],
        calibrated=[(score, _calibration(score)) for score in report.scores if score.calibration],
        tiles=_tiles(report),
    )
    return _LONE_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", page)


def duration(seconds: float) -> str:
    """Return a time in words that fit its size, such as 12.3 s, 5 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:,.1f} s"
    if seconds < 5_400:
        return f"{seconds / 60:,.1f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def _read(name: str) -> str:
    return resources.files("uniner.report").joinpath(name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """Return a text of the run without characters that hide or reorder; autoescape follows."""
    return visible(value) if type(value) is str else value


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _tiles(report: RunReport) -> list[tuple[str, str]]:
    """Return the figures that open the page: name and value."""
    rows = {row.stage: row for row in report.stages}
    entities = [step.count for lane in report.funnel if lane.unit == "entities" for step in lane.steps[1:2]]
    best = max((score for score in report.scores if score.system != "base"), key=_f1, default=None)
    seconds = sum(row.seconds or 0.0 for row in report.stages)
    tiles = []
    if "ingest" in rows:
        tiles.append(("passages", _count(rows["ingest"].rows)))
    tiles += [("entities", _count(count)) for count in entities]
    if best:
        tiles.append((f"best F1 ({best.system}, {best.dataset})", f"{best.f1:.3f}"))
    if report.spending:
        tiles.append(("spent on the teacher", f"{report.spending.spent_usd:,.2f} USD"))
    return [*tiles, ("time of finished stages", duration(seconds))]


def _f1(score: DatasetScore) -> float:
    return score.f1


def _chart(model: str, curves: TrainingCurves) -> Markup:
    lines = [
        CurveLine(label="training loss", points=curves.loss, style="training"),
        CurveLine(label="validation loss", points=curves.validation_loss, style="validation"),
        CurveLine(label="validation F1", points=curves.validation_f1, style="f1", right=True),
    ]
    return lines_svg(lines, "step", f"training of the {model}")


def _calibration(score: DatasetScore) -> Markup:
    assert score.calibration is not None, "only scores with a calibration are drawn"
    fitted = score.calibration
    return calibration_svg(partial(calibrate, slope=fitted.slope, intercept=fitted.intercept))


def print_report(report: RunReport, console: Console) -> None:
    """Print the table of stages, the tagged passages with their entities in colour, and the scores."""
    table = Table("stage", title=visible(f"run {report.name}"), title_justify="left")
    table.add_column("rows", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("key figure", overflow="fold")
    for row in report.stages:
        seconds = "" if row.seconds is None else f"{row.seconds:,.1f}"
        table.add_row(row.stage, f"{row.rows:,}", seconds, visible(row.figure))
    console.print(table)
    for lane in report.funnel:
        _print_line(console, ", ".join(_counts(lane.steps)))
    for by_type in report.types:
        surfaces = ", ".join(f"{text} {mentions:,}" for text, mentions in by_type.surfaces[:3])
        _print_line(console, f"{by_type.type}: {by_type.mentions:,} ({surfaces})")
    colours = type_colours(report.examples)
    for example in report.examples:
        console.print(terminal_text(example, colours), soft_wrap=True)
        console.print()
    for score in report.scores:
        speed = f", {score.passages_per_s:,.1f} passages/s" if score.passages_per_s else ""
        _print_line(
            console,
            f"{score.dataset}: F1 {score.f1:.3f} {score.system} "
            f"(strict, {score.questions:,} questions, {score.broken:,} broken answers{speed})",
        )


def _print_line(console: Console, line: str) -> None:
    console.print(visible(line), highlight=False, markup=False, soft_wrap=True)


def _counts(steps: Sequence[Any]) -> list[str]:
    return [
        text
        for step in steps
        for text in (
            f"{step.label} {step.count:,}",
            *(f"dropped: {reason} -{count:,}" for reason, count in step.dropped.items()),
        )
    ]
