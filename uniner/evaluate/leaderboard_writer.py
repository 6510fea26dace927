"""Write the leaderboard as text, page and data beside the manifest, and show it in the terminal.

F1 and shares are in per cent.
"""

import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from rich.console import Console
from rich.table import Table

from uniner.display import markdown_text
from uniner.errors import printable
from uniner.evaluate.leaderboard import (
    LeaderboardCell,
    LeaderboardRow,
    LeaderboardTable,
    ScoresBySystem,
    leaderboard_tables,
    protocol_statements,
)
from uniner.evaluate.leaderboard_page import WIDE, render, strict_rows
from uniner.evaluate.paraphrase import HEAD, NOTE, TITLE, ParaphraseScores, paraphrase_rows
from uniner.evaluate.published import published_sources
from uniner.evaluate.scoring import DatasetScores
from uniner.evaluate.speeds import (
    SPEED_HEAD,
    SPEED_NOTE,
    SPEED_TITLE,
    SpeedRow,
    SystemSpeed,
    rows_as_json,
    speed_rows,
    speed_texts,
)
from uniner.gold.catalogue import catalogue
from uniner.metrics.counts import F1Score
from uniner.metrics.protocols import PROTOCOLS
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import parquet

PAGE = "leaderboard.html"
_string, _number, _count = pa.string(), pa.float64(), pa.int64()
CELLS = pa.schema(
    {
        "board": _string,
        "system": _string,
        "ours": pa.bool_(),
        **dict.fromkeys(("protocol", "source", "column"), _string),
        **dict.fromkeys(("f1", "low", "high"), _number),
        **dict.fromkeys(("over", "of"), _count),
    }
)
"""A cell of a table. column: a data set, domain, `average`, or `average of the cells` of a published row."""
FIGURES = pa.schema(
    {
        **dict.fromkeys(("system", "dataset", "domain", "protocol", "by", "value"), _string),
        **dict.fromkeys(("f1", "low", "high", "precision", "recall", "tp", "fp", "fn"), _number),
        **dict.fromkeys(("passages", "questions", "broken"), _count),
    }
)
"""by: `data set`, `type` (its name in value) or `length` (words of a passage, from-to); null: unknown."""


def write_leaderboard(
    folder: Folder, scores: ScoresBySystem, speeds: Mapping[str, SystemSpeed], console: Console | None = None
) -> None:
    """Write leaderboard.{json,parquet,md,html} and scores.{parquet,csv}, and print the strict tables.

    speeds: by system, as far as they are known.
    """
    tables, statements = leaderboard_tables(scores), protocol_statements(PROTOCOLS)
    timed = speed_rows(scores, speeds)
    folder.write_json("leaderboard.json", {**_as_json(tables, statements), "speeds": rows_as_json(timed)})
    folder.write("leaderboard.parquet", parquet(cells_table(tables)))
    in_other_words = paraphrase_rows(_paraphrase_scores(scores))
    folder.write("leaderboard.md", markdown(tables, statements, timed, in_other_words).encode())
    figures = scores_table(scores)
    folder.write("scores.parquet", parquet(figures))
    folder.write("scores.csv", spreadsheet(figures))
    folder.write(PAGE, render(tables, scores, statements, timed, in_other_words).encode())
    # A job's log has no width, and the tables need more than rich's default of 80 columns.
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    _print_tables(tables, console)
    if in_other_words:
        console.print(_terminal_paraphrases(in_other_words))
    if timed:
        console.print(_terminal_speeds(timed))
    console.print(
        f"leaderboard: {printable(folder.path(PAGE))}", highlight=False, markup=False, soft_wrap=True
    )


def _as_json(tables: Iterable[LeaderboardTable], statements: Mapping[str, str]) -> dict[str, Any]:
    return {
        "protocols": statements,
        "sources": published_sources(),
        "boards": [
            {
                "name": table.name,
                "title": table.title,
                "columns": table.columns,
                "notes": table.notes,
                "rows": [
                    {
                        **_about(row),
                        "compares_with": row.compares_with,
                        "cells": {name: vars(cell) for name, cell in row.cells.items()},
                        "average": vars(row.shown) if row.shown else None,
                        "average_of_cells": vars(row.average) if row.average else None,
                    }
                    for row in table.rows
                ],
            }
            for table in tables
        ],
    }


def _about(row: LeaderboardRow) -> dict[str, str | bool]:
    return {name: getattr(row, name) for name in ("system", "ours", "protocol", "source")}


