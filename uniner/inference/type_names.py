"""How close the names of types are in meaning, by a text encoder made for likeness of sentences.

The mean of a name's token states, such as all-MiniLM-L6-v2 was trained for. A decoder's states and a
student's own token vectors were tried on the 363 types of 2,049 Pile passages: the first put all names of one
token together, the second all names with a common word ("medical term" and "financial term").
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from uniner.errors import UserError
from uniner.storage.model_folders import loading, local_model

RELATED = 0.6
"""Likeness of two names, a cosine, that is enough for the nearest of all, judged by eye with
all-MiniLM-L6-v2: writer and author have 0.70, human being and person 0.64."""
_BATCH, _ROWS = 256, 1024

Vectors = npt.NDArray[np.float32]
"""A row of length one for each name; of zeros for one with a word that the encoder does not know."""


class NameEncoder:
    """A text encoder that turns names into vectors. model: folder or hub name. setting: that names it."""

    def __init__(self, model: str, setting: str):
        from transformers import AutoModel, AutoTokenizer

        from uniner.encoder.folder import most_tokens

        self._named = f"{setting} = {model}"
        with loading(model, setting):
            place = local_model(model)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(place)
            self._model: Any = AutoModel.from_pretrained(place).eval()
            self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
            self._unknown_id = _unknown_id(self._tokenizer)
            self._most_tokens = most_tokens(self._model.config, self._tokenizer)
            self.vectors(["city", "a name of two"])  # a model of another kind fails here

    def vectors(self, names: Sequence[str]) -> Vectors:
        """Return the vectors of names, in their order. Of a longer name counts what the encoder can read.

        Raises:
            UserError: the encoder's numbers are not finite.
        """
        import torch

        rows = []
        for start in range(0, len(names), _BATCH):
            batch = self._tokenizer(
                list(names[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=self._most_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self._model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            means = (states * mask).sum(1) / mask.sum(1)
            # Unknown words look the same: two Thai names would be one name to an English model.
            unknown = (batch["input_ids"] == self._unknown_id) & (batch["attention_mask"] > 0)
            rows.append((means * ~unknown.any(1, keepdim=True)).numpy())
        found = np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)
        if not np.isfinite(found).all():
            raise UserError(
                f"{self._named}: its vectors have numbers that are not finite; copy the model again, or name "
                "another, such as sentence-transformers/all-MiniLM-L6-v2"
            )
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def _unknown_id(tokenizer: Any) -> int:
    """Return the id of words that a tokenizer does not know; -1 where it knows all, as those of bytes.

    Those have another token in its place, such as the end's, which OPT puts before every text.
    """
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
    unknown = tokenizer.unk_token_id
    return -1 if unknown is None or unknown in others else int(unknown)


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
