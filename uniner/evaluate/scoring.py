"""A system's predictions to scores: every protocol in one pass (paper §5; pure)."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from uniner.evaluate.error_analysis import Mistakes
from uniner.labels import is_else_type
from uniner.metrics.calibration import assess
from uniner.metrics.counts import Counts
from uniner.metrics.matching import normalise
from uniner.metrics.protocols import BY_PASSAGE, COUNTING, HEADLINE, Answer
from uniner.metrics.significance import interval
from uniner.records import Prediction

LENGTHS = (16, 32, 64, 128, 256)
"""Words at which a longer kind of passage begins."""
PASSAGE_COUNTS = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("passage_id", pa.string(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("words", "tp", "fp", "fn")),
    ]
)
"""A passage's length and counts by protocol `strict`."""
_NOTHING = Counts()


class Tally:
    """Adds up a protocol's counts: how many passages have which, and its questions."""

    def __init__(self) -> None:
        self.kinds: Counter[tuple[float, float, float]] = Counter()
        self.questions = self.broken = 0

    def add(self, counts: Counts, questions: int, broken: int) -> None:
        """Count a passage: the counts of its answers that the protocol takes, and how many these are."""
        self.kinds[counts.tp, counts.fp, counts.fn] += 1
        self.questions += questions
        self.broken += broken

    def figures(self) -> dict[str, Any]:
        """Return counts, shares, the interval of F1, questions and broken answers."""
        return {**self._total().figures(), "interval": interval(self.kinds), **self._asked()}

    def figures_by_passage(self) -> dict[str, Any]:
        """Return the same, with means of the passages' shares."""
        scored = {Counts(*kind): many for kind, many in self.kinds.items() if any(kind)}
        passages = max(1, sum(scored.values()))
        means = {
            name: round(sum(getattr(counts, name) * many for counts, many in scored.items()) / passages, 12)
            for name in ("precision", "recall", "f1")
        }
        return {
            **self._total().figures(),
            **means,
            "interval": interval(self.kinds, by_passage=True),
            **self._asked(),
        }

    def _total(self) -> Counts:
        return sum((Counts(*(count * many for count in kind)) for kind, many in self.kinds.items()), _NOTHING)

    def _asked(self) -> dict[str, int]:
        return {"questions": self.questions, "broken": self.broken}


