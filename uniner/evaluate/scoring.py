"""Score a system's predictions by every protocol in one pass (paper §5; pure)."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from uniner.evaluate.error_analysis import ErrorAnalysis, MistakeCounter
from uniner.evaluate.paraphrase import ParaphraseScores
from uniner.labels import is_else_type
from uniner.metrics.calibration import CalibrationReport, half_of, report_calibration
from uniner.metrics.counts import Counts, F1Score
from uniner.metrics.matching import normalise
from uniner.metrics.protocols import BY_PASSAGE, COUNTING, HEADLINE, PARAPHRASE, ScoredAnswer
from uniner.metrics.significance import bootstrap_interval
from uniner.metrics.type_thresholds import TypeMentions, TypeThreshold, propose_thresholds
from uniner.records import Prediction

LENGTHS = (16, 32, 64, 128, 256)
"""Bounds, in words, of the classes of passage lengths."""
PASSAGE_COUNTS = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("passage_id", pa.string(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("words", "tp", "fp", "fn")),
    ]
)
"""A passage's length and its counts by protocol `strict`."""
_ZERO = Counts()


@dataclass(frozen=True, kw_only=True)
class ProtocolScore(F1Score):
    """The score by one protocol. interval: 95 % interval of F1. broken: questions with a broken answer."""

    interval: tuple[float, float]
    questions: int
    broken: int


@dataclass(frozen=True, kw_only=True)
class LengthScore(ProtocolScore):
    """The strict score of passages of some length. words: shortest and longest; None: no upper bound."""

    words: tuple[int, int | None]
    passages: int


