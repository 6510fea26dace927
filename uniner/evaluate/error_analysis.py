"""Classify a system's mistakes: each wrong and each missed mention gets one kind. Pure.

Strings are normalised as in protocol `strict`. The kind of a wrong prediction is the first that holds:

    not_in_text   it does not occur in the passage
    confused      it is gold of another type in the same passage
    boundary      it shares a word with a gold mention of its type
    made_up       none of these

and the kind of a missed gold mention:

    broken        the answer to its question is broken
    confused      it was wrongly predicted for another type of the same passage
    boundary      a wrong prediction for its type shares a word with it
    overlooked    none of these
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from uniner.grounding import locate
from uniner.metrics.matching import normalise, share_word
from uniner.metrics.protocols import ScoredAnswer

EXAMPLES = 3
"""Examples kept of each kind and type: the first ones."""
_EXCERPT = 240
_CONTEXT = 80
TypesOfMention = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An example of a mistake.

    text: the passage around the mention. predicted: of a broken answer the beginning of the reply. gold: of a
    confused mention its gold types.
    """

    passage_id: str
    text: str
    predicted: str
    gold: str


@dataclass(frozen=True, kw_only=True)
class MistakeCounts:
    """Wrong and missed mentions by kind, the most frequent kind first."""

    wrong: dict[str, int]
    missed: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ErrorAnalysis(MistakeCounts):
    """The mistakes of a system on a data set: in all, by type, as confusions, and examples.

    confusions: by the type that was asked for, the gold types of what was answered. examples: by kind and
    type.
    """

    types: dict[str, MistakeCounts]
    confusions: dict[str, dict[str, int]]
    examples: dict[str, dict[str, tuple[Mistake, ...]]] = field(default_factory=dict)


class MistakeCounter:
    """Counts the mistakes of one system on one data set."""

    def __init__(self) -> None:
        self._wrong: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._missed: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._confusions: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._examples: dict[str, dict[str, list[Mistake]]] = {}

    def add(self, answers: Sequence[ScoredAnswer]) -> None:
        """Count the mistakes in the answers of one passage."""
        wrong = [answer.predicted_set - answer.gold_set for answer in answers]
        missed = [answer.gold_set - answer.predicted_set for answer in answers]
        if not any(wrong) and not any(missed):
            return
        gold_types: defaultdict[str, list[str]] = defaultdict(list)
        wrong_types: defaultdict[str, list[str]] = defaultdict(list)
        for answer, mentions in zip(answers, wrong, strict=True):
            for mention in answer.gold_set:
                gold_types[mention].append(answer.prediction.type)
            for mention in mentions:
                wrong_types[mention].append(answer.prediction.type)
        for answer, wrong_mentions, missed_mentions in zip(answers, wrong, missed, strict=True):
            for mention in sorted(wrong_mentions):
                self._count_wrong(answer, mention, gold_types)
            for mention in sorted(missed_mentions):
                self._count_missed(answer, mention, wrong_mentions, wrong_types)

    def _count_wrong(self, answer: ScoredAnswer, mention: str, gold_types: TypesOfMention) -> None:
        type_name = answer.prediction.type
        written = next(written for written in answer.predicted if normalise(written) == mention)
        overlapping = sorted(gold for gold in answer.gold_set if share_word(gold, mention))
        if not answer.occurrences[written]:
            kind, gold = "not_in_text", ""
        elif mention in gold_types:
            kind, gold = "confused", ", ".join(gold_types[mention])
            self._confusions[type_name].update(gold_types[mention])
        elif overlapping:
            kind, gold = "boundary", ", ".join(overlapping)
        else:
            kind, gold = "made_up", ""
        self._wrong[type_name][kind] += 1
        self._keep(kind, answer, written, gold)

    def _count_missed(
        self, answer: ScoredAnswer, mention: str, wrong: frozenset[str], wrong_types: TypesOfMention
    ) -> None:
        prediction = answer.prediction
        if prediction.outcome != "ok":
            kind = "broken"
        elif mention in wrong_types:
            kind = "confused"
        elif any(share_word(predicted, mention) for predicted in wrong):
            kind = "boundary"
        else:
            kind = "overlooked"
        self._missed[prediction.type][kind] += 1
        if kind in ("broken", "overlooked"):  # the wrong prediction is the example of the other kinds
            written = next(written for written in prediction.gold if normalise(written) == mention)
            self._keep(kind, answer, "" if kind == "overlooked" else prediction.reply[:_EXCERPT], written)

    def _keep(self, kind: str, answer: ScoredAnswer, predicted: str, gold: str) -> None:
        prediction = answer.prediction
        examples = self._examples.setdefault(kind, {}).setdefault(prediction.type, [])
        if len(examples) < EXAMPLES:
            text = _excerpt(prediction.text, predicted or gold)
            mistake = Mistake(passage_id=prediction.passage_id, text=text, predicted=predicted, gold=gold)
            examples.append(mistake)

    def analysis(self) -> ErrorAnalysis:
        """Return all counts and examples."""
        return ErrorAnalysis(
            wrong=_by_frequency(sum(self._wrong.values(), Counter())),
            missed=_by_frequency(sum(self._missed.values(), Counter())),
            types={
                name: MistakeCounts(
                    wrong=_by_frequency(self._wrong[name]), missed=_by_frequency(self._missed[name])
                )
                for name in sorted({*self._wrong, *self._missed})
            },
            confusions={name: _by_frequency(counts) for name, counts in sorted(self._confusions.items())},
            examples={
                kind: {name: tuple(mistakes) for name, mistakes in sorted(by_type.items())}
                for kind, by_type in sorted(self._examples.items())
            },
        )


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _excerpt(text: str, mention: str) -> str:
    """Return a short text whole, and of a long one the part around the mention."""
    if len(text) <= _EXCERPT:
        return text
    spans, _ = locate(text, mention)
    middle = spans[0][0] if spans else 0
    start = max(0, min(middle - _CONTEXT, len(text) - _EXCERPT))
    end = start + _EXCERPT
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
