"""Confidence intervals of scores and significance of differences, by resampling passages. Pure.

A score does not tell passages with the same counts apart. So a resample draws how many passages of each kind
there are (multinomial), and a swap of two systems draws how many of each kind change sides (binomial). The
distributions are those of drawing passage by passage, which `scipy.stats.bootstrap` and `permutation_test`
do, in a small part of the time and memory.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

RESAMPLES = 1_000
SWAPS = 9_999
LEVEL = 0.95
_SEED = 20_240_119
_BLOCK = 500

PassageKinds = Mapping[Any, int]
"""Number of passages by their counts: (tp, fp, fn), or those of two systems in a row."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference in F1 of two systems on the same passages.

    difference: F1 of the first less F1 of the second. interval: 95 %, paired bootstrap over passages. p:
    two-sided, approximate randomisation: how often swapping the two systems' answers to random passages gives
    at least this difference.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    passages: int


@dataclass(frozen=True, kw_only=True)
class PairedF1:
    """Two F1 of the same passages and their difference, first less second, with 95 % intervals."""

    first: float
    first_interval: tuple[float, float]
    second: float
    second_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]


def paired_f1(kinds: PassageKinds) -> PairedF1:
    """Return two micro-averaged F1 and their difference by a paired bootstrap over passages.

    kinds: number of passages by (tp, fp, fn) of the first and of the second in a row.
    """
    values, sizes = _as_arrays(kinds)
    weights = np.random.default_rng(_SEED).multinomial(sizes.sum(), sizes / sizes.sum(), RESAMPLES)
    resampled, total = weights @ values, sizes[None] @ values
    first, second = (float(_f1(total[:, side])[0]) for side in (slice(0, 3), slice(3, 6)))
    return PairedF1(
        first=round(first, 12),
        first_interval=_percentile_interval(_f1(resampled[:, :3])),
        second=round(second, 12),
        second_interval=_percentile_interval(_f1(resampled[:, 3:])),
        difference=round(first - second, 12),
        difference_interval=_percentile_interval(_difference(resampled)),
    )


