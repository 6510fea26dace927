"""Protocol `paraphrase`: the same questions in other words, and what of F1 is lost by it.

A system answers each question of a data set by the type's name, and again by two synonyms and a description
(`gold.paraphrases`). Both sides count the same (passage, type) pairs, so the loss is paired by passage.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from uniner.evaluate.gold_questions import asked_types
from uniner.evaluate.result_store import ResultCell, short_digest
from uniner.gold.paraphrases import known_paraphrases, paraphrased
from uniner.metrics.counts import Counts
from uniner.metrics.protocols import COUNTING, HEADLINE, ScoredAnswer
from uniner.metrics.significance import paired_f1
from uniner.records import QUESTION, Prediction, Question, from_table, to_table
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk, StageFolder

log = logging.getLogger(__name__)

_ZERO = Counts()
TITLE = "By name and in other words"
HEAD = ("system", "data set", "F1 by name", "F1 by paraphrase", "loss", "by synonyms", "by description")
NOTE = (
    "F1 in per cent by protocol strict, over the types that have paraphrases, with 95 % intervals (bootstrap "
    "over passages); the loss is F1 by name less F1 by paraphrase on the same questions."
)


@dataclass(frozen=True, kw_only=True)
class ParaphraseScore:
    """F1 by name and in other words on the same questions, each with its 95 % interval; broken answers."""

    by_name: float
    by_name_interval: tuple[float, float]
    f1: float
    interval: tuple[float, float]
    loss: float
    loss_interval: tuple[float, float]
    questions: int
    broken: int
    tp: float
    fp: float
    fn: float


@dataclass(frozen=True, kw_only=True)
class ParaphraseScores:
    """The score over all ways to ask, and by way. types: by type the F1 by name and in other words."""

    total: ParaphraseScore
    ways: dict[str, ParaphraseScore]
    types: dict[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class ParaphrasedCell:
    """A system's answers to a data set's questions in other words. words: by type."""

    way: str
    words: Mapping[str, str]
    cell: ResultCell


def paraphrased_name(dataset: str, way: str) -> str:
    """Return the name of a data set's questions in other words."""
    return f"{dataset}~{way}"


def paraphrased_questions(gold: StageFolder, words: Mapping[str, str]) -> Iterator[Chunk]:
    """Yield the chunks of a data set's questions with other words for the types, without the other types."""
    for key in sorted(gold.require_manifest().rows_of_chunk):
        asked = [
            Question(**{**vars(question), "type": words[question.type]})
            for question in from_table(gold.read_chunk(key).table, Question)
            if question.type in words
        ]
        yield Chunk(key, to_table(asked, QUESTION))


def words_by_dataset(
    questions: Mapping[str, StageFolder], file: str | None
) -> dict[str, dict[str, dict[str, str]]]:
    """Return by data set and way to ask the words for its types, and log the types without any.

    questions: the folders of the data sets' questions. file: of words, beside those that ship.
    """
    known, found = known_paraphrases(file), {}
    for dataset, gold in questions.items():
        types = sorted(asked_types(gold))
        found[dataset] = paraphrased(types, known)
        missing = [name for name in types if not any(name in words for words in found[dataset].values())]
        if missing:
            log.warning(
                f"evaluate: {dataset} has no paraphrases for {', '.join(map(repr, missing))}, so that "
                "protocol paraphrase leaves these types out; give some in evaluate.paraphrases_file"
            )
    return found


def paraphrased_cells(
    cells: Mapping[str, Sequence[ResultCell]], words: Mapping[str, Mapping[str, dict[str, str]]]
) -> dict[tuple[str, str], list[ParaphrasedCell]]:
    """Return by system and data set the cells with the answers in other words."""
    return {
        (name, dataset): [
            ParaphrasedCell(way=way, words=by_type, cell=named[paraphrased_name(dataset, way)])
            for way, by_type in ways.items()
            if paraphrased_name(dataset, way) in named
        ]
        for name, answered in cells.items()
        for named in [{cell.dataset: cell for cell in answered}]
        for dataset, ways in words.items()
    }


