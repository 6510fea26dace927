"""What a row of samples is to the encoder, and its loss: a type that was not asked costs nothing.

It needs torch and numpy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from uniner.encoder.batches import Collator, EncoderBatch, Piece
from uniner.encoder.model import encoder_logits
from uniner.encoder.spans import in_text
from uniner.encoder.words import TokenizedWords

_POSITIVE_SHARE = 0.75  # the weight of a span that is a mention; any other's is the rest (as GLiNER trains)


@dataclass(frozen=True)
class EncoderSample:
    """A piece of a passage.

    passage: its number. spans: (n, 3), first word, last word and place of the type.
    """

    passage: int
    passage_id: str
    piece: Piece
    tokens: int
    spans: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return self.tokens


def pieces_of(number: int, words: TokenizedWords, types: Sequence[str], collator: Collator) -> list[Piece]:
    """Return the pieces of a text: each of its windows with each of its prompts."""
    windows, prompts = collator.divide(words, types)
    return [Piece(number, window, prompt) for window in windows for prompt in prompts]


@dataclass(frozen=True)
class LabelledBatch:
    """A row's inputs, and the places of its spans: (n, 4), row, first word, last word, place of the type."""

    inputs: EncoderBatch
    spans: npt.NDArray[np.int64]


class EncoderTask:
    """Rows of samples, filled up to the longest, of which every question is learnt."""

    def __init__(self, collator: Collator, token_head: bool):
        self._collator, self._token_head = collator, token_head
        self._nothing = pieces_of(0, collator.tokenizer.texts(["a"])[0], ["a"], collator)

    def units(self, sample: EncoderSample) -> int:
        """Return a sample's questions."""
        return len(sample.piece.prompt.places)

    def batch(self, samples: Sequence[EncoderSample]) -> LabelledBatch:
        """Lay samples out."""
        spans = [
            np.concatenate([np.full((len(sample.spans), 1), row), sample.spans], 1)
            for row, sample in enumerate(samples)
        ]
        return LabelledBatch(
            self._collator.batch([sample.piece for sample in samples]), np.concatenate(spans)
        )

    def empty(self) -> LabelledBatch:
        """Return a text that counts for nothing: its row asks for no type."""
        batch = self._collator.batch(self._nothing)
        batch.type_counts[:] = 0
        return LabelledBatch(batch, np.zeros((0, 4), np.int64))

    def loss(self, model: Any, batch: LabelledBatch, device: torch.device) -> torch.Tensor:
        """Return the sum of the losses of all spans (or words) and types asked."""
        logits = encoder_logits(model, batch.inputs, device).float()
        targets, known = torch.zeros_like(logits), _known(batch.inputs, logits, self._token_head)
        row, first, last, kind = torch.from_numpy(batch.spans).to(device).T
        if self._token_head:
            targets[row, first, kind, 0] = 1
            targets[row, last, kind, 1] = 1
            for width in range(int((last - first).max()) + 1 if len(first) else 0):
                inside = first + width <= last
                targets[row[inside], first[inside] + width, kind[inside], 2] = 1
        else:
            targets[row, first, last - first, kind] = 1
        logits = torch.where(known, logits, 0.0)
        losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
        weights = torch.where(targets > 0, _POSITIVE_SHARE, 1 - _POSITIVE_SHARE) * known
        return (losses * weights).sum()


def _known(batch: EncoderBatch, logits: torch.Tensor, token_head: bool) -> torch.Tensor:
    """Tell which logits are of a type asked and of words that exist, in the logits' shape."""
    words, types = (
        torch.from_numpy(array).to(logits.device) for array in (batch.word_counts, batch.type_counts)
    )
    asked = torch.arange(batch.type_places.shape[1], device=logits.device) < types[:, None]
    inside = in_text(logits, words, token_head=token_head)
    if token_head:
        return (inside[..., None] & asked[:, None])[..., None].expand_as(logits)
    return (inside[..., None] & asked[:, None, None]).expand_as(logits)