@dataclass(frozen=True, kw_only=True)
class DatasetScores(ProtocolScore):
    """The scores of a system on a data set. The score itself is by protocol `strict`.

    types: strict score by type. by_length: only the lengths that occur. protocols: by name
    (`metrics.protocols.PROTOCOLS`). calibration: None where the system gives its mentions no scores.
    thresholds: by type, where one helps (`metrics.type_thresholds`). paraphrase: where types were also asked
    for in other words.
    """

    passages: int
    outcomes: dict[str, int]
    calibration: CalibrationReport | None
    types: dict[str, F1Score]
    by_length: tuple[LengthScore, ...]
    protocols: dict[str, ProtocolScore]
    errors: ErrorAnalysis
    thresholds: dict[str, TypeThreshold] = field(default_factory=dict)
    paraphrase: ParaphraseScores | None = None

    @classmethod
    def from_json(cls, value: Any) -> "DatasetScores":
        """Read what `to_json` returned.

        Raises:
            msgspec.ValidationError: where a field is missing or has another type.
        """
        return msgspec.convert(value, cls)

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON reads them back: lists in place of tuples."""
        return msgspec.json.decode(msgspec.json.encode(self))

    def with_paraphrase(self, found: ParaphraseScores | None) -> "DatasetScores":
        """Return the scores with those in other words, which are also those of a protocol."""
        if found is None:
            return self
        total = found.total
        counts = Counts(total.tp, total.fp, total.fn).score()
        score = ProtocolScore(
            **vars(counts), interval=total.interval, questions=total.questions, broken=total.broken
        )
        return replace(self, paraphrase=found, protocols={**self.protocols, PARAPHRASE: score})

    def without_examples(self) -> "DatasetScores":
        """Return the scores without examples of mistakes, which are most of their bytes."""
        return replace(self, errors=replace(self.errors, examples={}))


class ProtocolTally:
    """Adds up counts by one protocol: the number of passages with each combination of counts."""

    def __init__(self) -> None:
        self.kinds: Counter[tuple[float, float, float]] = Counter()
        self.questions = self.broken = 0

    def add(self, counts: Counts, questions: int, broken: int) -> None:
        """Add a passage: the counts over the questions that the protocol takes, and their number."""
        self.kinds[counts.tp, counts.fp, counts.fn] += 1
        self.questions += questions
        self.broken += broken

    def score(self) -> ProtocolScore:
        """Return the micro-average."""
        total = sum(
            (Counts(*(count * size for count in kind)) for kind, size in self.kinds.items()), _ZERO
        ).score()
        interval = bootstrap_interval(self.kinds)
        return ProtocolScore(**vars(total), interval=interval, questions=self.questions, broken=self.broken)

    def score_by_passage(self) -> ProtocolScore:
        """Return the micro-average's counts with the means of the passages' precision, recall and F1."""
        scored = {Counts(*kind): size for kind, size in self.kinds.items() if any(kind)}
        passages = max(1, sum(scored.values()))
        means = {
            name: round(sum(getattr(counts, name) * size for counts, size in scored.items()) / passages, 12)
            for name in ("precision", "recall", "f1")
        }
        return replace(self.score(), interval=bootstrap_interval(self.kinds, by_passage=True), **means)


class DatasetScorer:
    """Adds up one system's predictions on one data set. Keeps a few numbers a passage, and no prediction.

    precision: that the proposed thresholds should reach; None: they look for the best F1.
    """

    def __init__(self, precision: float | None = None) -> None:
        self._precision = precision
        names = [*COUNTING, "strict_present", "strict_with_else"]
        self._protocols = {name: ProtocolTally() for name in names}
        self._types: defaultdict[str, Counts] = defaultdict(Counts)
        self._lengths: defaultdict[int, ProtocolTally] = defaultdict(ProtocolTally)
        self._outcomes: Counter[str] = Counter()
        self._mistakes = MistakeCounter()
        self._has_else = False
        self._passage_ids: list[str] = []
        self._counts: dict[str, array[int]] = {name: array("q") for name in PASSAGE_COUNTS.names[2:]}
        # One entry each for every scored mention.
        self._scores, self._right, self._groups = array("d"), list[bool](), list[str]()
        self._of_type: defaultdict[str, list[int]] = defaultdict(list)
        self._gold: Counter[tuple[str, int]] = Counter()

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Add all answers of one passage. A broken answer predicts nothing."""
        asked = [prediction for prediction in predictions if not is_else_type(prediction.type)]
        broken = 0
        for prediction in asked:
            self._types[prediction.type] += _ZERO
            self._outcomes[prediction.outcome] += 1
            broken += prediction.outcome != "ok"
        answers = [ScoredAnswer(prediction) for prediction in asked if not _is_blank(prediction)]
        strict = [COUNTING[HEADLINE](answer) for answer in answers]
        total = sum(strict, _ZERO)
        for answer, counts in zip(answers, strict, strict=True):
            self._types[answer.prediction.type] += counts
            self._gold[answer.prediction.type, half_of(answer.prediction.passage_id)] += len(answer.gold_set)
            self._add_mention_scores(answer)
        for name, count in COUNTING.items():
            counted = total if name == HEADLINE else sum(map(count, answers), _ZERO)
            self._protocols[name].add(counted, len(asked), broken)
        self._add_present(answers, strict)
        others = [prediction for prediction in predictions if is_else_type(prediction.type)]
        self._add_with_else(others, total, len(asked), broken)
        self._mistakes.add(answers)
        words = len(predictions[0].text.split())
        self._lengths[sum(words >= bound for bound in LENGTHS)].add(total, len(asked), broken)
        self._passage_ids.append(predictions[0].passage_id)
        for name, number in {"words": words, "tp": total.tp, "fp": total.fp, "fn": total.fn}.items():
            self._counts[name].append(int(number))

    def _add_present(self, answers: Sequence[ScoredAnswer], strict: Sequence[Counts]) -> None:
        present = [pair for pair in zip(answers, strict, strict=True) if pair[0].prediction.gold]
        broken = sum(answer.prediction.outcome != "ok" for answer, _ in present)
        counts = sum((counts for _, counts in present), _ZERO)
        self._protocols["strict_present"].add(counts, len(present), broken)

    def _add_with_else(
        self, others: Sequence[Prediction], total: Counts, questions: int, broken: int
    ) -> None:
        """Add the questions about ELSE-like types to the strict count of the passage's other questions."""
        self._has_else |= bool(others)
        counts = sum((COUNTING[HEADLINE](ScoredAnswer(prediction)) for prediction in others), total)
        broken += sum(prediction.outcome != "ok" for prediction in others)
        self._protocols["strict_with_else"].add(counts, questions + len(others), broken)

    def _add_mention_scores(self, answer: ScoredAnswer) -> None:
        prediction = answer.prediction
        if not answer.predicted or not prediction.scores:
            return
        if len(prediction.scores) != len(answer.predicted):
            raise ValueError(
                f"passage {prediction.passage_id} of {prediction.dataset}: {len(prediction.scores)} scores "
                f"for {len(answer.predicted)} mentions of type {prediction.type}"
            )
        first = len(self._scores)
        self._of_type[prediction.type] += range(first, first + len(prediction.scores))
        self._scores.extend(prediction.scores)
        self._right.extend(normalise(mention) in answer.gold_set for mention in answer.predicted)
        self._groups.extend([prediction.passage_id] * len(answer.predicted))

    def scores(self) -> DatasetScores:
        """Return the scores of all passages added so far."""
        protocols = {name: tally.score() for name, tally in self._protocols.items()}
        if not self._has_else:
            del protocols["strict_with_else"]
        protocols[BY_PASSAGE] = self._protocols[HEADLINE].score_by_passage()
        lengths = [(start, end - 1) for start, end in pairwise((0, *LENGTHS))] + [(LENGTHS[-1], None)]
        return DatasetScores(
            **vars(protocols[HEADLINE]),
            passages=len(self._passage_ids),
            outcomes=dict(sorted(self._outcomes.items())),
            calibration=report_calibration(self._scores, self._right, self._groups),
            types={name: counts.score() for name, counts in sorted(self._types.items())},
            by_length=tuple(
                LengthScore(**vars(tally.score()), words=lengths[number], passages=tally.kinds.total())
                for number, tally in sorted(self._lengths.items())
            ),
            protocols=protocols,
            errors=self._mistakes.analysis(),
            thresholds=propose_thresholds(
                {name: self._mentions(name) for name in sorted(self._of_type)}, self._precision
            ),
        )

    def _mentions(self, name: str) -> TypeMentions:
        numbers = self._of_type[name]
        return TypeMentions(
            np.array([self._scores[number] for number in numbers]),
            np.array([self._right[number] for number in numbers], bool),
            np.array([half_of(self._groups[number]) for number in numbers]),
            (self._gold[name, 0], self._gold[name, 1]),
        )

    def passages(self, dataset: str) -> pa.Table:
        """Return the passages' counts (PASSAGE_COUNTS)."""
        names = [dataset] * len(self._passage_ids)
        columns = {"dataset": names, "passage_id": self._passage_ids, **self._counts}
        return pa.table(columns, schema=PASSAGE_COUNTS)


