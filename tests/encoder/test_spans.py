"""Spans are those that a plain loop over the scores finds."""

import itertools

import pytest
import torch

from uniner.encoder.spans import found_spans


def by_span(tuples):
    return {span: score for *span, score in tuples for span in [tuple(span)]}


def found_by_span(*arguments, **options):
    found = found_spans(*arguments, **options)
    return by_span(zip(*(array.tolist() for array in found), strict=True))


def test_span_scores_above_the_type_s_threshold_are_found():
    torch.manual_seed(0)
    logits = torch.randn(3, 7, 3, 4)
    words, types = torch.tensor([7, 5, 1]), torch.tensor([4, 2, 3])
    limits = torch.tensor([0.5, 0.6, 0.7, 0.4]).expand(3, 4)
    expected = [
        (row, first, first + width, kind, score)
        for row, first, width, kind in itertools.product(range(3), range(7), range(3), range(4))
        if kind < types[row]
        and first + width < words[row]
        and (score := logits[row, first, width, kind].sigmoid().item()) > limits[row, kind]
    ]
    found = found_by_span(logits, words, types, limits, token_head=False)
    assert found == pytest.approx(by_span(expected))
    assert len(found) > 20


@pytest.mark.parametrize("seed", range(5))
def test_words_pair_to_spans_whose_words_are_all_inside(seed):
    torch.manual_seed(seed)
    logits = torch.randn(3, 9, 4, 3)
    logits[..., 2] += 0.5
    words, types = torch.tensor([9, 4, 1]), torch.tensor([4, 2, 3])
    limits = torch.tensor([0.5, 0.4, 0.55, 0.45]).expand(3, 4)
    scores = logits.sigmoid()
    expected = []
    for row, kind, first, last in itertools.product(range(3), range(4), range(9), range(9)):
        if kind >= types[row] or not first <= last < words[row]:
            continue
        start, end = scores[row, first, kind, 0].item(), scores[row, last, kind, 1].item()
        inside = scores[row, first : last + 1, kind, 2].min().item()
        limit = limits[row, kind]
        if start > limit and end > limit and inside >= limit:
            expected.append((row, first, last, kind, min(start, end, inside)))
    found = found_by_span(logits, words, types, limits, token_head=True)
    assert found == pytest.approx(by_span(expected))
    assert len(found) > 10
