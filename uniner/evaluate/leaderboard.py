"""The leaderboard: our scores beside the published ones, board by board. Pure.

F1 is in per cent. An empty cell stays empty, and an average says over how many data sets it is. The
interval of an average takes the data sets as independent: the distances of their bounds add up as squares.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from uniner.evaluate.published import Published, protocols, published
from uniner.gold.catalogue import DOMAINS, catalogue, group_members

OURS = ("strict", "released", "partial", "span")
"""Our protocols that stand on the boards; `released` is strict as the published scorer counts it."""
Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""System to data set to its figures, those of `evaluate.score`."""
_BESIDE = {"strict": "strict", "released": "strict", "partial": "partial", "span": "span"}
_TITLES = {
    "zero-shot-7": "Zero-shot: the 7 data sets out of domain",
    "supervised-20": "Supervised: the 20 data sets",
    "all": "The benchmark: 49 test splits of 43 data sets",
}


@dataclass(frozen=True)
class Cell:
    """An F1 with its 95 % interval where it is known, and over how many data sets of how many it is."""

    f1: float
    low: float | None = None
    high: float | None = None
    over: int = 1
    of: int = 1


@dataclass(frozen=True)
class Row:
    """A system by one protocol. beside: the protocol of ours that the row compares with, "" for none.

    stated: a published row's average as published; `average` is then the mean of its cells, if it has any.
    """

    system: str
    ours: bool
    protocol: str
    beside: str
    source: str
    cells: Mapping[str, Cell]
    average: Cell | None
    stated: float | None = None
    note: str = ""

    @property
    def shown(self) -> Cell | None:
        """The average to show: as published where it is stated."""
        return self.average if self.stated is None else Cell(self.stated)

    @property
    def is_complete(self) -> bool:
        """Whether no data set is missing."""
        return self.stated is not None or (self.average is not None and self.average.over == self.average.of)


