"""An encoder in this process: passages and types in, mentions with offsets and scores out."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from uniner.encoder.batches import EncoderBatch, Piece
from uniner.encoder.folder import LoadedEncoder
from uniner.encoder.model import encoder_logits
from uniner.encoder.spans import FoundSpans, TypedSpan, best_scores, found_spans, owned_spans
from uniner.encoder.words import TokenizedWords
from uniner.errors import UserError
from uniner.inference.encoder_settings import EncoderSettings
from uniner.inference.questions import PassageAnswers, Questions, TypeAnswer
from uniner.overlaps import settle
from uniner.runtime.work_count import expect_work, work_done

CPU_BATCH_TOKENS = 1024
"""A core computes larger batches no faster: their activations fall out of its cache (4,096 tokens: 5 to 15 %
slower at MiniLM's size)."""


class EncoderTagger:
    """Tags passages, those of a call in batches of about the same length."""

    def __init__(self, encoder: LoadedEncoder, settings: EncoderSettings):
        self._settings = settings
        self._device = torch.device("cuda" if settings.on_gpu else "cpu")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        name = settings.dtype if settings.dtype != "auto" else ("bfloat16" if settings.on_gpu else "float32")
        self._dtype = name
        self._model = encoder.model.to(self._device, getattr(torch, name)).eval()
        self._collator = encoder.collator(settings.types_per_pass)
        self._token_head = encoder.model.shape.token_head
        self._batch_tokens = settings.batch_tokens
        if not settings.on_gpu:
            self._batch_tokens = min(settings.batch_tokens, CPU_BATCH_TOKENS)
        self._lock = asyncio.Lock()

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Answer each (passage, types), in order, in a thread beside the event loop."""
        async with self._lock:
            return await asyncio.to_thread(self.answer, questions)

    def answer(self, questions: Questions) -> list[PassageAnswers]:
        """Answer each (passage, types), in order.

        The text of an answer is the score of the type's best span, also of one below the threshold. Figures
        of a passage: questions (one a type), windows and passes beyond the first, prompt_tokens
        computed, cut_tokens of single words that are longer than a window.
        """
        texts = self._collator.tokenizer.texts([passage for passage, _ in questions])
        pieces, figures = self._pieces(texts, questions)
        expect_work(len(pieces))
        found: defaultdict[int, dict[tuple[int, int, int], float]] = defaultdict(dict)
        best = [np.zeros(len(types), np.float32) for _, types in questions]
        for batch, spans, scores in self._scored(pieces, [types for _, types in questions]):
            _collect(batch, spans, found)
            for piece, row in zip(batch.pieces, scores, strict=True):
                numbers = piece.prompt.numbers
                own = best[piece.text]
                own[numbers] = np.maximum(own[numbers], row[: len(numbers)])
            work_done(len(batch.pieces))
        return [
            self._passage_answers(
                passage, types, texts[number], found.get(number, {}), best[number].tolist(), figures[number]
            )
            for number, (passage, types) in enumerate(questions)
        ]

    def _pieces(
        self, texts: Sequence[TokenizedWords], questions: Questions
    ) -> tuple[list[Piece], list[dict[str, float]]]:
        pieces: list[Piece] = []
        figures: list[dict[str, float]] = []
        for number, (words, (_, types)) in enumerate(zip(texts, questions, strict=True)):
            windows, prompts = self._collator.divide(words, types)
            own = [Piece(number, window, prompt) for window in windows for prompt in prompts]
            counts: Counter[str] = Counter(
                questions=len(types),
                prompt_tokens=sum(map(self._collator.tokens, own)),
                windows=max(0, len(windows) - 1),
                passes=max(0, len(prompts) - 1),
                cut_tokens=sum(window.cut for window in windows),
            )
            figures.append({name: count for name, count in counts.items() if count})
            pieces += own
        return pieces, figures

    def _scored(
        self, pieces: Sequence[Piece], types: Sequence[Sequence[str]]
    ) -> Iterator[tuple[EncoderBatch, FoundSpans, np.ndarray]]:
        for group in self._collator.batches(pieces, self._batch_tokens):
            batch = self._collator.batch(group)
            yield batch, *self._spans(batch, self._thresholds(batch, types))

    def _spans(self, batch: EncoderBatch, thresholds: np.ndarray) -> tuple[FoundSpans, np.ndarray]:
        """Return a batch's spans above the thresholds, and the best score of each type: (b, c)."""
        words, types, limits = (
            torch.from_numpy(array).to(self._device)
            for array in (batch.word_counts, batch.type_counts, thresholds)
        )
        with torch.inference_mode():
            logits = encoder_logits(self._model, batch, self._device)
            best = best_scores(logits, words, token_head=self._token_head)
            spans = found_spans(logits, words, types, limits, token_head=self._token_head)
            highest = best.float().cpu().numpy()
        if not np.isfinite(highest).all():
            raise UserError(
                f"the encoder's scores are no numbers in {self._dtype}; set engine.dtype=float32. If they "
                "are none then either, the model's weights are damaged"
            )
        return spans, highest

    def _thresholds(self, batch: EncoderBatch, types: Sequence[Sequence[str]]) -> np.ndarray:
        """Return the thresholds (b, c) of a batch's types."""
        settings = self._settings
        limits = np.full(batch.type_places.shape, settings.threshold, np.float32)
        if settings.threshold_of_type:
            for row, piece in enumerate(batch.pieces):
                for place, number in enumerate(piece.prompt.numbers):
                    name = types[piece.text][number]
                    limits[row, place] = settings.threshold_of_type.get(name, settings.threshold)
        return limits

    def _passage_answers(
        self,
        passage: str,
        types: Sequence[str],
        words: TokenizedWords,
        found: Mapping[tuple[int, int, int], float],
        best: Sequence[float],
        figures: dict[str, float],
    ) -> PassageAnswers:
        # In the order of GLiNER's decoders, which decides among equal scores.
        ordered = sorted(found, key=lambda key: (key[0], key[2], key[1]) if self._token_head else key)
        spans = [
            TypedSpan(int(words.starts[first]), int(words.ends[last]), kind, found[first, last, kind])
            for first, last, kind in ordered
        ]
        of_type: list[list[TypedSpan]] = [[] for _ in types]
        for span in sorted(settle(spans, self._settings.overlaps)):
            of_type[span.type].append(span)
        answers = (
            _type_answer(passage, name, own, score)
            for name, own, score in zip(types, of_type, best, strict=True)
        )
        return PassageAnswers(tuple(answers), figures)


def _collect(
    batch: EncoderBatch, spans: FoundSpans, found: Mapping[int, dict[tuple[int, int, int], float]]
) -> None:
    """Add a batch's spans to those of their texts: each by the window that owns its first word."""
    for piece, first, last, kind, score in owned_spans(batch.pieces, spans):
        found[piece.text][piece.window.first + first, piece.window.first + last, kind] = score


def _type_answer(passage: str, name: str, spans: Sequence[TypedSpan], best: float) -> TypeAnswer:
    scores: dict[str, float] = {}
    for span in spans:
        mention = passage[span.start : span.end]
        scores[mention] = max(scores.get(mention, 0.0), span.score)
    return TypeAnswer(
        name,
        "ok",
        scores,
        f"{best:.4g}",
        spans=tuple((span.start, span.end) for span in spans),
        span_scores=tuple(span.score for span in spans),
    )
