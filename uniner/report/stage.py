"""The report stage: show what exists of a run, and write `report.html` into the run's folder."""

from rich.console import Console

from uniner.errors import UserError, printable
from uniner.report.collect import collect
from uniner.report.render import print_report, render_html
from uniner.runtime.stage_context import StageContext

SECTIONS = ()
PAGE = "report.html"


def check(context: StageContext) -> None:
    """Check nothing: a report shows whatever exists."""


def parents(_context: StageContext) -> list[str]:
    """Return no stage: a report shows whatever exists."""
    return []


def run(context: StageContext) -> None:
    """Print the report and write the page."""
    folder = context.run_folder
    report = collect(folder, folder.name)
    if not report.stages:
        raise UserError(
            f"{folder.url}: no stage of this run is complete; run one first, such as uniner ingest CONFIG"
        )
    folder.write(PAGE, render_html(report).encode())
    print_report(report, Console())
    print(f"report: {printable(folder.path(PAGE))}")
