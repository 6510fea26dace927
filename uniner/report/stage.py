"""The report stage: show what exists of a run, and write `report.html` into the run's folder."""

from rich.console import Console

from uniner.errors import UserError, printable
from uniner.report.collect import collect
from uniner.report.render import print_report, render_html
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import explained
from uniner.storage.stage_folder import StageFolder

SECTIONS = ("run", "report")
PAGE = "report.html"


def check(context: StageContext) -> None:
    """Check nothing: a report shows whatever exists."""


def parents(_context: StageContext) -> list[str]:
    """Return no stage: a report shows whatever exists."""
    return []


def run(context: StageContext, compare_with: str | None = None) -> None:
    """Print the report and write the page. compare_with: the folder of a run to show beside this one.

    Raises:
        UserError: no stage has begun, or there is nothing to compare.
    """
    folder, sections = context.run_folder, context.sections
    report = collect(
        folder,
        folder.name,
        passages=sections.report.passages,
        budget_usd=sections.run.budget_usd,
        compare_with=StageFolder(compare_with) if compare_with else None,
    )
    if not report.stages:
        raise UserError(
            f"{folder.url}: no stage of this run has begun; run one first, such as uniner ingest CONFIG"
        )
    page = render_html(report).encode()
    with explained(folder.path(PAGE)):
        folder.write(PAGE, page)
    print_report(report, Console())
    print(f"report: {printable(folder.path(PAGE))}")
