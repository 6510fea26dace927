"""What people read of evaluate: the leaderboard as table, text, page and data, beside the manifest."""

import io
import sys
from collections.abc import Mapping
from typing import Any

import pyarrow.csv
from rich.console import Console

from uniner.evaluate import leaderboard_tables, score_tables
from uniner.evaluate.leaderboard import Scores, boards, statements
from uniner.evaluate.leaderboard_page import render
from uniner.evaluate.published import sources
from uniner.metrics.protocols import PROTOCOLS
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import parquet

PAGE = "leaderboard.html"


def publish(folder: Folder, scores: Scores, console: Console | None = None) -> None:
    """Write leaderboard.{json,parquet,md,html} and scores.{parquet,csv} into a folder; print the short table.

    scores: system to data set to figures of `evaluate.score`, all that stand; their examples may be left out.
    """
    found, means = boards(scores), statements(PROTOCOLS)
    folder.write_json("leaderboard.json", _plain(found, means))
    folder.write("leaderboard.parquet", parquet(score_tables.cells(found)))
    folder.write("leaderboard.md", leaderboard_tables.markdown(found, means).encode())
    figures = score_tables.figures(scores)
    folder.write("scores.parquet", parquet(figures))
    sink = io.BytesIO()
    pyarrow.csv.write_csv(figures, sink)
    folder.write("scores.csv", sink.getvalue())
    folder.write(PAGE, render(found, scores, means).encode())
    # A job's log has no width of its own; there the tables need more than 80 letters.
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    leaderboard_tables.show(found, console)
    console.print(f"leaderboard: {folder.path(PAGE)}", highlight=False, markup=False, soft_wrap=True)


def _plain(found: list[Any], means: Mapping[str, str]) -> dict[str, Any]:
    """Return the boards as JSON's values."""
    return {
        "protocols": means,
        "sources": sources(),
        "boards": [
            {
                "name": board.name,
                "title": board.title,
                "columns": board.columns,
                "notes": board.notes,
                "rows": [
                    {
                        "system": row.system,
                        "ours": row.ours,
                        "protocol": row.protocol,
                        "source": row.source,
                        "cells": {name: vars(cell) for name, cell in row.cells.items()},
                        "average": vars(row.shown) if row.shown else None,
                        "average_of_cells": vars(row.average) if row.average else None,
                    }
                    for row in board.rows
                ],
            }
            for board in found
        ],
    }
