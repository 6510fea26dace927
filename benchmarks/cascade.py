"""What a run's encoder saves, costs and gains as the prefilter of its student, on a run with both trained.

python -m benchmarks.cascade CONFIG [--passages N] [SECTION.KEY=VALUE ...]

evaluate must have scored `student` and `encoder`; CONFIG and the settings are those it ran with. It has tried
eight thresholds on its gold data; five of them that differ are shown here. Then N passages of each data set,
asked for that data set's types, are tagged by the student alone, by the encoder alone, and by both with each
threshold. Each is a tag run of its own in `<run.root>/<run.name>-cascade-<N>`, of one chunk and one actor:

    saved         share of the student's questions that are not asked, over all gold passages
    lost          share of the student's right answers lost with them
    F1            mean over the data sets
    passages/s    of the tag run, from the passages to the entities, without the start of the models

The same command resumes.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.table import say
from uniner.config.loader import load
from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.evaluate.cascade import CascadeFigures
from uniner.evaluate.leaderboard import LeaderboardCell, mean_cell
from uniner.evaluate.result_store import ResultCell
from uniner.evaluate.scoring import DatasetScores, score
from uniner.metrics.cascade import CascadePoint
from uniner.records import Prediction
from uniner.storage.filesystem import is_remote
from uniner.storage.model_folders import own_model
from uniner.storage.stage_folder import StageFolder, run_folder

THRESHOLDS_SHOWN = 5
ONE_CHUNK = 1_000_000  # passages: more than are tagged
Scores = Mapping[str, DatasetScores]
"""Scores by data set."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to tag. saved, lost: shares, of the cascade alone. rate: passages a second."""

    way: str
    f1: LeaderboardCell
    rate: float
    saved: float | None = None
    lost: float | None = None


def main() -> None:
    """Measure a run and print its table."""
    parser = argparse.ArgumentParser(
        description="The encoder as prefilter of the student: saved, lost, gained."
    )
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--passages", type=int, default=25, help="passages tagged of each data set")
    options = parser.parse_intermixed_args()
    try:
        rows = measure(load([options.config, *options.settings]), options.passages)
    except UserError as error:
        sys.exit(str(error))
    say("\n" + "\n".join(table(rows)))


def measure(config: Config, passages: int) -> list[Row]:
    """Tag what is not tagged yet. Returns the rows: student, encoder, then the thresholds."""
    run = run_folder(config.run.root, config.run.name)
    if is_remote(run.url):
        raise UserError(f"run.root = {config.run.root!r}: must be a folder of this machine, such as runs")
    figures = cascade_figures(run)
    folder = Path(f"{run.url}-cascade-{passages}")
    words = _lay_out(folder, config, gold_passages(cells(run, figures.datasets), passages))
    _uniner("ingest", [*words, "run.name=passages"])
    student, encoder = (own_model(run, name).url for name in ("student", "encoder"))
    stored = (run / "evaluate").require_manifest().results["scores"]["encoder"]
    of_encoder = {name: DatasetScores.from_json(stored[name]) for name in figures.datasets}
    by_student = f"tag.student={student}"
    rows = [
        Row(
            way="student",
            f1=mean_f1(cascade_scores(run, None)),
            rate=_rate(folder, "student", [*words, by_student]),
        ),
        Row(
            way="encoder",
            f1=mean_f1(of_encoder),
            rate=_rate(folder, "encoder", [*words, f"tag.student={encoder}"]),
        ),
    ]
    for point in choose_points(figures.points):
        both = [f"tag.prefilter={encoder}", f"tag.prefilter_threshold={point.threshold}"]
        rows.append(
            Row(
                way=f"both, threshold {point.threshold:g}",
                f1=mean_f1(cascade_scores(run, point.threshold)),
                rate=_rate(folder, f"threshold-{point.threshold:g}", [*words, by_student, *both]),
                saved=point.saved,
                lost=point.recall_lost,
            )
        )
    return rows


def cascade_figures(run: StageFolder) -> CascadeFigures:
    """Return what evaluate has measured of the run's student and encoder together.

    Raises:
        UserError: it has not.
    """
    measured = (run / "evaluate").require_manifest().results.get("cascade")
    if not measured:
        raise UserError(
            f"{run.url}: evaluate has not scored the student and the encoder of this run; run "
            """`uniner evaluate CONFIG 'evaluate.systems=["student", "encoder"]'` first"""
        )
    return CascadeFigures.from_json(measured)


def choose_points(points: Sequence[CascadePoint], most: int = THRESHOLDS_SHOWN) -> list[CascadePoint]:
    """Return at most so many points, evenly from the lowest threshold to the highest.

    Of points that save the same the highest threshold counts: the others show nothing more.
    """
    differing = list({point.saved: point for point in points}.values())
    last = len(differing) - 1
    places = dict.fromkeys(round(number * last / (most - 1)) for number in range(most)) if last > 0 else [0]
    return [differing[place] for place in places] if differing else []


def cells(run: StageFolder, datasets: Sequence[str]) -> list[ResultCell]:
    """Return the cells of the last evaluate run: its questions, and where a system's answers are."""
    folder = run / "evaluate"
    digests = folder.require_manifest().results["cells"]
    golds = {name: folder / "gold" / f"{name}-{digests[name]}" for name in datasets}
    return [
        ResultCell(dataset=name, gold=gold, rows=gold.require_manifest().rows_of_chunk)
        for name, gold in golds.items()
    ]