def cells_table(tables: Iterable[LeaderboardTable]) -> pa.Table:
    """Return all cells of all tables (CELLS)."""
    rows = []
    for table in tables:
        for row in table.rows:
            cells: dict[str, LeaderboardCell | None] = {**row.cells, "average": row.shown}
            if row.stated is not None:
                cells["average of the cells"] = row.average
            rows += [
                {"board": table.name, **_about(row), "column": column, **vars(cell)}
                for column, cell in cells.items()
                if cell is not None
            ]
    return pa.Table.from_pylist(rows, schema=CELLS)


def scores_table(scores: ScoresBySystem) -> pa.Table:
    """Return our scores (FIGURES): by data set and protocol, and the strict ones by type and by length."""
    known = catalogue()
    rows = [
        {
            "system": system,
            "dataset": dataset,
            "domain": known[dataset].domain if dataset in known else None,
            **figures,
        }
        for system, by_dataset in scores.items()
        for dataset, dataset_scores in by_dataset.items()
        for figures in _figures(dataset_scores)
    ]
    return pa.Table.from_pylist(rows, schema=FIGURES)


def spreadsheet(table: pa.Table) -> bytes:
    """Return a table as CSV. An apostrophe goes before text that a spreadsheet would run as a formula."""
    columns = {}
    for name in table.schema.names:
        column = table.column(name)
        if pa.types.is_string(column.type):
            runs = pc.match_substring_regex(column, r"\A[=@+\-\t\r]")
            column = pc.if_else(runs, pc.binary_join_element_wise("'", column, ""), column)
        columns[name] = column
    sink = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(columns), sink)
    return sink.getvalue()


def _figures(scores: DatasetScores) -> Iterator[dict[str, Any]]:
    for protocol, score in scores.protocols.items():
        row = {"protocol": protocol, "by": "data set", "passages": scores.passages}
        yield {**row, **_in_per_cent(score)}
    for name, type_score in scores.types.items():
        yield {"protocol": "strict", "by": "type", "value": name, **_in_per_cent(type_score)}
    for length in scores.by_length:
        start, end = length.words
        row = {"protocol": "strict", "by": "length", "value": f"{start}-{'' if end is None else end}"}
        yield {**row, "passages": length.passages, **_in_per_cent(length)}


def _in_per_cent(score: F1Score) -> dict[str, Any]:
    values = vars(score)
    low, high = values.get("interval", (None, None))
    return {
        **{name: 100 * values[name] for name in ("f1", "precision", "recall")},
        **({} if low is None else {"low": 100 * low, "high": 100 * high}),
        **{name: values[name] for name in ("tp", "fp", "fn", "questions", "broken") if name in values},
    }


def markdown(
    tables: Iterable[LeaderboardTable],
    statements: Mapping[str, str],
    timed: Sequence[SpeedRow] = (),
    in_other_words: Sequence[tuple[str, ...]] = (),
) -> str:
    """Return the tables in Markdown, with the statement of each protocol."""
    lines = [
        "# Leaderboard",
        "",
        "F1 in per cent; ours with 95 % intervals (bootstrap over passages). An empty cell has no score. An "
        "average over fewer data sets says over how many; its interval assumes independent data sets. Rows "
        "of different protocols do not compare.",
    ]
    for table in tables:
        lines += ["", f"## {markdown_text(table.title)}", "", *_markdown_rows(table)]
        if table.notes:
            lines += ["", *(f"- {markdown_text(note)}" for note in table.notes)]
    if in_other_words:
        heads = ["---", "---", *["---:"] * (len(HEAD) - 2)]
        cells = [[*map(markdown_text, row[:2]), *row[2:]] for row in in_other_words]
        lines += [
            "",
            f"## {TITLE}",
            "",
            *(f"| {' | '.join(row)} |" for row in (HEAD, heads, *cells)),
            "",
            NOTE,
        ]
    if timed:
        heads = ["---", *["---:"] * (len(SPEED_HEAD) - 1)]
        body = [(markdown_text(row.system), _cell_text(row.f1), *speed_texts(row.speed)) for row in timed]
        rows = [f"| {' | '.join(cells)} |" for cells in (SPEED_HEAD, heads, *body)]
        lines += ["", f"## {SPEED_TITLE}", "", *rows, "", SPEED_NOTE]
    lines += ["", "## Protocols", "", *(f"- **{name}**: {text}" for name, text in statements.items())]
    sources = published_sources().items()
    lines += ["", "## Sources", "", *(f"- **{table}**: {source}" for table, source in sources)]
    return "\n".join(lines) + "\n"


