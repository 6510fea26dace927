"""Passages that are longer than a model's window are asked about in windows, as tag does with a document.

The windows overlap, so that a mention at a cut is whole in one of them. A mention that several windows have
counts once: the question is about the whole passage, as its gold mentions are.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

from uniner.inference.questions import PassageAnswers, Questions, TypeAnswer
from uniner.passages import PassageSpan, TokenizedText, cut_passages
from uniner.storage.manifest import merge

_FAILURES = ("overlong", "too_long", "unparseable")
"""Worst first: a passage's outcome is the worst of its windows."""
# Of the longest prompt, what a first window may take; the rest is for the question.
_WINDOW_SHARE = 0.75
_OVERLAP_SHARE, _MOST_OVERLAP = 1 / 4, 64
# A prompt with so short a passage is too long because of its question.
_SHORTEST = 16


class PromptedSystem(Protocol):
    """A system that asks in prompts, each of at most max_prompt_tokens of its tokenizer."""

    tokenizer: Any
    max_prompt_tokens: int

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Answer each (passage, types), in order; `overlong` where the prompt is too long."""
        ...


class WindowedSystem:
    """A prompted system that answers passages of any length."""

    def __init__(self, system: PromptedSystem):
        self._system = system

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Answer each (passage, types), in order.

        A question whose prompt is too long is asked of each window of the passage. Its mentions are those of
        all windows; where the answer of one is broken, so is the whole. The figure windows counts them.
        """
        answers = await self._system.ask_all(questions)
        long = {
            number: self._windows(passage)
            for number, ((passage, _), answer) in enumerate(zip(questions, answers, strict=True))
            if _overlong(answer)
        }
        long = {number: windows for number, windows in long.items() if len(windows) > 1}
        types = {number: _overlong(answers[number]) for number in long}
        parts = [
            (questions[number][0][window.start : window.end], types[number])
            for number, windows in long.items()
            for window in windows
        ]
        # Windows that are still too long are cut again.
        answered = iter(await self.ask_all(parts) if parts else ())
        for number, windows in long.items():
            joined = [_shifted(next(answered), window.start) for window in windows]
            answers[number] = _joined(answers[number], joined)
        return answers

    def _windows(self, passage: str) -> list[PassageSpan]:
        half = len(TokenizedText(passage, self._tokenizer)) // 2
        size = min(half, int(_WINDOW_SHARE * self._system.max_prompt_tokens))
        if size < _SHORTEST:
            return []
        overlap = min(int(_OVERLAP_SHARE * size), _MOST_OVERLAP)
        return list(cut_passages(passage, self._tokenizer, size, overlap))

    @cached_property
    def _tokenizer(self) -> Any:
        # Of our own: the system's may be at work in another thread, and cutting changes its settings.
        return copy.deepcopy(self._system.tokenizer)


def _overlong(answers: PassageAnswers) -> list[str]:
    """Return the types whose question was too long to be asked."""
    return [answer.type for answer in answers.answers if answer.outcome == "overlong"]


def _shifted(answers: PassageAnswers, start: int) -> PassageAnswers:
    """Return a window's answers with places in the passage. start: of the window."""
    moved = tuple(
        replace(answer, spans=tuple((first + start, last + start) for first, last in answer.spans))
        for answer in answers.answers
    )
    return replace(answers, answers=moved)


def _joined(whole: PassageAnswers, windows: Sequence[PassageAnswers]) -> PassageAnswers:
    """Return a passage's answers, those of overlong questions from its windows."""
    of_type = {
        answers[0].type: _join(answers)
        for answers in zip(*(window.answers for window in windows), strict=True)
    }
    figures = merge([whole.figures, *(window.figures for window in windows), {"windows": len(windows)}])
    return replace(
        whole, answers=tuple(of_type.get(answer.type, answer) for answer in whole.answers), figures=figures
    )


def _join(answers: Sequence[TypeAnswer]) -> TypeAnswer:
    """Return the answer about a passage for those about its windows.

    A mention, and a place, keeps its highest score.
    """
    outcomes = {answer.outcome for answer in answers}
    outcome = next((failure for failure in _FAILURES if failure in outcomes), "ok")
    text = "\n".join(answer.text for answer in answers)
    if outcome != "ok":
        return TypeAnswer(answers[0].type, outcome, {}, text)
    scores: dict[str, float] = {}
    for answer in answers:
        for mention, score in answer.scores.items():
            scores[mention] = max(score, scores.get(mention, 0.0))
    places: dict[tuple[int, int], float] = {}
    for answer in answers:
        for place, score in zip(answer.spans, answer.span_scores, strict=True):
            places[place] = max(score, places.get(place, 0.0))
    unscored = dict.fromkeys(mention for answer in answers for mention in answer.unscored)
    ordered = dict(sorted(places.items()))
    return TypeAnswer(
        answers[0].type, "ok", scores, text, tuple(unscored), tuple(ordered), tuple(ordered.values())
    )
