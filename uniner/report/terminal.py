"""The report in a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from uniner.report.collect import Example, Report
from uniner.report.page import colours_of


def show(report: Report, console: Console) -> None:
    """Print the table of stages, the tagged passages with their entities in colour, and the scores."""
    table = Table("stage", title=f"run {report.name}", title_justify="left")
    table.add_column("rows", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("key figure", overflow="fold")
    for row in report.stages:
        table.add_row(row.stage, f"{row.rows:,}", f"{row.seconds:,.1f}", row.figure)
    console.print(table)
    if report.funnel:
        for counts in (report.funnel.passages, report.funnel.mentions):
            told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            console.print(told, highlight=False, soft_wrap=True)
    for found in report.found:
        surfaces = ", ".join(f"{text} {mentions:,}" for text, mentions in found.surfaces[:3])
        console.print(f"{found.type}: {found.mentions:,} ({surfaces})", highlight=False, markup=False)
    colours = colours_of(report.examples)
    for example in report.examples:
        console.print(marked(example, colours), soft_wrap=True)
        console.print()
    for score in report.scores:
        console.print(
            f"{score.dataset}: F1 {score.f1:.3f} {score.system} "
            f"(strict, {score.questions:,} questions, {score.broken:,} broken answers)",
            highlight=False,
        )


def marked(example: Example, colours: dict[str, str]) -> Text:
    """Return an example with its entities in colour, after its source where it has one."""
    text, position = Text(f"{example.source}: " if example.source else "", style="dim"), 0
    text.append_text(Text(style="not dim"))
    for entity in example.entities:
        text.append(example.text[position : entity.start], style="not dim")
        style = f"not dim black on {colours[entity.type]}"
        text.append(f"{example.text[entity.start : entity.end]} [{entity.type}]", style=style)
        position = entity.end
    text.append(example.text[position:], style="not dim")
    return text