def _markdown_rows(table: LeaderboardTable) -> Iterator[str]:
    head, *body = _as_text(table)
    labels = 3 if len(table.columns) <= WIDE else 1
    for cells in (head, ["---"] * labels + ["---:"] * (len(head) - labels), *body):
        yield f"| {' | '.join(cells)} |"


def _as_text(table: LeaderboardTable) -> list[list[str]]:
    """Return Markdown cells, the head first: a row for each system, of a wide table for each data set."""

    def system(row: LeaderboardRow) -> str:
        name = markdown_text(row.system)
        return f"**{name}**" if row.ours else name

    titles = {name: markdown_text(title) for name, title in table.columns.items()}
    if len(table.columns) <= WIDE:
        head = ["system", "protocol", "source", *titles.values(), "average"]
        return [head] + [
            [system(row), row.protocol, markdown_text(row.source)]
            + [_cell_text(row.cells.get(name)) for name in table.columns]
            + [_cell_text(row.shown)]
            for row in table.rows
        ]
    rows = strict_rows(table)
    heads = [f"{system(row)} ({row.protocol}, {markdown_text(row.source)})" for row in rows]
    body = [[title, *(_cell_text(row.cells.get(name)) for row in rows)] for name, title in titles.items()]
    return [["data set", *heads], *body, ["average", *(_cell_text(row.shown) for row in rows)]]


def _cell_text(cell: LeaderboardCell | None) -> str:
    """Return F1, interval, and the number of data sets where some are missing."""
    if cell is None:
        return ""
    interval = "" if cell.low is None else f" [{cell.low:.1f}, {cell.high:.1f}]"
    missing = "" if cell.over == cell.of else f" ({cell.over} of {cell.of})"
    return f"{cell.f1:.1f}{interval}{missing}"


def _short_text(cell: LeaderboardCell | None) -> str:
    return "" if cell is None else f"{cell.f1:.1f}"


def _print_tables(tables: Iterable[LeaderboardTable], console: Console) -> None:
    """Print the tables with rows of ours, strict rows only; of wide tables only our data sets."""
    shown: set[str] = set()
    for table in tables:
        ours = {name for row in table.rows if row.ours for name in row.cells}
        if table.name == "domains" or ours <= shown:
            continue
        shown |= ours
        console.print(_terminal_table(table, strict_rows(table), ours))
        for note in table.notes:
            if ": " in note and not any(note.startswith(row.source) for row in table.rows):
                console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)


def _paraphrase_scores(scores: ScoresBySystem) -> dict[str, dict[str, ParaphraseScores]]:
    return {
        system: {dataset: each.paraphrase for dataset, each in by_dataset.items() if each.paraphrase}
        for system, by_dataset in scores.items()
    }


def _terminal_paraphrases(rows: Sequence[tuple[str, ...]]) -> Table:
    grid = Table(title=f"{TITLE} (F1, strict)", title_justify="left", padding=(0, 1))
    for number, name in enumerate(HEAD):
        grid.add_column(name, justify="right" if number > 1 else "left")
    for row in rows:
        grid.add_row(*row)
    return grid


def _terminal_speeds(rows: Sequence[SpeedRow]) -> Table:
    grid = Table(title=f"{SPEED_TITLE} (F1, strict)", title_justify="left", padding=(0, 1))
    for number, name in enumerate(SPEED_HEAD):
        grid.add_column(name, justify="right" if number else "left")
    for row in rows:
        grid.add_row(row.system, _cell_text(row.f1), *speed_texts(row.speed))
    return grid


def _terminal_table(table: LeaderboardTable, rows: Sequence[LeaderboardRow], ours: set[str]) -> Table:
    grid = Table(title=f"{table.title} (F1, strict)", title_justify="left", padding=(0, 1))
    if len(table.columns) > WIDE:
        grid.add_column("data set")
        for row in rows:
            grid.add_column(row.system, justify="right", style="bold" if row.ours else "")
        for name, title in table.columns.items():
            if name in ours:
                grid.add_row(title, *(_short_text(row.cells.get(name)) for row in rows))
        grid.add_row("average", *(_cell_text(row.shown) for row in rows))
        return grid
    grid.add_column("system")
    grid.add_column("source")
    for title in table.columns.values():
        grid.add_column(title.removeprefix("CrossNER ").removeprefix("mit-"), justify="right")
    grid.add_column("average", justify="right")
    for row in rows:
        cells = [_short_text(row.cells.get(name)) for name in table.columns]
        style = "bold" if row.ours else ""
        grid.add_row(row.system, row.source, *cells, _cell_text(row.shown), style=style)
    return grid
