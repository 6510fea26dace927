"""Intervals and p values, against resampling passages one by one and against what must come out."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from uniner.evaluate.scoring import PASSAGE_COUNTS
from uniner.metrics.significance import against_first, compare, interval, lines, said

CHANCE = np.random.default_rng(5)
# Of each passage's 4 gold mentions a system finds 2 or so and says 1 or so too many.
FOUND = CHANCE.binomial(4, 0.5, 300)
EXTRA = CHANCE.poisson(1, 300)


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


def test_an_interval_is_that_of_drawing_passages_one_by_one():
    each = np.stack([FOUND, EXTRA, 4 - FOUND], 1)
    chance = np.random.default_rng(0)
    drawn = [f1(each[chance.integers(0, 300, 300)]) for _ in range(4000)]
    low, high = interval(Counter(map(tuple, each.tolist())))
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.006)
    assert low < f1(each) < high
    assert interval(Counter(map(tuple, each.tolist()))) == [low, high]  # the same in each run
    four = interval(Counter(map(tuple, np.concatenate([each] * 4).tolist())))
    assert 0.4 < (four[1] - four[0]) / (high - low) < 0.6  # four times the passages, half the width


def test_an_interval_of_the_mean_over_passages_leaves_out_those_with_nothing_to_score():
    kinds = Counter({(1, 0, 0): 50, (0, 1, 1): 50})
    low, high = interval(kinds, by_passage=True)
    assert 0.38 < low < 0.45 and 0.55 < high < 0.62
    assert interval(Counter({(1, 0, 0): 3, (0, 0, 0): 97}), by_passage=True)[1] == 1
    assert interval(Counter()) == [0, 0]
    assert interval(Counter({(0, 0, 0): 5})) == [0, 0]


def test_two_systems_of_which_one_is_better_by_chance_alone_do_not_differ():
    other = passages(np.random.default_rng(6).permutation(FOUND), EXTRA)
    found = compare(passages(FOUND, EXTRA), other)["d"]
    assert found["p"] > 0.05 and found["interval"][0] < 0 < found["interval"][1]
    assert compare(other, passages(FOUND, EXTRA))["d"]["difference"] == -found["difference"]


def test_a_system_that_is_a_little_better_on_many_passages_differs():
    better = passages(np.minimum(FOUND + (np.arange(300) % 5 == 0), 4), EXTRA)
    found = compare(better, passages(FOUND, EXTRA))["d"]
    low, high = found["interval"]
    assert 0 < low < found["difference"] < high
    assert found["p"] < 0.001
    # Systems far apart on average but alike in kind: pairing is what makes a small difference plain.
    alone = interval(Counter(map(tuple, np.stack([FOUND, EXTRA, 4 - FOUND], 1).tolist())))
    assert high - low < (alone[1] - alone[0]) / 2


def test_the_same_system_twice_has_p_1():
    found = compare(passages(FOUND, EXTRA), passages(FOUND, EXTRA))["d"]
    assert (found["difference"], found["interval"], found["p"], found["passages"]) == (0, [0, 0], 1, 300)


def test_p_is_the_share_of_swaps_that_differ_as_much():
    # Three passages, of which the first system has all right and the other none: of the 8 ways to swap, two
    # (none and all) differ as much.
    found = compare(passages([1, 1, 1], [0, 0, 0], gold=1), passages([0, 0, 0], [1, 1, 1], gold=1))["d"]
    assert found["difference"] == 1
    assert found["p"] == pytest.approx(0.25, abs=0.02)


def test_over_data_sets_the_difference_is_that_of_the_averages():
    def both(found):
        return pa.concat_tables([passages(found, EXTRA), passages(FOUND, EXTRA, dataset="other")])

    found = compare(both(np.minimum(FOUND + 1, 4)), both(FOUND))
    assert list(found) == ["d", "other", "average"]
    assert found["average"]["difference"] == pytest.approx(found["d"]["difference"] / 2)
    low, high = found["average"]["interval"]
    assert low == pytest.approx(found["d"]["interval"][0] / 2, abs=0.002)
    assert high == pytest.approx(found["d"]["interval"][1] / 2, abs=0.002)
    assert found["average"]["passages"] == 600 and found["average"]["p"] < 0.001 and found["other"]["p"] == 1


def test_each_system_is_held_against_the_first_on_the_data_sets_of_both():
    first = pa.concat_tables([passages(FOUND, EXTRA, dataset=name) for name in ("d", "e")])
    better = passages(np.minimum(FOUND + 1, 4), EXTRA)
    found = against_first({"base": first, "student": better, "other": passages(FOUND, EXTRA, dataset="x")})
    assert list(found) == ["student", "other"]
    assert found["student"] == compare(better, passages(FOUND, EXTRA)) and found["other"] == {}
    assert found["student"]["d"]["difference"] > 0
    assert against_first({}) == against_first({"base": first}) == {}
    (line,) = lines("base", found)
    assert line.startswith("student - base +0.") and line.endswith("], p < 0.001 on d")


def test_systems_that_were_not_asked_the_same_are_not_compared():
    ours = passages(FOUND, EXTRA)
    with pytest.raises(ValueError, match="not asked the same questions of d"):
        compare(ours, passages(FOUND[:-1], EXTRA[:-1]))
    with pytest.raises(ValueError, match="not asked the same questions of d"):
        compare(ours, passages(FOUND, EXTRA, gold=5))
    with pytest.raises(ValueError, match="the data sets differ"):
        compare(ours, passages(FOUND, EXTRA, dataset="other"))


def test_a_comparison_in_words():
    known = {"difference": 0.7301, "interval": [0.7, 0.7649], "p": 0.0001}
    assert said("student", "base", known) == "student - base +0.730 [+0.700, +0.765], p < 0.001"
    known = {"difference": -0.02, "interval": [-0.05, 0.01], "p": 0.25}
    assert said("a", "b", known) == "a - b -0.020 [-0.050, +0.010], p = 0.250"
