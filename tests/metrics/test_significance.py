"""Intervals and p values, against resampling passages one by one and against known results."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from uniner.evaluate.scoring import PASSAGE_COUNTS
from uniner.metrics.significance import (
    Comparison,
    bootstrap_interval,
    compare_systems,
    compare_with_first,
    comparison_lines,
    describe_comparison,
)

GENERATOR = np.random.default_rng(5)
# A system finds about 2 of the 4 gold mentions of a passage, and predicts about 1 too many.
FOUND = GENERATOR.binomial(4, 0.5, 300)
EXTRA = GENERATOR.poisson(1, 300)


def passages(found, extra, dataset="d", gold=4):
    rows = len(found)
    return pa.table(
        {
            "dataset": [dataset] * rows,
            "passage_id": [f"{number:03d}" for number in range(rows)],
            "words": [9] * rows,
            "tp": found,
            "fp": extra,
            "fn": gold - np.asarray(found),
        },
        schema=PASSAGE_COUNTS,
    )


def f1(counts):
    tp, fp, fn = counts.sum(0)
    return 2 * tp / (2 * tp + fp + fn)


def test_the_interval_equals_that_of_drawing_passages_one_by_one():
    counts = np.stack([FOUND, EXTRA, 4 - FOUND], 1)
    generator = np.random.default_rng(0)
    drawn = [f1(counts[generator.integers(0, 300, 300)]) for _ in range(4000)]
    low, high = bootstrap_interval(Counter(map(tuple, counts.tolist())))
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.006)
    assert low < f1(counts) < high
    assert bootstrap_interval(Counter(map(tuple, counts.tolist()))) == (low, high)  # the same in each run
    four = bootstrap_interval(Counter(map(tuple, np.concatenate([counts] * 4).tolist())))
    assert 0.4 < (four[1] - four[0]) / (high - low) < 0.6  # four times the passages, half the width


def test_the_interval_of_the_mean_over_passages_leaves_out_passages_without_mentions():
    kinds = Counter({(1, 0, 0): 50, (0, 1, 1): 50})
    low, high = bootstrap_interval(kinds, by_passage=True)
    assert 0.38 < low < 0.45 and 0.55 < high < 0.62
    assert bootstrap_interval(Counter({(1, 0, 0): 3, (0, 0, 0): 97}), by_passage=True)[1] == 1
    assert bootstrap_interval(Counter()) == (0, 0)
    assert bootstrap_interval(Counter({(0, 0, 0): 5})) == (0, 0)


def test_a_difference_by_chance_alone_is_not_significant():
    other = passages(np.random.default_rng(6).permutation(FOUND), EXTRA)
    comparison = compare_systems(passages(FOUND, EXTRA), other)["d"]
    assert comparison.p > 0.05 and comparison.interval[0] < 0 < comparison.interval[1]
    assert compare_systems(other, passages(FOUND, EXTRA))["d"].difference == -comparison.difference


def test_a_small_improvement_on_many_passages_is_significant():
    better = passages(np.minimum(FOUND + (np.arange(300) % 5 == 0), 4), EXTRA)
    comparison = compare_systems(better, passages(FOUND, EXTRA))["d"]
    low, high = comparison.interval
    assert 0 < low < comparison.difference < high
    assert comparison.p < 0.001
    # Pairing makes the small difference visible: its interval is narrower than that of one system alone.
    alone = bootstrap_interval(Counter(map(tuple, np.stack([FOUND, EXTRA, 4 - FOUND], 1).tolist())))
    assert high - low < (alone[1] - alone[0]) / 2


def test_the_same_system_twice_has_p_1():
    comparison = compare_systems(passages(FOUND, EXTRA), passages(FOUND, EXTRA))["d"]
    assert (comparison.difference, comparison.interval, comparison.p, comparison.passages) == (
        0,
        (0, 0),
        1,
        300,
    )


def test_p_is_the_share_of_swaps_that_differ_as_much():
    # The first system is right on all three passages and the other on none. Of the 8 ways to swap, two
    # (none and all) differ as much.
    comparison = compare_systems(
        passages([1, 1, 1], [0, 0, 0], gold=1), passages([0, 0, 0], [1, 1, 1], gold=1)
    )["d"]
    assert comparison.difference == 1
    assert comparison.p == pytest.approx(0.25, abs=0.02)


def test_the_average_compares_the_means_over_data_sets():
    def both(found):
        return pa.concat_tables([passages(found, EXTRA), passages(FOUND, EXTRA, dataset="other")])

    found = compare_systems(both(np.minimum(FOUND + 1, 4)), both(FOUND))
    assert list(found) == ["d", "other", "average"]
    assert found["average"].difference == pytest.approx(found["d"].difference / 2)
    low, high = found["average"].interval
    assert low == pytest.approx(found["d"].interval[0] / 2, abs=0.002)
    assert high == pytest.approx(found["d"].interval[1] / 2, abs=0.002)
    assert found["average"].passages == 600 and found["average"].p < 0.001 and found["other"].p == 1


def test_each_system_is_compared_with_the_first_on_shared_data_sets():
    first = pa.concat_tables([passages(FOUND, EXTRA, dataset=name) for name in ("d", "e")])
    better = passages(np.minimum(FOUND + 1, 4), EXTRA)
    found = compare_with_first(
        {"base": first, "student": better, "other": passages(FOUND, EXTRA, dataset="x")}
    )
    assert list(found) == ["student", "other"]
    assert found["student"] == compare_systems(better, passages(FOUND, EXTRA)) and found["other"] == {}
    assert found["student"]["d"].difference > 0
    assert compare_with_first({}) == compare_with_first({"base": first}) == {}
    (line,) = comparison_lines("base", found)
    assert line.startswith("student - base +0.") and line.endswith("], p < 0.001 on d")


def test_systems_with_different_questions_are_not_compared():
    ours = passages(FOUND, EXTRA)
    with pytest.raises(ValueError, match="answered different questions of d"):
        compare_systems(ours, passages(FOUND[:-1], EXTRA[:-1]))
    with pytest.raises(ValueError, match="answered different questions of d"):
        compare_systems(ours, passages(FOUND, EXTRA, gold=5))
    with pytest.raises(ValueError, match=r"different data sets: \['d'\] and \['other'\]"):
        compare_systems(ours, passages(FOUND, EXTRA, dataset="other"))


def test_a_comparison_is_described_in_a_line():
    known = Comparison(difference=0.7301, interval=(0.7, 0.7649), p=0.0001, passages=9)
    assert (
        describe_comparison("student", "base", known) == "student - base +0.730 [+0.700, +0.765], p < 0.001"
    )
    known = Comparison(difference=-0.02, interval=(-0.05, 0.01), p=0.25, passages=9)
    assert describe_comparison("a", "b", known) == "a - b -0.020 [-0.050, +0.010], p = 0.250"
