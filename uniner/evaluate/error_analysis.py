"""What kinds of mistakes a system makes: each wrong and each missed mention is of one kind. Pure.

Strings are normalised as in protocol `strict`. Of a wrong prediction the first that holds:

    not_in_text   it does not occur in the passage
    confused      another type of the same passage has it as gold
    boundary      it shares a word with a gold mention of its type
    made_up       none of these

and of a missed gold mention:

    broken        the answer to its question is broken
    confused      it was wrongly predicted for another type of the same passage
    boundary      a wrong prediction for its type shares a word with it
    overlooked    none of these
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from uniner.grounding import locate
from uniner.metrics.matching import normalise, overlap
from uniner.metrics.protocols import Answer

EXAMPLES = 3
"""Kept of each kind and type, the first that come."""
_SHOWN = 240
_AROUND = 80


class Mistakes:
    """Counts the mistakes of one system on one data set."""

    def __init__(self) -> None:
        self._wrong: dict[str, Counter[str]] = {}
        self._missed: dict[str, Counter[str]] = {}
        self._confusions: dict[str, Counter[str]] = {}
        self._examples: dict[str, dict[str, list[dict[str, str]]]] = {}

    def add(self, answers: Sequence[Answer]) -> None:
        """Count the mistakes in a passage's answers."""
        wrong = [answer.said - answer.true for answer in answers]
        missed = [answer.true - answer.said for answer in answers]
        if not any(wrong) and not any(missed):
            return
        gold_of: dict[str, list[str]] = {}
        said_of: dict[str, list[str]] = {}
        for answer, ours in zip(answers, wrong, strict=True):
            for mention in answer.true:
                gold_of.setdefault(mention, []).append(answer.prediction.type)
            for mention in ours:
                said_of.setdefault(mention, []).append(answer.prediction.type)
        for answer, ours, theirs in zip(answers, wrong, missed, strict=True):
            for mention in sorted(ours):
                self._count_wrong(answer, mention, gold_of)
            for mention in sorted(theirs):
                self._count_missed(answer, mention, ours, said_of)

    def _count_wrong(self, answer: Answer, mention: str, gold_of: dict[str, list[str]]) -> None:
        asked = answer.prediction
        written = next(each for each in answer.predicted if normalise(each) == mention)
        near = sorted(each for each in answer.true if overlap(each, mention))
        if not answer.located[written]:
            kind, gold = "not_in_text", ""
        elif mention in gold_of:
            kind, gold = "confused", ", ".join(gold_of[mention])
            self._confusions.setdefault(asked.type, Counter()).update(gold_of[mention])
        elif near:
            kind, gold = "boundary", ", ".join(near)
        else:
            kind, gold = "made_up", ""
        self._wrong.setdefault(asked.type, Counter())[kind] += 1
        self._keep(kind, answer, written, gold)

    def _count_missed(
        self, answer: Answer, mention: str, ours: frozenset[str], said_of: dict[str, list[str]]
    ) -> None:
        asked = answer.prediction
        if asked.outcome != "ok":
            kind = "broken"
        elif mention in said_of:
            kind = "confused"
        elif any(overlap(each, mention) for each in ours):
            kind = "boundary"
        else:
            kind = "overlooked"
        self._missed.setdefault(asked.type, Counter())[kind] += 1
        if kind in ("broken", "overlooked"):  # the others are shown by what was predicted
            written = next(each for each in asked.gold if normalise(each) == mention)
            self._keep(kind, answer, "" if kind == "overlooked" else asked.reply[:_SHOWN], written)

    def _keep(self, kind: str, answer: Answer, predicted: str, gold: str) -> None:
        kept = self._examples.setdefault(kind, {}).setdefault(answer.prediction.type, [])
        if len(kept) < EXAMPLES:
            text = _excerpt(answer.prediction.text, predicted or gold)
            passage_id = answer.prediction.passage_id
            kept.append({"passage_id": passage_id, "text": text, "predicted": predicted, "gold": gold})

    def figures(self) -> dict[str, Any]:
        """Return wrong and missed mentions by kind, in all and by type, confusions, and examples.

        confusions: for each type that was asked for, the types whose gold was answered. examples: by kind and
        type, the passage about the mention, what was predicted (of a broken answer the reply's beginning) and
        what is gold (of a confused one its types).
        """
        types = sorted({*self._wrong, *self._missed})
        return {
            "wrong": _sorted(sum(self._wrong.values(), Counter())),
            "missed": _sorted(sum(self._missed.values(), Counter())),
            "types": {
                name: {
                    "wrong": _sorted(self._wrong.get(name, Counter())),
                    "missed": _sorted(self._missed.get(name, Counter())),
                }
                for name in types
            },
            "confusions": {name: _sorted(counts) for name, counts in sorted(self._confusions.items())},
            "examples": {kind: dict(sorted(kept.items())) for kind, kept in sorted(self._examples.items())},
        }


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda counted: (-counted[1], counted[0])))


def _excerpt(text: str, mention: str) -> str:
    """Return a short text whole, of a long one the piece about a mention."""
    if len(text) <= _SHOWN:
        return text
    spans, _ = locate(text, mention)
    middle = spans[0][0] if spans else 0
    start = max(0, min(middle - _AROUND, len(text) - _SHOWN))
    end = start + _SHOWN
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
