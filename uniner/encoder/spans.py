"""Read the entities off the encoder's scores, vectorised."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from uniner.encoder.batches import Piece


class FoundSpans(NamedTuple):
    """Spans above the threshold, one in each place of the arrays.

    row: of the batch. first, last: words, last inclusive. type: the type's place in the row's prompt.
    """

    row: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    type: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]


def found_spans(
    logits: torch.Tensor,
    word_counts: torch.Tensor,
    type_counts: torch.Tensor,
    thresholds: torch.Tensor,
    *,
    token_head: bool,
) -> FoundSpans:
    """Return the spans whose score is above their type's threshold.

    logits: see `model.EncoderModel.forward`. word_counts, type_counts: (b,), of each row. thresholds: (b, c).
    The score is a probability; with the token head it is the lowest of start, end and all words inside.
    """
    scores = logits.float().sigmoid()
    known = torch.arange(thresholds.shape[1], device=scores.device) < type_counts[:, None]
    limits = torch.where(known, thresholds, torch.inf)
    inside = in_text(logits, word_counts, token_head=token_head)
    if token_head:
        return _from_words(scores * inside[..., None, None], limits)
    above = (scores > limits[:, None, None]) & inside[..., None]
    row, first, width, kind = above.nonzero(as_tuple=True)
    found = scores[row, first, width, kind]
    return FoundSpans(*(array.cpu().numpy() for array in (row, first, first + width, kind, found)))


def best_scores(logits: torch.Tensor, word_counts: torch.Tensor, *, token_head: bool) -> torch.Tensor:
    """Return how likely a row has a mention of each type: (b, c), the score of its best span.

    With the token head: of its best first word, as start and as inside, which is at least that.
    """
    beyond = ~in_text(logits, word_counts, token_head=token_head)
    if token_head:
        logits = torch.minimum(logits[..., 0], logits[..., 2])
    words_or_spans = tuple(range(1, beyond.dim()))
    return logits.masked_fill(beyond[..., None], -torch.inf).amax(words_or_spans).float().sigmoid()


def in_text(logits: torch.Tensor, word_counts: torch.Tensor, *, token_head: bool) -> torch.Tensor:
    """Tell which of a row's words (b, w), or with the span head spans (b, w, max_width), its text has."""
    words = torch.arange(logits.shape[1], device=logits.device)
    if token_head:
        return words < word_counts[:, None]
    ends = words[:, None] + torch.arange(logits.shape[2], device=logits.device)
    return ends < word_counts[:, None, None]


def owned_spans(pieces: Sequence[Piece], spans: FoundSpans) -> Iterator[tuple[Piece, int, int, int, float]]:
    """Yield the spans whose first word their window owns: the piece, the window's first and last word, the
    type's number and the score."""
    for row, first, last, place, score in zip(*(array.tolist() for array in spans), strict=True):
        piece = pieces[row]
        if piece.window.own_first <= piece.window.first + first < piece.window.own_last:
            yield piece, first, last, int(piece.prompt.numbers[place]), score


def _from_words(scores: torch.Tensor, limits: torch.Tensor) -> FoundSpans:
    """Pair each start with each end of its type, where every word between is inside a mention.

    scores: probabilities (b, w, c, 3). As in GLiNER, a word counts as inside from the threshold on.
    """
    _, words, types, _ = scores.shape
    by_type = scores.permute(0, 2, 1, 3)  # (b, c, w, 3)
    limit = limits[..., None]
    # A column without scores ends each type's words, so that places of two types never touch.
    flat = torch.nn.functional.pad(by_type, (0, 0, 0, 1)).reshape(-1, 3)
    above = torch.nn.functional.pad(
        torch.stack([by_type[..., 0] > limit, by_type[..., 1] > limit, by_type[..., 2] >= limit], -1),
        (0, 0, 0, 1),
    ).reshape(-1, 3)
    start, end, inside = (above[:, column].cpu().numpy() for column in range(3))
    starts, ends = np.flatnonzero(start & inside), np.flatnonzero(end & inside)
    breaks = np.flatnonzero(~inside)
    run_end = breaks[np.searchsorted(breaks, starts)]  # the first word after each start that is not inside
    begin, stop = np.searchsorted(ends, starts), np.searchsorted(ends, run_end)
    sizes = stop - begin
    firsts = np.repeat(starts, sizes)
    lasts = ends[np.arange(sizes.sum()) + np.repeat(begin - (np.cumsum(sizes) - sizes), sizes)]
    if not len(firsts):
        none = np.zeros(0, np.int64)
        return FoundSpans(none, none, none, none, np.zeros(0, np.float32))
    values = flat.cpu().numpy()
    bounds = np.stack([firsts, lasts + 1], 1).ravel()
    lowest_inside = np.minimum.reduceat(values[:, 2], bounds)[::2]
    score = np.minimum(np.minimum(values[firsts, 0], values[lasts, 1]), lowest_inside)
    span = words + 1
    pair, first = firsts // span, firsts % span
    return FoundSpans(pair // types, first, lasts % span, pair % types, score.astype(np.float32))


class TypedSpan(NamedTuple):
    """A mention of a type: offsets into a text, end exclusive, and the score."""

    start: int
    end: int
    type: int
    score: float