def bootstrap_interval(kinds: PassageKinds, by_passage: bool = False) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of F1: low, high.

    by_passage: of the mean of the passages' F1 instead of the micro-average.
    """
    values, sizes = _as_arrays(kinds)
    if not len(sizes):
        return 0.0, 0.0
    weights = np.random.default_rng(_SEED).multinomial(sizes.sum(), sizes / sizes.sum(), RESAMPLES)
    return _percentile_interval(_mean_f1(weights, values) if by_passage else _f1(weights @ values))


def compare_systems(first: pa.Table, second: pa.Table) -> dict[str, Comparison]:
    """Compare two systems' passages (`evaluate.scoring.PASSAGE_COUNTS`) by data set.

    Where there are several data sets, "average" compares the means over them.

    Raises:
        ValueError: where the two systems answered different questions.
    """
    ours, theirs = _by_dataset(first), _by_dataset(second)
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"cannot compare systems on different data sets: {sorted(ours)} and {sorted(theirs)}"
        )
    comparisons: dict[str, Comparison] = {}
    all_resampled, all_swapped, all_differences = [], [], []
    for number, name in enumerate(sorted(ours)):
        values, sizes = _as_arrays(_paired_kinds(name, ours[name], theirs[name]))
        generator = np.random.default_rng([_SEED, number])
        weights = generator.multinomial(sizes.sum(), sizes / sizes.sum(), RESAMPLES)
        resampled = _difference(weights @ values)
        swapped = _swapped_differences(values, sizes, generator)
        difference = float(_difference(sizes[None] @ values)[0])
        comparisons[name] = _comparison(difference, resampled, swapped, int(sizes.sum()))
        all_resampled.append(resampled)
        all_swapped.append(swapped)
        all_differences.append(difference)
    if len(comparisons) > 1:
        comparisons["average"] = _comparison(
            float(np.mean(all_differences)),
            np.mean(all_resampled, axis=0),
            np.mean(all_swapped, axis=0),
            sum(comparison.passages for comparison in comparisons.values()),
        )
    return comparisons


def compare_with_first(passages: Mapping[str, pa.Table]) -> dict[str, dict[str, Comparison]]:
    """Compare each system with the first, on the data sets that both answered (`compare_systems`).

    passages: by system. A system without a data set in common with the first gets an empty dictionary.

    Raises:
        ValueError: where two systems answered different questions.
    """
    comparisons = {}
    for name, table in list(passages.items())[1:]:
        first = next(iter(passages.values()))
        shared = [
            kept.filter(pc.is_in(kept.column("dataset"), other.column("dataset").unique()))
            for kept, other in ((table, first), (first, table))
        ]
        comparisons[name] = compare_systems(*shared)
    return comparisons


def describe_comparison(first: str, second: str, comparison: Comparison) -> str:
    """Return a comparison as a line: `student - base +0.730 [+0.700, +0.760], p < 0.001`."""
    low, high = comparison.interval
    p = "p < 0.001" if comparison.p < 0.001 else f"p = {comparison.p:.3f}"
    return f"{first} - {second} {comparison.difference:+.3f} [{low:+.3f}, {high:+.3f}], {p}"


def comparison_lines(first: str, comparisons: Mapping[str, Mapping[str, Comparison]]) -> Iterator[str]:
    """Yield a line for each comparison of `compare_with_first`: `student - base ... on news`."""
    for system, by_dataset in comparisons.items():
        for dataset, comparison in by_dataset.items():
            where = "average over the data sets of both" if dataset == "average" else dataset
            yield f"{describe_comparison(system, first, comparison)} on {where}"


def _comparison(difference: float, resampled: Any, swapped: Any, passages: int) -> Comparison:
    # The tolerance absorbs rounding of sums: equal differences must count as "at least".
    at_least = int((np.abs(swapped) >= abs(difference) - 1e-12).sum())
    return Comparison(
        difference=round(difference, 12),
        interval=_percentile_interval(resampled),
        p=(1 + at_least) / (1 + len(swapped)),
        passages=passages,
    )


def _by_dataset(table: pa.Table) -> dict[str, pa.Table]:
    names = table.column("dataset").unique().to_pylist()
    return {name: table.filter(pc.equal(table.column("dataset"), name)) for name in names}


def _paired_kinds(name: str, first: pa.Table, second: pa.Table) -> PassageKinds:
    """Count passages by both systems' counts."""
    ours, theirs = (
        np.stack([table.column(column).to_numpy() for column in ("tp", "fp", "fn")], 1)
        for table in (first, second)
    )
    same = first.column("passage_id").equals(second.column("passage_id"))
    if not same or ((ours[:, 0] + ours[:, 2]) != (theirs[:, 0] + theirs[:, 2])).any():
        raise ValueError(f"cannot compare systems that answered different questions of {name}")
    return Counter(map(tuple, np.concatenate([ours, theirs], 1).tolist()))


def _as_arrays(kinds: PassageKinds) -> tuple[Any, Any]:
    """Return the kinds' counts, one row each, and the number of passages of each, in sorted order."""
    ordered = sorted(kinds.items())
    return np.array([kind for kind, _ in ordered], float), np.array([size for _, size in ordered], np.int64)


def _swapped_differences(values: Any, sizes: Any, generator: np.random.Generator) -> Any:
    """Return the differences after each passage's counts changed sides with probability 1/2."""
    change = values[:, [3, 4, 5, 0, 1, 2]] - values
    total = sizes @ values
    differs = change.any(1)  # a swap of equal counts changes nothing
    change, sizes = change[differs], sizes[differs]
    blocks = [
        _difference(total + generator.binomial(sizes, 0.5, (size, len(sizes))) @ change)
        for size in [_BLOCK] * (SWAPS // _BLOCK) + [SWAPS % _BLOCK]
    ]
    return np.concatenate(blocks)


def _difference(sums: Any) -> Any:
    return _f1(sums[:, :3]) - _f1(sums[:, 3:])


def _f1(sums: Any) -> Any:
    """Return F1 of rows of tp, fp, fn; 0 for a row of zeros."""
    whole = 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]
    return 2 * sums[:, 0] / np.where(whole, whole, 1)


def _mean_f1(weights: Any, values: Any) -> Any:
    """Return the weighted means of the kinds' F1, leaving out kinds without any mention."""
    scored = values.sum(1) > 0
    kept = weights[:, scored]
    return (kept @ _f1(values[scored])) / np.maximum(kept.sum(1), 1)


def _percentile_interval(values: Any) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return round(float(low), 6), round(float(high), 6)
