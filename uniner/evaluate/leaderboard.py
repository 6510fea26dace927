"""The leaderboard: our scores beside the published ones, in several tables. Pure.

F1 is in per cent. A data set without a score stays empty, and an average says how many data sets it is over.
The interval of an average assumes independent data sets: the distances of their bounds add up as squares.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from uniner.config.schema import Group
from uniner.evaluate.published import PublishedRow, published_protocols, published_rows
from uniner.evaluate.scoring import DatasetScores
from uniner.gold.catalogue import DOMAINS, catalogue, group_members

OUR_PROTOCOLS = {
    "strict": "strict",
    "released": "strict",
    "partial": "partial",
    "span": "span",
    "paraphrase": "",
}
"""Our protocols on the leaderboard, each with the protocol whose rows it compares with. `released` is strict
as the published scorer counts it."""
ScoresBySystem = Mapping[str, Mapping[str, DatasetScores]]
"""Scores by system and data set."""
_TITLES: dict[Group, str] = {
    "zero-shot-7": "Zero-shot: the 7 data sets out of domain",
    "supervised-20": "Supervised: the 20 data sets",
    "all": "The benchmark: 49 test splits of 43 data sets",
}


@dataclass(frozen=True)
class LeaderboardCell:
    """An F1 with its 95 % interval where it is known. over, of: data sets averaged, and all there are."""

    f1: float
    low: float | None = None
    high: float | None = None
    over: int = 1
    of: int = 1


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """A system by one protocol.

    compares_with: our protocol that the row compares with ("": none). average: the mean of the row's cells.
    stated: a published row's average as published.
    """

    system: str
    ours: bool
    protocol: str
    compares_with: str
    source: str
    cells: Mapping[str, LeaderboardCell]
    average: LeaderboardCell | None
    stated: float | None = None
    note: str = ""

    @property
    def shown(self) -> LeaderboardCell | None:
        """The average to show: the stated one if there is one."""
        return self.average if self.stated is None else LeaderboardCell(self.stated)

    @property
    def is_complete(self) -> bool:
        """Whether no data set is missing."""
        return self.stated is not None or (self.average is not None and self.average.over == self.average.of)


@dataclass(frozen=True, kw_only=True)
class LeaderboardTable:
    """Rows over the same columns: data sets or domains by name, with their titles. notes: shown below."""

    name: str
    title: str
    columns: Mapping[str, str]
    rows: tuple[LeaderboardRow, ...]
    notes: tuple[str, ...] = ()


def leaderboard_tables(scores: ScoresBySystem) -> list[LeaderboardTable]:
    """Return all tables: our scores with the published rows of the same data sets."""
    tables = [*(_group_table(group, scores) for group in _TITLES), _domain_table(scores)]
    known = catalogue()
    others = sorted({name for by_dataset in scores.values() for name in by_dataset if name not in known})
    if others:
        columns = {name: name for name in others}
        rows = _ranked(_our_rows(scores, columns))
        title = "Data sets outside the benchmark"
        tables.append(LeaderboardTable(name="others", title=title, columns=columns, rows=rows))
    return tables


def protocol_statements(ours: Mapping[str, str]) -> dict[str, str]:
    """Return the statement of every protocol shown: `ours` (`metrics.protocols`), then the published ones."""
    published = {name: protocol.means for name, protocol in published_protocols().items()}
    return {**{name: ours[name] for name in OUR_PROTOCOLS if name in ours}, **published}


def mean_cell(cells: Sequence[LeaderboardCell], of: int) -> LeaderboardCell | None:
    """Return the average of the cells that exist out of `of`; None without cells."""
    if not cells:
        return None
    over = len(cells)
    f1 = math.fsum(cell.f1 for cell in cells) / over
    below = [cell.f1 - cell.low for cell in cells if cell.low is not None]
    above = [cell.high - cell.f1 for cell in cells if cell.high is not None]
    if not len(below) == len(above) == over:
        return LeaderboardCell(f1, over=over, of=of)
    return LeaderboardCell(f1, f1 - math.hypot(*below) / over, f1 + math.hypot(*above) / over, over, of)


def _group_table(group: Group, scores: ScoresBySystem) -> LeaderboardTable:
    titles = {dataset.name: dataset.title for dataset in group_members(group)}
    # In the order of the first published table with all data sets.
    orders = (row.f1 for row in published_rows() if row.f1.keys() == titles.keys())
    columns = {name: titles[name] for name in next(orders, titles)}
    published = [
        _published_row(row, columns) for row in published_rows() if _belongs(row, group, columns.keys())
    ]
    return LeaderboardTable(
        name=group,
        title=_TITLES[group],
        columns=columns,
        rows=_ranked([*published, *_our_rows(scores, columns)]),
        notes=(*_table_notes(published), *_size_notes(scores, columns)),
    )


def _belongs(row: PublishedRow, group: Group, names: Iterable[str]) -> bool:
    """Return whether a published row is over the group's data sets; zero-shot rows may lack some."""
    datasets = {*names}
    return row.f1.keys() == datasets or (
        group == "zero-shot-7" and bool(row.f1) and row.f1.keys() <= datasets
    )


