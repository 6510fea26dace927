"""The leaderboard's plots, each as SVG text. F1 in per cent, protocol strict, ours with 95 % intervals."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from uniner.evaluate.leaderboard import Board, Row, Scores
from uniner.metrics.counts import Counts
from uniner.storage.stage_folder import merge

COLOURS = ("#33658a", "#d1495b", "#3a7d44", "#8e6c8a", "#e09f3e", "#2a9d8f", "#6d597a", "#444444")
LEAST_GOLD = 20
"""Gold mentions that a type must have to stand among the best and the worst."""
_PUBLISHED = {"UniNER-7B": "o", "ChatGPT": "s"}
_ENDS = 8


def by_column(board: Board, colours: Mapping[str, str]) -> str:
    """Return our systems' F1 by the board's columns, with the published values of the same columns."""
    ours = [row for row in board.rows if row.ours and row.protocol == "strict"]
    columns = [name for name in board.columns if any(name in row.cells for row in ours)]
    if not columns:
        return ""
    published = _published(board, columns)

    def draw(axes: Any) -> None:
        for place, row in enumerate(ours):
            shift = (place - (len(ours) - 1) / 2) * 0.6 / max(1, len(ours))
            _dots(axes, row, columns, shift, colours[row.system])
        for row, mark in published:
            at = [(row.cells[name].f1, y) for y, name in enumerate(columns) if name in row.cells]
            axes.scatter(*zip(*at, strict=True), marker=mark, s=34, facecolors="none", edgecolors="#777",
                         linewidths=1.1, label=f"{row.system} ({row.source})")  # fmt: skip
        axes.set_yticks(range(len(columns)), [board.columns[name] for name in columns])
        axes.set_ylim(len(columns) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("F1")

    return _svg(draw, (8.4, 1.5 + 0.32 * len(columns)))


def _dots(axes: Any, row: Row, columns: Sequence[str], shift: float, colour: str) -> None:
    at = [(y + shift, row.cells[name]) for y, name in enumerate(columns) if name in row.cells]
    errors = [
        [0 if cell.low is None else max(0.0, cell.f1 - cell.low) for _, cell in at],
        [0 if cell.high is None else max(0.0, cell.high - cell.f1) for _, cell in at],
    ]
    axes.errorbar([cell.f1 for _, cell in at], [y for y, _ in at], xerr=errors, fmt="D", markersize=4.5,
                  color=colour, elinewidth=1.6, capsize=2.5, label=row.system)  # fmt: skip


def _published(board: Board, columns: Sequence[str]) -> list[tuple[Row, str]]:
    """Return the published rows that are drawn as well: by the paper's protocol, one of each system."""
    found: dict[str, Row] = {}
    for row in board.rows:
        # Not the headline's, which lies 1.0 above the others and has no cells to average.
        if row.system in _PUBLISHED and row.protocol == "uniner" and row.average is not None:
            found[row.system] = row
    kept = [row for row in found.values() if any(name in row.cells for name in columns)]
    return [(row, _PUBLISHED[row.system]) for row in kept]


def colours_of(systems: Iterable[str]) -> dict[str, str]:
    """Return a colour for each system, the same in all plots."""
    return {system: COLOURS[place % len(COLOURS)] for place, system in enumerate(systems)}


def by_type(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a system's best and worst types over all its data sets, of those with enough gold mentions."""
    types = [
        (one["f1"] * 100, f"{name} ({dataset})", int(one["tp"] + one["fn"]))
        for dataset, figures in found.items()
        for name, one in figures["types"].items()
        if one["tp"] + one["fn"] >= LEAST_GOLD
    ]
    if not types:
        return ""
    types.sort(reverse=True)
    ends = types if len(types) <= 2 * _ENDS else [*types[:_ENDS], *types[-_ENDS:]]

    def draw(axes: Any) -> None:
        best = min(_ENDS, (len(ends) + 1) // 2)
        colours = [COLOURS[0] if place < best else COLOURS[1] for place in range(len(ends))]
        axes.barh(range(len(ends)), [f1 for f1, _, _ in ends], color=colours, height=0.7)
        axes.set_yticks(range(len(ends)), [name for _, name, _ in ends])
        for place, (f1, _, gold) in enumerate(ends):
            axes.text(f1 + 0.8, place, f"{f1:.1f} ({gold:,} gold)", va="center", fontsize=7.5, color="#555")
        axes.set_ylim(len(ends) - 0.5, -0.5)
        axes.set_xlim(0, 115)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("F1")

    return _svg(draw, (8.4, 0.8 + 0.24 * len(ends)))


def by_length(scores: Scores, colours: Mapping[str, str]) -> str:
    """Return our systems' F1 by a passage's words, the counts of all data sets added up."""
    lines = {system: lengths(found) for system, found in scores.items()}
    names = sorted({start: name for line in lines.values() for start, (name, *_) in line.items()}.items())
    if not names:
        return ""

    def draw(axes: Any) -> None:
        for system, line in lines.items():
            at = [(x, 100 * line[start][1]) for x, (start, _) in enumerate(names) if start in line]
            if at:
                axes.plot(*zip(*at, strict=True), marker="D", markersize=4.5,
                          color=colours[system], label=system)  # fmt: skip
        axes.set_xticks(range(len(names)), [name for _, name in names])
        axes.set_xlabel("words of the passage")
        axes.set_ylabel("F1")
        axes.set_ylim(0, 100)

    return _svg(draw, (8.4, 3.1))


def lengths(found: Mapping[str, Mapping[str, Any]]) -> dict[int, tuple[str, float, int]]:
    """Return, by the words at which a kind of length begins, its name, F1 (0 to 1) and passages."""
    counts: dict[int, Counts] = {}
    passages: Counter[int] = Counter()
    names: dict[int, str] = {}
    for figures in found.values():
        for one in figures["by_length"]:
            start, end = one["words"]
            names[start] = f"{start}+" if end is None else f"{start}-{end}"
            counts[start] = counts.get(start, Counts()) + Counts(one["tp"], one["fp"], one["fn"])
            passages[start] += one["passages"]
    return {start: (names[start], added.f1, passages[start]) for start, added in counts.items()}


def mistakes(scores: Scores, side: str) -> str:
    """Return how many mentions of each kind of mistake each system makes; side: `wrong` or `missed`."""
    counted = {
        system: merge(figures["errors"][side] for figures in found.values())
        for system, found in scores.items()
    }
    kinds = list(dict.fromkeys(kind for counts in counted.values() for kind in counts))
    if not kinds:
        return ""

    def draw(axes: Any) -> None:
        before = [0.0] * len(counted)
        for place, kind in enumerate(sorted(kinds)):
            many = [counts.get(kind, 0) for counts in counted.values()]
            axes.barh(range(len(counted)), many, left=before, height=0.6, label=kind.replace("_", " "),
                      color=COLOURS[place % len(COLOURS)])  # fmt: skip
            before = [sum(pair) for pair in zip(before, many, strict=True)]
        axes.set_yticks(range(len(counted)), list(counted))
        axes.set_ylim(len(counted) - 0.5, -0.5)
        axes.set_xlabel(f"{side} mentions")

    return _svg(draw, (8.4, 1.2 + 0.34 * len(counted)))


def _svg(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # The salt makes the same plot the same text, run after run; text stays text, dollar signs too.
    settings = {"svg.hashsalt": "uniner", "svg.fonttype": "none", "font.family": "sans-serif"}
    with rc_context({**settings, "text.parse_math": False}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
    svg = sink.getvalue()
    return svg[svg.index("<svg") :]
