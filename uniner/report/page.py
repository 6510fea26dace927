"""The report as a self-contained HTML page."""

import io
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment
from markupsafe import Markup, escape

from uniner.report.collect import Example, Report

COLOURS = (
    "#ffd6a5", "#caffbf", "#9bf6ff", "#bdb2ff", "#ffc6ff", "#fdffb6",
    "#a0c4ff", "#ffadad", "#d0f4de", "#e4c1f9", "#f1c0a8", "#b8e0d2",
)  # fmt: skip


def render(report: Report) -> str:
    """Return the page's HTML."""
    template = resources.files("uniner.report").joinpath("page.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    colours = colours_of(report.examples)
    passages = [(example.source, _marked(example, colours)) for example in report.examples]
    curve = _curve(report.losses, report.validation, report.validation_f1)
    return page.render(report=report, passages=passages, curve=Markup(curve))


def colours_of(examples: Sequence[Example]) -> dict[str, str]:
    """Return a colour for each type of the examples, in order of appearance."""
    types = dict.fromkeys(entity.type for example in examples for entity in example.entities)
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(types)}


def _marked(example: Example, colours: dict[str, str]) -> Markup:
    parts, position = [], 0
    for entity in example.entities:
        parts.append(escape(example.text[position : entity.start]))
        text, name = example.text[entity.start : entity.end], entity.type
        mark = Markup('<mark style="background:{}">{}<small>{}</small></mark>')
        parts.append(mark.format(colours[name], text, name))
        position = entity.end
    parts.append(escape(example.text[position:]))
    return Markup("").join(parts)


def _curve(
    losses: Sequence[tuple[int, float]],
    validation: Sequence[tuple[int, float]],
    validation_f1: Sequence[tuple[int, float]],
) -> str:
    """Return the training and validation loss, and validation F1, as SVG; empty where there is none."""
    if not losses:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = figure.subplots()
    lines = axes.plot(*zip(*losses, strict=True), color="#33658a", linewidth=1.4, label="training")
    if validation:
        lines += axes.plot(*zip(*validation, strict=True), color="#d1495b", marker="o", label="validation")
    if validation_f1:
        right = axes.twinx()
        lines += right.plot(
            *zip(*validation_f1, strict=True), color="#2f9e6e", marker="s", label="validation F1"
        )
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
