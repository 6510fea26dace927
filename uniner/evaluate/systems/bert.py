"""Token classification with an encoder: BIO labels of words, and the tagger that uses a trained model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from uniner.evaluate.systems import InProcessSystem, ScoredSpan, tagged_answer
from uniner.gold.records import GoldEntity
from uniner.inference.questions import PassageAnswers, Questions
from uniner.storage.model_folders import local_model

OUTSIDE = "O"
_BATCH_PIECES = 32


class LabelledWord(NamedTuple):
    """A word of a text: the position of its first token, which carries the label, and its offsets."""

    token: int
    start: int
    end: int


@dataclass(frozen=True)
class EncodedPiece:
    """A text, or as much of it as the model reads at once: token ids and words."""

    ids: list[int]
    words: list[LabelledWord]


class LabelledSpan(NamedTuple):
    """An entity read from labels: type, offsets, and probability (the product over its words)."""

    type: str
    start: int
    end: int
    probability: float


def encode_pieces(tokenizer: Any, text: str, max_tokens: int) -> list[EncodedPiece]:
    """Cut a text into pieces of at most `max_tokens` tokens, special tokens included. No text is dropped."""
    encoding = tokenizer(
        text,
        truncation=True,
        max_length=max_tokens,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    return [
        EncodedPiece(ids, _words(encoding.word_ids(number), encoding["offset_mapping"][number]))
        for number, ids in enumerate(encoding["input_ids"])
    ]


def _words(word_ids: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> list[LabelledWord]:
    words: list[LabelledWord] = []
    previous = None
    for token, (word, (start, end)) in enumerate(zip(word_ids, offsets, strict=True)):
        if word is not None and word == previous:
            words[-1] = words[-1]._replace(end=end)
        elif word is not None and end > start:
            words.append(LabelledWord(token, start, end))
        previous = word
    return words


def bio_labels(types: Sequence[str]) -> list[str]:
    """Return the labels of a model for these types."""
    return [OUTSIDE, *(f"{mark}-{name}" for name in types for mark in "BI")]


def label_words(words: Sequence[LabelledWord], entities: Sequence[GoldEntity]) -> list[str]:
    """Return the words' BIO labels. Of overlapping entities the first and longest is kept."""
    labels, covered = [OUTSIDE] * len(words), 0
    for entity in sorted(entities, key=lambda entity: (entity.start, -entity.end)):
        if entity.start < covered:
            continue
        mark = "B"
        for place, word in enumerate(words):
            if word.start < entity.end and entity.start < word.end and labels[place] == OUTSIDE:
                labels[place], mark = f"{mark}-{entity.type}", "I"
        covered = entity.end
    return labels


def read_spans(
    words: Sequence[LabelledWord], labels: Sequence[str], probabilities: Sequence[float]
) -> list[LabelledSpan]:
    """Return the entities that BIO labels describe. An I that continues no entity of its type begins one."""
    spans: list[LabelledSpan] = []
    previous = OUTSIDE
    for word, label, probability in zip(words, labels, probabilities, strict=True):
        mark, _, name = label.partition("-")
        if mark == "I" and previous[2:] == name:
            last = spans[-1]
            spans[-1] = last._replace(end=word.end, probability=last.probability * probability)
        elif name:
            spans.append(LabelledSpan(name, word.start, word.end, probability))
        previous = label
    return spans


class BertTagger(InProcessSystem):
    """A trained encoder in this process."""

    def __init__(self, model: str, max_tokens: int, on_gpu: bool):
        """`model` is the folder of a trained model."""
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        super().__init__()
        folder = local_model(model)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._device = "cuda" if on_gpu else "cpu"
        self._model: Any = AutoModelForTokenClassification.from_pretrained(folder).to(self._device).eval()
        self._max_tokens = max_tokens

    def answer(self, questions: Questions) -> list[PassageAnswers]:
        """Tag the passages. A type outside the train split has no mentions."""
        numbered = [
            (number, piece)
            for number, (passage, _) in enumerate(questions)
            for piece in encode_pieces(self._tokenizer, passage, self._max_tokens)
        ]
        spans: list[dict[str, list[ScoredSpan]]] = [{name: [] for name in types} for _, types in questions]
        numbered.sort(key=lambda item: len(item[1].ids))
        for first in range(0, len(numbered), _BATCH_PIECES):
            batch = numbered[first : first + _BATCH_PIECES]
            labelled = self._label([piece for _, piece in batch])
            for (number, piece), (labels, probabilities) in zip(batch, labelled, strict=True):
                for name, start, end, probability in read_spans(piece.words, labels, probabilities):
                    if name in spans[number]:
                        spans[number][name].append(ScoredSpan(start, end, probability))
        return [
            tagged_answer(passage, by_type) for (passage, _), by_type in zip(questions, spans, strict=True)
        ]

    def _label(self, pieces: Sequence[EncodedPiece]) -> list[tuple[list[str], list[float]]]:
        """Return the most likely label of each piece's words, and its probability."""
        import torch

        batch = self._tokenizer.pad({"input_ids": [piece.ids for piece in pieces]}, return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(
                input_ids=batch["input_ids"].to(self._device),
                attention_mask=batch["attention_mask"].to(self._device),
            ).logits
        probabilities, labels = logits.float().softmax(-1).max(-1)
        names = self._model.config.id2label
        return [
            (
                [names[int(labels[row, word.token])] for word in piece.words],
                [float(probabilities[row, word.token]) for word in piece.words],
            )
            for row, piece in enumerate(pieces)
        ]