@dataclass(frozen=True)
class Board:
    """Rows over the same columns, the names of data sets or domains with what heads them; notes below."""

    name: str
    title: str
    columns: Mapping[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def boards(scores: Scores) -> list[Board]:
    """Set our scores (system, data set, figures of `evaluate.score`) beside the published rows."""
    known = catalogue()
    found = [
        _of_group("zero-shot-7", scores),
        _of_group("supervised-20", scores),
        _of_group("all", scores),
        _by_domain(scores),
    ]
    others = sorted({dataset for datasets in scores.values() for dataset in datasets if dataset not in known})
    if others:
        columns = {name: name for name in others}
        rows = _ranked(_our_rows(scores, columns))
        found.append(Board("others", "Data sets that are not of the benchmark", columns, rows))
    return found


def statements(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what every protocol on the boards means, ours by `evaluate.protocols` and the published ones."""
    return {
        **{name: ours[name] for name in OURS if name in ours},
        **{name: protocol.means for name, protocol in protocols().items()},
    }


def mean(cells: Sequence[Cell], of: int) -> Cell | None:
    """Return the average of cells, of which there should be `of`; None of none."""
    if not cells:
        return None
    f1 = math.fsum(cell.f1 for cell in cells) / len(cells)
    below = [cell.f1 - cell.low for cell in cells if cell.low is not None]
    above = [cell.high - cell.f1 for cell in cells if cell.high is not None]
    if not len(below) == len(above) == len(cells):
        return Cell(f1, None, None, len(cells), of)
    return Cell(
        f1, f1 - math.hypot(*below) / len(cells), f1 + math.hypot(*above) / len(cells), len(cells), of
    )


def _of_group(group: Any, scores: Scores) -> Board:
    columns = _columns(group)
    theirs = [_published_row(row, columns) for row in published() if _belongs(row, group, columns)]
    rows = _ranked([*theirs, *_our_rows(scores, columns)])
    return Board(group, _TITLES[group], columns, rows, (*_table_notes(theirs), *_size_notes(scores, columns)))


def _columns(group: Any) -> dict[str, str]:
    """Return the titles of a group's data sets by name, in the order of the first table that has them all."""
    titles = {one.name: one.title for one in group_members(group)}
    orders = (row.f1 for row in published() if row.f1.keys() == titles.keys())
    return {name: titles[name] for name in next(orders, titles)}


def _belongs(row: Published, group: str, columns: Mapping[str, str]) -> bool:
    """Tell whether a published row is of the group's data sets; of the zero-shot ones it may lack some."""
    return row.f1.keys() == columns.keys() or (
        group == "zero-shot-7" and bool(row.f1) and row.f1.keys() <= columns.keys()
    )


def _published_row(row: Published, columns: Mapping[str, str]) -> Row:
    cells = {name: Cell(row.f1[name]) for name in columns if name in row.f1}
    beside = protocols()[row.protocol].ours
    average = mean(list(cells.values()), len(columns))
    return Row(row.system, False, row.protocol, beside, row.table, cells, average, row.average, row.note)


def _our_rows(scores: Scores, columns: Mapping[str, str]) -> list[Row]:
    """Return our systems' rows by each protocol; none of a system that has no data set of the columns."""
    rows = []
    for protocol in OURS:
        for system, datasets in scores.items():
            cells = {
                name: cell
                for name in columns
                if name in datasets and (cell := _our_cell(datasets[name], protocol)) is not None
            }
            if cells:
                average = mean(list(cells.values()), len(columns))
                rows.append(Row(system, True, protocol, _BESIDE[protocol], "this run", cells, average))
    return rows


def _our_cell(found: Mapping[str, Any], protocol: str) -> Cell | None:
    figures = found["protocols"].get(protocol)
    if figures is None:
        return None
    low, high = figures["interval"]
    return Cell(100 * figures["f1"], 100 * low, 100 * high)


def _by_domain(scores: Scores) -> Board:
    """Return domains' averages: the headline as published, and Figure 9's and our data sets' means."""
    columns = {domain: domain for domain in DOMAINS}
    rows = [_headline(row) for row in published() if row.domains]
    for row in _of_group("all", scores).rows:
        cells = {
            domain: cell
            for domain in columns
            if (cell := mean([row.cells[name] for name in _of_domain(domain) if name in row.cells],
                             len(_of_domain(domain)))) is not None
        }  # fmt: skip
        rows.append(replace(row, cells=cells))
    notes = ("a domain's value and the average are means over its, and all, data sets", *_table_notes(rows))
    return Board("domains", "The benchmark by domain", columns, _ranked(rows), notes)


def _of_domain(domain: str) -> list[str]:
    return [one.name for one in group_members("all") if one.domain == domain]


def _headline(row: Published) -> Row:
    cells = {domain: Cell(f1) for domain, f1 in row.domains.items()}
    source = f"{row.table}, {row.offset:+.1f}" if row.offset else row.table
    beside = protocols()[row.protocol].ours
    return Row(row.system, False, row.protocol, beside, source, cells, None, row.average, row.note)


def _ranked(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Put rows that compare with each other together, the best average first, those with empty cells last."""
    order = ["strict", "partial", "span", ""]
    return tuple(
        sorted(
            rows,
            key=lambda row: (
                order.index(row.beside),
                not row.is_complete,
                -(row.shown.f1 if row.shown else 0.0),
            ),
        )
    )


def _table_notes(rows: Iterable[Row]) -> list[str]:
    """Say what is to be known of published tables, and where a stated average is not its cells' mean."""
    notes = list(dict.fromkeys(f"{row.source}: {row.note}" for row in rows if row.note))
    for row in rows:
        # Cells and average are rounded to a tenth each, or finer.
        if row.stated is not None and row.average and abs(row.stated - row.average.f1) > 0.1:
            notes.append(f"{row.source}: {row.system}'s average is {row.average.f1:.2f} by its own cells")
    return notes


def _size_notes(scores: Scores, columns: Mapping[str, str]) -> list[str]:
    """Say where a test split is not of the paper's size, so that it is not the paper's either."""
    known = catalogue()
    sizes: dict[str, int] = {}
    for datasets in scores.values():
        sizes.update({name: found["passages"] for name, found in datasets.items() if name in columns})
    differing = [
        f"{columns[name]} {sizes[name]:,} passages ({known[name].sizes[2]:,})"
        for name in columns
        if name in sizes and sizes[name] != known[name].sizes[2]
    ]
    if not differing:
        return []
    return [f"other numbers of passages here than the paper's (in brackets): {', '.join(differing)}"]
