"""The scoring protocols: what each counts, and its statement for readers. Pure."""

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
PARAPHRASE = "paraphrase"
_SETS = (
    "for each (passage, type) question the sets of predicted and gold mentions are compared as normalised "
    "strings (lower case, without punctuation and the articles a, an, the, white space collapsed); "
    "micro-average over all questions"
)
_QUESTIONS = (
    "; every type of a data set is asked of each of its passages; a file with questions of its own is asked "
    "these alone; above evaluate.max_questions a sample is drawn, the same for all systems; ELSE-like types "
    "(misc, miscellaneous, other, else, none) are left out; a passage longer than a model's window is asked "
    "about in overlapping windows, whose mentions count together; a broken answer (not of the requested "
    "form, cut at the limit, or not asked because the question is too long) counts as no prediction and is "
    "reported"
)
PROTOCOL = f"strict: {_SETS}{_QUESTIONS}"
PROTOCOLS = {
    HEADLINE: f"{_SETS}{_QUESTIONS}",
    "released": (
        "counted as universal-ner's src/eval/evaluate.py does, to reproduce published numbers: sets of "
        "strings as in strict, read from the raw reply up to its first `]`; a reply or gold answer with a "
        "mention that contains `]`, and any other malformed reply, silently gives no mentions; a broken "
        "reply that begins with a list counts with that list (a system that answers several types in one "
        "reply is treated as if it answered each with a list)"
    ),
    "released_unbroken": "as released, but a list ends at its closing bracket, not at the first `]`",
    "partial": (
        "as strict, and predicted and gold mentions that are not equal but share a word are paired one to "
        "one, as many as possible; a pair counts as half a true positive, so that precision is "
        "tp / predicted and recall tp / gold"
    ),
    "span": (
        "sets of character spans; for a system that answers strings, all occurrences of each string in the "
        "passage (as whole words where there are such, else ignoring case, white space, kinds of dashes and "
        "quotation marks, and how letters are encoded); a mention that does not occur is one false positive; "
        "gold strings that do not occur in the passage are left out"
    ),
    "strict_present": (
        "as strict, per passage: only the types that a passage has are counted, so that answers to questions "
        "for other types cost nothing"
    ),
    BY_PASSAGE: (
        "as strict, per passage: the mean of the passages' F1, each over all types; passages with neither "
        "gold nor predicted mentions are left out; precision and recall are means too (0 where the "
        "denominator is 0), tp, fp and fn are the sums of strict"
    ),
    PARAPHRASE: (
        "as strict, each type asked by two synonyms and by a description in place of its name, over the "
        "types that have them; only with evaluate.paraphrase"
    ),
    "strict_with_else": "as strict, with ELSE-like types; only with evaluate.else_types",
}
"""Each protocol's statement, shown beside its numbers."""


@dataclass(frozen=True)
class ScoredAnswer:
    """The answer to a question, prepared once for all protocols. A broken answer predicts nothing."""

    prediction: Prediction

    @cached_property
    def predicted(self) -> tuple[str, ...]:
        """The predicted mentions as written."""
        return self.prediction.predicted if self.prediction.outcome == "ok" else ()

    @cached_property
    def predicted_set(self) -> frozenset[str]:
        """The predicted mentions, normalised."""
        return matching.normalised(self.predicted)

    @cached_property
    def gold_set(self) -> frozenset[str]:
        """The gold mentions, normalised."""
        return matching.normalised(self.prediction.gold)

    @cached_property
    def occurrences(self) -> dict[str, list[tuple[int, int]]]:
        """All spans of each predicted mention in the passage."""
        return {mention: locate(self.prediction.text, mention)[0] for mention in self.predicted}


def _count_strict(answer: ScoredAnswer) -> Counts:
    return matching.strict(answer.predicted_set, answer.gold_set)


def _count_released(answer: ScoredAnswer, bracket_break: bool) -> Counts:
    prediction = answer.prediction
    reply = prediction.reply
    if prediction.outcome == "ok" and not matching.is_list_of_strings(reply):
        reply = json.dumps(prediction.predicted)
    predicted = matching.released_mentions(reply, bracket_break)
    return matching.strict(predicted, matching.released_gold(prediction.gold, bracket_break))


def _count_spans(answer: ScoredAnswer) -> Counts:
    prediction = answer.prediction
    gold = frozenset((span.start, span.end) for span in prediction.gold_spans)
    if prediction.spans and answer.predicted:
        return matching.strict(frozenset((span.start, span.end) for span in prediction.spans), gold)
    return matching.strict(matching.span_set(answer.occurrences.values()), gold)


COUNTING: dict[str, Callable[[ScoredAnswer], Counts]] = {
    HEADLINE: _count_strict,
    "released": lambda answer: _count_released(answer, bracket_break=True),
    "released_unbroken": lambda answer: _count_released(answer, bracket_break=False),
    "partial": lambda answer: matching.partial(answer.predicted_set, answer.gold_set),
    "span": _count_spans,
}
"""How a protocol counts a question. The other protocols differ in which questions they count, or in how they
average."""