class SystemScorer:
    """Scores a system on every data set of its predictions."""

    def __init__(self, predictions: Iterable[Prediction], precision: float | None = None):
        """Add up predictions. All answers of a passage must follow one another. precision: see DatasetScorer.

        Raises:
            ValueError: where answers of another passage lie between them.
        """
        self._scorers: defaultdict[str, DatasetScorer] = defaultdict(lambda: DatasetScorer(precision))
        seen: set[tuple[str, str]] = set()
        for key, group in groupby(
            predictions, key=lambda prediction: (prediction.dataset, prediction.passage_id)
        ):
            if key in seen:
                raise ValueError(f"the answers to passage {key[1]} of {key[0]} do not follow one another")
            seen.add(key)
            self._scorers[key[0]].add(list(group))

    def scores(self) -> dict[str, DatasetScores]:
        """Return the scores by data set."""
        return {dataset: scorer.scores() for dataset, scorer in sorted(self._scorers.items())}

    def passages(self) -> pa.Table:
        """Return the passages' counts (PASSAGE_COUNTS), for `significance.compare_systems`."""
        tables = [scorer.passages(dataset) for dataset, scorer in sorted(self._scorers.items())]
        return pa.concat_tables([PASSAGE_COUNTS.empty_table(), *tables])


def score(predictions: Iterable[Prediction]) -> dict[str, DatasetScores]:
    """Score a system's predictions by data set."""
    return SystemScorer(predictions).scores()


def _is_blank(prediction: Prediction) -> bool:
    """Return whether every protocol counts nothing but the question: true of most questions."""
    empty = not prediction.gold and not prediction.predicted and prediction.outcome == "ok"
    return empty and (prediction.reply == "[]" or not prediction.reply.lstrip().startswith("["))
