"""How close the names of types are in meaning, by a text encoder made for likeness of sentences.

The mean of a name's token states, such as all-MiniLM-L6-v2 was trained for. A decoder's states and a
student's own token vectors were tried on the 363 types of 2,049 Pile passages: the first put all names of one
token together, the second all names with a common word ("medical term" and "financial term").
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from uniner.storage.model_folders import loading, local_model

RELATED = 0.6
"""Likeness of two names, a cosine, that is enough for the nearest of all, judged by eye with
all-MiniLM-L6-v2: writer and author have 0.70, human being and person 0.64."""
_BATCH, _ROWS = 256, 1024

Vectors = npt.NDArray[np.float32]
"""A row of length one for each name."""


class NameEncoder:
    """A text encoder that turns names into vectors. model: folder or hub name. setting: that names it."""

    def __init__(self, model: str, setting: str):
        from transformers import AutoModel, AutoTokenizer

        with loading(model, setting):
            place = local_model(model)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(place)
            self._model: Any = AutoModel.from_pretrained(place).eval()
            self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
            self.vectors(["city", "a name of two"])  # a model of another kind fails here

    def vectors(self, names: Sequence[str]) -> Vectors:
        """Return the vectors of names, in their order."""
        import torch

        rows = []
        for start in range(0, len(names), _BATCH):
            batch = self._tokenizer(
                list(names[start : start + _BATCH]), padding=True, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                states = self._model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            rows.append(((states * mask).sum(1) / mask.sum(1)).numpy())
        found = np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def close_pairs(vectors: Vectors, least: float) -> Iterator[tuple[int, int, float]]:
    """Yield the places of two names, the first before the second, and their likeness of at least `least`."""
    for start in range(0, len(vectors), _ROWS):
        likeness = vectors[start : start + _ROWS] @ vectors.T
        for row, other in np.argwhere(likeness >= least).tolist():
            if start + row < other:
                yield start + row, other, float(likeness[row, other])


def nearest_names(
    names: Iterable[str], known: Collection[str], encoder: NameEncoder, least: float = RELATED
) -> dict[str, str]:
    """Return for each name the known one that is closest in meaning, if one is close enough."""
    asked, others = sorted(set(names)), list(known)
    if not asked or not others:
        return {}
    likeness = encoder.vectors(asked) @ encoder.vectors(others).T
    best = likeness.argmax(1)
    return {
        name: others[place]
        for name, place, row in zip(asked, best, likeness, strict=True)
        if row[place] >= least
    }
