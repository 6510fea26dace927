"""The leaderboard as text: Markdown with every row, and a short table for the terminal."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from uniner.evaluate.leaderboard import Board, Cell, Row
from uniner.evaluate.published import sources

WIDE = 9
"""Boards of more columns are laid out the other way round, a row a data set."""


def markdown(boards: Iterable[Board], statements: Mapping[str, str]) -> str:
    """Return the boards in Markdown, with what each protocol means."""
    lines = [
        "# Leaderboard",
        "",
        "F1 in per cent; ours with 95 % intervals (bootstrap over passages). An empty cell was not scored; "
        "an average over fewer data sets says over how many; its interval takes data sets as independent. "
        "Rows of different protocols do not compare.",
    ]
    for board in boards:
        lines += ["", f"## {board.title}", "", *_markdown_table(board), *_notes(board)]
    lines += ["", "## Protocols", "", *(f"- **{name}**: {means}" for name, means in statements.items())]
    lines += ["", "## Sources", "", *(f"- **{table}**: {source}" for table, source in sources().items())]
    return "\n".join(lines) + "\n"


def _markdown_table(board: Board) -> Iterator[str]:
    table = layout(board)
    yield _line(table[0])
    numbers = len(table[0]) - (3 if len(board.columns) <= WIDE else 1)
    yield _line(["---"] * (len(table[0]) - numbers) + ["---:"] * numbers)
    yield from map(_line, table[1:])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _notes(board: Board) -> list[str]:
    return ["", *(f"- {note}" for note in board.notes)] if board.notes else []


def layout(board: Board) -> list[list[str]]:
    """Return a board's cells as text, the head first: a row a system, or of a wide one a row a data set."""
    if len(board.columns) <= WIDE:
        head = ["system", "protocol", "source", *board.columns.values(), "average"]
        return [head] + [
            [_system(row), row.protocol, row.source, *(said(row.cells.get(name)) for name in board.columns),
             said(row.shown)]
            for row in board.rows
        ]  # fmt: skip
    rows = strict(board)
    heads = [f"{_system(row)} ({row.protocol}, {row.source})" for row in rows]
    body = [[title, *(said(row.cells.get(name)) for row in rows)] for name, title in board.columns.items()]
    return [["data set", *heads], *body, ["average", *(said(row.shown) for row in rows)]]


def strict(board: Board) -> list[Row]:
    """Return the rows that compare by protocol strict, ours by it alone: what a wide board has room for."""
    return [row for row in board.rows if row.beside == "strict" and row.protocol != "released"]


def _system(row: Row) -> str:
    return f"**{row.system}**" if row.ours else row.system


def said(cell: Cell | None) -> str:
    """Return a cell's text: F1, interval, and over how many data sets it is where some are missing."""
    if cell is None:
        return ""
    interval = "" if cell.low is None else f" [{cell.low:.1f}, {cell.high:.1f}]"
    missing = "" if cell.over == cell.of else f" ({cell.over} of {cell.of})"
    return f"{cell.f1:.1f}{interval}{missing}"


def show(boards: Iterable[Board], console: Console) -> None:
    """Print the boards on which we have rows, by protocol strict alone; wide ones for our data sets alone."""
    shown: set[str] = set()
    for board in boards:
        ours = {name for row in board.rows if row.ours for name in row.cells}
        if board.name == "domains" or ours <= shown:
            continue
        shown |= ours
        console.print(_terminal(board, strict(board), ours))
        for note in board.notes:
            if ": " in note and not any(note.startswith(row.source) for row in board.rows):
                console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)


def _terminal(board: Board, rows: Sequence[Row], ours: set[str]) -> Table:
    table = Table(title=f"{board.title} (F1, strict)", title_justify="left", padding=(0, 1))
    if len(board.columns) > WIDE:
        table.add_column("data set")
        for row in rows:
            table.add_column(row.system, justify="right", style="bold" if row.ours else "")
        for name, title in board.columns.items():
            if name in ours:
                table.add_row(title, *(_short(row.cells.get(name)) for row in rows))
        table.add_row("average", *(said(row.shown) for row in rows))
        return table
    table.add_column("system")
    table.add_column("source")
    for title in board.columns.values():
        table.add_column(title.removeprefix("CrossNER ").removeprefix("mit-"), justify="right")
    table.add_column("average", justify="right")
    for row in rows:
        cells = [_short(row.cells.get(name)) for name in board.columns]
        style = "bold" if row.ours else ""
        table.add_row(row.system, row.source, *cells, said(row.shown), style=style)
    return table


def _short(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.f1:.1f}"
