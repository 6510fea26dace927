"""The report stage: shows what stands of a run and writes `report.html` in the run's folder."""

from typing import Any

from rich.console import Console

from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.report.collect import collect
from uniner.report.render import print_report, render_html
from uniner.storage.stage_folder import run_folder

PAGE = "report.html"


def check(config: Config) -> None:
    """Find nothing: a report shows whatever stands."""


def run(config: Config) -> dict[str, Any]:
    """Print the report and write the page. Returns its address."""
    folder = run_folder(config.run)
    report = collect(folder, config.run.name)
    if not report.stages:
        raise UserError(f"{folder.url}: no stage of this run is done; run one first")
    folder.write(PAGE, render_html(report).encode())
    print_report(report, Console())
    print(f"report: {folder.path(PAGE)}")
    return {"page": folder.path(PAGE)}
