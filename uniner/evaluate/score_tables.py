"""Boards and scores as flat tables, for people's own plots: a row a number. F1 and shares are in per cent."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from uniner.evaluate.leaderboard import Board, Cell, Scores
from uniner.gold.catalogue import catalogue

_string, _number, _count = pa.string(), pa.float64(), pa.int64()
CELLS = pa.schema(
    {
        "board": _string,
        "system": _string,
        "ours": pa.bool_(),
        "protocol": _string,
        "source": _string,
        "column": _string,
        "f1": _number,
        "low": _number,
        "high": _number,
        "over": _count,
        "of": _count,
    }
)
"""A cell of a board. column: a data set, domain, `average`, or `average of the cells` of a published row."""
FIGURES = pa.schema(
    {
        "system": _string,
        "dataset": _string,
        "domain": _string,
        "protocol": _string,
        "by": _string,
        "value": _string,
        **dict.fromkeys(("f1", "low", "high", "precision", "recall", "tp", "fp", "fn"), _number),
        **dict.fromkeys(("passages", "questions", "broken"), _count),
    }
)
"""by: data set, type (its name in value) or length (words of a passage, from-to); null: not known."""


def cells(boards: Iterable[Board]) -> pa.Table:
    """Return all cells of the boards (CELLS)."""
    rows = []
    for board in boards:
        for row in board.rows:
            named: dict[str, Cell | None] = {**row.cells, "average": row.shown}
            if row.stated is not None:
                named["average of the cells"] = row.average
            about = {
                "board": board.name,
                "system": row.system,
                "ours": row.ours,
                "protocol": row.protocol,
                "source": row.source,
            }
            rows += [
                {**about, "column": column, **vars(cell)}
                for column, cell in named.items()
                if cell is not None
            ]
    return pa.Table.from_pylist(rows, schema=CELLS)


def figures(scores: Scores) -> pa.Table:
    """Return all our scores (FIGURES): by data set and protocol, and of strict by type and by length."""
    known = catalogue()
    rows = []
    for system, datasets in scores.items():
        for dataset, found in datasets.items():
            domain = known[dataset].domain if dataset in known else None
            about = {"system": system, "dataset": dataset, "domain": domain}
            rows += [{**about, **row} for row in _figures(found)]
    return pa.Table.from_pylist(rows, schema=FIGURES)


def _figures(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for protocol, one in found["protocols"].items():
        yield {"protocol": protocol, "by": "data set", "passages": found["passages"], **_in_percent(one)}
    for name, one in found["types"].items():
        yield {"protocol": "strict", "by": "type", "value": name, **_in_percent(one)}
    for one in found["by_length"]:
        start, end = one["words"]
        words = f"{start}-{'' if end is None else end}"
        row = {"protocol": "strict", "by": "length", "value": words, "passages": one["passages"]}
        yield {**row, **_in_percent(one)}


def _in_percent(one: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: one[name] for name in ("tp", "fp", "fn", "questions", "broken") if name in one}
    shares = {name: 100 * one[name] for name in ("f1", "precision", "recall")}
    low, high = one.get("interval", (None, None))
    bounds = {} if low is None else {"low": 100 * low, "high": 100 * high}
    return {**shares, **bounds, **counts}
