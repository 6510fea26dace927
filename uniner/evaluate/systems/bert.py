"""Token classification with an encoder: words to BIO labels and back, and a trained model's answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from uniner.evaluate.systems import InProcess, located
from uniner.gold.records import GoldEntity
from uniner.inference.questions import PassageAnswers, Questions
from uniner.storage.model_folders import local_model

OUTSIDE = "O"
_BATCH_PIECES = 32


class Word(NamedTuple):
    """A word of a text: the token that stands for it (its first), and where it is."""

    token: int
    start: int
    end: int


@dataclass(frozen=True)
class Piece:
    """A text, or as much of it as the model reads at once: token ids and words."""

    ids: list[int]
    words: list[Word]


def pieces(tokenizer: Any, text: str, max_tokens: int) -> list[Piece]:
    """Cut a text into pieces of at most so many tokens, special ones included. Nothing is left out."""
    read = tokenizer(
        text,
        truncation=True,
        max_length=max_tokens,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    return [
        Piece(ids, _words(read.word_ids(number), read["offset_mapping"][number]))
        for number, ids in enumerate(read["input_ids"])
    ]


def _words(word_of: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> list[Word]:
    words: list[Word] = []
    before = None
    for token, (word, (start, end)) in enumerate(zip(word_of, offsets, strict=True)):
        if word is not None and word == before:
            words[-1] = words[-1]._replace(end=end)
        elif word is not None and end > start:
            words.append(Word(token, start, end))
        before = word
    return words


def labels_of(types: Sequence[str]) -> list[str]:
    """Return the labels of a model for these types."""
    return [OUTSIDE, *(f"{mark}-{name}" for name in types for mark in "BI")]


def to_labels(words: Sequence[Word], entities: Sequence[GoldEntity]) -> list[str]:
    """Label words with the entities that they are of. Of some that overlap the first and longest stays."""
    labels, taken = [OUTSIDE] * len(words), 0
    for entity in sorted(entities, key=lambda one: (one.start, -one.end)):
        if entity.start < taken:
            continue
        mark = "B"
        for place, word in enumerate(words):
            if word.start < entity.end and entity.start < word.end and labels[place] == OUTSIDE:
                labels[place], mark = f"{mark}-{entity.type}", "I"
        taken = entity.end
    return labels


def to_spans(
    words: Sequence[Word], labels: Sequence[str], shares: Sequence[float]
) -> list[tuple[str, int, int, float]]:
    """Return the type, start, end and probability (its words' product) of what the labels name.

    An I that continues nothing of its type begins an entity.
    """
    found: list[tuple[str, int, int, float]] = []
    before = OUTSIDE
    for word, label, share in zip(words, labels, shares, strict=True):
        mark, _, name = label.partition("-")
        if mark == "I" and before[2:] == name:
            _, start, _, so_far = found[-1]
            found[-1] = (name, start, word.end, so_far * share)
        elif name:
            found.append((name, word.start, word.end, share))
        before = label
    return found


class Bert(InProcess):
    """A trained model in this process."""

    def __init__(self, model: str, max_tokens: int, on_gpu: bool):
        """`model` is the folder of a trained model."""
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        super().__init__()
        where = local_model(model)
        self._tokenizer = AutoTokenizer.from_pretrained(where)
        self._device = "cuda" if on_gpu else "cpu"
        self._model: Any = AutoModelForTokenClassification.from_pretrained(where).to(self._device).eval()
        self._max_tokens = max_tokens

    def answer(self, questions: Questions) -> list[PassageAnswers]:
        """Say which mentions the passages have; of a type that was not in the train split none."""
        read = [
            (place, piece)
            for place, (passage, _) in enumerate(questions)
            for piece in pieces(self._tokenizer, passage, self._max_tokens)
        ]
        found: list[dict[str, list[tuple[int, int, float]]]] = [
            {name: [] for name in types} for _, types in questions
        ]
        read.sort(key=lambda one: len(one[1].ids))
        for first in range(0, len(read), _BATCH_PIECES):
            some = read[first : first + _BATCH_PIECES]
            for (place, piece), (labels, shares) in zip(some, self._label([p for _, p in some]), strict=True):
                for name, start, end, share in to_spans(piece.words, labels, shares):
                    if name in found[place]:
                        found[place][name].append((start, end, share))
        return [located(passage, spans) for (passage, _), spans in zip(questions, found, strict=True)]

    def _label(self, read: Sequence[Piece]) -> list[tuple[list[str], list[float]]]:
        """Return the likeliest label of each piece's words, and its probability."""
        import torch

        batch = self._tokenizer.pad({"input_ids": [piece.ids for piece in read]}, return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(
                input_ids=batch["input_ids"].to(self._device),
                attention_mask=batch["attention_mask"].to(self._device),
            ).logits
        shares, labels = logits.float().softmax(-1).max(-1)
        names = self._model.config.id2label
        return [
            (
                [names[int(labels[row, word.token])] for word in piece.words],
                [float(shares[row, word.token]) for word in piece.words],
            )
            for row, piece in enumerate(read)
        ]