def cut_paraphrased(
    stage: StageFolder, dataset: str, gold: StageFolder, way: str, words: dict[str, str]
) -> StageFolder:
    """Write a data set's questions in other words, once. Other words get another folder."""
    started = time.monotonic()
    identity = Identity(
        stage="evaluate gold", settings={"paraphrase": {way: words}}, parents={dataset: gold.digest()}
    )
    name = paraphrased_name(dataset, way)
    folder = stage / "gold" / f"{name}-{short_digest(identity.content())}"
    if not folder.begin(identity):
        summaries = [folder.write_chunk(chunk) for chunk in paraphrased_questions(gold, words)]
        folder.write_manifest(Manifest.of(identity, summaries, time.monotonic() - started))
    return folder


class _WayCounts:
    """Counts by passage, by name and in other words, over the types that one way to ask has words for."""

    def __init__(self) -> None:
        self.passages: defaultdict[str, list[Counts]] = defaultdict(lambda: [_ZERO, _ZERO])
        self.questions = self.broken = 0


def score_paraphrases(
    by_name: Iterable[Prediction], ways: Mapping[str, tuple[Mapping[str, str], Iterable[Prediction]]]
) -> ParaphraseScores | None:
    """Score a system's answers in other words beside those by name; None without any.

    by_name: all answers on a data set. ways: for each way to ask the words by type, and the answers.
    """
    named: dict[tuple[str, str], Counts] = {}
    passages: set[str] = set()
    for prediction in by_name:
        passages.add(prediction.passage_id)
        named[prediction.passage_id, prediction.type] = COUNTING[HEADLINE](ScoredAnswer(prediction))
    by_way: dict[str, _WayCounts] = {}
    types: defaultdict[str, list[Counts]] = defaultdict(lambda: [_ZERO, _ZERO])
    for way, (words, predictions) in ways.items():
        name_of = {text: name for name, text in words.items()}
        found = by_way[way] = _WayCounts()
        for prediction in predictions:
            name, passage = name_of[prediction.type], prediction.passage_id
            counts = (named[passage, name], COUNTING[HEADLINE](ScoredAnswer(prediction)))
            for side, count in enumerate(counts):
                found.passages[passage][side] += count
                types[name][side] += count
            found.questions += 1
            found.broken += prediction.outcome != "ok"
    if not any(found.questions for found in by_way.values()):
        return None
    return ParaphraseScores(
        total=_score(list(by_way.values())),
        ways={way: _score([found]) for way, found in by_way.items()},
        types={
            name: (round(one.f1, 12), round(other.f1, 12)) for name, (one, other) in sorted(types.items())
        },
    )


def _score(parts: Sequence[_WayCounts]) -> ParaphraseScore:
    sums: defaultdict[str, list[Counts]] = defaultdict(lambda: [_ZERO, _ZERO])
    for part in parts:
        for passage, sides in part.passages.items():
            for side, counts in enumerate(sides):
                sums[passage][side] += counts
    kinds = Counter((one.tp, one.fp, one.fn, other.tp, other.fp, other.fn) for one, other in sums.values())
    paired = paired_f1(kinds)
    total = sum((other for _, other in sums.values()), _ZERO)
    return ParaphraseScore(
        by_name=paired.first,
        by_name_interval=paired.first_interval,
        f1=paired.second,
        interval=paired.second_interval,
        loss=paired.difference,
        loss_interval=paired.difference_interval,
        questions=sum(part.questions for part in parts),
        broken=sum(part.broken for part in parts),
        tp=total.tp,
        fp=total.fp,
        fn=total.fn,
    )


def paraphrase_rows(scores: Mapping[str, Mapping[str, ParaphraseScores]]) -> list[tuple[str, ...]]:
    """Return the table's cells (HEAD) of each system and data set."""
    return [
        (
            system,
            dataset,
            _text(found.total.by_name, found.total.by_name_interval),
            _text(found.total.f1, found.total.interval),
            _text(found.total.loss, found.total.loss_interval),
            *(
                " / ".join(
                    f"{100 * score.f1:.1f}" for way, score in found.ways.items() if way.startswith(kind)
                )
                for kind in ("synonym", "description")
            ),
        )
        for system, by_dataset in scores.items()
        for dataset, found in by_dataset.items()
    ]


def _text(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def paraphrase_line(system: str, dataset: str, found: ParaphraseScores) -> str:
    """Return a score as a line for the log."""
    total = found.total
    low, high = total.loss_interval
    return (
        f"{system} on {dataset} F1 {total.by_name:.3f} by name and {total.f1:.3f} by paraphrase of "
        f"{len(found.types)} types, loss {total.loss:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