def cascade_scores(run: StageFolder, threshold: float | None) -> dict[str, DatasetScores]:
    """Return the scores of the student where it is asked what the encoder scores at a threshold or above.

    None asks everything: the student alone.
    """
    figures, folder = cascade_figures(run), run / "evaluate"

    def answers() -> Iterator[Prediction]:
        for cell in cells(run, figures.datasets):
            best = {
                (each.passage_id, each.type): float(each.reply or 0.0)
                for each in cell.predictions(folder / "encoder")
            }
            for answer in cell.predictions(folder / "student"):
                yield after_prefilter(answer, best.get((answer.passage_id, answer.type)), threshold)

    return score(answers())


def after_prefilter(answer: Prediction, best_score: float | None, threshold: float | None) -> Prediction:
    """Return the student's answer, or an empty one if the prefilter would not have asked.

    best_score: the encoder's; None where it was not asked, so that the student is.
    """
    if threshold is None or best_score is None or best_score >= threshold:
        return answer
    return replace(answer, predicted=(), scores=(), spans=(), outcome="ok")


def gold_passages(of_cells: Sequence[ResultCell], count: int) -> dict[str, tuple[list[str], list[str]]]:
    """Return by data set its first passages, at most so many, and the types that it asks for."""
    found = {}
    for cell in of_cells:
        texts: dict[str, str] = {}
        types: dict[str, None] = {}
        for key in sorted(cell.rows):
            for row in cell.gold.read_columns(key, ["passage_id", "text", "type"]).to_pylist():
                texts[row["passage_id"]] = row["text"]
                types[row["type"]] = None
        found[cell.dataset] = (list(texts.values())[:count], list(types))
    return found


def mean_f1(scores: Scores) -> LeaderboardCell:
    """Return the mean F1 in per cent with its interval."""
    mean = mean_cell([f1_cell(each) for each in scores.values()], len(scores))
    assert mean, "evaluate has scored a data set"
    return mean


def f1_cell(scores: DatasetScores) -> LeaderboardCell:
    low, high = scores.interval
    return LeaderboardCell(100 * scores.f1, 100 * low, 100 * high)


def f1_text(cell: LeaderboardCell) -> str:
    """Return an F1 in per cent with its interval."""
    return f"{cell.f1:.1f} [{cell.low:.1f}, {cell.high:.1f}]"


def table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table in Markdown. The first row is the student alone."""
    lines = [
        "| who tags | questions saved | right answers lost | F1 | passages/s | times the student's |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        saved, lost = ("" if share is None else f"{share:.1%}" for share in (row.saved, row.lost))
        gain = row.rate / rows[0].rate
        lines.append(f"| {row.way} | {saved} | {lost} | {f1_text(row.f1)} | {row.rate:,.3g} | {gain:,.2f} |")
    return lines


def _lay_out(
    folder: Path, config: Config, passages: Mapping[str, tuple[Sequence[str], Sequence[str]]]
) -> list[str]:
    """Write the passages and the config of the tag runs. Returns the words that begin their commands."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"text": text, "meta": {"pile_set_name": name}}
        for name, (texts, _) in passages.items()
        for text in texts
    ]
    shard = folder / "passages.jsonl"
    shard.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    engine = config.engine.model_dump(mode="json", exclude_none=True) | {"actors": 1, "min_actors": 1}
    student = {"base": own_model(run_folder(config.run.root, config.run.name), "student").url}
    sections: dict[str, Mapping[str, Any]] = {
        "run": {"root": str(folder), "name": "passages", "seed": config.run.seed},
        "student": student | {"max_tokens": config.student.max_tokens},
        "ingest": {"shards": [str(shard)], "max_tokens": config.ingest.max_tokens},
        "engine": engine,
        "tag": {
            "chunk_passages": ONE_CHUNK,
            "types": sorted({name for _, of in passages.values() for name in of}),
        },
        "tag.types_of_source": {name: types for name, (_, types) in passages.items()},
    }
    written = folder / "cascade.toml"
    written.write_text(toml(sections), encoding="utf-8")
    return [str(written)]


def toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return sections of text, numbers and lists as TOML: JSON's forms of these are TOML's too."""
    return "\n".join(
        f"[{name}]\n" + "".join(f"{_json(key)} = {_json(value)}\n" for key, value in values.items())
        for name, values in sections.items()
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _rate(folder: Path, name: str, words: Sequence[str]) -> float:
    """Tag the passages in a run of this name. Returns passages a second of its one chunk."""
    shutil.copytree(folder / "passages" / "ingest", folder / name / "ingest", dirs_exist_ok=True)
    _uniner("tag", [*words, f"run.name={name}"])
    tagged = StageFolder(str(folder / name / "tag"))
    summaries = list(tagged.summaries(tagged.require_manifest().chunks))
    assert len(summaries) == 1, "the passages are one chunk"
    return summaries[0].rows / summaries[0].seconds


def _uniner(stage: str, words: Sequence[str]) -> None:
    run_uniner([stage, *words])


def run_uniner(words: Sequence[str]) -> None:
    """Run a command of the product; end with its exit code if it fails."""
    if code := subprocess.run([sys.executable, "-m", "uniner.cli", *words], check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