def _published_row(row: PublishedRow, columns: Mapping[str, str]) -> LeaderboardRow:
    cells = {name: LeaderboardCell(row.f1[name]) for name in columns if name in row.f1}
    return LeaderboardRow(
        system=row.system,
        ours=False,
        protocol=row.protocol,
        compares_with=published_protocols()[row.protocol].ours,
        source=row.table,
        cells=cells,
        average=mean_cell(list(cells.values()), len(columns)),
        stated=row.average,
        note=row.note,
    )


def _our_rows(scores: ScoresBySystem, columns: Mapping[str, str]) -> list[LeaderboardRow]:
    """Return our systems' rows by each protocol, without systems that have none of the columns."""
    rows = []
    for protocol, compares_with in OUR_PROTOCOLS.items():
        for system, by_dataset in scores.items():
            cells = {
                name: _our_cell(by_dataset[name], protocol)
                for name in columns
                if name in by_dataset and protocol in by_dataset[name].protocols
            }
            if cells:
                row = LeaderboardRow(
                    system=system,
                    ours=True,
                    protocol=protocol,
                    compares_with=compares_with,
                    source="this run",
                    cells=cells,
                    average=mean_cell(list(cells.values()), len(columns)),
                )
                rows.append(row)
    return rows


def _our_cell(scores: DatasetScores, protocol: str) -> LeaderboardCell:
    score = scores.protocols[protocol]
    low, high = score.interval
    return LeaderboardCell(100 * score.f1, 100 * low, 100 * high)


def _domain_table(scores: ScoresBySystem) -> LeaderboardTable:
    """Return averages by domain: the headline as published, and the means of Figure 9's and our data sets."""
    datasets = {
        domain: [dataset.name for dataset in group_members("all") if dataset.domain == domain]
        for domain in DOMAINS
    }
    rows = [_headline_row(row) for row in published_rows() if row.domains]
    for row in _group_table("all", scores).rows:
        means = {
            domain: mean_cell([row.cells[name] for name in names if name in row.cells], len(names))
            for domain, names in datasets.items()
        }
        rows.append(replace(row, cells={domain: cell for domain, cell in means.items() if cell is not None}))
    notes = ("a domain's value is the mean over its data sets, the average the mean over all data sets",)
    return LeaderboardTable(
        name="domains",
        title="The benchmark by domain",
        columns={domain: domain for domain in DOMAINS},
        rows=_ranked(rows),
        notes=(*notes, *_table_notes(rows)),
    )


def _headline_row(row: PublishedRow) -> LeaderboardRow:
    return replace(
        _published_row(row, {}),
        source=f"{row.table}, {row.offset:+.1f}" if row.offset else row.table,
        cells={domain: LeaderboardCell(f1) for domain, f1 in row.domains.items()},
    )


def _ranked(rows: Iterable[LeaderboardRow]) -> tuple[LeaderboardRow, ...]:
    """Group rows that compare with each other, the best average first, incomplete rows last."""
    order = ["strict", "partial", "span", ""]

    def rank(row: LeaderboardRow) -> tuple[int, bool, float]:
        f1 = row.shown.f1 if row.shown else 0.0
        return order.index(row.compares_with), not row.is_complete, -f1

    return tuple(sorted(rows, key=rank))


def _table_notes(rows: Iterable[LeaderboardRow]) -> list[str]:
    """Return the notes on published tables, and where a stated average is not the mean of its cells."""
    notes = list(dict.fromkeys(f"{row.source}: {row.note}" for row in rows if row.note))
    for row in rows:
        # Cells and average are rounded to a tenth or finer.
        if row.stated is not None and row.average and abs(row.stated - row.average.f1) > 0.1:
            notes.append(f"{row.source}: {row.system}'s average is {row.average.f1:.2f} by its own cells")
    return notes


def _size_notes(scores: ScoresBySystem, columns: Mapping[str, str]) -> list[str]:
    """Return where a test split has another size than the paper's, so that it is another split."""
    known = catalogue()
    sizes: dict[str, int] = {}
    for by_dataset in scores.values():
        sizes.update({name: by_dataset[name].passages for name in columns if name in by_dataset})
    differing = [
        f"{columns[name]} {sizes[name]:,} passages ({known[name].sizes[2]:,})"
        for name in columns
        if name in sizes and sizes[name] != known[name].sizes[2]
    ]
    if not differing:
        return []
    return [f"numbers of passages that differ from the paper's (in brackets): {', '.join(differing)}"]
