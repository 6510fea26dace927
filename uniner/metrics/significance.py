"""How sure a score is, and whether two systems differ: resampling of passages. Pure.

Passages with the same counts are alike to a score, so a resample is a draw of how many of each kind of
passage it has (multinomial), and a swap of two systems how many of each kind change sides (binomial): the
same distributions as of drawing passages one by one, in a small part of the time and without the passages.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

RESAMPLES = 1_000
SWAPS = 9_999
LEVEL = 0.95
_SEED = 20_240_119
_BLOCK = 500

Kinds = Mapping[Any, int]
"""Counts of a passage, (tp, fp, fn) or those of two systems in a row, and how many passages have them."""


def interval(kinds: Kinds, by_passage: bool = False) -> list[float]:
    """Return the 95 % percentile bootstrap interval of F1: [low, high].

    by_passage: of the mean of the passages' F1 instead of the micro-average.
    """
    values, many = _laid_out(kinds)
    if not len(many):
        return [0.0, 0.0]
    weights = np.random.default_rng(_SEED).multinomial(many.sum(), many / many.sum(), RESAMPLES)
    return _interval(_mean_f1(weights, values) if by_passage else _f1(weights @ values))


def compare(first: pa.Table, second: pa.Table) -> dict[str, dict[str, Any]]:
    """Compare two systems' passages (`score.PASSAGE_COUNTS`), data set by data set, and on average.

    Returns, for each data set and for "average" where there are several, difference (F1 of the first less
    that of the second), interval (95 %, paired bootstrap over passages), p (two-sided, approximate
    randomisation: how often systems whose answers to a passage change sides by chance differ as much), and
    passages.

    Raises:
        ValueError: where the two were not asked the same questions.
    """
    one, two = _by_dataset(first), _by_dataset(second)
    if one.keys() != two.keys():
        raise ValueError(f"the data sets differ: {sorted(one)} and {sorted(two)}")
    found: dict[str, dict[str, Any]] = {}
    all_resampled, all_swapped, all_differences = [], [], []
    for number, name in enumerate(sorted(one)):
        values, many = _laid_out(_pairs(name, one[name], two[name]))
        chance = np.random.default_rng([_SEED, number])
        resampled = _resampled(values, many, chance)
        swapped = _swapped(values, many, chance)
        difference = float(_difference(many[None] @ values)[0])
        found[name] = _comparison(difference, resampled, swapped, int(many.sum()))
        all_resampled.append(resampled)
        all_swapped.append(swapped)
        all_differences.append(difference)
    if len(found) > 1:
        found["average"] = _comparison(
            float(np.mean(all_differences)),
            np.mean(all_resampled, axis=0),
            np.mean(all_swapped, axis=0),
            sum(one["passages"] for one in found.values()),
        )
    return found


def against_first(passages: Mapping[str, pa.Table]) -> dict[str, dict[str, dict[str, Any]]]:
    """Compare each system with the first, on the data sets that both answered (`compare`).

    passages: by system. A system that shares no data set with the first has nothing.

    Raises:
        ValueError: where two were not asked the same questions.
    """
    found = {}
    for name, table in list(passages.items())[1:]:
        base = next(iter(passages.values()))
        both = [
            one.filter(pc.is_in(one.column("dataset"), other.column("dataset").unique()))
            for one, other in ((table, base), (base, table))
        ]
        found[name] = compare(*both)
    return found


def said(first: str, second: str, comparison: Mapping[str, Any]) -> str:
    """Return a comparison as a line: `student - base +0.730 [0.700, 0.760], p < 0.001`."""
    low, high = comparison["interval"]
    p = comparison["p"]
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{first} - {second} {comparison['difference']:+.3f} [{low:+.3f}, {high:+.3f}], {chance}"


def lines(first: str, compared: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yield a line a comparison with the first system (`against_first`): `student - base ... on news`."""
    for system, found in compared.items():
        for dataset, comparison in found.items():
            where = "average over the data sets of both" if dataset == "average" else dataset
            yield f"{said(system, first, comparison)} on {where}"


def _comparison(difference: float, resampled: Any, swapped: Any, passages: int) -> dict[str, Any]:
    # A hair off, as sums of floats: equal differences must count as "as much".
    as_much = int((np.abs(swapped) >= abs(difference) - 1e-12).sum())
    return {
        "difference": round(difference, 12),
        "interval": _interval(resampled),
        "p": (1 + as_much) / (1 + len(swapped)),
        "passages": passages,
    }


def _by_dataset(table: pa.Table) -> dict[str, pa.Table]:
    names = table.column("dataset").unique().to_pylist()
    return {name: table.filter(pc.equal(table.column("dataset"), name)) for name in names}


def _pairs(name: str, one: pa.Table, two: pa.Table) -> Kinds:
    """Count the passages by both systems' counts."""
    columns = ("tp", "fp", "fn")
    ours, theirs = (np.stack([table.column(each).to_numpy() for each in columns], 1) for table in (one, two))
    same = one.column("passage_id").equals(two.column("passage_id"))
    if not same or ((ours[:, 0] + ours[:, 2]) != (theirs[:, 0] + theirs[:, 2])).any():
        raise ValueError(f"the two systems were not asked the same questions of {name}")
    return Counter(map(tuple, np.concatenate([ours, theirs], 1).tolist()))


def _laid_out(kinds: Kinds) -> tuple[Any, Any]:
    """Return the kinds' counts, a row each, and how many passages each has; in an order of their own."""
    ordered = sorted(kinds.items())
    return np.array([kind for kind, _ in ordered], float), np.array([many for _, many in ordered], np.int64)


def _resampled(values: Any, many: Any, chance: np.random.Generator) -> Any:
    weights = chance.multinomial(many.sum(), many / many.sum(), RESAMPLES)
    return _difference(weights @ values)


def _swapped(values: Any, many: Any, chance: np.random.Generator) -> Any:
    """Return the differences after each passage's counts changed sides with a chance of a half."""
    turned = values[:, [3, 4, 5, 0, 1, 2]] - values
    total = many @ values
    differ = turned.any(1)  # where both have the same counts a swap changes nothing
    turned, many = turned[differ], many[differ]
    blocks = [
        _difference(total + chance.binomial(many, 0.5, (size, len(many))) @ turned)
        for size in [_BLOCK] * (SWAPS // _BLOCK) + [SWAPS % _BLOCK]
    ]
    return np.concatenate(blocks)


def _difference(sums: Any) -> Any:
    return _f1(sums[:, :3]) - _f1(sums[:, 3:])


def _f1(sums: Any) -> Any:
    """Return F1 of rows of tp, fp, fn; 0 where there is nothing."""
    whole = 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]
    return 2 * sums[:, 0] / np.where(whole, whole, 1)


def _mean_f1(weights: Any, values: Any) -> Any:
    """Return the weighted means of the kinds' F1, without those that have nothing to score."""
    scored = values.sum(1) > 0
    kept = weights[:, scored]
    return (kept @ _f1(values[scored])) / np.maximum(kept.sum(1), 1)


def _interval(values: Any) -> list[float]:
    ends = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [round(float(end), 6) for end in ends]
