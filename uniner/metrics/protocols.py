"""What a number means: the protocols by name, and how each counts a question. Pure."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from uniner.grounding import locate
from uniner.metrics import matching
from uniner.metrics.counts import Counts
from uniner.records import Prediction

HEADLINE = "strict"
BY_PASSAGE = "strict_by_passage"
_SETS = (
    "for each (passage, type) question the sets of predicted and gold mentions are compared as normalised "
    "strings (lower case, punctuation and the articles a, an, the removed, white space folded); "
    "micro-average over all questions"
)
_REST = (
    "; every type of a data set is asked of each of its passages, of a file that has questions these alone; "
    "of more questions than evaluate.max_questions so many are drawn, the same for all systems; ELSE-like "
    "types (misc, miscellaneous, other, else, none) are left out; an answer that is broken (not of the form "
    "that was asked for, cut at the limit, or not asked because the passage is too long) counts as no "
    "prediction and is shown"
)
PROTOCOL = f"strict: {_SETS}{_REST}"
PROTOCOLS = {
    HEADLINE: f"{_SETS}{_REST}",
    "released": (
        "as universal-ner's src/eval/evaluate.py counts, to reproduce published numbers: sets of strings as "
        "in strict, of the raw reply up to its first `]`; a reply or gold answer with a mention that holds a "
        "`]`, and any other malformed reply, is silently no entities; a broken reply that begins with a list "
        "counts with it (a system that answers several types in one reply is taken to have answered each "
        "with a list)"
    ),
    "released_unbroken": "as released, but a list ends where it ends, not at the first `]`",
    "partial": (
        "as strict, and of the mentions that are not equal, predicted and gold ones that share a word are "
        "paired one to one, as many as can be; a pair counts as half a true positive, so that precision is "
        "tp / predicted and recall tp / gold"
    ),
    "span": (
        "sets of character spans; a system that answers strings is taken to mean all occurrences of each in "
        "the passage (as whole words if there are such, else with case, white space and quotation marks "
        "folded); a mention that does not occur is one false positive; gold strings that have no place in "
        "the passage are left out"
    ),
    "strict_present": (
        "as strict, per passage: of each passage only the types that it has are counted, so that what is "
        "answered to the other types' questions costs nothing"
    ),
    BY_PASSAGE: (
        "as strict, per passage: the mean of the passages' F1, each over all types; passages with neither "
        "gold nor predicted mentions are left out; precision and recall are means too (0 where there is "
        "nothing to divide by), tp, fp and fn the sums of strict"
    ),
    "strict_with_else": "as strict, with ELSE-like types; only where evaluate.else_types asked for them",
}
"""Each protocol's statement, which stands beside its numbers."""


@dataclass(frozen=True)
class Answer:
    """A question's answer, made ready for all protocols; a broken one predicts nothing."""

    prediction: Prediction

    @cached_property
    def predicted(self) -> tuple[str, ...]:
        """The mentions as they were answered."""
        return self.prediction.predicted if self.prediction.outcome == "ok" else ()

    @cached_property
    def said(self) -> frozenset[str]:
        """The predicted mentions, normalised."""
        return matching.normalised(self.predicted)

    @cached_property
    def true(self) -> frozenset[str]:
        """The gold mentions, normalised."""
        return matching.normalised(self.prediction.gold)

    @cached_property
    def located(self) -> dict[str, list[tuple[int, int]]]:
        """All places in the passage of each predicted mention."""
        return {mention: locate(self.prediction.text, mention)[0] for mention in self.predicted}


def _sets(answer: Answer) -> Counts:
    return matching.strict(answer.said, answer.true)


def _as_released(answer: Answer, bracket_break: bool) -> Counts:
    asked = answer.prediction
    reply = asked.reply
    if asked.outcome == "ok" and not matching.is_list_of_strings(reply):
        reply = json.dumps(asked.predicted)
    said = matching.released(reply, bracket_break)
    return matching.strict(said, matching.released_gold(asked.gold, bracket_break))


def _spans(answer: Answer) -> Counts:
    asked = answer.prediction
    true = frozenset((span.start, span.end) for span in asked.gold_spans)
    if asked.spans and answer.predicted:
        return matching.strict(frozenset((span.start, span.end) for span in asked.spans), true)
    return matching.strict(matching.spans_of(answer.located.values()), true)


COUNTING: dict[str, Callable[[Answer], Counts]] = {
    HEADLINE: _sets,
    "released": lambda answer: _as_released(answer, bracket_break=True),
    "released_unbroken": lambda answer: _as_released(answer, bracket_break=False),
    "partial": lambda answer: matching.partial(answer.said, answer.true),
    "span": _spans,
}
"""How a question is counted. The other protocols differ in which questions count, or in how they add up."""
