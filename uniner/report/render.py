"""The report as a self-contained HTML page, and in a terminal."""

import io
from importlib import resources

from jinja2 import Environment
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from uniner.display import html_text, terminal_text, type_colours, visible
from uniner.report.collect import RunReport, TrainingCurves


def render_html(report: RunReport) -> str:
    """Return the page's HTML."""
    template = resources.files("uniner.report").joinpath("page.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    colours = type_colours(report.examples)
    passages = [(example.source, html_text(example, colours)) for example in report.examples]
    return page.render(report=report, passages=passages, curves=Markup(_svg(report.curves)))


def _svg(curves: TrainingCurves) -> str:
    """Return training loss, validation loss and validation F1 as SVG; empty without a training loss."""
    if not curves.loss:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = figure.subplots()
    lines = axes.plot(*zip(*curves.loss, strict=True), color="#33658a", linewidth=1.4, label="training")
    if curves.validation_loss:
        points = zip(*curves.validation_loss, strict=True)
        lines += axes.plot(*points, color="#d1495b", marker="o", label="validation")
    if curves.validation_f1:
        right = axes.twinx()
        points = zip(*curves.validation_f1, strict=True)
        lines += right.plot(*points, color="#2f9e6e", marker="s", label="validation F1")
        right.set_ylabel("F1")
        right.set_ylim(0, 1)
        right.spines["top"].set_visible(False)
    if len(lines) > 1:
        axes.legend(handles=lines, frameon=False, loc="center right")
    axes.set_xlabel("step")
    axes.set_ylabel("loss on the answers")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    svg = sink.getvalue()
    return svg[svg.index("<svg") :]


def print_report(report: RunReport, console: Console) -> None:
    """Print the table of stages, the tagged passages with their entities in colour, and the scores."""
    table = Table("stage", title=visible(f"run {report.name}"), title_justify="left")
    table.add_column("rows", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("key figure", overflow="fold")
    for row in report.stages:
        table.add_row(row.stage, f"{row.rows:,}", f"{row.seconds:,.1f}", visible(row.figure))
    console.print(table)
    if report.funnel:
        for counts in (report.funnel.passages, report.funnel.mentions):
            line = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            console.print(visible(line), highlight=False, markup=False, soft_wrap=True)
    for by_type in report.types:
        surfaces = ", ".join(f"{text} {mentions:,}" for text, mentions in by_type.surfaces[:3])
        line = f"{by_type.type}: {by_type.mentions:,} ({surfaces})"
        console.print(visible(line), highlight=False, markup=False)
    colours = type_colours(report.examples)
    for example in report.examples:
        console.print(terminal_text(example, colours), soft_wrap=True)
        console.print()
    for score in report.scores:
        line = (
            f"{score.dataset}: F1 {score.f1:.3f} {score.system} "
            f"(strict, {score.questions:,} questions, {score.broken:,} broken answers"
            + (f", {score.passages_per_s:,.1f} passages/s" if score.passages_per_s else "")
            + ")"
        )
        console.print(visible(line), highlight=False, markup=False)
