"""Conversations as the encoder's samples: a passage's words, the types asked for, and their spans of words.

Each question of build is asked, with mentions or without; a type that was not asked is unknown, and costs
nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uniner.encoder.batches import Collator, Piece
from uniner.encoder.words import TokenizedWords
from uniner.grounding import locate, nested_spans, without_nested
from uniner.records import Conversation
from uniner.templates import Template
from uniner.train.encoder.task import EncoderSample, pieces_of
from uniner.train.generation_eval import passage_of


@dataclass(frozen=True)
class AskedPassage:
    """A passage, and the types asked for with their mentions."""

    passage_id: str
    text: str
    asked: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class EncoderSamples:
    """Samples in order, how many each passage became, and counts of mentions.

    mentions: in all, each once a passage and type. Those that no span holds, by reason: not_in_text;
    off_boundary (begins or ends inside a word); too_wide (more words than max_width).
    """

    passages: Sequence[AskedPassage]
    samples: list[EncoderSample]
    per_passage: list[int]
    counts: dict[str, int]


def asked_passages(conversations: Iterable[Conversation], template: Template) -> list[AskedPassage]:
    """Return what conversations ask and answer. Questions that settle a mention's type are left out."""
    passages = []
    for conversation in conversations:
        turns = [turn["value"] for turn in conversation.conversations]
        asked: dict[str, Sequence[str]] = {}
        text = passage_of(conversation)
        for question, answer in zip(turns[2::2], turns[3::2], strict=True):
            types = template.types_of(question)
            parsed = template.parse(types, answer, text) if types else None
            asked.update(parsed.mentions if parsed else {})
        if asked:
            passages.append(AskedPassage(conversation.passage_id, text, asked))
    return passages


def make_samples(
    passages: Sequence[AskedPassage], collator: Collator, max_width: int | None
) -> EncoderSamples:
    """Cut passages into samples. max_width: words of the longest span; None has no limit."""
    counts: Counter[str] = Counter(passages=len(passages), mentions=0)
    samples: list[EncoderSample] = []
    per_passage: list[int] = []
    texts = collator.tokenizer.texts([passage.text for passage in passages])
    for number, (passage, words) in enumerate(zip(passages, texts, strict=True)):
        spans = _word_spans(passage, words, max_width, counts)
        pieces = pieces_of(number, words, list(passage.asked), collator)
        counts["windows"] += max(0, len({piece.window.first for piece in pieces}) - 1)
        samples += [
            EncoderSample(number, passage.passage_id, piece, collator.tokens(piece), _inside(spans, piece))
            for piece in pieces
        ]
        per_passage.append(len(pieces))
    counts.update(samples=len(samples), questions=sum(len(sample.piece.prompt.places) for sample in samples))
    return EncoderSamples(passages, samples, per_passage, dict(counts))


def _word_spans(
    passage: AskedPassage, words: TokenizedWords, max_width: int | None, counts: Counter[str]
) -> npt.NDArray[np.int64]:
    """Return the spans of all occurrences of the mentions: (n, 3), with the numbers of the types."""
    places = {text: locate(passage.text, text).spans for texts in passage.asked.values() for text in texts}
    nested = nested_spans(span for spans in places.values() for span in spans)
    first_of = dict(zip(words.starts.tolist(), range(len(words)), strict=True))
    last_of = dict(zip(words.ends.tolist(), range(len(words)), strict=True))
    found: dict[tuple[int, int, int], None] = {}
    for number, texts in enumerate(passage.asked.values()):
        for text in texts:
            held = False
            reason = "not_in_text"
            for start, end in without_nested(places[text], nested):
                first, last = first_of.get(start), last_of.get(end)
                if first is None or last is None:
                    reason = "off_boundary"
                elif max_width is not None and last - first >= max_width:
                    reason = "too_wide"
                else:
                    found[first, last, number] = None
                    held = True
            counts["mentions"] += 1
            if not held:
                counts[reason] += 1
    return np.array(list(found), np.int64).reshape(-1, 3)


def _inside(spans: npt.NDArray[np.int64], piece: Piece) -> npt.NDArray[np.int64]:
    """Return the spans of a piece's types that lie in its window, in its own words and places."""
    window, numbers = piece.window, piece.prompt.numbers
    first, last, kind = spans.T
    inside = (first >= window.first) & (last < window.first + len(window.words))
    inside &= (kind >= numbers[0]) & (kind <= numbers[-1])  # a prompt's types are neighbours
    return np.stack([first - window.first, last - window.first, kind - numbers[0]], 1)[inside]
