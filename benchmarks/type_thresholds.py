"""Measure what learned thresholds a type gain on gold passages that they were not learned on.

python -m benchmarks.type_thresholds RUN_FOLDER [--systems NAME,NAME] [--precision SHARE] [--json FILE]

RUN_FOLDER is a run whose evaluate is complete. Each system's answers to each data set are divided into halves
by a hash of the passage. On one half the thresholds are learned as evaluate proposes them
(`metrics.type_thresholds`), on the other F1 is measured before and after; then the other way round, and both
together. The interval of the difference is a paired bootstrap over passages. Nothing is asked and nothing of
the run is changed: it takes seconds, and the same command gives the same table.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa

from benchmarks.table import say
from uniner.errors import UserError
from uniner.evaluate.result_store import ResultCell
from uniner.evaluate.scoring import SystemScorer
from uniner.metrics.significance import Comparison, compare_systems
from uniner.records import Prediction
from uniner.storage.filesystem import absolute
from uniner.storage.stage_folder import StageFolder

Thresholds = Mapping[str, float]
"""The lowest score that counts, by type."""


@dataclass(frozen=True, kw_only=True)
class ThresholdGain:
    """F1 of passages without and with thresholds that were learned on others. learned: by type."""

    system: str
    dataset: str
    scored_on: str
    before: float
    after: float
    gain: Comparison
    learned: dict[str, float]


def main() -> None:
    """Measure a run and print its table."""
    parser = argparse.ArgumentParser(description="Thresholds a type, learned on half of the gold passages.")
    parser.add_argument("run", metavar="RUN_FOLDER")
    parser.add_argument("--systems", help="names of evaluate's systems, by default all that give scores")
    parser.add_argument("--precision", type=float, help="learn thresholds that reach it, not the best F1")
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()
    try:
        names = options.systems.split(",") if options.systems else None
        gains = list(measure_run(StageFolder(absolute(options.run)), names, options.precision))
    except UserError as error:
        sys.exit(str(error))
    say("\n".join(table(gains)))
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(gain) for gain in gains], indent=1) + "\n")


def measure_run(
    run: StageFolder, names: Sequence[str] | None = None, precision: float | None = None
) -> Iterator[ThresholdGain]:
    """Yield the gains of a run's systems on its data sets.

    Raises:
        UserError: evaluate is not complete, or has not scored a system of this name.
    """
    evaluate = run / "evaluate"
    results = evaluate.require_manifest().results
    for name in names or results["scores"]:
        if name not in results["scores"]:
            known = ", ".join(results["scores"])
            raise UserError(f"--systems: evaluate has no scores of {name!r}; it has those of {known}")
        for dataset in results["scores"][name]:
            gold = evaluate / "gold" / f"{dataset}-{results['cells'][dataset]}"
            cell = ResultCell(dataset=dataset, gold=gold, rows=gold.require_manifest().rows_of_chunk)
            if not all((evaluate / name).has_chunk(key) for key in cell.gold_keys()):
                say(f"{name} on {dataset}: left out: trained for the data set, or evaluate is not current")
                continue
            predictions = list(cell.predictions(evaluate / name))
            if not any(prediction.scores for prediction in predictions):
                say(f"{name} on {dataset}: left out: its mentions have no scores")
                continue
            yield from measure(name, predictions, precision)


def measure(
    system: str, predictions: Sequence[Prediction], precision: float | None = None
) -> Iterator[ThresholdGain]:
    """Yield the gains on each half of a data set's passages, with what the other half taught, and on both."""
    dataset = predictions[0].dataset
    halves = [[each for each in predictions if half_of(each) == half] for half in (0, 1)]
    if not all(halves):
        raise UserError(f"{dataset}: has too few passages to be divided in halves")
    learned = [learn(half, precision) for half in halves]
    pairs = []
    for half in (0, 1):
        after = [with_thresholds(each, learned[1 - half]) for each in halves[half]]
        pairs.append((halves[half], after))
        yield _gain(system, dataset, f"half {half + 1}", pairs[-1], learned[1 - half])
    both = ([each for pair in pairs for each in pair[number]] for number in (0, 1))
    yield _gain(system, dataset, "both halves", tuple(both), {})


def half_of(prediction: Prediction) -> int:
    """Return the half, 0 or 1, of an answer's passage.

    Not `calibration.half_of`, by which the learning half is divided once more to judge its own choice.
    """
    return hashlib.sha256(prediction.passage_id.encode(errors="surrogatepass")).digest()[0] % 2


def learn(predictions: Iterable[Prediction], precision: float | None = None) -> dict[str, float]:
    """Return the thresholds that evaluate proposes from these answers."""
    (scores,) = SystemScorer(predictions, precision).scores().values()
    return {name: found.threshold for name, found in scores.thresholds.items()}


def with_thresholds(prediction: Prediction, thresholds: Thresholds) -> Prediction:
    """Return an answer without the mentions whose score is below their type's threshold."""
    lowest = thresholds.get(prediction.type, 0.0)
    if not lowest or not prediction.scores:
        return prediction
    kept = [number for number, score in enumerate(prediction.scores) if score >= lowest]
    mentions = {prediction.predicted[number] for number in kept}
    return replace(
        prediction,
        predicted=tuple(prediction.predicted[number] for number in kept),
        scores=tuple(prediction.scores[number] for number in kept),
        spans=tuple(span for span in prediction.spans if prediction.text[span.start : span.end] in mentions),
    )


def table(gains: Iterable[ThresholdGain]) -> Iterator[str]:
    """Yield the lines of a table in Markdown, and below it the thresholds."""
    yield "| system | data set | scored on | passages | F1 before | F1 after | difference, 95 % | p |"
    yield "|---|---|---|---|---|---|---|---|"
    notes = []
    for gain in gains:
        low, high = gain.gain.interval
        difference = f"{gain.gain.difference:+.4f} [{low:+.4f}, {high:+.4f}]"
        yield (
            f"| {gain.system} | {gain.dataset} | {gain.scored_on} | {gain.gain.passages:,} "
            f"| {gain.before:.4f} | {gain.after:.4f} | {difference} | {gain.gain.p:.3f} |"
        )
        if gain.scored_on != "both halves":
            listed = ", ".join(f"{name} {threshold:g}" for name, threshold in gain.learned.items())
            notes.append(f"{gain.system}, {gain.dataset}, {gain.scored_on}: {listed or 'no threshold helps'}")
    yield ""
    yield from notes


def _gain(
    system: str,
    dataset: str,
    scored_on: str,
    answers: tuple[Sequence[Prediction], ...],
    learned: Mapping[str, float],
) -> ThresholdGain:
    before, after = (SystemScorer(each) for each in answers)
    tables: list[pa.Table] = [after.passages(), before.passages()]
    (comparison,) = compare_systems(*tables).values()
    return ThresholdGain(
        system=system,
        dataset=dataset,
        scored_on=scored_on,
        before=before.scores()[dataset].f1,
        after=after.scores()[dataset].f1,
        gain=comparison,
        learned=dict(learned),
    )


if __name__ == "__main__":
    main()
