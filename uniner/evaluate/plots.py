"""The leaderboard's plots as SVG text: F1 in per cent by protocol strict, ours with 95 % intervals."""

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from uniner.evaluate.leaderboard import LeaderboardRow, LeaderboardTable, ScoresBySystem
from uniner.evaluate.scoring import DatasetScores
from uniner.metrics.counts import Counts, F1Score
from uniner.storage.manifest import merge

COLOURS = ("#33658a", "#d1495b", "#3a7d44", "#8e6c8a", "#e09f3e", "#2a9d8f", "#6d597a", "#444444")
MIN_GOLD = 20
"""Gold mentions that a type needs to be among the best and worst types."""
_PUBLISHED_MARKERS = {"UniNER-7B": "o", "ChatGPT": "s"}
_BEST_TYPES = 8


class LengthF1(NamedTuple):
    """The strict F1 (0 to 1) of passages of some length, named by its words."""

    name: str
    f1: float


def plot_columns(table: LeaderboardTable, colours: Mapping[str, str]) -> str:
    """Return our systems' F1 by the table's columns, with published values of the same columns."""
    ours = [row for row in table.rows if row.ours and row.protocol == "strict"]
    columns = [name for name in table.columns if any(name in row.cells for row in ours)]
    if not columns:
        return ""
    published = _published_to_plot(table, columns)

    def draw(axes: Any) -> None:
        for number, row in enumerate(ours):
            shift = (number - (len(ours) - 1) / 2) * 0.6 / max(1, len(ours))
            _plot_intervals(axes, row, columns, shift, colours[row.system])
        for row in published:
            points = [(row.cells[name].f1, y) for y, name in enumerate(columns) if name in row.cells]
            marker = _PUBLISHED_MARKERS[row.system]
            axes.scatter(*zip(*points, strict=True), marker=marker, s=34, facecolors="none",
                         edgecolors="#777", linewidths=1.1, label=f"{row.system} ({row.source})")  # fmt: skip
        axes.set_yticks(range(len(columns)), [table.columns[name] for name in columns])
        axes.set_ylim(len(columns) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("F1")

    return _svg(draw, (8.4, 1.5 + 0.32 * len(columns)))


def _plot_intervals(
    axes: Any, row: LeaderboardRow, columns: Sequence[str], shift: float, colour: str
) -> None:
    points = [(y + shift, row.cells[name]) for y, name in enumerate(columns) if name in row.cells]
    errors = [
        [0 if cell.low is None else max(0.0, cell.f1 - cell.low) for _, cell in points],
        [0 if cell.high is None else max(0.0, cell.high - cell.f1) for _, cell in points],
    ]
    axes.errorbar([cell.f1 for _, cell in points], [y for y, _ in points], xerr=errors, fmt="D",
                  markersize=4.5, color=colour, elinewidth=1.6, capsize=2.5, label=row.system)  # fmt: skip


def _published_to_plot(table: LeaderboardTable, columns: Sequence[str]) -> list[LeaderboardRow]:
    """Return the published rows to plot: by the paper's protocol, one for each system."""
    rows: dict[str, LeaderboardRow] = {}
    for row in table.rows:
        # Without the headline, which is 1.0 above the others and has no cells to average.
        if row.system in _PUBLISHED_MARKERS and row.protocol == "uniner" and row.average is not None:
            rows[row.system] = row
    return [row for row in rows.values() if any(name in row.cells for name in columns)]


def system_colours(systems: Iterable[str]) -> dict[str, str]:
    """Return a colour for each system, the same in all plots."""
    return {system: COLOURS[number % len(COLOURS)] for number, system in enumerate(systems)}


def plot_types(scores: Mapping[str, F1Score]) -> str:
    """Return the best and the worst of the types with enough gold mentions, with F1 and gold mentions."""
    types = sorted(
        (
            (score.f1 * 100, name, int(score.tp + score.fn))
            for name, score in scores.items()
            if score.tp + score.fn >= MIN_GOLD
        ),
        reverse=True,
    )
    if not types:
        return ""
    shown = types if len(types) <= 2 * _BEST_TYPES else [*types[:_BEST_TYPES], *types[-_BEST_TYPES:]]

    def draw(axes: Any) -> None:
        best = min(_BEST_TYPES, (len(shown) + 1) // 2)
        colours = [COLOURS[0] if number < best else COLOURS[1] for number in range(len(shown))]
        axes.barh(range(len(shown)), [f1 for f1, _, _ in shown], color=colours, height=0.7)
        axes.set_yticks(range(len(shown)), [name for _, name, _ in shown])
        for y, (f1, _, gold) in enumerate(shown):
            axes.text(f1 + 0.8, y, f"{f1:.1f} ({gold:,} gold)", va="center", fontsize=7.5, color="#555")
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(0, 115)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("F1")

    return _svg(draw, (8.4, 0.8 + 0.24 * len(shown)))


def plot_lengths(scores: ScoresBySystem, colours: Mapping[str, str]) -> str:
    """Return our systems' F1 by words of the passage, over the counts of all data sets."""
    lines = {system: _f1_by_length(by_dataset) for system, by_dataset in scores.items()}
    names = sorted({start: length.name for line in lines.values() for start, length in line.items()}.items())
    if not names:
        return ""

    def draw(axes: Any) -> None:
        for system, line in lines.items():
            points = [(x, 100 * line[start].f1) for x, (start, _) in enumerate(names) if start in line]
            if points:
                axes.plot(*zip(*points, strict=True), marker="D", markersize=4.5,
                          color=colours[system], label=system)  # fmt: skip
        axes.set_xticks(range(len(names)), [name for _, name in names])
        axes.set_xlabel("words of the passage")
        axes.set_ylabel("F1")
        axes.set_ylim(0, 100)

    return _svg(draw, (8.4, 3.1))


def _f1_by_length(scores: Mapping[str, DatasetScores]) -> dict[int, LengthF1]:
    """Return the strict F1 by the shortest length, in words, of each class of lengths."""
    counts: defaultdict[int, Counts] = defaultdict(Counts)
    names: dict[int, str] = {}
    for dataset_scores in scores.values():
        for length in dataset_scores.by_length:
            start, end = length.words
            names[start] = f"{start}+" if end is None else f"{start}-{end}"
            counts[start] += Counts(length.tp, length.fp, length.fn)
    return {start: LengthF1(names[start], total.f1) for start, total in counts.items()}


def plot_mistakes(scores: ScoresBySystem, side: Literal["wrong", "missed"]) -> str:
    """Return the number of wrong or of missed mentions by system and kind of mistake."""
    by_system = {
        system: merge(getattr(dataset_scores.errors, side) for dataset_scores in by_dataset.values())
        for system, by_dataset in scores.items()
    }
    kinds = sorted({kind for counts in by_system.values() for kind in counts})
    if not kinds:
        return ""

    def draw(axes: Any) -> None:
        left = [0.0] * len(by_system)
        for number, kind in enumerate(kinds):
            widths = [counts.get(kind, 0) for counts in by_system.values()]
            axes.barh(range(len(by_system)), widths, left=left, height=0.6, label=kind.replace("_", " "),
                      color=COLOURS[number % len(COLOURS)])  # fmt: skip
            left = [sum(pair) for pair in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(by_system)), list(by_system))
        axes.set_ylim(len(by_system) - 0.5, -0.5)
        axes.set_xlabel(f"{side} mentions")

    return _svg(draw, (8.4, 1.2 + 0.34 * len(by_system)))


def _svg(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # The salt makes a plot's text the same in each run. Text stays text, also with dollar signs.
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
