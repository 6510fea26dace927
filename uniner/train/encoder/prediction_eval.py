"""Validation F1 by prediction: the encoder in training tags the validation passages.

The mentions are those that tagging would find, counted as in evaluate; the expected ones are the
conversations', mostly the teacher's. Of all thresholds the best is taken, and kept for tagging.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from uniner.encoder.model import encoder_logits
from uniner.encoder.spans import TypedSpan, found_spans, owned_spans
from uniner.metrics.counts import Counts
from uniner.metrics.matching import normalised, strict
from uniner.overlaps import settle
from uniner.train.collective import all_gather
from uniner.train.encoder.samples import AskedPassage, EncoderSamples
from uniner.train.encoder.task import EncoderTask
from uniner.train.loop import local_batches
from uniner.train.packing import PackedRow

THRESHOLDS = tuple(round(0.05 * number, 2) for number in range(1, 19))


@dataclass(frozen=True, kw_only=True)
class PredictionScores:
    """The best F1 of all thresholds, the threshold, and the number of questions."""

    f1: float
    threshold: float
    questions: int


def prediction_eval(
    model: Any,
    task: EncoderTask,
    validation: EncoderSamples,
    rows: Sequence[PackedRow],
    device: torch.device,
    progress: Callable[[int], None] = lambda _: None,
) -> PredictionScores:
    """Score the model on the validation samples; every worker must call this."""
    found: list[tuple[int, tuple[int, int, int, float]]] = []
    model.eval()
    with torch.no_grad():
        for turn, batch in enumerate(local_batches(rows, validation.samples, task)):
            inputs = batch.inputs
            logits = encoder_logits(model, inputs, device)
            counts, types = (
                torch.from_numpy(array).to(device) for array in (inputs.word_counts, inputs.type_counts)
            )
            limits = torch.full(inputs.type_places.shape, THRESHOLDS[0], device=device)
            spans = found_spans(logits, counts, types, limits, token_head=model.shape.token_head)
            for piece, first, last, kind, score in owned_spans(inputs.pieces, spans):
                words = piece.window.words
                found.append((piece.text, (int(words.starts[first]), int(words.ends[last]), kind, score)))
            progress(turn + 1)
    model.train()
    model.reshard()
    by_passage: defaultdict[int, list[TypedSpan]] = defaultdict(list)
    for number, span in (item for worker in all_gather(found) for item in worker):
        by_passage[number].append(TypedSpan(*span))
    totals = dict.fromkeys(THRESHOLDS, Counts())
    for number, passage in enumerate(validation.passages):
        # The surest of those that overlap: a higher threshold only leaves spans out.
        for threshold, counts in _counts(passage, settle(by_passage[number], "flat")).items():
            totals[threshold] += counts
    best = max(totals, key=lambda threshold: totals[threshold].f1)
    questions = sum(len(passage.asked) for passage in validation.passages)
    return PredictionScores(f1=round(totals[best].f1, 6), threshold=best, questions=questions)


def _counts(passage: AskedPassage, spans: Sequence[TypedSpan]) -> dict[float, Counts]:
    totals = dict.fromkeys(THRESHOLDS, Counts())
    for number, mentions in enumerate(passage.asked.values()):
        own = [(span.score, passage.text[span.start : span.end]) for span in spans if span.type == number]
        expected = normalised(mentions)
        for threshold in THRESHOLDS:
            predicted = normalised(text for score, text in own if score > threshold)
            totals[threshold] += strict(predicted, expected)
    return totals
