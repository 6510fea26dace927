"""Thresholds a type: the best on the mentions, judged on passages that they were not chosen on."""

import itertools
import tomllib

import numpy as np
import pytest

from uniner.metrics.type_thresholds import TypeMentions, _choose, as_setting, gains_of, propose_thresholds


def mentions(scores, right, missed=0):
    scores, right = np.array(scores, float), np.array(right, bool)
    half = np.arange(len(scores)) % 2
    gold = tuple(float(right[half == number].sum() + missed / 2) for number in (0, 1))
    return TypeMentions(scores, right, half, gold)


def brute_force(scores, right, gold, precision):
    """Try every threshold between two scores."""
    found = []
    for kept in itertools.chain([-1.0], sorted(set(scores))[:-1]):
        chosen = [is_right for score, is_right in zip(scores, right, strict=True) if score > kept]
        f1 = 2 * sum(chosen) / (len(chosen) + gold)
        if precision is None or sum(chosen) / len(chosen) >= precision:
            found.append((f1 if precision is None else len(chosen), -kept))
    return -max(found)[1] if found else None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("precision", [None, 0.8])
def test_the_choice_is_that_of_trying_every_threshold(seed, precision):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 12, 30) / 12
    right = random.random(30) < scores
    gold = right.sum() + random.integers(0, 9)
    expected = brute_force(scores.tolist(), right.tolist(), gold, precision)
    chosen = _choose(scores, right, gold, precision)
    if expected is None:
        assert chosen is None
    else:
        above = scores > expected
        assert (scores >= chosen).tolist() == above.tolist()


def test_scores_that_tell_get_a_threshold_and_its_gain():
    low, high = [0.3 + number / 1000 for number in range(40)], [0.9 + number / 1000 for number in range(40)]
    found = propose_thresholds({"date": mentions(low + high, [False] * 40 + [True] * 40, missed=4)})
    date = found["date"]
    assert 0.34 < date.threshold < 0.9
    assert date.precision == 1 and date.recall == pytest.approx(40 / 44, abs=1e-3)
    assert date.f1 > date.plain_f1 + 0.2
    setting = as_setting(found).removeprefix("tag.")
    assert tomllib.loads(setting) == {"min_score_of_type": {"date": date.threshold}}


def test_scores_that_tell_nothing_few_mentions_or_all_right_get_none():
    random = np.random.default_rng(3)
    noise = [mentions(random.random(40), random.random(40) < 0.8) for _ in range(30)]
    assert sum(bool(propose_thresholds({"noise": found})) for found in noise) <= 9
    assert propose_thresholds({"few": mentions([0.1] * 9 + [0.9] * 9, [False] * 9 + [True] * 9)}) == {}
    assert propose_thresholds({"right": mentions(random.random(40), [True] * 40)}) == {}


def test_a_precision_is_reached_with_as_many_mentions_as_can_be_or_not_proposed():
    scores = np.linspace(0.01, 1, 100)
    right = scores > 0.5
    found = propose_thresholds({"a": mentions(scores, right)}, precision=0.9)["a"]
    assert 0.43 < found.threshold < 0.47 and found.precision == pytest.approx(0.9, abs=0.02)
    assert propose_thresholds({"a": mentions(scores, np.zeros(100, bool))}, precision=0.9) == {}


@pytest.mark.parametrize(("low", "high"), [(0.99990, 0.99998), (1e-6, 2e-5), (1 - 2e-16, 1.0)])
def test_scores_that_lie_close_together_are_told_apart(low, high):
    scores = [low] * 40 + [high] * 40
    found = propose_thresholds({"a": mentions(scores, [False] * 40 + [True] * 40)}, precision=0.9)["a"]
    assert low < found.threshold <= high and (found.precision, found.recall) == (1, 1)
    setting = as_setting({"\U0001f34e é": found}).removeprefix("tag.")
    assert tomllib.loads(setting) == {"min_score_of_type": {"\U0001f34e é": found.threshold}}


def test_the_line_says_the_precision_that_was_reached():
    scores = np.linspace(0.01, 1, 100)
    found = propose_thresholds({"a": mentions(scores, scores > 0.5)}, precision=0.9)
    assert f"precision {found['a'].precision:.3f}" in gains_of(found)