class Scoreboard:
    """Adds up one system's predictions on one data set. Holds a few numbers a passage, and no prediction."""

    def __init__(self) -> None:
        names = [*COUNTING, "strict_present", "strict_with_else"]
        self._protocols = {name: Tally() for name in names}
        self._types: dict[str, Counts] = {}
        self._lengths: defaultdict[int, Tally] = defaultdict(Tally)
        self._outcomes: Counter[str] = Counter()
        self._mistakes = Mistakes()
        self._asks_else = False
        self.ids: list[str] = []
        self.counts: dict[str, array[int]] = {name: array("q") for name in PASSAGE_COUNTS.names[2:]}
        # Score, right, passage of each scored mention.
        self._told, self._right, self._passages = array("d"), list[bool](), list[str]()

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Count a passage's answers, all together; a broken one predicts nothing."""
        asked = [one for one in predictions if not is_else_type(one.type)]
        broken = 0
        for one in asked:
            self._types.setdefault(one.type, _NOTHING)
            self._outcomes[one.outcome] += 1
            broken += one.outcome != "ok"
        answers = [Answer(one) for one in asked if not _is_blank(one)]
        strict = [COUNTING[HEADLINE](answer) for answer in answers]
        total = sum(strict, _NOTHING)
        for answer, counts in zip(answers, strict, strict=True):
            self._types[answer.prediction.type] += counts
            self._tell(answer, predictions[0].passage_id)
        for name, count in COUNTING.items():
            counted = total if name == HEADLINE else sum(map(count, answers), _NOTHING)
            self._protocols[name].add(counted, len(asked), broken)
        self._count_present(answers, strict)
        others = (
            [one for one in predictions if is_else_type(one.type)] if len(asked) < len(predictions) else []
        )
        self._count_with_else(others, total, len(asked), broken)
        self._mistakes.add(answers)
        words = len(predictions[0].text.split())
        self._lengths[sum(words >= each for each in LENGTHS)].add(total, len(asked), broken)
        self.ids.append(predictions[0].passage_id)
        for name, number in {"words": words, "tp": total.tp, "fp": total.fp, "fn": total.fn}.items():
            self.counts[name].append(int(number))

    def _count_present(self, answers: Sequence[Answer], strict: Sequence[Counts]) -> None:
        present = [(one, counts) for one, counts in zip(answers, strict, strict=True) if one.prediction.gold]
        broken = sum(one.prediction.outcome != "ok" for one, _ in present)
        self._protocols["strict_present"].add(
            sum((counts for _, counts in present), _NOTHING), len(present), broken
        )

    def _count_with_else(
        self, others: Sequence[Prediction], total: Counts, questions: int, broken: int
    ) -> None:
        """Add the questions about ELSE-like types to the strict count of the passage's questions."""
        self._asks_else |= bool(others)
        counts = sum((COUNTING[HEADLINE](Answer(one)) for one in others), total)
        broken += sum(one.outcome != "ok" for one in others)
        self._protocols["strict_with_else"].add(counts, questions + len(others), broken)

    def _tell(self, answer: Answer, passage_id: str) -> None:
        """Note how sure the system was of each mention, and whether it was right."""
        asked = answer.prediction
        if not answer.predicted or not asked.scores:
            return
        self._told.extend(asked.scores)
        self._right.extend(normalise(mention) in answer.true for mention in answer.predicted)
        self._passages.extend([passage_id] * len(answer.predicted))
        if not len(self._told) == len(self._right):
            raise ValueError(f"{len(asked.scores)} scores of {len(answer.predicted)} mentions")

    def scores(self) -> dict[str, Any]:
        """Return the strict score with all that it is made of, the other protocols', and the mistakes.

        by_length: words (from, to; the last without end), passages and strict figures of the lengths that
        there are. protocols: figures by name (`protocols.PROTOCOLS`). calibration: if mentions' scores hold.
        errors: `error_analysis`.
        """
        protocols = {name: tally.figures() for name, tally in self._protocols.items()}
        if not self._asks_else:
            del protocols["strict_with_else"]
        protocols[BY_PASSAGE] = self._protocols[HEADLINE].figures_by_passage()
        bounds = [0, *LENGTHS, None]
        return {
            **protocols[HEADLINE],
            "passages": len(self.ids),
            "outcomes": dict(sorted(self._outcomes.items())),
            "calibration": assess(self._told, self._right, self._passages),
            "types": {name: counts.figures() for name, counts in sorted(self._types.items())},
            "by_length": [
                {
                    "words": [bounds[place], (bounds[place + 1] or 0) - 1 if bounds[place + 1] else None],
                    "passages": tally.kinds.total(),
                    **tally.figures(),
                }
                for place, tally in sorted(self._lengths.items())
            ],
            "protocols": protocols,
            "errors": self._mistakes.figures(),
        }


class Scores:
    """A system's scores on all data sets that its predictions are of."""

    def __init__(self, predictions: Iterable[Prediction]):
        """Add up predictions, of which a passage's stand one after the other.

        Raises:
            ValueError: where a passage comes again after another one.
        """
        self._boards: dict[str, Scoreboard] = {}
        seen: set[tuple[str, str]] = set()
        for key, some in groupby(predictions, key=lambda one: (one.dataset, one.passage_id)):
            if key in seen:
                raise ValueError(f"the answers to passage {key[1]} of {key[0]} do not stand together")
            seen.add(key)
            if key[0] not in self._boards:
                self._boards[key[0]] = Scoreboard()
            self._boards[key[0]].add(list(some))

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return each data set's `Scoreboard.scores`."""
        return {dataset: board.scores() for dataset, board in sorted(self._boards.items())}

    def passages(self) -> pa.Table:
        """Return the passages' counts (PASSAGE_COUNTS), for `significance.compare` with another system's."""
        tables = [
            pa.table({"dataset": [dataset] * len(board.ids), "passage_id": board.ids, **board.counts},
                     schema=PASSAGE_COUNTS)
            for dataset, board in sorted(self._boards.items())
        ]  # fmt: skip
        return pa.concat_tables(tables) if tables else PASSAGE_COUNTS.empty_table()


def _is_blank(one: Prediction) -> bool:
    """Tell whether there is nothing to count but the question, by any protocol: so most questions are."""
    nothing = not one.gold and not one.predicted and one.outcome == "ok"
    return nothing and (one.reply == "[]" or not one.reply.lstrip().startswith("["))


def score(predictions: Iterable[Prediction]) -> dict[str, dict[str, Any]]:
    """Score a system's predictions, data set by data set."""
    return Scores(predictions).figures()


def without_examples(scores: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return scores without the examples of mistakes, which are most of their bytes."""
    return {
        dataset: {
            **found,
            "errors": {name: each for name, each in found["errors"].items() if name != "examples"},
        }
        for dataset, found in scores.items()
    }
